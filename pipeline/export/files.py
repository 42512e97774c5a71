"""Files that an export writes: each appears under its name only when it is complete, and only where people named it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from pipeline.errors import UsageError

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
