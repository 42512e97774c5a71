"""Files that an export writes: each appears under its name only when it is complete, and only where people named it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from sqlalchemy import select

from pipeline.database.engine import Database
from pipeline.documents.files import display
from pipeline.errors import UsageError
from schemas.tables import Source

STDOUT = ("-", "/dev/stdout")
INTO_PIPES = ("jsonl", "csv")
"""Formats that are written from the first row to the last, and may go to the standard output, a pipe or a device."""


def place_of(out: Path, format: str) -> Path:
    """The file to replace or to write into: that behind a symbolic link, for the link is the user's own.

    Raises:
        UsageError: it is a folder, or a pipe or device, which take `INTO_PIPES` only.
    """
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; {format} goes into one file, so name a file in it")
    if is_special(out):
        if format not in INTO_PIPES:
            raise UsageError(f"--out {out} is a pipe or a device, which takes --format jsonl only; name a file")
        return out
    return out.resolve()


def is_special(path: Path) -> bool:
    """Pipes, devices and sockets are written into; a file renamed to their name would replace them."""
    return path.exists() and not path.is_file()


def spare(db: Database, target: Path) -> None:
    """Replace no file that was read, nor the database.

    Raises:
        UsageError: the target is one of them.
    """
    if not target.is_file():
        return
    with db.looking() as look:
        name = look.value("SELECT file FROM pragma_database_list WHERE seq = 0") if look.dialect == "sqlite" else None
    ours = [Path(f"{name}{ending}") for ending in ("", "-wal", "-shm")] if name else []
    if any(path.exists() and target.samefile(path) for path in ours):
        raise UsageError(f"{target} belongs to the database, and would be overwritten; choose another --out")
    names = {display(os.path.abspath(target)), display(str(target.resolve()))}
    with db.read() as connection:
        known = select(Source.id).where(Source.path.in_(names), Source.document_id.is_not(None))
        if connection.scalar(known) is not None:
            raise was_read(target)


def was_read(target: Path) -> UsageError:
    return UsageError(f"{target} is a file that was read, and would be overwritten; choose another --out")


@contextmanager
def complete_file(target: Path) -> Iterator[TextIO]:
    with part_of(target) as part, part.open("w", encoding="utf-8", newline="") as file:
        yield file


@contextmanager
def part_of(target: Path) -> Iterator[Path]:
    """A name beside the target that becomes the target at the end: a cut-short export leaves no half file."""
    part = target.parent / f".pagepack-{os.getpid()}.part"
    try:
        yield part
        part.replace(target)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(target), None  # the name that people know
        raise
