"""Pixtral through the whole program on a CPU: Celery, leases, SQL, a kill in the middle; a tiny random checkpoint."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from benchmarks.checkpoint import make_checkpoint
from tests.running import (
    HANGS_AFTER_SECONDS,
    call,
    done_pages,
    pagepack,
    processes_of,
    reconciles,
    rows,
    start,
    wait_until,
    write_pdf,
)
from workers.pixtral.model.fingerprint import fingerprint

pytestmark = pytest.mark.xdist_group("reader")  # one process, of which runs with a model are forked, imports torch

# How a page lies is not looked at: that would load other models in each run.
VARIABLES = {"PAGEPACK_INTERNAL_ENGINE": "", "PAGEPACK_MAX_SIDE_PX": "64", "PAGEPACK_TURN_PAGES": "false"}
TEXTS = "SELECT page_number, prompt, text, finish_reason FROM page_text ORDER BY 1, 2"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "tiny", "tiny")


def test_a_killed_run_reads_every_page_once_and_gives_the_text_of_an_undisturbed_one(
    model: Path, tmp_path: Path
) -> None:
    document = write_pdf(tmp_path / "a.pdf", 5)
    prompts: list[str | Path] = ["--max-tokens", "160"]  # for questions of one's own; `ocr` may write 4,096
    for question in ("What is it?", "Whose is it?"):
        file = tmp_path / f"{question.split()[0]}.txt"
        file.write_text(question)
        prompts += ["--prompt-file", file]
    arguments = ["run", document, "--model", model, *prompts, "--home"]
    undisturbed = pagepack(*arguments, tmp_path / "whole", **VARIABLES)
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert "engine pixtral" in undisturbed.stderr
    home = tmp_path / "killed"
    first = start(*map(str, arguments), str(home), engine="", **VARIABLES)
    wait_until(lambda: (home / "pagepack.db").exists() and done_pages(home) >= 2)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    wait_until(lambda: processes_of(home) == [])
    second = pagepack(*arguments, home, **VARIABLES)
    assert second.returncode == 0, second.stderr
    assert len(rows(home, TEXTS)) == 10
    assert rows(home, TEXTS) == rows(tmp_path / "whole", TEXTS)
    assert all(tokens > 0 for (tokens,) in rows(home, "SELECT prompt_tokens FROM page_text"))
    reconciles(home)


def test_a_run_whose_checkpoint_was_replaced_ends_in_place_of_waiting(model: Path, tmp_path: Path) -> None:
    """Its reader is started anew, and is another model's: no page waits for that one."""
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    document = write_pdf(tmp_path / "a.pdf", 40)
    (tmp_path / "long.txt").write_text("---\nmax_tokens: 160\n---\nWhat is it?")
    other, home = make_checkpoint(tmp_path / "other", "tiny", seed=1), tmp_path / "home"
    words = ["run", document, "--model", folder, "--prompt-file", tmp_path / "long.txt", "--home", home]
    run = start(*map(str, words), engine="", **VARIABLES)
    wait_until(lambda: (home / "pagepack.db").exists() and done_pages(home) > 0)
    shutil.copy(other / "consolidated.safetensors", folder)
    (reader,) = [one for one in processes_of(home) if one.name() == "pagepack:read"]
    reader.kill()
    _, errors = run.communicate(timeout=HANGS_AFTER_SECONDS)
    assert run.returncode == 2, errors
    before, after = (fingerprint(each).partition("-")[2] for each in (model, folder))
    assert f"the checkpoint {folder} changed while it was in use" in errors and before in errors and after in errors
    again = pagepack(*words, **VARIABLES)
    assert again.returncode == 0, again.stderr


def test_a_model_folder_that_does_not_fit_is_refused_before_any_page_is_taken(model: Path, tmp_path: Path) -> None:
    document = write_pdf(tmp_path / "a.pdf", 1)
    missing = pagepack("run", document, "--model", tmp_path / "none", "--home", tmp_path / "h", **VARIABLES)
    assert missing.returncode == 2 and "none" in missing.stderr
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for name in ("params.json", "tekken.json"):
        (damaged / name).write_bytes((model / name).read_bytes())
    (damaged / "consolidated.safetensors").write_bytes((model / "consolidated.safetensors").read_bytes()[:5_000])
    refused = pagepack("run", document, "--model", damaged, "--home", tmp_path / "h", **VARIABLES)
    assert refused.returncode == 2 and "consolidated.safetensors" in refused.stderr
    assert not (tmp_path / "h" / "pagepack.db").exists() or rows(tmp_path / "h", "SELECT count(*) FROM attempts") == [
        (0,)
    ]


def test_a_question_is_drawn_anew_with_another_seed_and_ends_at_its_length(model: Path, tmp_path: Path) -> None:
    document = write_pdf(tmp_path / "a.pdf", 1)
    common = [document, "--model", model, "--home", tmp_path / "home", "--max-tokens", "8", "--temperature", "1.5"]

    def answer(seed: str) -> str:
        done = pagepack("ask", "Which?", *common, "--seed", seed, **VARIABLES)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first, second = answer("1"), answer("2")
    assert first != second and answer("1") == first
    sql = "SELECT attempt, output_tokens, temperature, finish_reason FROM attempts"
    assert rows(tmp_path / "home", sql) == [(1, 8, 1.5, "length")] * 2  # the third was there already
    refused = call("run", *common, **VARIABLES)
    assert refused.returncode == 2 and "--max-tokens is for prompts of your own" in refused.stderr
