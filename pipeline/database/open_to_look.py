"""Opening the settings' database for a command that only looks: a SQLite file without SQLAlchemy."""

from __future__ import annotations

from pipeline.database.looking import FileToLookAt, Looking
from pipeline.database.revisions import refuse_other, refuse_unknown
from pipeline.database.sqlite_file import look_for
from pipeline.settings import Settings


def open_to_look(settings: Settings) -> Looking:
    """The settings' database for a command that only looks, as `open_database` with `readonly`, and raises the same."""
    if settings.database_url is not None:
        from pipeline.database.open import open_database

        return open_database(settings, readonly=True)
    path = settings.home / "pagepack.db"
    look_for(path, settings.home)
    database = FileToLookAt(path)
    with database.looking() as look:
        is_made = look.value("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'")
        have = look.value("SELECT version_num FROM alembic_version") if is_made else None
    refuse_unknown(database.name, have)
    refuse_other(database.name, have, settings.home)
    return database
