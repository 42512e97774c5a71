"""Opening the database: SQLite in the home folder, or a server by URL; its migrations and its views.

SQLite runs in WAL mode, so people may query while pages are stored. Writers say BEGIN IMMEDIATE and wait for each
other up to `busy_timeout`; a deferred transaction that turns writer half-way would fail at once instead.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError

import migrations
from pipeline.errors import DiskFull, PagepackError, Unavailable, UsageError
from pipeline.readonly_file import Unchanged, connect_readonly, is_immutable
from pipeline.settings import Settings
from schemas.views import COLUMNS, create_statements, drop_statements

BUSY_TIMEOUT_MS = 60_000  # a backup or another process may hold SQLite's one write lock for half a minute


class Database:
    """One engine for a process. `read()` and `write()` open a transaction each."""

    def __init__(self, engine: Engine, name: str, unchanged: Unchanged | None = None) -> None:
        self.engine = engine
        self.name = name
        self._unchanged = unchanged
        self.dialect = engine.dialect.name
        self._writer = engine.execution_options(pagepack_write=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with _translated(self.name), self.engine.begin() as connection:
            yield connection
        if self._unchanged is not None:
            self._unchanged.check()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with _translated(self.name), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def migrate(self) -> Iterator[Connection]:
        """As `write`, with SQLite's foreign keys looked at once, at the end."""
        migrator = self.engine.execution_options(pagepack_write=True, pagepack_migrate=True)
        with _translated(self.name), migrator.begin() as connection:
            yield connection
            if self.dialect == "sqlite":
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
                assert not broken, f"the migration left rows that name missing ones: {broken[:5]}"
        self.engine.dispose()  # connections that do not look at foreign keys

    def now(self, connection: Connection) -> float:
        """Seconds since the epoch, by the server's clock where there is a server: hosts' clocks differ."""
        if self.dialect == "postgresql":
            return float(connection.scalar(sa.text("SELECT extract(epoch FROM clock_timestamp())")) or 0.0)
        return time.time()

    def dispose(self) -> None:
        self.engine.dispose()


def insert_for(connection: Connection) -> Any:
    """The INSERT that knows ON CONFLICT; both databases spell it alike, SQLAlchemy keeps a class for each."""
    return postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """The driver's errors, translated where they enter."""
    try:
        yield
    except DBAPIError as error:
        text = str(error.orig)
        if "disk is full" in text or "No space left" in text:
            raise DiskFull(
                f"no room left on the disk of {name}; what was stored stays: free some and run the same command again"
            ) from error
        if "readonly database" in text:
            raise UsageError(
                f"{name} is read-only; give its folder write permission or choose another --home"
            ) from error
        if "not a database" in text or "malformed" in text:
            raise UsageError(
                f"{name} is not a whole SQLite database ({text}); restore it or choose another --home"
            ) from error
        if isinstance(error, OperationalError):
            raise Unavailable(f"{name} did not answer: {text}") from error
        raise


def open_database(settings: Settings, *, create: bool = False, readonly: bool = False) -> Database:
    """Open the settings' database; it must be at this program's revision.

    With `create`, a missing SQLite database is made and an older one is migrated: its home is locked by this process.
    With `readonly`, nothing is written, not even by SQLite itself where the folder cannot be written.

    Raises:
        UsageError: no database yet, unreadable folder, a revision that does not fit.
        Unavailable: the server does not answer.
    """
    if settings.database_url is not None:
        raise UsageError("PAGEPACK_DATABASE_URL: servers are not supported yet; unset it to use SQLite in --home")
    path = settings.home / "pagepack.db"
    home = shlex.quote(str(settings.home))
    if not create:
        _look_for(path, home)
    if readonly:
        unchanged = Unchanged(path) if is_immutable(path) else None
        database = Database(_sqlite_readonly(path, unchanged is not None), str(path), unchanged)
    else:
        database = Database(_sqlite(path), str(path))
    have, want = _revision(database), head_revision()
    if have != want:
        known = {script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions()}
        if have is not None and have not in known:
            raise UsageError(f"{path} was written by a newer pagepack (revision {have}); upgrade pagepack to use it")
        if not create and have is None:
            raise UsageError(
                f"{path} holds no pagepack database; choose another --home, or make one there: "
                f"`pagepack db upgrade --home {home}`"
            )
        if not create:
            way_out = f"run `pagepack db upgrade --home {home}`"
            raise UsageError(f"{path} is of an older pagepack (revision {have}); {way_out}")
        upgrade(database)
    return database


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


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    return config


def head_revision() -> str:
    """The revision that this program's code is written for."""
    head = ScriptDirectory.from_config(_alembic()).get_current_head()
    assert head is not None, "no migrations in the package"
    return head


def _revision(database: Database) -> str | None:
    with database.read() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(database: Database, revision: str = "head") -> None:
    """Migrate in one transaction; the views are dropped before and made after."""
    _migrate(database, revision, command.upgrade)


def downgrade(database: Database, revision: str) -> None:
    """Back to an older revision; its views come with the program that knows it."""
    _migrate(database, revision, command.downgrade)


def _migrate(database: Database, revision: str, step: Any) -> None:
    with database.migrate() as connection:
        for statement in drop_statements():
            connection.exec_driver_sql(statement)
        config = _alembic()
        config.attributes["connection"] = connection
        try:
            step(config, revision)
        except CommandError as error:
            raise PagepackError(f"{database.name}: cannot migrate to {revision}: {error}") from error
        if MigrationContext.configure(connection).get_current_revision() == head_revision():
            for statement in create_statements(database.dialect):
                connection.exec_driver_sql(statement)
            connection.exec_driver_sql("DELETE FROM schema_doc")
            rows = [
                {"view": view, "column": column, "meaning": meaning}
                for view, columns in COLUMNS.items()
                for column, meaning in columns.items()
            ]
            connection.execute(
                sa.text("INSERT INTO schema_doc (view_name, column_name, meaning) VALUES (:view, :column, :meaning)"),
                rows,
            )
