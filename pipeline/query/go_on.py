"""The command that goes on with a batch, in words that a shell takes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.database.looking import Looking


def go_on_command(db: Looking, words: Sequence[str]) -> str:
    """One line, right in any folder: a home goes by its absolute path, for elsewhere the same words begin another."""
    home = [] if db.dialect != "sqlite" else ["--home", str(Path(db.name).parent.absolute())]
    return " ".join(map(shell_quoted, [*words[:2], *home, *words[2:]]))


def shell_quoted(word: str) -> str:
    """As `shlex.quote`, but nothing in it drives a terminal, and a name of any bytes survives a copy and paste."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(map(_escaped, os.fsencode(word))) + "'"


def _escaped(byte: int) -> str:
    plain = 0x20 <= byte < 0x7F and chr(byte) not in "\\'"
    return chr(byte) if plain else f"\\x{byte:02x}"
