"""The prompts that a command names: known ones, and files of one's own with how they are sampled.

A file is the prompt's text. It may begin with front matter, lines of `key: value` between two lines of `---`:

    ---
    max_tokens: 200
    temperature: 0.7
    seed: 3
    ---
    Which dates does this page name?

Three numbers need no YAML; a file that is written like this is the same to any reader of it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from schemas.prompts import CATALOGUE, Prompt, choose_prompts, question_prompt

LIMITS = {"max_tokens": (int, 1, 1_000_000), "temperature": (float, 0, 2), "seed": (int, 0, 2**63 - 1)}
_KEYS = f"known are {', '.join(LIMITS)}"
_FENCE = "---"


def take_sampling(flags: dict[str, Any]) -> dict[str, Any]:
    """Out of a command's options, those that shape an own prompt's answer; the others stay.

    Raises:
        UsageError: one is no such number.
    """
    given = {name: flags.pop(name) for name in LIMITS}
    return {
        name: _number(name, text, f"--{name.replace('_', '-')}") for name, text in given.items() if text is not None
    }


def choose_asked_prompts(names: Sequence[str], files: Sequence[Path], sampling: Mapping[str, Any]) -> list[Prompt]:
    """`sampling` goes before what the files say.

    Raises:
        UsageError: a file's name would hide another prompt, it is no prompt, or `sampling` has none to shape.
    """
    stems = [file.stem for file in files]
    for file in files:
        if file.stem in CATALOGUE:
            raise UsageError(f"--prompt-file {file}: {file.stem!r} is a prompt of the catalogue; rename the file")
    if len(set(stems)) < len(stems):
        raise UsageError("two --prompt-file of one name; a prompt is known by its file's name, so rename one")
    for name in sampling if not files else ():
        raise UsageError(
            f"--{name.replace('_', '-')} is for prompts of your own, and none is given: add --prompt-file; "
            f"{', '.join(CATALOGUE)} are always asked in the same way"
        )
    return choose_prompts(names, [_read_prompt(file, sampling) for file in files])


def question(text: str, sampling: Mapping[str, Any]) -> Prompt:
    """The prompt of `pagepack ask`."""
    return replace(question_prompt(text), **sampling)


def _read_prompt(path: Path, sampling: Mapping[str, Any]) -> Prompt:
    if path.exists() and not path.is_file():
        raise UsageError("--prompt-file names no regular file; write the prompt to one: the prompt is called after it")
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UsageError(f"--prompt-file {path} cannot be read: {reason}") from error
    values: dict[str, Any] = {}
    lines = text.splitlines()
    if lines and lines[0].rstrip() == _FENCE:
        ends = [number for number, line in enumerate(lines) if number and line.rstrip() == _FENCE]
        if not ends:
            raise UsageError(
                f"--prompt-file {path}: it begins with {_FENCE}, and no second line of {_FENCE} ends its front matter"
            )
        values = _front_matter(lines[1 : ends[0]], path)
        text = "\n".join(lines[ends[0] + 1 :]).strip()
    if not text:
        raise UsageError(f"--prompt-file {path} is empty")
    return Prompt(path.stem, text, **(values | dict(sampling)))


def _front_matter(lines: Sequence[str], path: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for number, line in enumerate(lines, 2):
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        if not line:
            continue
        where = f"--prompt-file {path}, line {number}"
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not colon:
            raise UsageError(f"{where}: {line[:80]!r} is no `key: value`; {_KEYS}")
        if name not in LIMITS:
            near = difflib.get_close_matches(name.lower(), LIMITS, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise UsageError(f"{where}: {name[:80]!r} is not known; {meant}{_KEYS}")
        if name in values:
            raise UsageError(f"{where}: {name} is given twice; remove one")
        values[name] = _number(name, value, where)
    return values


def _number(name: str, text: str, where: str) -> int | float:
    kind, least, most = LIMITS[name]
    number: int | float | None = None
    with suppress(ValueError):
        number = kind(text)
    if number is None or not least <= number <= most:
        what = "a whole number" if kind is int else "a number"
        raise UsageError(f"{where}: {name} is {text[:80]!r}; give {what} from {least} to {most:,}")
    return number
