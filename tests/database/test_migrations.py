"""Revisions: head equals the models, up and down and up again, and a program refuses what it does not know."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from pipeline.database.engine import Database
from pipeline.database.migrate import alembic_config, downgrade, upgrade
from pipeline.database.open import open_database
from pipeline.database.revisions import head_revision, is_known
from pipeline.errors import UsageError
from pipeline.query.batch_status import find_batch, status
from pipeline.settings import Settings
from pipeline.store.batches import open_batch
from schemas.prompts import OCR
from schemas.view_columns import COLUMNS
from schemas.views import create_statements, view_definitions
from tests.conftest import Archive
from tests.head_schema import migrated_step_by_step

DATABASES = ("sqlite", "postgresql")


def stored(db: Database, kind: str) -> dict[str, Any]:
    """Name → definition; the lines of a table's in one order, for a table made anew has its constraints in any."""
    with db.read() as connection:
        if db.dialect == "postgresql":
            return {row[0]: row[1] for row in connection.execute(sa.text(ON_A_SERVER[kind]))}
        rows = connection.execute(sa.text("SELECT name, sql FROM sqlite_master WHERE type = :kind"), {"kind": kind})
        found = {name: sql for name, sql in rows if not name.startswith("page_search_")}
    if kind != "table":
        return found
    return {name: sorted(line.rstrip(", ") for line in sql.splitlines()) for name, sql in found.items()}


ON_A_SERVER = {
    "table": """
        SELECT c.relname, string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull
               || ' ' || coalesce(pg_get_expr(d.adbin, d.adrelid), ''), ', ' ORDER BY a.attname)
               || (SELECT coalesce(string_agg(k.conname || pg_get_constraintdef(k.oid), ', ' ORDER BY k.conname), '')
                   FROM pg_constraint k WHERE k.conrelid = c.oid)
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace GROUP BY c.oid, c.relname""",
    "view": "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public'",
    "index": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
}


def test_head_equals_the_models(db: Database) -> None:
    config = alembic_config()
    with db.write() as connection:
        config.attributes["connection"] = connection
        command.check(config)


@pytest.mark.only("sqlite")
def test_views_after_upgrade_are_those_of_the_program(db: Database) -> None:
    assert list(stored(db, "view").values()) == create_statements("sqlite")
    assert set(view_definitions("sqlite")) == set(view_definitions("postgresql")) == set(COLUMNS)


def test_down_to_nothing_and_up_again_is_the_same_database(archive: Archive, settings: Settings) -> None:
    archive.file("/in/a.pdf", ["text"])
    before = [stored(archive.db, kind) for kind in ("table", "view", "index")]
    downgrade(archive.db, "base")
    assert set(stored(archive.db, "table")) <= {"alembic_version"} and stored(archive.db, "view") == {}
    upgrade(archive.db)
    assert [stored(archive.db, kind) for kind in ("table", "view", "index")] == before
    archive.batches.clear()
    archive.file("/in/a.pdf", ["text"])
    assert archive.rows("SELECT text FROM page_text") == [("text",)]


@pytest.mark.only("sqlite")
def test_an_empty_file_becomes_what_all_revisions_make_of_it(db: Database, tmp_path: Path) -> None:
    stepwise = migrated_step_by_step(tmp_path)
    columns = "SELECT m.name, c.* FROM sqlite_master m, pragma_table_xinfo(m.name) c WHERE m.type = 'table'"
    tables = [name for name in stored(stepwise, "table") if not name.startswith("sqlite_")]

    def everything(database: Database) -> list[Any]:
        with database.read() as connection:
            rows = {name: connection.exec_driver_sql(f"SELECT * FROM {name}").all() for name in tables}
            order = sorted(map(tuple, connection.exec_driver_sql(columns)))
        return [*(stored(database, kind) for kind in ("table", "view", "index", "trigger")), order, rows]

    assert everything(db) == everything(stepwise), "`python -m tests.head_schema` writes migrations/head_sqlite.sql"
    stepwise.dispose()


def test_what_an_older_program_stored_is_shown_after_the_upgrade(archive: Archive) -> None:
    archive.file("/in/a.pdf", ["one", "two"])
    everything = [f"SELECT * FROM {view} ORDER BY 1, 2, 3" for view in ("page_text", "failures", "attempts", "files")]
    before = [archive.rows(query) for query in everything]
    downgrade(archive.db, "0004")
    assert archive.rows("SELECT text FROM answers ORDER BY id") == [("one",), ("two",)]
    assert archive.rows("SELECT name FROM prompts") == [("ocr",)]
    upgrade(archive.db)
    after = [archive.rows(query) for query in everything]
    columns = list(COLUMNS["attempts"])
    started = columns.index("started_at")  # is not in the older revision
    before[2] = [(*row[:started], None, *row[started + 1 :]) for row in before[2]]
    assert after == before
    asked = archive.rows("SELECT created_at FROM prompts")
    assert asked == archive.rows("SELECT started_at FROM batch_summary"), "the start of the first batch that asks"
    archive.file("/in/b.pdf", ["three"])
    assert archive.rows("SELECT text FROM page_text ORDER BY 1") == [("one",), ("three",), ("two",)]


def test_a_batch_of_an_older_program_has_no_command_until_it_is_asked_for_again(archive: Archive) -> None:
    archive.see("/in/a.pdf")
    downgrade(archive.db, "0005")
    upgrade(archive.db)
    assert find_batch(archive.db).command is None
    assert not status(archive.db, find_batch(archive.db)).interrupted, "nobody knows what began it"
    words = ["pagepack", "run", "/in"]
    again = open_batch(
        archive.db, key="b", name="b", prompts=[OCR], engine="rapidocr", model="m1", text_layer="keep", command=words
    )
    assert again.id == archive.batches["b"].id and find_batch(archive.db).command == words


def test_upgrading_twice_changes_nothing(db: Database) -> None:
    before = [stored(db, kind) for kind in ("table", "view", "index")]
    upgrade(db)
    assert [stored(db, kind) for kind in ("table", "view", "index")] == before


def test_a_database_of_a_newer_program_is_refused(archive: Archive, settings: Settings) -> None:
    archive.file("/in/a.pdf", ["text"])
    archive.execute("UPDATE alembic_version SET version_num = '9999'")
    for create in (False, True):
        with pytest.raises(UsageError, match=r"newer pagepack \(revision 9999\); upgrade pagepack"):
            open_database(settings, create=create)
    assert archive.rows("SELECT text FROM page_text") == [("text",)]


def test_an_older_database_is_migrated_only_by_who_may_create(db: Database, settings: Settings) -> None:
    downgrade(db, "base")
    with pytest.raises(UsageError, match="pagepack db upgrade"):
        open_database(settings)
    assert stored(db, "view") == {}
    opened = open_database(settings, create=True)
    assert set(stored(opened, "view")) == set(COLUMNS)
    opened.dispose()


@pytest.mark.only("postgresql")
def test_two_upgrades_at_once_are_one(db: Database, settings: Settings) -> None:
    downgrade(db, "base")
    errors: list[BaseException] = []

    def open_and_upgrade() -> None:
        try:
            open_database(settings, create=True).dispose()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=open_and_upgrade) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and set(stored(db, "view")) == set(COLUMNS)


def test_no_database_is_said_and_none_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pagepack run"):
        open_database(Settings(home=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pagepack.db").write_text("no database " * 500)
    for create in (False, True):
        with pytest.raises(UsageError, match="not a whole SQLite database"):
            open_database(Settings(home=tmp_path), create=create)
    assert (tmp_path / "pagepack.db").read_text() == "no database " * 500


def test_revisions_by_their_files_names_are_alembic_s() -> None:
    script = ScriptDirectory.from_config(alembic_config())
    assert script.get_current_head() == head_revision()
    known = [revision.revision for revision in script.walk_revisions()]
    assert all(map(is_known, known)) and not is_known("9000")
