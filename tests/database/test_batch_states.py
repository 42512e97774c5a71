"""Paused, resumed and cancelled batches, and the outbox of those that want to be told."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from pipeline.database.engine import Database
from pipeline.errors import DocumentRejected, PageFailed, Unavailable
from pipeline.store import outbox
from pipeline.store.batch_end import finish_batch, finish_batches
from pipeline.store.batch_states import cancel_batch, pause_batch, resume_batch
from pipeline.store.batches import open_batch
from pipeline.store.claims import claim_document
from pipeline.store.due import take_due_documents, take_due_pages
from pipeline.store.leases import expire
from pipeline.store.outbox import lying_notices, mark_notices_sent, take_notices
from pipeline.store.page_tasks import ensure_tasks
from pipeline.store.pages import NewPage, add_pages, finish_document, reject_document, render_again, set_page_count
from pipeline.store.sources import SeenFile, begin_walk, forget_files, forget_unseen, record_files
from schemas.columns import utc_now
from schemas.prompts import DESCRIBE, OCR, Prompt
from tests.conftest import LIMITS, NEVER, Archive, answer, complete_page, sha

DATABASES = ("sqlite", "postgresql")


def state(archive: Archive, name: str = "b") -> str:
    return str(archive.scalar("SELECT state FROM batches WHERE name = :name", name=name))


def start(archive: Archive, call: Callable[[Database, int], object], batch: str, locks: int = 1) -> threading.Thread:
    """In a thread, until it has ended or `locks` of the server's sessions wait for a lock."""
    thread = threading.Thread(target=call, args=(archive.db, archive.batches[batch].id))
    thread.start()
    waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while thread.is_alive() and archive.scalar(waits) < locks:
        time.sleep(0.01)
    return thread


def tasks(archive: Archive) -> list[tuple[str, str | None]]:
    return archive.rows("SELECT state, cause FROM page_tasks ORDER BY id")


def test_nothing_of_a_paused_batch_is_given_out(archive: Archive) -> None:
    first, second = archive.ingest(archive.see("/in/a.pdf") or 0, ["0", "1"])
    waiting = archive.see("/in/b.pdf") or 0
    batch = archive.batches["b"].id
    assert take_due_pages(archive.db, batch, limit=10, lost_after=NEVER) == [first, second]  # they are enqueued
    held = archive.claim(first)
    assert held and pause_batch(archive.db, batch) and state(archive) == "paused"
    assert archive.claim(second) is None and claim_document(archive.db, waiting, "ingest/1", 60) is None
    assert complete_page(archive.db, held, "w", {held.tasks[0].task_id: answer("x")}, LIMITS) == 1  # was in hand
    finish_batches(archive.db)
    assert state(archive) == "paused" and not resume_batch(archive.db, batch + 1)
    assert resume_batch(archive.db, batch) and not resume_batch(archive.db, batch)
    assert take_due_pages(archive.db, batch, limit=10, lost_after=NEVER) == [second]  # its message was for nothing
    archive.read(second, "y")
    assert claim_document(archive.db, waiting, "ingest/1", 60)


def test_a_paused_batch_holds_up_no_other(archive: Archive) -> None:
    document_id = archive.see("/in/a.pdf") or 0
    waiting = archive.see("/in/b.pdf") or 0
    (page,) = archive.ingest(document_id, ["0"])
    for path in ("/in/a.pdf", "/in/b.pdf"):
        archive.see(path, batch="other")
    archive.execute("UPDATE page_tasks SET batch_id = :id", id=archive.batches["b"].id)
    archive.execute("UPDATE documents SET batch_id = :id", id=archive.batches["b"].id)
    assert pause_batch(archive.db, archive.batches["b"].id)
    archive.read(page, "text")
    assert claim_document(archive.db, waiting, "ingest/1", 60)


def test_a_cancelled_batch_fails_what_is_not_done_and_fences_late_writes_off(archive: Archive) -> None:
    done, held, waiting = archive.ingest(archive.see("/in/a.pdf") or 0, ["0", "1", "2"])
    archive.read(done, "text")
    claim = archive.claim(held)
    pending, leased = archive.see("/in/b.pdf") or 0, archive.see("/in/c.pdf") or 0
    document = claim_document(archive.db, leased, "ingest/1", 60)
    batch = archive.batches["b"].id
    assert claim and document and cancel_batch(archive.db, batch) and cancel_batch(archive.db, batch)
    assert tasks(archive) == [("done", None), ("failed", "cancelled"), ("failed", "cancelled")]
    assert archive.rows("SELECT state, finished_at IS NOT NULL FROM batches") == [("cancelled", True)]
    assert archive.rows("SELECT source_path, page_number FROM failures ORDER BY 1, 2") == [
        ("/in/a.pdf", 2),
        ("/in/a.pdf", 3),
        ("/in/b.pdf", None),
        ("/in/c.pdf", None),
    ]
    assert complete_page(archive.db, claim, "w", {claim.tasks[0].task_id: answer("late")}, LIMITS) == 0
    assert not add_pages(archive.db, document, [NewPage(0, sha("late"), 16, 16)])
    assert archive.claim(waiting) is None and claim_document(archive.db, pending, "ingest/1", 60) is None
    assert expire(archive.db, LIMITS) == 0
    assert not pause_batch(archive.db, batch) and not resume_batch(archive.db, batch)
    archive.batch()  # the same command again
    assert state(archive) == "running"
    archive.read(held, "now")
    archive.read(waiting, "now")
    for document_id in (pending, leased):
        archive.ingest(document_id, [])
    assert archive.finish() and archive.rows("SELECT * FROM failures") == []
    history = archive.rows("SELECT attempt, error FROM attempts ORDER BY page_number, attempt")
    assert history == [(1, None), (1, "the batch was cancelled"), (2, None), (1, None)]


def test_what_another_running_batch_wants_goes_over_to_it(archive: Archive) -> None:
    archive.batch(prompts=[OCR, DESCRIBE])
    first, held = archive.ingest(archive.see("/in/a.pdf") or 0, ["0", "1"])
    waiting = archive.see("/in/b.pdf") or 0
    archive.batch("other", prompts=[OCR])
    for path in ("/in/a.pdf", "/in/b.pdf"):
        archive.see(path, batch="other")
    mine, other = archive.batches["b"].id, archive.batches["other"].id
    archive.execute("UPDATE page_tasks SET batch_id = :id", id=mine)
    archive.execute("UPDATE documents SET batch_id = :id", id=mine)
    claim = archive.claim(held)
    assert claim and cancel_batch(archive.db, mine)
    wanted = "SELECT DISTINCT state, batch_id FROM page_tasks WHERE prompt_version = :v ORDER BY 1"
    assert archive.rows(wanted, v=OCR.version) == [("leased", other), ("pending", other)]
    assert archive.rows(wanted, v=DESCRIBE.version) == [("failed", mine)]
    outcomes = {task.task_id: answer("x") for task in claim.tasks}
    assert complete_page(archive.db, claim, "w", outcomes, LIMITS) == 1
    archive.read(first, "y")
    archive.ingest(waiting, [])
    assert archive.finish("other") and state(archive) == "cancelled"


def waits_for(archive: Archive, table: str) -> list[tuple[str, str]]:
    """State and batch of each row."""
    joined = f"SELECT t.state, b.name FROM {table} t JOIN batches b ON b.id = t.batch_id ORDER BY t.id"
    return archive.rows(joined)


def test_what_a_paused_batch_wants_waits_for_it_when_another_is_cancelled(archive: Archive) -> None:
    """Rather than to fail: the paused one is resumed, and goes on with it."""
    archive.batch("paused", prompts=[OCR])
    archive.batch("gone", prompts=[OCR, DESCRIBE])
    for name in ("paused", "gone"):
        archive.see("/in/a.pdf", batch=name)
        waiting, leased = archive.see("/in/b.pdf", batch=name) or 0, archive.see("/in/c.pdf", batch=name) or 0
    first, held = archive.ingest(archive.scalar("SELECT id FROM documents ORDER BY id"), ["0", "1"])
    document = claim_document(archive.db, leased, "ingest/1", 60)
    claim = archive.claim(held)
    archive.execute("UPDATE documents SET batch_id = :id", id=archive.batches["gone"].id)
    archive.execute("UPDATE page_tasks SET batch_id = :id", id=archive.batches["gone"].id)
    assert claim and document and pause_batch(archive.db, archive.batches["paused"].id)
    assert cancel_batch(archive.db, archive.batches["gone"].id)
    assert waits_for(archive, "documents")[1:] == [("pending", "paused"), ("leased", "paused")]
    assert archive.rows("SELECT cause FROM documents WHERE state <> 'ready'") == [(None,), (None,)]
    wanted = "SELECT state, cause, batch_id FROM page_tasks WHERE prompt_version = :v ORDER BY state"
    paused, gone = archive.batches["paused"].id, archive.batches["gone"].id
    assert archive.rows(wanted, v=OCR.version) == [("leased", None, paused), ("pending", None, paused)]
    assert archive.rows(wanted, v=DESCRIBE.version) == [("failed", "cancelled", gone)] * 2
    outcomes = {task.task_id: answer("in hand") for task in claim.tasks}
    assert complete_page(archive.db, claim, "read/1", outcomes, LIMITS) == 1
    assert archive.claim(first) is None and claim_document(archive.db, waiting, "ingest/1", 60) is None
    assert resume_batch(archive.db, paused)
    archive.read(first, "text")
    archive.ingest(waiting, [])
    assert finish_document(archive.db, document, 0)
    assert archive.finish("paused")
    assert archive.rows("SELECT * FROM failures WHERE batch_id = :id", id=archive.batches["paused"].public_id) == []


def test_a_running_batch_comes_before_a_paused_one_and_pausing_hands_to_running_ones_only(archive: Archive) -> None:
    for name in ("older", "paused", "running", "last"):
        archive.see("/in/a.pdf", batch=name)
    (page,) = archive.ingest(1, ["0"])
    archive.see("/in/b.pdf", batch="older")
    archive.see("/in/b.pdf", batch="last")
    assert pause_batch(archive.db, archive.batches["older"].id) and pause_batch(
        archive.db, archive.batches["paused"].id
    )
    assert waits_for(archive, "page_tasks") == [("pending", "last")]
    assert cancel_batch(archive.db, archive.batches["last"].id)
    assert waits_for(archive, "page_tasks") == [("pending", "running")]
    assert waits_for(archive, "documents")[1:] == [("pending", "older")], "no running batch wants it"
    assert pause_batch(archive.db, archive.batches["running"].id)
    assert waits_for(archive, "page_tasks") == [("pending", "running")], "not to one that is paused as well"
    assert cancel_batch(archive.db, archive.batches["running"].id)
    assert waits_for(archive, "page_tasks") == [("pending", "older")]
    assert resume_batch(archive.db, archive.batches["older"].id) and archive.claim(page)


def test_a_batch_whose_files_are_still_being_seen_keeps_what_it_saw(archive: Archive) -> None:
    """It is running, though it may not finish yet; what it sees later it takes up then."""
    archive.batches["seeing"] = open_batch(
        archive.db,
        key="seeing",
        name="seeing",
        prompts=[OCR],
        engine="rapidocr",
        model="m1",
        text_layer="keep",
        all_seen=False,
    )
    for path in ("/in/a.pdf", "/in/b.pdf"):
        archive.see(path, batch="seeing")
        archive.see(path)
    archive.see("/in/c.pdf")
    assert cancel_batch(archive.db, archive.batches["b"].id)
    assert waits_for(archive, "documents") == [("pending", "seeing"), ("pending", "seeing"), ("failed", "b")]
    archive.see("/in/c.pdf", batch="seeing")
    assert waits_for(archive, "documents") == [("pending", "seeing")] * 3


def test_a_paused_batch_that_sees_files_takes_nothing_from_a_running_one(archive: Archive) -> None:
    """As one that was paused while its files were being seen, or that a message names."""
    archive.see("/in/a.pdf")
    archive.see("/in/b.pdf")
    (page,) = archive.ingest(1, ["0"])
    archive.batch("paused")
    assert pause_batch(archive.db, archive.batches["paused"].id)
    for path in ("/in/a.pdf", "/in/b.pdf", "/in/c.pdf"):
        archive.see(path, batch="paused")
    assert waits_for(archive, "page_tasks") == [("pending", "b")]
    assert waits_for(archive, "documents")[1:] == [("pending", "b"), ("pending", "paused")]
    assert archive.claim(page) and claim_document(archive.db, 2, "ingest/1", 60)


def freed(archive: Archive, path: str) -> int:
    """A document of the finished batch `old`, read, whose image is freed; its page's id."""
    archive.file(path, ["text"], batch="old")
    assert archive.finish("old")
    archive.execute("UPDATE pages SET image_freed_at = :now", now=utc_now())
    return int(archive.scalar("SELECT max(id) FROM pages"))


@pytest.mark.parametrize("is_claimed", [False, True])
def test_cancelling_fails_no_document_that_was_only_to_be_drawn_again(archive: Archive, is_claimed: bool) -> None:
    page = freed(archive, "/in/a.pdf")
    archive.batch("new", prompts=[DESCRIBE])
    archive.see("/in/a.pdf", batch="new")
    claim = archive.claim(page)
    assert claim and render_again(archive.db, claim)
    drawing = claim_document(archive.db, claim.document_id, "ingest/1", 60) if is_claimed else None
    if drawing:
        set_page_count(archive.db, drawing, 1)
    assert cancel_batch(archive.db, archive.batches["new"].id)
    assert archive.rows("SELECT state, page_count, owner, cause FROM documents") == [("ready", 1, None, None)]
    assert drawing is None or not add_pages(archive.db, drawing, [NewPage(0, sha("0"), 16, 16)])
    states = "SELECT b.name, f.state FROM files f JOIN batch_summary b ON b.batch_id = f.batch_id ORDER BY 1"
    assert archive.rows(states) == [("new", "failed"), ("old", "done")]
    assert archive.retry(batch="new") == (0, 1)
    again = archive.claim(page)
    assert again and render_again(archive.db, again), "its image is still gone"
    archive.ingest(again.document_id, [NewPage(0, sha("/in/a.pdf#0"), 16, 32)])
    archive.read(page, "a picture")
    assert archive.finish("new")


def test_pages_that_are_stored_during_a_pause_wait_for_its_end_or_fail_with_the_batch(archive: Archive) -> None:
    for name in ("resumed", "cancelled"):
        document_id = archive.see(f"/in/{name}.pdf", batch=name) or 0
        claim = claim_document(archive.db, document_id, "ingest/1", 60)
        assert claim and pause_batch(archive.db, archive.batches[name].id)
        assert add_pages(archive.db, claim, [NewPage(0, sha(name), 16, 16)]) and finish_document(archive.db, claim, 1)
    assert waits_for(archive, "page_tasks") == [("pending", "resumed"), ("pending", "cancelled")]
    assert archive.claim(1) is None
    assert resume_batch(archive.db, archive.batches["resumed"].id) and archive.read(1, "text")
    assert cancel_batch(archive.db, archive.batches["cancelled"].id)
    assert archive.rows("SELECT source_path, state FROM files ORDER BY source_path") == [
        ("/in/cancelled.pdf", "failed"),
        ("/in/resumed.pdf", "done"),
    ]


def test_pages_that_another_batch_has_drawn_have_failed_for_one_that_was_cancelled(archive: Archive) -> None:
    """Else its file would wait for ever; what both ask is the other's, and done is done."""
    archive.batch("gone", prompts=[OCR, DESCRIBE])
    for name in ("gone", "b"):
        document_id = archive.see("/in/a.pdf", batch=name) or 0
    assert cancel_batch(archive.db, archive.batches["gone"].id)
    (page,) = archive.ingest(document_id, ["0"])
    assert sorted(waits_for(archive, "page_tasks")) == [("failed", "gone"), ("pending", "b")]
    archive.read(page, "text")
    failures = "SELECT b.name, f.page_number, f.cause FROM failures f JOIN batch_summary b ON b.batch_id = f.batch_id"
    assert archive.rows(failures) == [("gone", 1, "cancelled")] and archive.finish()
    archive.batch("gone", prompts=[OCR, DESCRIBE])
    archive.read(page, "a picture")
    assert archive.finish("gone") and archive.rows(failures) == []


def test_a_batch_that_was_asked_again_and_cancelled_before_it_saw_its_files_anew_has_nothing_waiting(
    archive: Archive,
) -> None:
    """Of another prompt there were no tasks yet, and the file waited for ever."""
    archive.batch("other")
    archive.see("/in/b.pdf", "same", batch="other")
    document_id = archive.see("/in/a.pdf", "same") or 0
    (page,) = archive.ingest(document_id, ["0"])
    archive.batch(prompts=[DESCRIBE])
    assert cancel_batch(archive.db, archive.batches["b"].id)
    assert not archive.finish("other"), "what both asked waits for the other"
    archive.read(page, "text")
    summary = "SELECT name, files_done, files_failed FROM batch_summary ORDER BY name"
    assert archive.rows(summary) == [("b", 0, 1), ("other", 1, 0)] and archive.finish("other")
    archive.batch(prompts=[DESCRIBE])
    archive.read(page, "a picture")
    assert archive.finish() and archive.rows(summary) == [("b", 1, 0), ("other", 1, 0)]


def test_cancelling_fails_a_document_of_which_pages_are_missing(archive: Archive) -> None:
    document_id = archive.see("/in/a.pdf") or 0
    claim = claim_document(archive.db, document_id, "ingest/1", 60)
    assert claim
    set_page_count(archive.db, claim, 2)
    add_pages(archive.db, claim, [NewPage(0, sha("0"), 16, 16)])
    assert cancel_batch(archive.db, archive.batches["b"].id)
    assert archive.rows("SELECT state, cause FROM documents") == [("failed", "cancelled")]


def test_a_lost_claim_has_nothing_drawn_again_and_takes_nothing_from_its_successor(archive: Archive) -> None:
    page = freed(archive, "/in/a.pdf")
    archive.batch("new", prompts=[DESCRIBE])
    archive.see("/in/a.pdf", batch="new")
    lost = archive.claim(page)
    archive.execute("UPDATE page_tasks SET lease_until = 1 WHERE state = 'leased'")
    assert lost and expire(archive.db, LIMITS) == 1
    successor = archive.claim(page, owner="read/2")
    assert successor and not render_again(archive.db, lost)
    assert archive.rows("SELECT owner FROM page_tasks WHERE state = 'leased'") == [("read/2",)]
    assert archive.scalar("SELECT state FROM documents") == "ready"
    assert cancel_batch(archive.db, archive.batches["new"].id) and not render_again(archive.db, successor)
    assert archive.scalar("SELECT state FROM documents") == "ready", "it would wait for a batch that is over"


def test_what_a_paused_batch_has_drawn_again_holds_up_no_other(archive: Archive) -> None:
    """Its page was in a reader's hand, so that nothing went over to the other batch when it was paused."""
    page = freed(archive, "/in/a.pdf")
    for name, prompts in (("paused", [DESCRIBE]), ("running", [Prompt("ask", "How many?")])):
        archive.batch(name, prompts=prompts)
        archive.see("/in/a.pdf", batch=name)
    archive.execute(
        "UPDATE page_tasks SET next_attempt_at = 9e12 WHERE batch_id = :id", id=archive.batches["running"].id
    )
    held = archive.claim(page)
    assert held and len(held.tasks) == 1 and pause_batch(archive.db, archive.batches["paused"].id)
    assert render_again(archive.db, held) and waits_for(archive, "documents") == [("pending", "paused")]
    archive.execute("UPDATE page_tasks SET next_attempt_at = 0")
    other = archive.claim(page)
    assert other and len(other.tasks) == 1
    assert render_again(archive.db, other) and waits_for(archive, "documents") == [("pending", "running")]
    archive.ingest(other.document_id, [NewPage(0, sha("/in/a.pdf#0"), 16, 32)])
    archive.read(page, "three")
    assert archive.finish("running")


def test_who_asks_for_a_page_together_with_a_paused_batch_has_it_drawn_again_for_itself(archive: Archive) -> None:
    page = freed(archive, "/in/a.pdf")
    for name, prompts in (("paused", [DESCRIBE]), ("running", [Prompt("ask", "How many?")])):
        archive.batch(name, prompts=prompts)
        archive.see("/in/a.pdf", batch=name)
    held = archive.claim(page)
    assert held and len(held.tasks) == 2 and pause_batch(archive.db, archive.batches["paused"].id)
    assert render_again(archive.db, held) and waits_for(archive, "documents") == [("pending", "running")]


def test_asking_again_enqueues_again_what_a_paused_batch_has_waiting(archive: Archive) -> None:
    """As resuming does: the messages were taken, and nothing was given out."""
    waiting = archive.see("/in/b.pdf") or 0
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, ["0"])
    batch = archive.batches["b"].id

    def due() -> tuple[list[int], list[int]]:
        documents = take_due_documents(archive.db, batch, limit=10, lost_after=NEVER)
        return documents, take_due_pages(archive.db, batch, limit=10, lost_after=NEVER)

    assert due() == ([waiting], [page]) and pause_batch(archive.db, batch)
    archive.batch()
    assert state(archive) == "running" and due() == ([waiting], [page])
    archive.batch()
    assert due() == ([], []), "a running one: its messages are out"


def test_a_message_revives_nothing_of_a_batch_that_stays_cancelled(archive: Archive) -> None:
    def ask() -> None:
        archive.batches["m"] = open_batch(
            archive.db, key="m", name="m", prompts=[OCR], engine="any", model="m1", text_layer="keep", reopens=False
        )

    ask()
    archive.ingest(archive.see("/in/a.pdf", batch="m") or 0, ["0"])
    archive.see("/in/b.pdf", batch="m")
    assert cancel_batch(archive.db, archive.batches["m"].id)
    ask()
    assert waits_for(archive, "documents") == [("ready", "m"), ("failed", "m")]
    assert waits_for(archive, "page_tasks") == [("failed", "m")]


def test_a_finished_batch_goes_on_with_a_document_that_another_has_opened_again(archive: Archive) -> None:
    document_id = archive.see("/in/a.pdf", "content") or 0
    claim = claim_document(archive.db, document_id, "ingest/1", 60)
    assert claim and reject_document(archive.db, claim, DocumentRejected("no permission", cause="unreadable"))
    assert archive.finish()
    archive.see("/in/copy.pdf", "content", batch="other")
    assert state(archive) == "running", "a file of it waits"
    (page,) = archive.ingest(document_id, ["0"])
    archive.read(page, "text")
    assert archive.finish() and archive.finish("other")


@pytest.mark.only("postgresql")
def test_a_batch_that_is_just_being_finished_goes_on_with_a_document_that_is_opened_again(archive: Archive) -> None:
    document_id = archive.see("/in/a.pdf", "content") or 0
    archive.batch("other")
    claim = claim_document(archive.db, document_id, "ingest/1", 60)
    assert claim and reject_document(archive.db, claim, DocumentRejected("no permission", cause="unreadable"))
    with archive.db.engine.connect() as finishing:
        finishing.execute(sa.text("UPDATE batches SET state = 'finished' WHERE name = 'b'"))
        seeing = start(archive, lambda db, batch: archive.see("/in/copy.pdf", "content", batch="other"), "b")
        finishing.commit()
        seeing.join()
    assert state(archive) == "running"


def test_what_was_asked_otherwise_says_when(archive: Archive) -> None:
    archive.ingest(archive.see("/in/a.pdf") or 0, ["0"])
    archive.batch(model="m2")
    assert archive.rows("SELECT cause, finished_at IS NOT NULL FROM page_tasks") == [("superseded", True)]


@pytest.mark.only("postgresql")
def test_pages_that_are_being_stored_while_a_batch_is_cancelled_wait_for_nobody_afterwards(archive: Archive) -> None:
    """Their document waits for another batch, so that cancelling has nothing to do with its row."""
    archive.batch("gone", prompts=[DESCRIBE])
    for name in ("gone", "b"):
        document_id = archive.see("/in/a.pdf", batch=name) or 0
    claim = claim_document(archive.db, document_id, "ingest/1", 60)
    assert claim and claim.batch_id == archive.batches["b"].id
    with archive.db.engine.connect() as storing:  # as `add_pages` does, up to its commit
        held = sa.text("SELECT id FROM documents WHERE id = :id FOR UPDATE")
        storing.execute(held, {"id": document_id})
        columns = "document_id, page_index, image_hash, width_px, height_px, created_at"
        page = sa.text(f"INSERT INTO pages ({columns}) VALUES (:id, 0, 'x', 16, 16, now())")
        storing.execute(page, {"id": document_id})
        ensure_tasks(storing, archive.batches["gone"].id, [document_id])
        cancelling = start(archive, cancel_batch, "gone")
        storing.commit()
        cancelling.join()
    assert archive.rows("SELECT state, cause FROM page_tasks") == [("failed", "cancelled")]


@pytest.mark.only("postgresql")
def test_of_two_batches_that_are_cancelled_at_once_neither_leaves_anything_to_the_other(archive: Archive) -> None:
    for name in ("first", "second"):
        archive.see("/in/a.pdf", batch=name)
    assert waits_for(archive, "documents") == [("pending", "second")]
    with archive.db.engine.connect() as holding:
        # The second has looked at `first` and found it running, but cannot hand its row over yet.
        holding.execute(sa.text("SELECT id FROM documents FOR UPDATE"))
        both = [start(archive, cancel_batch, "second"), start(archive, cancel_batch, "first", locks=2)]
        holding.commit()
        for thread in both:
            thread.join()
    assert [row[0] for row in waits_for(archive, "documents")] == ["failed"]


def test_a_batch_opened_later_revives_what_another_left_cancelled(archive: Archive) -> None:
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, ["0"])
    waiting = archive.see("/in/b.pdf") or 0
    cancel_batch(archive.db, archive.batches["b"].id)
    for path in ("/in/a.pdf", "/in/b.pdf"):
        archive.see(path, batch="other")
    archive.read(page, "x")
    archive.ingest(waiting, [])
    assert archive.finish("other")


def test_retry_takes_a_cancelled_batch_up_again(archive: Archive) -> None:
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, ["0"])
    cancel_batch(archive.db, archive.batches["b"].id)
    assert archive.retry() == (0, 1) and state(archive) == "running"
    archive.read(page, "x")
    assert archive.finish()


def notified(archive: Archive, name: str = "told", **given: int) -> int:
    told = {"key": name, "name": name, "prompts": [OCR], "engine": "rapidocr", "model": "m1", "text_layer": "keep"}
    archive.batches[name] = open_batch(archive.db, notify="their.task@their", **told, **given)  # type: ignore[arg-type]
    return archive.batches[name].id


def unsent(archive: Archive) -> list[int]:
    """Keys of the documents that are to be told of."""
    ids = {notice.document_id for notice in take_notices(archive.db, 100)}
    return [key for key, public in archive.rows("SELECT id, public_id FROM documents ORDER BY id") if public in ids]


def test_priority_and_notify_are_stored(archive: Archive) -> None:
    notified(archive, priority=7)
    assert archive.rows("SELECT priority, notify FROM batches") == [(7, "their.task@their")]


def test_a_document_is_told_of_when_its_last_page_ends_however_it_ends(archive: Archive) -> None:
    notified(archive)
    ends = []
    for path in ("/in/answer", "/in/reuse", "/in/fail", "/in/crash"):
        document_id = archive.see(path, batch="told") or 0
        first, last = archive.ingest(document_id, [path, "shared" if path == "/in/reuse" else f"{path} 2"])
        archive.read(first, "x")
        ends.append((document_id, last))
    assert unsent(archive) == []
    answered, reused, failed, crashed = ends
    archive.read(answered[1], "y")
    assert unsent(archive) == [answered[0]]
    archive.read(reused[1], "y")
    archive.read(failed[1], Unavailable("later"))
    assert unsent(archive) == [answered[0], reused[0]]
    archive.execute("UPDATE page_tasks SET next_attempt_at = 0")
    archive.read(failed[1], PageFailed("no"))
    for _ in range(LIMITS.max_crashes):
        assert archive.claim(crashed[1])
        archive.execute("UPDATE page_tasks SET lease_until = 1 WHERE state = 'leased'")
        assert expire(archive.db, LIMITS) == 1
    assert unsent(archive) == [document_id for document_id, _ in ends]
    rejected, empty = archive.see("/in/rejected", batch="told") or 0, archive.see("/in/empty", batch="told") or 0
    claim = claim_document(archive.db, rejected, "ingest/1", 60)
    assert claim and reject_document(archive.db, claim, PageFailed("no"))
    archive.ingest(empty, [])
    assert unsent(archive)[-2:] == [rejected, empty]


def test_a_document_is_told_of_once_a_batch_and_again_after_a_retry(archive: Archive) -> None:
    told = notified(archive)
    (page,) = archive.ingest(archive.see("/in/a.pdf", batch="told") or 0, ["x"])
    archive.read(page, PageFailed("no"))
    (notice,) = take_notices(archive.db, 100)
    assert notice.notify == "their.task@their" and notice.batch_id == archive.batches["told"].public_id
    assert take_notices(archive.db, 100) == [notice]  # until it is marked
    mark_notices_sent(archive.db, [notice.id])
    assert archive.finish("told") and take_notices(archive.db, 100) == []
    assert archive.retry(batch="told") == (0, 1) and take_notices(archive.db, 100) == []
    archive.read(page, "x")
    assert len(take_notices(archive.db, 100)) == 1 and archive.finish("told")
    assert archive.scalar("SELECT count(*) FROM notices WHERE batch_id = :id", id=told) == 1


def test_a_document_that_ends_while_its_batch_is_paused_is_told_of_though_that_is_cancelled_then(
    archive: Archive,
) -> None:
    told = notified(archive)
    in_hand, waiting = (archive.see(path, batch="told") or 0 for path in ("/in/hand", "/in/waits"))
    (page,) = archive.ingest(in_hand, ["x"])
    archive.ingest(waiting, ["y"])
    claim = archive.claim(page)
    assert claim and pause_batch(archive.db, told) and unsent(archive) == []
    complete_page(archive.db, claim, "read/1", {task.task_id: answer("x") for task in claim.tasks}, LIMITS)
    assert unsent(archive) == [in_hand]
    assert cancel_batch(archive.db, told) and unsent(archive) == [in_hand]


def test_notices_lie_in_the_order_of_sending_whatever_the_leaders_clocks_say(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    notified(archive)
    for path in ("/in/a.pdf", "/in/b.pdf", "/in/c.pdf"):
        (page,) = archive.ingest(archive.see(path, batch="told") or 0, [path])
        archive.read(page, "x")
    first, *others = [notice.id for notice in take_notices(archive.db, 10)]
    with monkeypatch.context() as an_hour_ahead:
        an_hour_ahead.setattr(outbox, "utc_now", lambda: utc_now() + timedelta(hours=1))
        mark_notices_sent(archive.db, [first])
    mark_notices_sent(archive.db, others)  # another host leads now
    assert [notice for notice, _ in lying_notices(archive.db)] == [first, *others]


def test_the_end_of_a_batch_tells_of_what_was_done_before(archive: Archive) -> None:
    archive.file("/in/a.pdf", ["x"])
    notified(archive)
    archive.see("/in/a.pdf", batch="told")
    assert unsent(archive) == [] and archive.finish("told") and len(unsent(archive)) == 1
    assert archive.finish() and len(take_notices(archive.db, 100)) == 1  # the other batch asked for none


@pytest.mark.parametrize("ends_first", ["pages", "document"])
def test_a_document_still_being_drawn_is_not_told_of(archive: Archive, ends_first: str) -> None:
    notified(archive)
    document_id = archive.see("/in/a.pdf", batch="told") or 0
    claim = claim_document(archive.db, document_id, "ingest/1", 60)
    assert claim
    assert add_pages(archive.db, claim, [NewPage(0, sha("x"), 16, 16)])
    (page,) = archive.waiting(document_id)
    if ends_first == "document":
        assert finish_document(archive.db, claim, 1) and unsent(archive) == []
        archive.read(page, "x")
    else:
        archive.read(page, "x")
        assert unsent(archive) == [] and finish_document(archive.db, claim, 1)
    assert unsent(archive) == [document_id]


def test_the_end_of_a_batch_does_not_revive_one_that_was_cancelled(archive: Archive) -> None:
    archive.ingest(archive.see("/in/a.pdf") or 0, ["0", "1"])
    assert cancel_batch(archive.db, archive.batches["b"].id)
    assert not archive.finish()
    assert archive.rows("SELECT DISTINCT state, cause FROM page_tasks") == [("failed", "cancelled")]
    assert state(archive) == "cancelled"


def test_a_message_opens_no_batch_that_was_held(archive: Archive) -> None:
    def ask() -> None:
        archive.batches["m"] = open_batch(
            archive.db, key="m", name="m", prompts=[OCR], engine="any", model="", text_layer="keep", reopens=False
        )

    ask()
    assert archive.scalar("SELECT state FROM batches") == "running"
    assert archive.finish("m")
    ask()
    assert archive.scalar("SELECT state FROM batches") == "running"
    for hold, held in ((pause_batch, "paused"), (cancel_batch, "cancelled")):
        assert hold(archive.db, archive.batches["m"].id)
        ask()
        assert archive.scalar("SELECT state FROM batches") == held


def test_a_walk_begins_later_than_every_walk_before_it(archive: Archive) -> None:
    """A clock that is set back takes no file out of the batch."""
    document = SeenFile("/in/a.pdf", "file:///in/a.pdf", 1, 1, kind="pdf", content_hash=sha("a"))
    gone = SeenFile("/in/b.pdf", "file:///in/b.pdf", 1, 1, kind="pdf", content_hash=sha("b"))
    batch = archive.batch()
    tomorrow = utc_now() + timedelta(days=1)
    record_files(archive.db, batch, [document, gone], tomorrow)
    began = begin_walk(archive.db, batch)
    assert began > tomorrow
    record_files(archive.db, batch, [document], began)
    forget_unseen(archive.db, batch, began)
    assert archive.rows("SELECT source_path FROM files") == [("/in/a.pdf",)]


def test_walks_of_one_batch_may_overlap(archive: Archive) -> None:
    """Whoever repeats a command while the first still walks: what the first meets late was met by the second."""
    files = [SeenFile(f"/in/{n}.pdf", f"file:///in/{n}.pdf", 1, 1, kind="pdf", content_hash=sha(n)) for n in "abc"]
    batch = archive.batch()
    first = begin_walk(archive.db, batch)
    record_files(archive.db, batch, files[:1], first)
    second = begin_walk(archive.db, batch)
    record_files(archive.db, batch, files, second)
    record_files(archive.db, batch, files[1:], first)
    forget_unseen(archive.db, batch, second)
    forget_unseen(archive.db, batch, first)
    assert len(archive.rows("SELECT source_path FROM files")) == 3


def test_whoever_asks_again_is_told_again(archive: Archive) -> None:
    """With another prompt, or of a file that could not be opened before."""
    batch = archive.batch("n")
    archive.execute("UPDATE batches SET notify = 'mine.done@mine'")
    archive.file("/in/a.pdf", ["text"], batch="n")
    denied = archive.see("/in/b.pdf", batch="n") or 0
    claim = claim_document(archive.db, denied, "ingest/1", LIMITS.lease_seconds)
    assert claim is not None
    reject_document(archive.db, claim, DocumentRejected("no permission", cause="unreadable"))
    told = take_notices(archive.db, 10)
    assert len(told) == 2
    mark_notices_sent(archive.db, [notice.id for notice in told])
    archive.see("/in/b.pdf", batch="n")
    page_ids = archive.ingest(denied, ["b"])
    assert take_notices(archive.db, 10) == [], "not before it is done"
    archive.read(page_ids[0], "text")
    assert [notice.document_id for notice in take_notices(archive.db, 10)] == [told[1].document_id]
    mark_notices_sent(archive.db, [notice.id for notice in take_notices(archive.db, 10)])
    finish_batches(archive.db)
    with_both = open_batch(
        archive.db,
        key="n",
        name="n",
        prompts=[OCR, DESCRIBE],
        engine="rapidocr",
        model="m1",
        text_layer="keep",
        notify="mine.done@mine",
    )
    assert with_both.id == batch.id
    archive.see("/in/a.pdf", batch="n")
    page = archive.scalar("SELECT page_id FROM page_tasks WHERE state = 'pending' ORDER BY id LIMIT 1")
    archive.read(page, "described")
    assert [notice.document_id for notice in take_notices(archive.db, 10)] == [told[0].document_id]


def test_refused_notices_do_not_stand_before_others(archive: Archive) -> None:
    for name, target in (("first", "a@refused"), ("second", "b@heard")):
        batch = open_batch(
            archive.db, key=name, name=name, prompts=[OCR], engine="e", model="m1", text_layer="keep", notify=target
        )
        archive.batches[name] = batch
        archive.file(f"/in/{name}.pdf", ["x"], batch=name)
    assert [notice.notify for notice in take_notices(archive.db, 1)] == ["a@refused"]
    assert [notice.notify for notice in take_notices(archive.db, 1, without={"a@refused"})] == ["b@heard"]


def many(archive: Archive, documents: int, pages: int, text: str | None = None) -> None:
    """Documents of the batch `b` that are drawn and have no tasks, with a text layer where one is given."""
    batch = archive.batch()
    numbers = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :most)"
    of_document = "public_id, content_hash, kind, size_bytes, page_count, batch_id, state, token, attempts, crashes"
    archive.execute(
        f"INSERT INTO documents ({of_document}, next_attempt_at) {numbers} "
        "SELECT 'd' || i, 'c' || i, 'pdf', 1, :pages, :batch, 'ready', 1, 0, 0, 0 FROM n",
        most=documents,
        pages=pages,
        batch=batch.id,
    )
    archive.execute(
        "INSERT INTO sources (path, location, document_id, size_bytes, modified_ns, seen_at) "
        "SELECT '/in/' || content_hash, 'file:///in', id, 1, 1, :now FROM documents",
        now=utc_now(),
    )
    archive.execute(
        "INSERT INTO batch_sources (batch_id, source_id, document_id, seen_at) "
        "SELECT :batch, id, document_id, :now FROM sources",
        batch=batch.id,
        now=utc_now(),
    )
    archive.execute(
        f"INSERT INTO pages (document_id, page_index, image_hash, width_px, height_px, created_at) {numbers} "
        "SELECT d.id, n.i - 1, 'h' || d.id || '.' || n.i, 16, 16, :now FROM documents d, n",
        most=pages,
        now=utc_now(),
    )
    if text is not None:
        archive.execute("INSERT INTO text_layers (page_id, text) SELECT id, :text || id FROM pages", text=text)


@pytest.fixture
def transactions(archive: Archive) -> list[tuple[int, int]]:
    """Statements and rows written, of each transaction that wrote any."""
    ended: list[tuple[int, int]] = []

    now = {"statements": 0, "rows": 0}

    def count(connection: sa.Connection, cursor: Any, statement: str, *_: Any) -> None:
        now["statements"] += 1
        if statement.lstrip().startswith(("INSERT", "UPDATE", "DELETE")):
            now["rows"] += max(cursor.rowcount, 0)

    def commit(connection: sa.Connection) -> None:
        if now["rows"]:
            ended.append((now["statements"], now["rows"]))
        now.update(statements=0, rows=0)

    sa.event.listen(archive.db.engine, "after_cursor_execute", count)
    sa.event.listen(archive.db.engine, "commit", commit)
    return ended


def test_a_batch_is_finished_in_short_transactions(archive: Archive, transactions: list[tuple[int, int]]) -> None:
    """Others write meanwhile: SQLite has one lock for all. The last one looks at all, and writes one row."""
    many(archive, documents=1_300, pages=1)
    transactions.clear()
    assert not archive.finish(), "it makes the tasks that are missing"
    assert archive.scalar("SELECT count(*) FROM page_tasks WHERE state = 'pending'") == 1_300
    assert len(transactions) >= 3 and max(rows for _, rows in transactions) <= 500
    archive.execute("UPDATE page_tasks SET state = 'failed', cause = 'engine', reason = 'no'")
    transactions.clear()
    assert archive.finish() and len(transactions) == 1
    statements, written = transactions[0]
    assert written == 1 and statements <= 6


def test_the_notices_of_a_batch_are_made_in_short_transactions(
    archive: Archive, transactions: list[tuple[int, int]]
) -> None:
    many(archive, documents=1_300, pages=1)
    archive.finish()
    archive.execute("UPDATE page_tasks SET state = 'failed', cause = 'engine', reason = 'no'")
    archive.execute("UPDATE batches SET notify = 'their.task@their'")
    transactions.clear()
    assert archive.finish() and max(rows for _, rows in transactions) <= 500
    assert archive.scalar("SELECT count(*) FROM notices") == 1_300


def test_known_pages_are_asked_about_in_short_transactions(
    archive: Archive, transactions: list[tuple[int, int]]
) -> None:
    """A long document in several, of which each asks for some of its pages and takes the text that these carry."""
    many(archive, documents=1, pages=1_200, text="typed ")
    archive.execute("UPDATE documents SET content_hash = :h", h=sha("long"))
    archive.batch("prefer", text_layer="always")
    transactions.clear()
    archive.see("/in/long.pdf", "long", batch="prefer")
    done = "SELECT count(*) FROM page_tasks WHERE state = 'done' AND batch_id = :id"
    assert archive.scalar(done, id=archive.batches["prefer"].id) == 1_200
    assert max(rows for _, rows in transactions) <= 6 * 500, "a task, twice, its answer, words, and twice what it shows"
    assert archive.finish("prefer")
    assert archive.scalar("SELECT text FROM page_text WHERE page_number = 1200") == "typed 1200"


@pytest.mark.only("sqlite")
def test_texts_that_are_taken_as_answers_are_held_some_at_a_time(archive: Archive) -> None:
    many(archive, documents=4, pages=150, text="x" * 20_000)  # 12 MB
    batch = archive.batch("prefer", text_layer="always")
    tracemalloc.start()
    try:
        with archive.db.write() as connection:
            ensure_tasks(connection, batch.id, [1, 2, 3, 4])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert archive.scalar("SELECT count(*) FROM page_tasks WHERE state = 'done'") == 600
    assert peak < 8e6, f"{peak / 1e6:.0f} MB"


class MeanwhileDatabase(Database):
    """Something happens just before its first write, on other connections."""

    def __init__(self, db: Database, happens: Callable[[], object]) -> None:
        super().__init__(db.engine, db.name)
        self.to_happen: list[Callable[[], object]] = [happens]

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        while self.to_happen:
            self.to_happen.pop()()
        with super().write() as connection:
            yield connection


MEANWHILE: dict[str, Callable[[Archive], object]] = {
    "a page that is asked again": lambda archive: archive.retry(),
    "a file that is seen": lambda archive: archive.see("/in/new.pdf"),
    "a known file, a page of which was being stored": lambda archive: archive.execute(
        "INSERT INTO batch_sources (batch_id, source_id, document_id, seen_at) "
        "SELECT :id, id, document_id, seen_at FROM sources WHERE path = '/in/other.pdf'",
        id=archive.batches["b"].id,
    ),
    "another prompt": lambda archive: archive.batch(prompts=[OCR, DESCRIBE]),
    "files that are being seen": lambda archive: archive.execute(
        "UPDATE batches SET all_seen = false WHERE name = 'b'"
    ),
    "a pause": lambda archive: pause_batch(archive.db, archive.batches["b"].id),
    "a cancellation": lambda archive: cancel_batch(archive.db, archive.batches["b"].id),
}


@pytest.mark.parametrize("what", MEANWHILE)
def test_what_happens_between_the_looks_and_the_end_keeps_a_batch_open(archive: Archive, what: str) -> None:
    archive.ingest(archive.see("/in/other.pdf", batch="other") or 0, ["other"])
    archive.execute("DELETE FROM page_tasks")
    archive.file("/in/a.pdf", ["text"])
    (page,) = archive.ingest(archive.see("/in/b.pdf") or 0, ["0"])
    archive.read(page, PageFailed("no"))
    db = MeanwhileDatabase(archive.db, lambda: MEANWHILE[what](archive))
    assert not finish_batch(db, archive.batches["b"]) and db.to_happen == []
    assert state(archive) == {"a pause": "paused", "a cancellation": "cancelled"}.get(what, "running")
    if what in ("a cancellation", "a pause"):
        return
    archive.execute("UPDATE batches SET all_seen = true")
    for document_id, name in archive.rows("SELECT id, content_hash FROM documents WHERE state = 'pending'"):
        archive.ingest(document_id, [name])
    assert what == "files that are being seen" or not archive.finish()
    for (page_id,) in archive.rows("SELECT page_id FROM page_tasks WHERE state = 'pending'"):
        archive.read(page_id, "text")
    assert archive.finish() and archive.finish(), "one that is finished is finished"
    asked = "SELECT files_done, files_seen FROM batch_summary WHERE name = 'b'"
    assert archive.rows(asked)[0][1] in (2, 3) and archive.rows(asked)[0][0] >= 1


def test_files_that_a_batch_ignores_stay_in_the_others(archive: Archive) -> None:
    for batch in ("b", "other"):
        archive.see("/in/notes.txt", rejection="unsupported", batch=batch)
        archive.see("/in/more.txt", rejection="unsupported", batch=batch)
    forget_files(archive.db, archive.batches["b"], ["/in/notes.txt", "/in/never seen.txt"])
    kept = archive.rows("SELECT b.name, f.source_path FROM files f JOIN batch_summary b USING (batch_id) ORDER BY 1, 2")
    assert kept == [("b", "/in/more.txt"), ("other", "/in/more.txt"), ("other", "/in/notes.txt")]
