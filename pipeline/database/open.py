"""Opening the settings' database, which must be at this program's revision."""

from __future__ import annotations

from pathlib import Path

from pipeline.database.engine import Database
from pipeline.database.migrate import current_revision, upgrade
from pipeline.database.postgresql import server_engine
from pipeline.database.revisions import head_revision, refuse_other, refuse_unknown
from pipeline.database.sqlite import readonly_engine, sqlite_engine
from pipeline.database.sqlite_file import Unchanged, is_immutable, look_for
from pipeline.settings import Settings
from pipeline.urls import server_name, server_url


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
    home = None
    if settings.database_url is not None:
        url = server_url(settings.database_url)
        database = Database(server_engine(url, by_key=by_key), server_name(url))
    else:
        home = settings.home
        database = _open_file(home / "pagepack.db", home, create, readonly)
    have = refuse_newer(database)
    if create and have != head_revision():
        upgrade(database)
    elif not create:
        refuse_other(database.name, have, home)
    return database


def refuse_newer(database: Database) -> str | None:
    """The revision of a database; None where there is none. Raises UsageError for one that this program cannot know."""
    have = current_revision(database)
    refuse_unknown(database.name, have)
    return have


def _open_file(path: Path, home: Path, create: bool, readonly: bool) -> Database:
    if not create:
        look_for(path, home)
    if not readonly:
        return Database(sqlite_engine(path), str(path))
    unchanged = Unchanged(path) if is_immutable(path) else None
    return Database(readonly_engine(path, unchanged is not None), str(path), unchanged)
