"""What is due is found by an index that holds nothing else: at a million rows as at a thousand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from pipeline.database.engine import Database
from pipeline.store.backpressure import Room
from pipeline.store.claims import claim_pages
from pipeline.store.due import is_ingest_wanted, take_due_documents, take_due_pages
from pipeline.store.leases import expire, renew_tasks
from tests.conftest import LIMITS, NEVER, Archive

DATABASES = ("sqlite", "postgresql")
ROWS = 20_000


@pytest.fixture
def large(archive: Archive) -> Iterator[Archive]:
    """20,000 tasks that mostly wait and were enqueued just now; few are due, few messages lost. The documents alike."""
    archive.file("/in/a.pdf", ["x"])
    numbers = f"WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})"
    columns = "batch_id, state, owner, token, lease_until, attempts, crashes, next_attempt_at, enqueued_at"
    state = "CASE WHEN i % 4000 = 1 THEN 'leased' WHEN i % 10 = 9 THEN '{done}' ELSE 'pending' END"
    owner = "CASE WHEN i % 4000 = 1 THEN 'w' END"
    enqueued = "CASE WHEN i % 2000 < 3 THEN NULL WHEN i % 2000 < 6 THEN 1.0 ELSE 9e9 END"
    rest = "1, {state}, {owner}, 1, 9e9, 0, 0, 0, {enqueued}"
    for table, keys, values, done in (
        ("documents", "public_id, content_hash, kind, size_bytes", "'p' || i, 'c' || i, 'pdf', 1", "ready"),
        ("pages", None, None, None),
        (
            "page_tasks",
            "page_id, prompt_version, model, answer_id",
            "i, (SELECT version FROM prompt_versions), 'm1', 1",
            "done",
        ),
    ):
        if keys is None:
            rows = f"{numbers} SELECT i, i, 0, 'h' || i, '2020-01-01' FROM n"
            if archive.db.dialect == "postgresql":
                rows = rows.replace("'2020-01-01'", "timestamptz '2020-01-01'")
            archive.execute(f"INSERT INTO pages (id, document_id, page_index, image_hash, created_at) {rows}")
            continue
        messages = (
            enqueued if table == "page_tasks" else enqueued.replace("9e9", "NULL")
        )  # few documents are enqueued at a time
        filled = rest.format(state=state.format(done=done), owner=owner, enqueued=messages)
        ids = "id, " if table == "documents" else ""
        number = "i, " if table == "documents" else ""
        archive.execute(
            f"INSERT INTO {table} ({ids}{keys}, {columns}) {numbers} SELECT {number}{values}, {filled} FROM n"
        )
    archive.execute("ANALYZE")
    yield archive
    if archive.db.dialect == "postgresql":  # else they are deleted row by row
        archive.execute("TRUNCATE documents, pages, page_tasks CASCADE")


def plans(db: Database, work: Any) -> str:
    """The plans of all statements that `work` runs."""
    seen: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("SELECT", "UPDATE", "WITH")):
            seen.append((statement, parameters))

    event.listen(db.engine, "before_cursor_execute", note)
    work()
    event.remove(db.engine, "before_cursor_execute", note)
    explain = "EXPLAIN " if db.dialect == "postgresql" else "EXPLAIN QUERY PLAN "
    with db.write() as connection:
        return "\n".join(
            " ".join(str(part) for part in row)
            for statement, parameters in seen
            for row in connection.exec_driver_sql(explain + statement, parameters)
        )


def scans(plan: str) -> list[str]:
    """Lines that read a table from end to end."""
    whole = [line for line in plan.splitlines() if "Seq Scan on" in line or ("SCAN " in line and "_leased" not in line)]
    return [line for line in whole if "page_tasks" in line or "documents" in line or " pages" in line]


def test_what_is_due_or_leased_is_found_by_its_index_and_a_claim_reads_its_own_rows_only(large: Archive) -> None:
    pages = plans(large.db, lambda: take_due_pages(large.db, 1, limit=100, lost_after=30.0))
    assert "ix_page_tasks_due" in pages and "ix_page_tasks_enqueued" in pages and scans(pages) == [], pages
    documents = plans(large.db, lambda: take_due_documents(large.db, 1, limit=64, lost_after=30.0))
    assert scans(documents) == [], documents
    wanted = plans(large.db, lambda: is_ingest_wanted(large.db, 1, 2.0))
    assert "ix_documents_enqueued" in wanted and scans(wanted) == [], wanted

    large.execute("UPDATE page_tasks SET lease_until = 1 WHERE state = 'leased' AND page_id < 5000")
    swept = plans(large.db, lambda: expire(large.db, LIMITS))
    assert "ix_page_tasks_leased" in swept and scans(swept) == [], swept
    held = list(range(1, 60))
    assert scans(plans(large.db, lambda: renew_tasks(large.db, "w", held, 60))) == []

    waiting = [row[0] for row in large.rows("SELECT page_id FROM page_tasks WHERE state = 'pending' LIMIT 64")]
    before = large.scalar("SELECT count(*) FROM page_tasks WHERE state = 'pending'")
    claimed = plans(large.db, lambda: claim_pages(large.db, waiting, "w", ["m1"], 60, alone=waiting, answers_of="m1"))
    assert scans(claimed) == [], claimed
    assert large.scalar("SELECT count(*) FROM page_tasks WHERE state = 'pending'") == before - 64


def test_nothing_that_is_done_is_passed_on_the_way_to_what_is_due_and_room_is_counted_by_an_index(
    large: Archive,
) -> None:
    """SQLite's planner knows no numbers of rows, so that only PostgreSQL's could take another way to what is due."""
    if large.db.dialect == "postgresql":
        assert_that_nothing_done_is_passed(large)
    large.execute("UPDATE page_tasks SET state = 'done', owner = NULL WHERE page_id % 1000 > 3")
    large.execute("UPDATE documents SET state = 'ready', owner = NULL WHERE id % 1000 > 3")
    large.execute("ANALYZE")
    for limit in (3, 2_000):
        counted = plans(large.db, lambda limit=limit: Room(large.db, limit).is_left(1))  # type: ignore[misc]
        assert [line for line in scans(counted) if " pages" not in line] == [], counted  # of so few, PostgreSQL may


def assert_that_nothing_done_is_passed(large: Archive) -> None:
    waits = "owner = NULL, lease_until = NULL, enqueued_at = NULL"
    large.execute(f"UPDATE page_tasks SET state = CASE WHEN page_id < 5000 THEN 'done' ELSE 'pending' END, {waits}")
    large.execute("ANALYZE")
    pages = plans(large.db, lambda: take_due_pages(large.db, 1, limit=100, lost_after=30.0))
    (looked,) = [line for line in pages.splitlines() if " page_tasks_1 " in line]
    assert "ix_page_tasks_due" in looked, pages


def test_take_due_gives_what_is_due_once_and_lost_messages_after_a_while(archive: Archive) -> None:
    pages = archive.ingest(archive.see("/in/a.pdf") or 0, ["0", "1", "2"])
    batch = archive.batches["b"].id
    assert take_due_pages(archive.db, batch, limit=10, lost_after=NEVER) == pages
    assert take_due_pages(archive.db, batch, limit=10, lost_after=NEVER) == []
    archive.execute("UPDATE page_tasks SET enqueued_at = NULL WHERE page_id = :page", page=pages[0])
    archive.execute("UPDATE page_tasks SET enqueued_at = 1 WHERE page_id = :page", page=pages[1])
    assert take_due_pages(archive.db, batch, limit=10, lost_after=NEVER) == [pages[0]]
    assert take_due_pages(archive.db, batch, limit=0, lost_after=30.0) == []
    assert take_due_pages(archive.db, batch, limit=10, lost_after=30.0) == [pages[1]]
    assert take_due_pages(archive.db, batch, limit=10, lost_after=30.0) == []
    archive.execute("UPDATE page_tasks SET enqueued_at = NULL, next_attempt_at = 9e9")
    assert take_due_pages(archive.db, batch, limit=10, lost_after=30.0) == []


@pytest.mark.only("postgresql")
def test_enqueueing_skips_rows_that_somebody_holds(archive: Archive) -> None:
    first, second = archive.ingest(archive.see("/in/a.pdf") or 0, ["0", "1"])
    archive.execute("UPDATE page_tasks SET enqueued_at = NULL")
    with archive.db.write() as connection:
        connection.execute(sa.text("SELECT 1 FROM page_tasks WHERE page_id = :page FOR UPDATE"), {"page": first})
        batch = archive.batches["b"].id
        assert take_due_pages(archive.db, batch, limit=10, lost_after=NEVER) == [second]
