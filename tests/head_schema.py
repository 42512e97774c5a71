"""What the revisions make of an empty SQLite file, as `migrations/head_sqlite.sql` says it.

python -m tests.head_schema      writes that, after a change of migrations/versions/
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipeline.database.engine import Database
from pipeline.database.migrate import upgrade
from pipeline.database.revisions import HEAD_OF_SQLITE, head_revision
from pipeline.database.sqlite import sqlite_engine

_MADE_BY_SQLITE = "sql IS NULL OR name LIKE 'sqlite^_%' ESCAPE '^' OR name LIKE 'page^_search^_%' ESCAPE '^'"


def migrated_step_by_step(folder: Path) -> Database:
    """A database at head that each revision has had its hand in."""
    database = Database(sqlite_engine(folder / "migrated.db"), "migrated")
    upgrade(database, "0001")
    upgrade(database)
    return database


def head_schema(database: Database) -> str:
    """The statements that make it: tables and indexes, then the rows that the revisions store."""
    with database.read() as connection:
        made = f"SELECT sql FROM sqlite_master WHERE type <> 'view' AND NOT ({_MADE_BY_SQLITE}) ORDER BY rowid"
        statements = [sql for (sql,) in connection.exec_driver_sql(made)]
    statements += [
        "INSERT INTO search_index (id, done, until) VALUES (1, 0, 0)",
        f"INSERT INTO alembic_version (version_num) VALUES ('{head_revision()}')",
    ]
    lines = "".join(f"{statement};\n" for statement in statements).splitlines()
    return "".join(f"{line.rstrip()}\n" for line in lines)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        HEAD_OF_SQLITE.write_text(head_schema(migrated_step_by_step(Path(folder))))
