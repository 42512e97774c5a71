"""The command that goes on with a batch, in words that a shell takes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.database.looking import Looking

DEFAULT_HOME = Path("pagepack-data")


def go_on_command(db: Looking, words: Sequence[str]) -> str:
    """One line; with the home in which the batch was found, where it does not go without saying."""
    home = [] if db.dialect != "sqlite" else home_words(Path(db.name).parent)
    return " ".join(map(shell_quoted, [*words[:2], *home, *words[2:]]))


def home_words(home: Path) -> list[str]:
    """`--home DIR`, where that is not the default."""
    return [] if home.absolute() == DEFAULT_HOME.absolute() else ["--home", str(home)]


def shell_quoted(word: str) -> str:
    """As `shlex.quote`, but nothing in it drives a terminal, and a name of any bytes survives a copy and paste."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(map(_escaped, os.fsencode(word))) + "'"


def _escaped(byte: int) -> str:
    plain = 0x20 <= byte < 0x7F and chr(byte) not in "\\'"
    return chr(byte) if plain else f"\\x{byte:02x}"
