"""Opening the database: SQLite in the home folder, or a PostgreSQL server by URL.

SQLite runs in WAL mode, so people may query while pages are stored. Writers say BEGIN IMMEDIATE and wait for each
other up to `busy_timeout`; a deferred transaction that turns writer half-way would fail at once instead.

PostgreSQL reads in REPEATABLE READ, so that a reading transaction sees one moment, as on SQLite, and writes in READ
COMMITTED: rows are locked in the order of their ids, and guarded by tokens and states.
"""

from __future__ import annotations

import functools
import os
import random
import shlex
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
import sqlalchemy.orm
from sqlalchemy import Connection, Engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError

from pipeline.errors import DiskFull, PagepackError, Unavailable, UsageError
from pipeline.migrate import current_revision, head_revision, is_known, upgrade
from pipeline.postgresql import server_engine, translated
from pipeline.readonly_file import Unchanged, connect_readonly, is_immutable
from pipeline.settings import Settings
from pipeline.urls import server_name, server_url

BUSY_TIMEOUT_MS = 60_000  # a backup or another process may hold SQLite's one write lock for half a minute
_WAITS_SECONDS = (0.05, 0.2, 0.8)  # before the second, third and fourth try of a transaction that may be repeated

P = ParamSpec("P")
R = TypeVar("R")


class Database:
    """One engine for a process. `read()` and `write()` open a transaction each."""

    def __init__(self, engine: Engine, name: str, unchanged: Unchanged | None = None) -> None:
        self.engine = engine
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


def retried(function: Callable[Concatenate[Database, P], R]) -> Callable[Concatenate[Database, P], R]:
    """For a transaction that may run twice: run it again where a server lost it.

    That is a deadlock, a conflict, or a connection that broke, in COMMIT perhaps: then nobody knows whether it was
    done, and tokens and states see to it that once more changes nothing. SQLite has waited long enough by itself.
    """

    @functools.wraps(function)
    def run(db: Database, /, *args: P.args, **kwargs: P.kwargs) -> R:
        for wait in _WAITS_SECONDS:
            try:
                return function(db, *args, **kwargs)
            except Unavailable as error:
                if isinstance(error, DiskFull) or db.dialect == "sqlite":
                    raise
                time.sleep(wait * random.uniform(0.5, 1.5))  # two that met shall not meet again
        return function(db, *args, **kwargs)

    return run


@functools.cache
def clock(dialect: str) -> sa.ColumnElement[float]:
    """As `Database.clock`, for statements that are made once; asked anew each time that they are executed."""
    if dialect == "postgresql":
        return sa.cast(sa.func.extract("epoch", sa.func.statement_timestamp()), sa.Float)
    return sa.bindparam("clock", type_=sa.Float, callable_=time.time)


def is_given(dialect: str, column: sa.orm.InstrumentedAttribute[Any], name: str) -> sa.ColumnElement[bool]:
    """Whether a column's value is among those of a parameter, a list; on PostgreSQL of one text for any length."""
    if dialect == "postgresql":
        return column == sa.any_(sa.bindparam(name, type_=postgresql.ARRAY(column.type)))
    return column.in_(sa.bindparam(name, expanding=True))


def insert_for(connection: Connection) -> Any:
    """The INSERT that knows ON CONFLICT; both databases spell it alike, SQLAlchemy keeps a class for each."""
    return postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert


class GivenRows:
    """Rows that a statement of PostgreSQL is given as one array a column, executed with `rows.arrays(…)`.

    Its text is the same for any number of rows, and the server and we have a fraction of the work of one statement a
    row. `insert(table).from_select(rows.names, rows.select)` stores them in their order; an UPDATE has none.
    """

    def __init__(self, *columns: Any) -> None:
        self.names = [column.key for column in columns]
        types = [sa.String() if isinstance(column.type, sa.String) else column.type for column in columns]
        # Without the length: the cast to an array of VARCHAR(16) would cut a longer text, where a column refuses it.
        given = [
            sa.bindparam(f"all_{name}", type_=postgresql.ARRAY(of)) for name, of in zip(self.names, types, strict=True)
        ]
        named = [sa.column(name, of) for name, of in zip(self.names, types, strict=True)]
        self.table = sa.func.unnest(*given).table_valued(*named).render_derived(name="given")
        self.select = sa.select(*self.table.c)

    def arrays(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {f"all_{name}": [row[name] for row in rows] for name in self.names}


@contextmanager
def _errors_translated(name: str) -> Iterator[None]:
    """The driver's errors, translated where they enter."""
    try:
        yield
    except DBAPIError as error:
        ours = _of_sqlite(name, error) if isinstance(error.orig, sqlite3.Error) else translated(name, error)
        if ours is None:
            raise
        raise ours from error


def _of_sqlite(name: str, error: DBAPIError) -> PagepackError | None:
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


def open_database(
    settings: Settings, *, create: bool = False, readonly: bool = False, by_key: bool = False
) -> Database:
    """Open the settings' database; it must be at this program's revision.

    With `create`, missing tables are made and older ones are migrated. With `readonly`, nothing is written to a
    SQLite file, not even by SQLite itself where the folder cannot be written. `by_key` as in `server_engine`.

    Raises:
        UsageError: no database yet, unreadable folder, a wrong URL or password, a revision that does not fit.
        Unavailable: the server does not answer.
    """
    if settings.database_url is not None:
        url = server_url(settings.database_url)
        database, way_out = Database(server_engine(url, by_key=by_key), server_name(url)), "`pagepack db upgrade`"
    else:
        home = shlex.quote(str(settings.home))
        way_out = f"`pagepack db upgrade --home {home}`"
        database = _open_file(settings.home / "pagepack.db", home, create, readonly)
    have = refuse_newer(database)
    if have != head_revision():
        if not create and have is None:
            other = "choose another --home, or make one there" if database.dialect == "sqlite" else "make one there"
            raise UsageError(f"{database.name} holds no pagepack database; {other}: {way_out}")
        if not create:
            raise UsageError(f"{database.name} is of an older pagepack (revision {have}); run {way_out}")
        upgrade(database)
    return database


def refuse_newer(database: Database) -> str | None:
    """The revision of a database; None where there is none. Raises UsageError for one that this program cannot know."""
    have = current_revision(database)
    if have is not None and not is_known(have):
        raise UsageError(
            f"{database.name} was written by a newer pagepack (revision {have}); upgrade pagepack to use it"
        )
    return have


def _open_file(path: Path, home: str, create: bool, readonly: bool) -> Database:
    if not create:
        _look_for(path, home)
    if not readonly:
        return Database(_sqlite(path), str(path))
    unchanged = Unchanged(path) if is_immutable(path) else None
    return Database(_sqlite_readonly(path, unchanged is not None), str(path), unchanged)


def _look_for(path: Path, home: str) -> None:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"no database at {path}; `pagepack run PATH --home {home}` makes one") from error
    except OSError as error:
        raise UsageError(f"cannot open {path}: {error.strerror}; choose another --home") from error


def _sqlite_readonly(path: Path, immutable: bool) -> Engine:
    def connect() -> Any:
        return connect_readonly(path, BUSY_TIMEOUT_MS / 1000, immutable)

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.QueuePool)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _sqlite(path: Path) -> Engine:
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
        writes = options.get("pagepack_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
