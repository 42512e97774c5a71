"""The revisions that this program knows, by the names of their files, which begin with their numbers."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import migrations
from pipeline.errors import UsageError

FOLDER = Path(migrations.__file__).parent
HEAD_OF_SQLITE = FOLDER / "head_sqlite.sql"
"""What all revisions make of an empty SQLite file, without the views; a test holds it equal to what they do make."""


def _revisions() -> list[str]:
    return sorted(name.partition("_")[0] for name in os.listdir(FOLDER / "versions") if name[:1].isdigit())


def head_revision() -> str:
    """The revision that this program's code is written for."""
    return _revisions()[-1]


def is_known(revision: str) -> bool:
    """Whether this program can migrate from a revision; else a newer one wrote it."""
    return revision in _revisions()


def refuse_unknown(name: str, have: str | None) -> None:
    """Raises UsageError for a revision of the database `name` that this program cannot know."""
    if have is not None and not is_known(have):
        raise UsageError(f"{name} was written by a newer pagepack (revision {have}); upgrade pagepack to use it")


def refuse_other(name: str, have: str | None, home: Path | None) -> None:
    """Raises UsageError unless the database `name` is at head; `home` is where a SQLite file lies."""
    if have == head_revision():
        return
    way_out = "`pagepack db upgrade`" if home is None else f"`pagepack db upgrade --home {shlex.quote(str(home))}`"
    if have is None:
        other = "make one there" if home is None else "choose another --home, or make one there"
        raise UsageError(f"{name} holds no pagepack database; {other}: {way_out}")
    raise UsageError(f"{name} is of an older pagepack (revision {have}); run {way_out}")
