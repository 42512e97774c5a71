"""What can go wrong, sorted by what the caller must do.

    PagepackError
    ├── UsageError              stop: wrong arguments or settings (exit code 2)
    ├── NothingToDo             stop: no file at the paths (exit code 3)
    ├── DocumentRejected        this file is not taken in; the rest goes on
    ├── PageFailed              this page fails now and would fail again; the rest goes on
    └── Unavailable             try again later: a server, a worker or a child process is gone
        ├── DiskFull            stop: no retry helps before someone frees some space
        └── StorageGone         stop: page images or inputs cannot be reached, after some tries

Each error has a `cause`, one stable word that `failures.cause` stores and `pagepack retry --cause` selects;
its text names the thing, the fact and the way out.
"""

from __future__ import annotations

import re


class PagepackError(Exception):
    """Root of all errors that pagepack raises on purpose."""

    cause = "error"
    retryable = False

    def __init__(self, message: str, *, cause: str | None = None) -> None:
        super().__init__(message)
        if cause is not None:
            self.cause = cause


class UsageError(PagepackError):
    """Wrong arguments, settings, or a machine that lacks what was asked for."""

    cause = "usage"


class NothingToDo(PagepackError):
    """No readable file lies at the paths given."""

    cause = "nothing-to-do"


class DocumentRejected(PagepackError):
    """A file that cannot be taken in: `unsupported`, `encrypted`, `damaged`, `empty`, `unreadable`, `too-large`…"""

    cause = "damaged"


class PageFailed(PagepackError):
    """One page that cannot be rendered or read: `damaged`, `timeout`, `memory`, `crash`, `too-large`, `engine`…"""

    cause = "engine"


class Unavailable(PagepackError):
    """Something we need is away for now; the same call may succeed later."""

    cause = "unavailable"
    retryable = True


class DiskFull(Unavailable):
    """No room for another row or image; pages stay queued until there is."""

    cause = "disk-full"


class StorageGone(Unavailable):
    """The storage of page images or inputs does not answer; what waits keeps waiting."""

    cause = "storage"


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
