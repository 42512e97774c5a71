"""SQLite's side: connections that write, and files that are opened for reading only, wherever they lie.

SQLite reads a WAL database through two files beside it. Where they are missing and the folder cannot be written, it can
only read the database as if nobody changed it (`immutable`); whether that was so is looked at afterwards.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError, OperationalError

from pipeline.errors import DiskFull, PagepackError, Unavailable, UsageError


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


BUSY_TIMEOUT_MS = 60_000  # a backup or another process may hold SQLite's one write lock for half a minute


def sqlite_error(name: str, error: DBAPIError) -> PagepackError | None:
    text = str(error.orig)
    if "disk is full" in text or "No space left" in text:
        return DiskFull(
            f"no room left on the disk of {name}; what was stored stays: free some and run the same command again"
        )
    if "readonly database" in text:
        return UsageError(f"{name} is read-only; give its folder write permission or choose another --home")
    if "not a database" in text or "malformed" in text:
        return UsageError(f"{name} is not a whole SQLite database ({text}); restore it or choose another --home")
    return Unavailable(f"{name} did not answer: {text}") if isinstance(error, OperationalError) else None


def readonly_engine(path: Path, immutable: bool) -> Engine:
    def connect() -> Any:
        return connect_readonly(path, BUSY_TIMEOUT_MS / 1000, immutable)

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.QueuePool)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def sqlite_engine(path: Path) -> Engine:
    url = sa.URL.create("sqlite", database=str(path))
    # Without a limit: every thread of a worker may wait for the one write lock at once, each on its own connection.
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000}, max_overflow=-1)

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not guessed by the driver
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last commits, never the file
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get("pagepack_migrate"):  # a table made anew is dropped for a moment
            connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        if options.get("pagepack_no_transaction"):
            return
        writes = options.get("pagepack_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
