"""Opening the settings' database, which must be at this program's revision."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from pipeline.database.engine import Database
from pipeline.database.migrate import current_revision, head_revision, is_known, upgrade
from pipeline.database.postgresql import server_engine
from pipeline.database.sqlite import Unchanged, is_immutable, readonly_engine, sqlite_engine
from pipeline.errors import UsageError
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
        return Database(sqlite_engine(path), str(path))
    unchanged = Unchanged(path) if is_immutable(path) else None
    return Database(readonly_engine(path, unchanged is not None), str(path), unchanged)


def _look_for(path: Path, home: str) -> None:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"no database at {path}; `pagepack run PATH --home {home}` makes one") from error
    except OSError as error:
        raise UsageError(f"cannot open {path}: {error.strerror}; choose another --home") from error
