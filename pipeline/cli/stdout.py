"""The standard output as a command needs it: a reader that leaves is no error, and a full disk is one.

click and rich end the process with exit code 1 when they meet a closed pipe themselves, so that `pagepack sql … | head`
would look like a failure. Here the file below the standard output turns what the system says into `OutputEnded`,
which is no `OSError`, and which they let pass.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from typing import Any


class OutputEnded(Exception):
    """Nothing more can be written: its reader left, or the disk is full."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror)
        self.was_read_enough = error.errno == errno.EPIPE


class _Output(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OutputEnded(error) from error


def guard_output() -> None:
    """Put `_Output` below `sys.stdout`, and make every character writable: UTF-8 where there would be ASCII only.

    What the caller closed (`>&-`) is opened on nothing, before a database gets its number.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    encoding = sys.stdout.encoding if sys.stdout is not None else "utf-8"
    if codecs.lookup(encoding).name == "ascii":
        encoding = "utf-8"
    raw = _Output(1, "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=raw.isatty()
    )
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def silence_output() -> None:
    """What is still in the buffer goes nowhere, also when the interpreter ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
