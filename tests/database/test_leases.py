"""Who may write: claims, tokens, expiry and workers that die; with real threads on a real database."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter

import pytest

from pipeline.database.open import open_database
from pipeline.errors import PageFailed, Unavailable
from pipeline.settings import Settings
from pipeline.store.claims import ANY_MODEL, PageClaim, claim_document, claim_pages
from pipeline.store.leases import Limits, expire, give_back, renew_tasks, return_claim
from pipeline.store.pages import NewPage, add_pages, finish_document, reject_document
from schemas.prompts import DESCRIBE, OCR
from tests.conftest import LIMITS, Archive, answer, claim_page, complete_page

DATABASES = ("sqlite", "postgresql")


@pytest.fixture
def page(archive: Archive) -> int:
    """One page that waits."""
    document_id = archive.see("/in/a.pdf")
    return archive.ingest(document_id or 0, ["x"])[0]


def claimed(archive: Archive, page: int, owner: str = "read/1") -> PageClaim:
    claim = archive.claim(page, owner)
    assert claim is not None
    return claim


def task(archive: Archive) -> tuple[str, int, int]:
    row: tuple[str, int, int] = archive.rows("SELECT state, token, crashes FROM page_tasks")[0]
    return row


@pytest.mark.parametrize("any_model", ANY_MODEL)
def test_a_prompt_that_a_reader_does_not_answer_is_left_to_another(archive: Archive, any_model: str) -> None:
    """Any model may answer this batch; the first to look reads `ocr` alone, and fails nothing."""
    archive.batch("any", [OCR, DESCRIBE])
    document_id = archive.see("/in/a.pdf", batch="any")
    (page,) = archive.ingest(document_id or 0, ["x"])
    archive.execute("UPDATE page_tasks SET model = :any", any=any_model)
    first = claim_pages(
        archive.db, [page], "read/ocr", [*ANY_MODEL, "m1"], 60, supports=lambda prompt: prompt.name == "ocr"
    )
    assert [task.prompt for task in first.pages[page].tasks] == [OCR]
    waiting = "FROM page_tasks WHERE state = 'pending'"
    assert archive.rows(f"SELECT enqueued_at, next_attempt_at > 0 {waiting}") == [(None, True)]
    assert claim_pages(archive.db, [page], "read/all", [*ANY_MODEL, "m2"], 60).pages == {}  # not at once: no busy loop
    archive.execute("UPDATE page_tasks SET next_attempt_at = 0 WHERE state = 'pending'")
    second = claim_pages(archive.db, [page], "read/all", [*ANY_MODEL, "m2"], 60)
    assert [task.prompt for task in second.pages[page].tasks] == [DESCRIBE]


def test_what_is_given_back_with_a_wait_is_not_taken_at_once(archive: Archive, page: int) -> None:
    """The storage of images is away: whoever takes the page next would not find it either."""
    assert return_claim(archive.db, claimed(archive, page), "the bucket does not answer", 10.0) == 1
    assert archive.claim(page) is None
    archive.execute("UPDATE page_tasks SET next_attempt_at = next_attempt_at - 10")
    assert return_claim(archive.db, claimed(archive, page), "the worker stopped") == 1
    assert archive.claim(page) is not None


def let_leases_run_out(archive: Archive) -> int:
    for table in ("page_tasks", "documents"):
        archive.execute(f"UPDATE {table} SET lease_until = 1 WHERE state = 'leased'")
    return expire(archive.db, LIMITS)


def test_late_write_of_a_worker_that_lost_its_lease_changes_nothing(archive: Archive, page: int) -> None:
    late = claimed(archive, page, "read/frozen")
    assert let_leases_run_out(archive) == 1
    current = claimed(archive, page, "read/other")
    outcomes = {late.tasks[0].task_id: answer("late")}
    assert complete_page(archive.db, late, "read/frozen", outcomes, LIMITS) == 0
    return_claim(archive.db, late, "stopping")
    assert task(archive) == ("leased", current.tasks[0].token, 1)
    assert complete_page(archive.db, current, "read/other", {current.tasks[0].task_id: answer("current")}, LIMITS) == 1
    assert complete_page(archive.db, late, "read/frozen", outcomes, LIMITS) == 0
    assert archive.rows("SELECT text FROM page_text") == [("current",)]
    assert archive.rows("SELECT worker, error FROM attempts ORDER BY attempt") == [
        ("read/frozen", "lease expired"),
        ("read/other", None),
    ]


@pytest.mark.only("sqlite")
def test_a_lock_that_was_held_for_long_costs_nobody_a_lease(archive: Archive, page: int, settings: Settings) -> None:
    """While it was held, nobody could renew; the sweep that waited for it must not be the first to write."""
    claimed(archive, page)
    archive.execute("UPDATE page_tasks SET lease_until = 1")
    limits = Limits(lease_seconds=1.0, max_attempts=3, max_crashes=3)
    locker = sqlite3.connect(settings.home / "pagepack.db", isolation_level=None, check_same_thread=False)
    locker.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.6, locker.execute, ["ROLLBACK"])
    timer.start()
    assert expire(archive.db, limits) == 0
    timer.join()
    locker.close()
    assert expire(archive.db, limits) == 1  # by now whoever lives has renewed


def test_late_ingest_changes_nothing(archive: Archive) -> None:
    document_id = archive.see("/in/a.pdf") or 0
    late = claim_document(archive.db, document_id, "ingest/1", 60)
    assert late and let_leases_run_out(archive) == 1
    current = claim_document(archive.db, document_id, "ingest/2", 60)
    assert current and current.token == late.token + 1
    assert not add_pages(archive.db, late, [NewPage(0, "0" * 64, 16, 16)])
    assert not finish_document(archive.db, late, 1)
    assert not reject_document(archive.db, late, PageFailed("no"))
    assert archive.scalar("SELECT count(*) FROM pages") == 0
    assert finish_document(archive.db, current, 0)


def test_a_waiting_page_is_claimed_once_and_a_finished_one_never(archive: Archive, page: int) -> None:
    claim = claimed(archive, page)
    assert archive.claim(page) is None
    complete_page(archive.db, claim, "w", {claim.tasks[0].task_id: answer("x")}, LIMITS)
    assert archive.claim(page) is None
    assert let_leases_run_out(archive) == 0 and task(archive)[0] == "done"


def test_a_page_waits_for_its_own_model(archive: Archive, page: int) -> None:
    assert archive.claim(page, models=["m2"]) is None
    assert archive.claim(page, models=["m2", "m1"]) is not None


def test_tokens_only_rise(archive: Archive, page: int) -> None:
    tokens = []
    for turn in range(6):
        claim = claimed(archive, page, f"read/{turn}")
        tokens.append(claim.tasks[0].token)
        return_claim(archive.db, claim, "stopping")
    assert tokens == [1, 2, 3, 4, 5, 6]
    assert task(archive) == ("pending", 6, 0)  # given back by hand: no crash is counted


def test_a_page_whose_workers_die_fails_after_the_limit(archive: Archive, page: int) -> None:
    for turn in range(LIMITS.max_crashes):
        assert task(archive)[0] == "pending"
        claimed(archive, page, f"read/{turn}")
        assert give_back(archive.db, f"read/{turn}", reason="killed", crashed=True, limits=LIMITS) == 1
    assert task(archive) == ("failed", 3, 3)
    assert archive.rows("SELECT cause, attempts FROM failures") == [("crash", 3)]
    assert archive.claim(page) is None and archive.finish()


def test_give_back_by_host_takes_all_its_processes_and_no_others(archive: Archive) -> None:
    document_id = archive.see("/in/a.pdf") or 0
    pages = archive.ingest(document_id, ["0", "1", "2", "3"])
    owners = ["host_1/7/a", "host_1/7/b", "host_1/70/a", "hostx1/7/a"]
    for page, owner in zip(pages, owners, strict=True):
        claimed(archive, page, owner)
    assert give_back(archive.db, "host_1/7", reason="gone", crashed=False, limits=LIMITS) == 0
    assert give_back(archive.db, "host_1/7/", reason="gone", crashed=False, limits=LIMITS) == 2
    left = archive.rows("SELECT owner FROM page_tasks WHERE state = 'leased' ORDER BY id")
    assert left == [("host_1/70/a",), ("hostx1/7/a",)]


def test_heartbeat_keeps_leases_and_tells_which_are_lost(archive: Archive) -> None:
    document_id = archive.see("/in/a.pdf") or 0
    first, second = (claimed(archive, page) for page in archive.ingest(document_id, ["0", "1"]))
    archive.execute("UPDATE page_tasks SET lease_until = 1 WHERE id = :id", id=second.tasks[0].task_id)
    assert expire(archive.db, LIMITS) == 1
    held = [task.task_id for claim in (first, second) if claim for task in claim.tasks]
    assert renew_tasks(archive.db, "read/1", held, 60) == {first.tasks[0].task_id: first.tasks[0].token}
    assert expire(archive.db, LIMITS) == 0


@pytest.mark.only("postgresql")
def test_a_host_whose_clock_is_an_hour_off_neither_takes_nor_loses_a_lease(
    archive: Archive, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = time.time
    for hours in (-1, 1):
        monkeypatch.setattr(time, "time", lambda hours=hours: true() + 3600 * hours)
        claim = claimed(archive, page)
        assert expire(archive.db, LIMITS) == 0
        until = archive.scalar("SELECT lease_until FROM page_tasks")
        assert true() < until < true() + LIMITS.lease_seconds + 5
        assert renew_tasks(archive.db, "read/1", [claim.tasks[0].task_id], 60)
        monkeypatch.undo()
        assert expire(archive.db, LIMITS) == 0
        return_claim(archive.db, claim, "stopping")
    monkeypatch.setattr(time, "time", lambda: true() + 3600)
    archive.read(page, Unavailable("later"))
    assert archive.scalar("SELECT next_attempt_at FROM page_tasks") < true() + 60


def test_the_same_image_is_answered_before(archive: Archive, page: int) -> None:
    archive.read(page, "once")
    document_id = archive.see("/in/b.pdf") or 0
    (other,) = archive.ingest(document_id, ["x"])
    for model, is_answered in (("m2", False), ("m1", True)):
        claim = claim_pages(archive.db, [other], "read/1", ["m1"], 60, answers_of=model).pages[other]
        assert list(claim.answered) == [claim.tasks[0].task_id] * is_answered
        return_claim(archive.db, claim, "stopping")


def test_threads_that_claim_the_same_pages_never_share_one(archive: Archive, settings: Settings) -> None:
    document_id = archive.see("/in/a.pdf") or 0
    pages = archive.ingest(document_id, [f"{index}" for index in range(20)])
    start = threading.Barrier(4)
    won: Counter[int] = Counter()
    errors: list[BaseException] = []

    def race(owner: str) -> None:
        own = open_database(settings)
        try:
            start.wait()
            for page in pages:
                if claim_page(own, page, owner, ["m1"], 60) is not None:
                    won[page] += 1
        except BaseException as error:
            errors.append(error)
        finally:
            own.dispose()

    threads = [threading.Thread(target=race, args=(f"read/{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert won == Counter(pages)
    assert archive.rows("SELECT DISTINCT token FROM page_tasks") == [(1,)]
