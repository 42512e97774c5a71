"""The `Database`: transactions that read and transactions that write, on SQLite or PostgreSQL.

SQLite runs in WAL mode, so people may query while pages are stored. Writers say BEGIN IMMEDIATE and wait for each
other up to `busy_timeout`; a deferred transaction that turns writer half-way would fail at once instead.

PostgreSQL reads in REPEATABLE READ, so that a reading transaction sees one moment, as on SQLite, and writes in READ
COMMITTED: rows are locked in the order of their ids, and guarded by tokens and states.
"""

from __future__ import annotations

import atexit
import os
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
import sqlalchemy.orm
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from pipeline.database.dialect import clock
from pipeline.database.looking import Look
from pipeline.database.postgresql import translated
from pipeline.database.sqlite import sqlite_error
from pipeline.database.sqlite_file import Unchanged

_opened_by: weakref.WeakKeyDictionary[Engine, int] = weakref.WeakKeyDictionary()


@atexit.register
def _close_all() -> None:
    """A command closes what it opened: whoever is last at a SQLite file folds its log into it and takes that away."""
    for engine, process in list(_opened_by.items()):
        if process == os.getpid():
            engine.dispose()


class Database:
    """One engine for a process. `read()` and `write()` open a transaction each."""

    def __init__(self, engine: Engine, name: str, unchanged: Unchanged | None = None) -> None:
        self.engine = engine
        _opened_by[engine] = os.getpid()
        self.name = name  # as messages name it, without a password
        self._unchanged = unchanged
        self.dialect = engine.dialect.name
        self._writer = engine.execution_options(pagepack_write=True)
        is_server = self.dialect == "postgresql"
        snapshot = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True} if is_server else {}
        self._reader = engine.execution_options(**snapshot)

    @contextmanager
    def read(self, *, by_key: bool = False) -> Iterator[Connection]:
        """With `by_key` PostgreSQL looks for all rows by an index.

        Where nearly all rows of a table wait, it expects the first of them soon and reads from the table's beginning,
        where those lie that are done: all of them, in each tick.
        """
        with _errors_translated(self.name), self._reader.begin() as connection:
            if by_key and self.dialect == "postgresql":
                connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            yield connection
        if self._unchanged is not None:
            self._unchanged.check()

    @contextmanager
    def looking(self) -> Iterator[Look]:
        """As `read`, for statements in plain SQL; see `looking.py`."""
        with self.read() as connection:
            yield self.look(connection)

    def look(self, connection: Connection) -> Look:
        """The same within a transaction that is open."""
        return Look(self.dialect, lambda statement, values: connection.execute(sa.text(statement), values).all())

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with _errors_translated(self.name), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def migrate(self) -> Iterator[Connection]:
        """As `write`, with SQLite's foreign keys looked at once, at the end."""
        migrator = self.engine.execution_options(pagepack_write=True, pagepack_migrate=True)
        with _errors_translated(self.name), migrator.begin() as connection:
            yield connection
            if self.dialect == "sqlite":
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
                assert not broken, f"the migration left rows that name missing ones: {broken[:5]}"
        self.engine.dispose()  # connections that do not look at foreign keys

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """For a statement of SQLite that no transaction may hold; each is one by itself."""
        with _errors_translated(self.name), self.engine.connect() as opened:
            yield opened.execution_options(pagepack_no_transaction=True)

    def clock(self) -> sa.ColumnElement[float]:
        """Seconds since the epoch, for a statement to compute with: the server's own where there is one.

        Hosts' clocks differ, so no host's clock decides about a lease on a server. The time at which the statement
        began, for an index can be asked with it; with the clock that moves on meanwhile it cannot.
        """
        return clock(self.dialect)

    def now(self, connection: Connection) -> float:
        """The same as a number; costs a round trip on a server."""
        return float(connection.scalar(sa.select(self.clock())) or 0.0)

    def dispose(self) -> None:
        self.engine.dispose()


@contextmanager
def _errors_translated(name: str) -> Iterator[None]:
    """The driver's errors, translated where they enter."""
    try:
        yield
    except DBAPIError as error:
        ours = sqlite_error(name, error) if isinstance(error.orig, sqlite3.Error) else translated(name, error)
        if ours is None:
            raise
        raise ours from error
