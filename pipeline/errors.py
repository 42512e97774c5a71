"""What can go wrong, sorted by what the caller must do.

    PagepackError
    ├── UsageError              stop: wrong arguments or settings (exit code 2)
    ├── NothingToDo             stop: no file at the paths (exit code 3)
    ├── DocumentRejected        this file is not taken in; the rest goes on
    ├── PageFailed              this page fails now and would fail again; the rest goes on
    ├── ProgramFault            stop: another process of ours ended by what nobody foresaw (exit code 70)
    └── Unavailable             try again later: a server, a worker or a child process is gone (exit code 4)
        ├── DiskFull            stop: no retry helps before someone frees some space
        ├── StorageGone         stop: page images or inputs cannot be reached, after some tries
        └── EndpointGone        stop: the server that reads refuses whoever asks, or has not answered for long

Each error has a `cause`, one stable word that `failures.cause` stores and `pagepack retry --cause` selects; its text
names the thing, the fact and the way out. Its `exit_code` is what a program ends with that it stops; `exit_code(error)`
says of any other exception that the program is at fault.
"""

from __future__ import annotations

import contextlib
import re
import sys
import traceback
from collections.abc import Iterable

EXIT_FAULT = 70
"""EX_SOFTWARE of sysexits.h: an exception that nobody foresaw. Not Python's 1, which says that some pages failed."""


class PagepackError(Exception):
    """Root of all errors that pagepack raises on purpose."""

    cause = "error"
    retryable = False
    exit_code = 4
    cost: float | None = None
    """What the try cost that ended so, where a server that charges for it said so."""

    def __init__(self, message: str, *, cause: str | None = None) -> None:
        super().__init__(message)
        if cause is not None:
            self.cause = cause


class UsageError(PagepackError):
    """Wrong arguments, settings, or a machine that lacks what was asked for."""

    cause = "usage"
    exit_code = 2


class NothingToDo(PagepackError):
    """No readable file lies at the paths given."""

    cause = "nothing-to-do"
    exit_code = 3


class DocumentRejected(PagepackError):
    """A file that cannot be taken in: `unsupported`, `encrypted`, `damaged`, `empty`, `unreadable`, `too-large`…"""

    cause = "damaged"


class PageFailed(PagepackError):
    """One page that cannot be rendered or read: `damaged`, `timeout`, `memory`, `crash`, `too-large`, `engine`…"""

    cause = "engine"


class ProgramFault(PagepackError):
    """A process that this one started ended by an exception that nobody foresaw; what it said is in the text."""

    cause = "fault"
    exit_code = EXIT_FAULT


class Unavailable(PagepackError):
    """Something we need is away for now; the same call may succeed later."""

    cause = "unavailable"
    retryable = True
    retry_after_seconds = 0.0
    """Sooner it is of no use, as far as is known."""


class DiskFull(Unavailable):
    """No room for another row or image; pages stay queued until there is."""

    cause = "disk-full"


class StorageGone(Unavailable):
    """The storage of page images or inputs does not answer; what waits keeps waiting."""

    cause = "storage"


class EndpointGone(Unavailable):
    """The server that reads serves nobody; what waits keeps waiting."""

    cause = "endpoint"


_SECRETS = (
    # user:password@host; greedy, for the password may hold @ and /; what ends in a port and a slash is a host
    re.compile(r"(://[^\s/:@]*:)(?!\d{1,5}(?:/|$))\S+(?=@)"),
    re.compile(r"""(password["']?\s*[=:]\s*)(?:"[^"]*"|'[^']*'|[^\s"'&,;)}]+)""", re.IGNORECASE),  # 'password': '…'
)


def redacted(text: str) -> str:
    """A text for people, logs and messages, with `***` for each password in a URL or after `password=`."""
    for pattern in _SECRETS:
        text = pattern.sub(r"\1***", text)
    return text


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?` with the known name that is nearest; nothing where none is near."""
    import difflib  # only for a message, which most commands do not come to

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def exit_code(error: Exception) -> int:
    """Say on standard error why a program ends, and give the code for it: the one place that knows all.

    An error that was raised on purpose is one line; of any other the traceback is told, and that the fault is ours.
    """
    if isinstance(error, PagepackError):
        said, code = f"pagepack: {error}\n", error.exit_code
    else:
        fault = f"{type(error).__name__}: {error}".splitlines()[0]
        said, code = redacted("".join(traceback.format_exception(error))), EXIT_FAULT
        said += (
            f"pagepack: {redacted(fault)}: this is a fault of the program, or of the machine below it; the lines above "
            "say where. What was stored stays; run the same command again\n"
        )
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no standard error: the code must do
        sys.stderr.write(said)
    return code
