"""Prompts of one's own: files with front matter, and the options that go before it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.prompts import choose_asked_prompts, question, take_sampling
from pipeline.errors import UsageError
from pipeline.store.claims import TaskClaim
from schemas.prompts import Prompt, sampled

KNOWN = "known are max_tokens, temperature, seed, schema"


def written(folder: Path, text: str) -> Path:
    path = folder / "dates.txt"
    path.write_text(text, encoding="utf-8")
    return path


def asked(path: Path, **sampling: Any) -> Prompt:
    (prompt,) = choose_asked_prompts([], [path], sampling)
    return prompt


def test_front_matter_says_how_a_prompt_is_sampled(tmp_path: Path) -> None:
    text = (
        "---\n# how\nmax_tokens: 200\ntemperature: 0.7  # lively\n\nseed: 3\n---\n\nWhich dates?\n---\nAll of them.\n"
    )
    prompt = asked(written(tmp_path, text))
    assert prompt == Prompt("dates", "Which dates?\n---\nAll of them.", max_tokens=200, temperature=0.7, seed=3)


def test_a_file_without_front_matter_keeps_its_version(tmp_path: Path) -> None:
    text = "Which dates?\n---\nseed: 3\n---\n"
    assert asked(written(tmp_path, text)).version == Prompt("dates", text.strip()).version


def test_an_option_goes_before_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "---\nmax_tokens: 200\nseed: 3\n---\nWhich dates?")
    flags: dict[str, Any] = {"max_tokens": None, "temperature": "0.5", "seed": "9", "engine": None}
    prompt = asked(path, **take_sampling(flags))
    assert (prompt.max_tokens, prompt.temperature, prompt.seed) == (200, 0.5, 9)
    assert flags == {"engine": None}


def test_a_longest_length_that_is_set_to_the_usual_one_is_kept_to(tmp_path: Path) -> None:
    path = written(tmp_path, "Which dates?")
    usual, capped = asked(path), asked(path, max_tokens=4096)
    assert usual.goes_on and not capped.goes_on and capped.max_tokens == usual.max_tokens
    assert capped.version != usual.version, "their answers are others"
    stored = Prompt(capped.name, capped.text, **capped.parameters)
    assert stored == capped and stored.version == capped.version
    assert not sampled(capped, max_tokens=4096).goes_on and not sampled(capped, seed=3).goes_on
    assert asked(path, max_tokens=200).version == Prompt("dates", "Which dates?", max_tokens=200).version
    assert question("Why?", {}).goes_on and not question("Why?", {"max_tokens": 1024}).goes_on
    again = TaskClaim(1, 1, usual, max_tokens=4096).asked
    assert not again.goes_on, "`retry --max-tokens` means it, too"


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("max-tokens: 5", f"line 2: 'max-tokens' is not known; did you mean max_tokens? {KNOWN}"),
        ("\nTemprature: 1", f"line 3: 'Temprature' is not known; did you mean temperature? {KNOWN}"),
        ("model: x", f"line 2: 'model' is not known; {KNOWN}"),
        ("seed 3", f"line 2: 'seed 3' is no `key: value`; {KNOWN}"),
        ("seed: 3\nseed: 4", "line 3: seed is given twice; remove one"),
        ("seed: -1", "line 2: seed is '-1'; give a whole number from 0 to 9,223,372,036,854,775,807"),
        ("max_tokens: 1.5", "line 2: max_tokens is '1.5'; give a whole number from 1 to 1,000,000"),
        ("max_tokens: 0", "line 2: max_tokens is '0'; give a whole number from 1 to 1,000,000"),
        ("temperature: nan", "line 2: temperature is 'nan'; give a number from 0 to 2"),
        ("temperature:", "line 2: temperature is ''; give a number from 0 to 2"),
    ],
)
def test_what_front_matter_does_not_know_is_refused_by_name(tmp_path: Path, head: str, words: str) -> None:
    path = written(tmp_path, f"---\n{head}\n---\nWhich dates?")
    with pytest.raises(UsageError) as refused:
        asked(path)
    assert str(refused.value) == f"--prompt-file {path}, {words}"


def test_front_matter_without_an_end_or_a_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no second line of --- ends its front matter"):
        asked(written(tmp_path, "---\nseed: 3\nWhich dates?"))
    with pytest.raises(UsageError, match="is empty"):
        asked(written(tmp_path, "---\nseed: 3\n---\n"))


def test_a_prompt_file_that_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    said = {}
    os.mkfifo(tmp_path / "63")  # as the shell's <(…) is
    for name, content in (("gone.txt", None), ("63", None), ("latin.txt", b"\xe9")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError) as refused:
            asked(tmp_path / name)
        said[name] = str(refused.value)
    assert said == {
        "gone.txt": f"--prompt-file {tmp_path}/gone.txt cannot be read: No such file or directory",
        "63": "--prompt-file names no regular file; write the prompt to one: the prompt is called after it",
        "latin.txt": f"--prompt-file {tmp_path}/latin.txt cannot be read: it is no UTF-8 text",
    }


def test_a_question_is_another_prompt_with_another_seed() -> None:
    first, second = question("Which?", {"seed": 1, "temperature": 1.0}), question("Which?", {"seed": 2})
    assert first.name == second.name == "ask: Which?" and first.version != second.version
    assert question("Which?", {}).max_tokens == 1024


def test_an_option_without_a_prompt_of_ones_own_is_refused() -> None:
    with pytest.raises(
        UsageError, match="--max-tokens is for prompts of your own, and none is given: add --prompt-file"
    ):
        choose_asked_prompts(["describe"], [], {"max_tokens": 5})
    with pytest.raises(UsageError, match="--seed: seed is 'x'; give a whole number"):
        take_sampling({"max_tokens": None, "temperature": None, "seed": "x"})
