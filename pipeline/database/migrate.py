"""The database's revision, and the way from one to another; the views are dropped before and made anew after."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import Connection

from pipeline.database.revisions import FOLDER, HEAD_OF_SQLITE, head_revision
from pipeline.database.roles import OWNER, grant_statements
from pipeline.errors import PagepackError, UsageError
from schemas.column_types import VIEWS, column_type
from schemas.view_columns import COLUMNS
from schemas.views import comment_statements, create_statements, drop_statements

if TYPE_CHECKING:
    from alembic.config import Config

    from pipeline.database.engine import Database


_LOCK = 0x706167657061636B  # "pagepack" in bytes: one migration at a time in a PostgreSQL database


def alembic_config() -> Config:
    from alembic.config import Config  # here, for every process that opens a database would load all of alembic

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config


def current_revision(database: Database) -> str | None:
    """None where nothing was made yet."""
    with database.read() as connection:
        return _revision_of(connection)


def _revision_of(connection: Connection) -> str | None:
    if not connection.exec_driver_sql(_HAS_REVISION[connection.dialect.name]).scalar():
        return None
    revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return None if revision is None else str(revision)


_HAS_REVISION = {  # an inspector of SQLAlchemy's would take longer than all else that opening a database does
    "sqlite": "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'",
    "postgresql": "SELECT to_regclass('alembic_version') IS NOT NULL",
}


def upgrade(database: Database, revision: str = "head") -> None:
    """Migrate in one transaction. Two at once are safe: the second waits, and finds nothing to do.

    An empty SQLite file is not led through all revisions, which takes ten times as long, but made as they leave it.

    Raises:
        UsageError: a database of PostgreSQL that does not hold every letter.
    """
    _migrate(database, revision, "upgrade")


def downgrade(database: Database, revision: str) -> None:
    """Back to an older revision; its views come with the program that knows it."""
    _migrate(database, revision, "downgrade")


def _migrate(database: Database, revision: str, step: str) -> None:
    is_owners = False
    with database.migrate() as connection:
        if database.dialect == "postgresql":
            _check_encoding(database, connection)
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            is_owners = _become_owner(connection)
        if revision == "head" and database.dialect == "sqlite" and not sa.inspect(connection).get_table_names():
            for statement in HEAD_OF_SQLITE.read_text().split(";\n")[:-1]:
                connection.exec_driver_sql(statement)
        else:
            _run_revisions(database, connection, revision, step)
        if _revision_of(connection) == head_revision():
            _make_views(connection)
            for statement in grant_statements() if is_owners else []:
                connection.exec_driver_sql(statement)


def _run_revisions(database: Database, connection: Connection, revision: str, step: str) -> None:
    from alembic import command
    from alembic.util import CommandError

    for statement in drop_statements(sa.inspect(connection).get_view_names()):
        connection.exec_driver_sql(statement)
    config = alembic_config()
    config.attributes["connection"] = connection
    try:
        getattr(command, step)(config, revision)
    except CommandError as error:
        raise PagepackError(f"{database.name}: cannot migrate to {revision}: {error}") from error


def _check_encoding(database: Database, connection: Connection) -> None:
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
    if encoding != "UTF8":
        raise UsageError(
            f"{database.name} is encoded in {encoding}, which does not hold the letters of all scripts; make one with "
            "CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0"
        )


def _become_owner(connection: Connection) -> bool:
    """Where `pagepack db roles` was run, what is made now shall be the owner's too. Whether it was."""
    query = f"""
        SELECT CASE WHEN c.oid IS NULL THEN has_schema_privilege(r.oid, current_schema(), 'CREATE')
                    ELSE c.relowner = r.oid END
        FROM pg_roles r LEFT JOIN pg_class c ON c.oid = to_regclass('alembic_version') WHERE r.rolname = '{OWNER}'"""
    is_owners = bool(connection.exec_driver_sql(query).scalar())
    if is_owners:
        connection.exec_driver_sql(f"SET LOCAL ROLE {OWNER}")
    return is_owners


def _make_views(connection: Connection) -> None:
    for statement in create_statements(connection.dialect.name):
        connection.exec_driver_sql(statement)
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("; ".join(comment_statements()).replace("%", "%%"))  # in one trip
    connection.exec_driver_sql("DELETE FROM schema_doc")
    names = ("view_name", "column_name", "meaning", "column_type", "view_meaning", "column_number")
    rows = [
        dict(zip(names, (view, column, meaning, column_type(column), VIEWS[view], number), strict=True))
        for view, columns in COLUMNS.items()
        for number, (column, meaning) in enumerate(columns.items(), 1)
    ]
    connection.execute(
        sa.text(f"INSERT INTO schema_doc ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"), rows
    )
