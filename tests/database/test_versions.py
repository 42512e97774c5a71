"""Views of what was, of what is broken now, and facts of files: `answers`, `prompts`, `attempts`, `current_failures`.

Each lookup by path goes by an index, on both databases.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from pipeline.errors import DocumentRejected, PageFailed
from pipeline.query.sql import run_sql
from pipeline.settings import Settings
from pipeline.store.batch_states import cancel_batch
from pipeline.store.batches import open_batch
from pipeline.store.claims import claim_document
from pipeline.store.leases import give_back
from pipeline.store.pages import NewPage, reject_document
from pipeline.store.sources import SeenFile, begin_walk, forget_unseen, record_files
from schemas.prompts import DESCRIBE, OCR
from tests.conftest import LIMITS, Archive, answer, complete_page, reuse_answers, sha

DATABASES = ("sqlite", "postgresql")

NEW_OCR = replace(OCR, text="Transcribe it better.", temperature=0.25)


def id_of(archive: Archive, name: str) -> str:
    return archive.batches[name].public_id


def now_broken(archive: Archive) -> list[Any]:
    columns = "source_path, page_number, prompt, kind, cause, batch_id"
    return archive.rows(f"SELECT {columns} FROM current_failures ORDER BY 1, 2, 3")


# Answers and prompts


def test_which_pages_a_new_prompt_changed_can_be_asked(archive: Archive) -> None:
    archive.batch("old")
    pages = archive.ingest(archive.see("/in/a.pdf", batch="old") or 0, ["1", "2"])
    for page in pages:
        archive.read(page, f"page {pages.index(page)}")
    archive.batch("new", prompts=[NEW_OCR])
    archive.see("/in/a.pdf", batch="new")
    archive.read(pages[0], "page 0")
    archive.read(pages[1], "page 1, better")
    changed = archive.rows(
        "SELECT n.source_path, n.page_number, o.text, n.text FROM answers n JOIN answers o "
        "ON o.source_path = n.source_path AND o.page_number = n.page_number AND o.prompt = n.prompt "
        "WHERE n.is_current AND NOT o.is_current AND o.text <> n.text"
    )
    assert changed == [("/in/a.pdf", 2, "page 1", "page 1, better")]
    versions = archive.rows("SELECT page_number, prompt_version, is_current, batch_id FROM answers ORDER BY 1, 3")
    old, new = (OCR.version, False, id_of(archive, "old")), (NEW_OCR.version, True, id_of(archive, "new"))
    assert versions == [(1, *old), (1, *new), (2, *old), (2, *new)]
    shown = archive.rows("SELECT DISTINCT prompt_version, batch_id, folder, file_name FROM page_text")
    assert shown == [(NEW_OCR.version, id_of(archive, "new"), "/in", "a.pdf")]


def test_every_version_of_a_prompt_is_kept_with_what_it_was_asked_with(archive: Archive) -> None:
    archive.batch("old")
    archive.batch("new", prompts=[replace(NEW_OCR, seed=7, max_tokens=99, stop=("END", "---")), DESCRIBE])
    rows = archive.rows("SELECT prompt, text, max_tokens, temperature, top_p, seed FROM prompts ORDER BY 1, 3 DESC")
    assert rows == [
        ("describe", DESCRIBE.text, 1024, 0.0, 1.0, 0),
        ("ocr", OCR.text, 4096, 0.0, 1.0, 0),
        ("ocr", "Transcribe it better.", 99, 0.25, 1.0, 7),
    ]
    stops = {row[0].replace(" ", "") for row in archive.rows("SELECT stop FROM prompts")}
    assert stops == {"[]", '["END","---"]'}
    assert archive.scalar("SELECT count(*) FROM prompts WHERE created_at IS NULL") == 0


def test_an_answer_is_of_the_batch_that_read_it_and_stands_once_for_each_model(archive: Archive) -> None:
    """A task of any model and one of that very model share the answer."""
    asked: dict[str, Any] = {"prompts": [OCR], "engine": "rapidocr", "text_layer": "keep"}
    archive.batches["any"] = open_batch(archive.db, key="any", name="any", model="", **asked)
    (page,) = archive.ingest(archive.see("/in/a.pdf", batch="any") or 0, ["1"])
    claim = archive.claim(page, models=[""])
    assert claim
    read = answer("text", "m1", temperature=0.5, confidence=0.75)
    complete_page(archive.db, claim, "w", {claim.tasks[0].task_id: read}, LIMITS)
    archive.batch("named", model="m1")
    archive.see("/in/a.pdf", batch="named")
    again = archive.claim(page)
    assert again
    reuse_answers(archive.db, again, {again.tasks[0].task_id: archive.scalar("SELECT id FROM answer_versions")})
    assert archive.scalar("SELECT count(*) FROM page_tasks WHERE state = 'done'") == 2
    for view in ("answers", "page_text"):
        rows = archive.rows(f"SELECT model, temperature, confidence, batch_id FROM {view}")
        assert rows == [("m1", 0.5, 0.75, id_of(archive, "any"))]


# Attempts


def test_an_attempt_says_of_what_file_for_which_batch_and_when(archive: Archive) -> None:
    archive.see("/in/copy.pdf", "same", batch="first")
    document_id = archive.see("/in/a.pdf", "same", batch="first")
    (page,) = archive.ingest(document_id or 0, ["1"])
    began = archive.scalar("SELECT CURRENT_TIMESTAMP")
    archive.read(page, PageFailed("bad"))
    archive.see("/in/a.pdf", "same", batch="second")
    assert archive.retry(batch="second") == (0, 1)
    assert archive.claim(page, owner="read/2")
    give_back(archive.db, "read/2", reason="it died", crashed=True, limits=LIMITS)
    archive.read(page, "text")
    rows = archive.rows("SELECT attempt, error, batch_id, source_path, prompt_version FROM attempts ORDER BY attempt")
    first, second = ((id_of(archive, name), path, OCR.version) for name, path in TRIED.items())
    assert rows == [(1, "bad", *first), (2, "it died", *second), (3, None, *second)]
    times = archive.rows("SELECT started_at, ended_at FROM attempts ORDER BY attempt")
    assert all(str(began)[:16] <= str(start) <= str(end) for start, end in times), times
    assert [start for start, _ in times] == sorted(start for start, _ in times)


TRIED = {"first": "/in/copy.pdf", "second": "/in/a.pdf"}


def test_attempts_of_a_cancelled_batch_and_of_files_that_are_gone_stay(archive: Archive) -> None:
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, ["1"])
    assert archive.claim(page)
    cancel_batch(archive.db, archive.batches["b"].id)
    of = "SELECT source_path, batch_id, error, started_at IS NULL FROM attempts"
    row = (id_of(archive, "b"), "the batch was cancelled", False)
    assert archive.rows(of) == [("/in/a.pdf", *row)]
    archive.execute("DELETE FROM batch_sources")
    assert archive.rows(of) == [(None, *row)]


# What is broken now


def test_a_file_that_was_mended_and_read_is_not_broken(archive: Archive) -> None:
    (page,) = archive.ingest(archive.see("/in/bad.pdf", "bad") or 0, ["1"])
    archive.read(page, PageFailed("unreadable"))
    archive.see("/in/locked.pdf", rejection="encrypted")
    broken = archive.see("/in/broken.pdf", "broken")
    claim = claim_document(archive.db, broken or 0, "w", 60)
    assert claim and reject_document(archive.db, claim, DocumentRejected("broken", cause="damaged"))
    archive.see("/in/still.txt", rejection="unsupported")
    b = id_of(archive, "b")
    assert now_broken(archive) == [
        ("/in/bad.pdf", 1, "ocr", "failed", "engine", b),
        ("/in/broken.pdf", None, None, "rejected", "damaged", b),
        ("/in/locked.pdf", None, None, "rejected", "encrypted", b),
        ("/in/still.txt", None, None, "rejected", "unsupported", b),
    ]
    for path in ("/in/bad.pdf", "/in/broken.pdf", "/in/locked.pdf"):
        (page,) = archive.ingest(archive.see(path, f"{path} mended", batch="later") or 0, [f"{path} 1"])
        archive.read(page, "text")
    archive.see("/in/still.txt", batch="later", rejection="unsupported")
    assert now_broken(archive) == [("/in/still.txt", None, None, "rejected", "unsupported", id_of(archive, "later"))]
    assert len(archive.rows("SELECT 1 FROM failures")) == 5, "what the batches met is history, and stays"


def test_a_page_that_another_batch_read_since_is_not_broken_and_one_that_failed_since_is(archive: Archive) -> None:
    pages = archive.ingest(archive.see("/in/a.pdf") or 0, ["1", "2"])
    archive.read(pages[0], PageFailed("no"))
    archive.read(pages[1], "text")
    archive.batch("m2", model="m2")
    archive.see("/in/a.pdf", batch="m2")
    assert [row[:2] for row in now_broken(archive)] == [("/in/a.pdf", 1)], "it waits, and was not read yet"
    archive.read(pages[0], "text", model="m2")
    archive.read(pages[1], PageFailed("worse"), model="m2")
    assert now_broken(archive) == [("/in/a.pdf", 2, "ocr", "failed", "engine", id_of(archive, "m2"))]
    archive.batch("m3", model="m3")
    archive.see("/in/a.pdf", batch="m3")
    archive.read(pages[0], "text", model="m3")
    archive.read(pages[1], PageFailed("worst"), model="m3")
    assert now_broken(archive) == [("/in/a.pdf", 2, "ocr", "failed", "engine", id_of(archive, "m3"))], "once"
    assert archive.retry(batch="m3") == (0, 1)
    archive.read(pages[1], "text", model="m3")
    assert now_broken(archive) == []


def test_another_prompt_s_answer_mends_nothing(archive: Archive) -> None:
    archive.batch(prompts=[OCR, DESCRIBE])
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, ["1"])
    archive.read(page, lambda prompt: PageFailed("no") if prompt.name == "ocr" else "a picture")
    for view in ("current_failures", "failures"):
        rows = archive.rows(f"SELECT page_number, prompt, document_id, folder, file_name FROM {view}")
        document = archive.scalar("SELECT public_id FROM documents")
        assert rows == [(1, "ocr", document, "/in", "a.pdf")]


def test_a_page_that_cannot_be_drawn_is_broken_for_who_asks_about_it(archive: Archive) -> None:
    undrawn = [NewPage(0, sha("1"), 16, 16), NewPage(1, error=PageFailed("hangs", cause="timeout"))]
    asked: dict[str, Any] = {"prompts": [OCR], "engine": "e", "model": "m1", "text_layer": "keep"}
    first = open_batch(archive.db, key="first", name="first", pages=[(0, 0)], **asked)
    archive.batches["first"] = first
    archive.ingest(archive.see("/in/a.pdf", batch="first") or 0, undrawn)
    assert now_broken(archive) == []
    archive.see("/in/a.pdf", batch="all")
    assert now_broken(archive) == [("/in/a.pdf", 2, None, "failed", "timeout", id_of(archive, "all"))]


def test_what_is_gone_from_all_paths_or_asked_by_nobody_is_not_broken(archive: Archive) -> None:
    archive.see("/in/locked.pdf", rejection="encrypted")
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, ["1"])
    archive.read(page, PageFailed("no"))
    assert len(now_broken(archive)) == 2
    forget_unseen(archive.db, archive.batches["b"], begin_walk(archive.db, archive.batches["b"]))
    assert now_broken(archive) == []
    archive.see("/in/a.pdf")
    assert len(now_broken(archive)) == 1
    archive.batch(prompts=[DESCRIBE])
    assert now_broken(archive) == []


# Facts of files and pages


@pytest.mark.parametrize(
    ("path", "folder", "name"),
    [
        ("/in/2019/März 1/a b.pdf", "/in/2019/März 1", "a b.pdf"),
        ("/a.pdf", "/", "a.pdf"),
        ("/in/in/in", "/in/in", "in"),
        ("s3://bucket/a/b.pdf", "s3://bucket/a", "b.pdf"),
        ("a.pdf", "", "a.pdf"),
        ("/in//a.pdf", "/in", "a.pdf"),
    ],
)
def test_folder_and_file_name_are_parts_of_the_path(archive: Archive, path: str, folder: str, name: str) -> None:
    archive.file(path, ["text"])
    for view in ("page_text", "document_text", "answers", "files"):
        assert archive.rows(f"SELECT folder, file_name FROM {view}") == [(folder, name)]


@pytest.mark.parametrize(
    "moment", ["2024-02-29 23:59:59.123456", "1969-12-31 23:59:58.250000", "2199-01-01 00:00:00.000001"]
)
def test_a_file_s_facts_are_those_of_the_batch_that_met_it(archive: Archive, settings: Settings, moment: str) -> None:
    time = datetime.fromisoformat(moment).replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    nanoseconds = (time.days * 86_400 + time.seconds) * 10**9 + time.microseconds * 1_000

    def see(batch: str, path: str, location: str, content: str, size: int, later: int = 0) -> None:
        if batch not in archive.batches:
            archive.batch(batch)
        seen = SeenFile(path, location, size, nanoseconds + later, kind="pdf", content_hash=sha(content))
        record_files(archive.db, archive.batches[batch], [seen])

    see("old", "/in/a.pdf", "file:///in/a.pdf", "one", 10)
    see("old", "s3://b/a.pdf", "s3://b/a.pdf", "two", 20)
    facts = "SELECT source_path, content_hash, size_bytes, modified_at FROM files WHERE batch_id = '{}' ORDER BY 1"
    of_old = facts.format(id_of(archive, "old"))
    far = ("s3://b/a.pdf", sha("two"), 20, None)
    assert list(run_sql(settings, of_old).rows) == [("/in/a.pdf", sha("one"), 10, moment), far]
    see("newer", "/in/a.pdf", "file:///in/a.pdf", "three", 30, later=10**12)
    see("new", "/in/a.pdf", "file:///in/a.pdf", "three", 30)
    gone = SeenFile("/in/a.pdf", "", 0, 0, rejection=DocumentRejected("it is gone", cause="missing"))
    record_files(archive.db, archive.batches["newer"], [gone])
    assert list(run_sql(settings, of_old).rows) == [("/in/a.pdf", sha("one"), 10, moment), far], "what it says stays"
    of_new = facts.format(id_of(archive, "new"))
    assert list(run_sql(settings, of_new).rows) == [("/in/a.pdf", sha("three"), 30, moment)]


def test_a_file_that_could_not_be_read_keeps_its_size_for_the_batch_that_met_it(archive: Archive) -> None:
    for batch, size in (("old", 10), ("new", 30)):
        archive.batch(batch)
        refused = SeenFile(
            "/in/a.pdf", "file:///in/a.pdf", size, 1, rejection=DocumentRejected("broken", cause="damaged")
        )
        record_files(archive.db, archive.batches[batch], [refused])
    sizes = archive.rows(
        "SELECT b.name, f.size_bytes FROM files f JOIN batch_summary b USING (batch_id) ORDER BY 1 DESC"
    )
    assert sizes == [("old", 10), ("new", 30)]


def test_a_page_s_size_in_points_is_kept(archive: Archive) -> None:
    drawn = [NewPage(0, sha("1"), 736, 1024, width_pt=595.25, height_pt=842.0), NewPage(1, sha("2"), 16, 16)]
    archive.ingest(archive.see("/in/a.pdf") or 0, drawn)
    sizes = archive.rows("SELECT page_number, width_pt, height_pt FROM page_images ORDER BY 1")
    assert sizes == [(1, 595.25, 842.0), (2, None, None)]


# Lookups


ROWS = 5_000  # documents of one page
GROWING = (
    *("documents", "sources", "batch_sources", "pages", "answer_versions", "page_tasks", "current_answers"),
    "task_attempts",
)


@pytest.fixture
def large(archive: Archive) -> Archive:
    """One file as the store makes it, and thousands like it."""
    archive.file("/in/a.pdf", ["text"])
    numbers = f"WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})"
    own = {"public_id": "'d' || i", "content_hash": "'c' || i", "path": "'/in/' || i", "image_hash": "'h' || i"}
    points_to = {"document_id", "source_id", "page_id", "answer_id", "task_id"}
    for table in GROWING:
        columns = [column["name"] for column in sa.inspect(archive.db.engine).get_columns(table)]
        values = [own.get(name, "i" if name == "id" or name in points_to else name) for name in columns]
        archive.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) {numbers} SELECT {', '.join(values)} FROM {table}, n"
        )
    if archive.db.dialect == "postgresql":  # which keeps statistics by itself; SQLite has none
        archive.execute("ANALYZE")
    return archive


def test_a_path_is_looked_up_by_indexes(large: Archive) -> None:
    for view in ("page_text", "answers", "attempts", "current_failures"):
        query = f"SELECT * FROM {view} WHERE source_path = '/in/3777'"
        assert len(large.rows(query)) == (0 if view == "current_failures" else 1)
        if large.db.dialect == "postgresql":
            plan = [row[0] for row in large.rows(f"EXPLAIN {query}")]
            scans = [line for line in plan if "Seq Scan on" in line and set(GROWING) & set(line.split())]
            assert scans == [], (view, plan)
        else:
            assert _looked_at(large, query) < ROWS / 10, f"{view}: SQLite looked at few rows"


def _looked_at(archive: Archive, query: str) -> int:
    """Steps of SQLite's machine, in hundreds."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 100
        return 0

    with archive.db.read() as connection:
        driver = connection.connection.driver_connection
        driver.set_progress_handler(count, 100)
        connection.exec_driver_sql(query).all()
        driver.set_progress_handler(None, 0)
    return steps
