"""SQLite's engines: connections that write, and connections that only read."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError

from pipeline.database.sqlite_file import BUSY_TIMEOUT_MS, connect_readonly, file_error
from pipeline.errors import PagepackError


def sqlite_error(name: str, error: DBAPIError) -> PagepackError | None:
    return file_error(name, error.orig) if isinstance(error.orig, sqlite3.Error) else None


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
