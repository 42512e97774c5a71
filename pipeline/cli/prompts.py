"""The prompts that a command names: known ones, and files of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UsageError
from schemas.prompts import CATALOGUE, Prompt, choose_prompts


def choose_asked_prompts(names: Sequence[str], files: Sequence[Path]) -> list[Prompt]:
    """Raises UsageError where a file's name would hide another prompt."""
    stems = [file.stem for file in files]
    for file in files:
        if file.stem in CATALOGUE:
            raise UsageError(f"--prompt-file {file}: {file.stem!r} is a prompt of the catalogue; rename the file")
    if len(set(stems)) < len(stems):
        raise UsageError("two --prompt-file of one name; a prompt is known by its file's name, so rename one")
    return choose_prompts(names, [(file.stem, _read_prompt(file)) for file in files])


def _read_prompt(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--prompt-file {path}: {error}") from error
    if not text:
        raise UsageError(f"--prompt-file {path} is empty")
    return text
