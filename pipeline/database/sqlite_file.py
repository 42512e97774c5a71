"""A SQLite file that is opened for reading only, wherever it lies; without SQLAlchemy.

SQLite reads a WAL database through two files beside it. Where they are missing and the folder cannot be written, it can
only read the database as if nobody changed it (`immutable`); whether that was so is looked at afterwards.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
from pathlib import Path

from pipeline.errors import DiskFull, PagepackError, Unavailable, UsageError

BUSY_TIMEOUT_MS = 60_000  # a backup or another process may hold SQLite's one write lock for half a minute


def look_for(path: Path, home: Path) -> None:
    """Raises UsageError where the database of a home is missing, or cannot be looked at."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        way_out = f"`pagepack run PATH --home {shlex.quote(str(home))}` makes one"
        raise UsageError(f"no database at {path.absolute()}; {way_out}") from error
    except OSError as error:
        raise UsageError(f"cannot open {path}: {error.strerror}; choose another --home") from error


class Unchanged:
    """Remembers a database file, to see later that nobody wrote into it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = self._look()

    def check(self) -> None:
        if self._look() != self._before:
            raise UsageError(f"{self._path} was written while it was read; run the same command again")

    def _look(self) -> tuple[int, int, bool]:
        found = self._path.stat()
        wal = self._path.with_name(self._path.name + "-wal")
        return found.st_mtime_ns, found.st_size, wal.exists() and wal.stat().st_size > 0


def is_immutable(path: Path) -> bool:
    """Whether SQLite could not make the two files beside the database, nor find them there.

    Raises:
        UsageError: pages wait in the one of them that cannot be read without the other.
    """
    if os.access(path.parent, os.W_OK):
        return False
    beside = [path.with_name(path.name + ending) for ending in ("-wal", "-shm")]
    if all(os.access(file, os.R_OK) for file in beside):
        return False
    if beside[0].exists() and beside[0].stat().st_size > 0:
        raise UsageError(
            f"{path} holds pages in {beside[0].name} that only someone who may write to {path.parent} can read; "
            "run any pagepack command as its owner first, or copy the folder"
        )
    return True


def connect_readonly(path: Path, timeout_seconds: float, immutable: bool) -> sqlite3.Connection:
    """A connection that begins no transaction by itself and may move between threads."""
    uri = f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"
    return sqlite3.connect(uri, uri=True, timeout=timeout_seconds, isolation_level=None, check_same_thread=False)


def file_error(name: str, error: sqlite3.Error) -> PagepackError | None:
    text = str(error)
    name_of_error = getattr(error, "sqlite_errorname", None)  # SHMSIZE: no room for the file beside, to open it
    if "disk is full" in text or "No space left" in text or name_of_error == "SQLITE_IOERR_SHMSIZE":
        return DiskFull(
            f"no room left on the disk of {name}; what was stored stays: free some and run the same command again"
        )
    if "readonly database" in text:
        return UsageError(f"{name} is read-only; give its folder write permission or choose another --home")
    if "not a database" in text or "malformed" in text:
        return UsageError(f"{name} is not a whole SQLite database ({text}); restore it or choose another --home")
    return Unavailable(f"{name} did not answer: {text}") if isinstance(error, sqlite3.OperationalError) else None
