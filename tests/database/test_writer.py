"""The read worker's one thread to the database: groups, a page that cannot be stored, a server that goes away."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import pytest
from celery.exceptions import Reject
from PIL import Image

from pipeline.blobs.page_images import ImageStore
from pipeline.blobs.png import encode
from pipeline.database.engine import Database
from pipeline.database.open import open_database
from pipeline.errors import DiskFull
from pipeline.settings import Settings
from pipeline.store.leases import Limits, give_back_unheld, renew_tasks
from pipeline.store.pages import NewPage
from schemas.prompts import OCR, Prompt, hinted, with_hint
from tests.conftest import LIMITS, STOPS, Archive, answer
from tests.database.test_postgresql import fails_with
from tests.postgres import PostgresServer
from tests.running import wait_until
from tests.stand_ins import InstantEngine, SilentEngine
from workers import writer as writer_module
from workers.engines import Answer
from workers.reader import Reader
from workers.writer import Stopping, Writer

DATABASES = ("sqlite", "postgresql")


class Hands:
    """What a Reader gives its writer."""

    def __init__(self) -> None:
        self.held: set[int] = set()
        self.is_stopping = False

    def writer(self, db: Database, limits: Limits = LIMITS) -> Writer:
        return Writer(
            db,
            "read/1",
            ["m1"],
            "m1",
            limits,
            hold=lambda claim: self.held.update(task.task_id for task in claim.tasks),
            held=lambda: self.held,
            is_stopping=lambda: self.is_stopping,
            is_over=lambda: self.is_stopping,
        )


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "_WAIT_SECONDS", (0.02, 0.1))
    monkeypatch.setattr(writer_module, "_REFUSED_SECONDS", 0.01)


def together(*calls: Any) -> list[Any]:
    """What each call gave or raised; all in threads of their own."""
    results: list[Any] = [None] * len(calls)

    def run(index: int) -> None:
        try:
            results[index] = calls[index]()
        except BaseException as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    return results


def test_many_threads_claim_and_store_and_none_shares_a_page(archive: Archive) -> None:
    pages = archive.ingest(archive.see("/in/a.pdf") or 0, [str(number) for number in range(40)])
    hands = Hands()
    writer = hands.writer(archive.db)
    claims = together(*[lambda page=page: writer.claim(page, False) for page in pages * 2])
    held = [claim for claimed in claims for claim in claimed.pages.values()]
    assert sorted(claim.page_id for claim in held) == pages and len(hands.held) == 40
    outcomes = [(claim, {claim.tasks[0].task_id: answer(f"text of {claim.page_id}")}) for claim in held]
    together(*[lambda one=one: writer.complete(*one) for one in outcomes])
    assert archive.scalar("SELECT count(*) FROM page_text") == 40 and archive.finish()


def test_a_suspect_is_claimed_only_by_who_reads_it_alone(archive: Archive) -> None:
    suspect, innocent = archive.ingest(archive.see("/in/a.pdf") or 0, ["0", "1"])
    archive.execute("UPDATE page_tasks SET crashes = 1 WHERE page_id = :page", page=suspect)
    writer = Hands().writer(archive.db)
    left, taken = together(lambda: writer.claim(suspect, False), lambda: writer.claim(innocent, False))
    assert left.suspects == {suspect} and not left.pages and taken.pages.keys() == {innocent} and not taken.suspects
    assert writer.claim(suspect, True).pages.keys() == {suspect}


@pytest.mark.only("postgresql")
def test_a_page_that_cannot_be_stored_fails_alone(archive: Archive) -> None:
    pages = archive.ingest(archive.see("/in/a.pdf") or 0, ["0", "1", "2"])
    writer = Hands().writer(archive.db)
    held = [writer.claim(page, False).pages[page] for page in pages]
    endings = ["stop", "much longer than the column that it is stored in", "stop"]
    said = [{claim.tasks[0].task_id: answer("x", finish_reason=end)} for claim, end in zip(held, endings, strict=True)]
    results = together(*[lambda one=one: writer.complete(*one) for one in zip(held, said, strict=True)])
    assert results == [1, 1, 1]
    assert archive.rows("SELECT page_number, cause FROM failures") == [(2, "engine")]
    assert archive.rows("SELECT page_number FROM page_text ORDER BY 1") == [(1,), (3,)]


@pytest.mark.only("postgresql")
def test_a_full_disk_is_raised_to_each_page_at_once(archive: Archive) -> None:
    pages = archive.ingest(archive.see("/in/a.pdf") or 0, ["0", "1"])
    writer = Hands().writer(archive.db)
    held = [writer.claim(page, False).pages[page] for page in pages]
    fails_with(archive, "53100", times=100)
    said = [{claim.tasks[0].task_id: answer("x")} for claim in held]
    results = together(*[lambda one=one: writer.complete(*one) for one in zip(held, said, strict=True)])
    assert [type(result) for result in results] == [DiskFull, DiskFull]


@pytest.mark.only("postgresql")
def test_a_conflict_is_repeated_until_the_text_is_stored(archive: Archive) -> None:
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, ["0"])
    writer = Hands().writer(archive.db)
    claim = writer.claim(page, False).pages[page]
    fails_with(archive, "40P01", times=7)
    writer.complete(claim, {claim.tasks[0].task_id: answer("x")})
    assert archive.rows("SELECT text FROM page_text") == [("x",)]


@STOPS
def test_a_postgresql_server_that_restarts_again_and_again_loses_no_text(
    server_to_stop: PostgresServer, url_to_stop: str
) -> None:
    """Each time after the next few pages were claimed, while others are in hand."""
    db = open_database(Settings(database_url=url_to_stop))
    archive = Archive(db)
    pages = archive.ingest(archive.see("/in/a.pdf") or 0, [str(number) for number in range(40)])
    hands = Hands()
    writer = hands.writer(db)
    reads = []

    def read(page: int) -> None:
        for claim in writer.claim(page, False).pages.values():
            reads.append(page)
            time.sleep(0.02)
            writer.complete(claim, {task.task_id: answer(f"text of {page}") for task in claim.tasks})
            hands.held.difference_update(task.task_id for task in claim.tasks)

    is_over = threading.Event()

    def restart() -> None:
        for count in (3, 12, 21, 30):
            wait_until(lambda count=count: is_over.is_set() or len(reads) >= count)  # type: ignore[misc]
            if not is_over.is_set():
                server_to_stop.restart()

    restarting = threading.Thread(target=restart, daemon=True)
    restarting.start()
    try:
        while waiting := [page for page in pages if page not in reads]:
            assert not any(together(*[lambda page=page: read(page) for page in waiting[:6]]))
    except BaseException:
        is_over.set()  # else it would restart the server of the tests after this one
        raise
    finally:
        restarting.join()
    assert archive.rows("SELECT DISTINCT state, crashes FROM page_tasks") == [("done", 0)]
    assert sorted(reads) == pages, "a page was read twice"
    good = archive.rows(
        "SELECT task_id, count(*) FROM task_attempts WHERE error IS NULL GROUP BY 1 HAVING count(*) > 1"
    )
    assert good == [] and archive.scalar("SELECT count(*) FROM page_text") == 40
    db.dispose()


def test_a_claim_whose_answer_was_lost_is_given_back(archive: Archive) -> None:
    known, unknown = archive.ingest(archive.see("/in/a.pdf") or 0, ["0", "1"])
    claim = archive.claim(known)
    assert claim and archive.claim(unknown)
    assert give_back_unheld(archive.db, "read/1", [claim.tasks[0].task_id]) == 1
    assert archive.rows("SELECT state, crashes FROM page_tasks ORDER BY id") == [("leased", 0), ("pending", 0)]
    assert renew_tasks(archive.db, "read/1", [claim.tasks[0].task_id], 60)


@STOPS
def test_who_waits_for_a_postgresql_server_is_let_go_when_the_worker_stops(
    server_to_stop: PostgresServer, url_to_stop: str
) -> None:
    db = open_database(Settings(database_url=url_to_stop))
    hands = Hands()
    writer = hands.writer(db)
    server_to_stop.stop()
    threading.Timer(0.5, lambda: setattr(hands, "is_stopping", True)).start()
    assert [type(result) for result in together(*[lambda: writer.claim(1, False)] * 2)] == [Stopping, Stopping]
    db.dispose()


def test_a_reader_reads_what_waits_and_rejects_after_a_stop(archive: Archive, settings: Settings) -> None:
    image_hash = ImageStore(settings.home / "images").put(encode(Image.new("L", (16, 16))))
    archive.batch(model="instant/1")
    twice = [NewPage(index, image_hash, 16, 16) for index in range(2)]
    pages = archive.ingest(archive.see("/in/a.pdf") or 0, twice)
    reader = Reader(archive.db, InstantEngine(), settings, "read/1")
    assert together(lambda: reader.read(pages[0]), lambda: reader.read(pages[1])) == [None, None]
    assert (
        archive.scalar("SELECT count(*) FROM page_text") == 2
        and archive.scalar("SELECT count(*) FROM answer_versions") == 1
    )
    reader.stop()
    with pytest.raises(Reject):
        reader.read(pages[0])


def test_an_answer_without_text_is_empty_and_worth_a_look(archive: Archive, settings: Settings) -> None:
    image_hash = ImageStore(settings.home / "images").put(encode(Image.new("L", (16, 16))))
    archive.batch(model="silent/1")
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, [NewPage(0, image_hash, 16, 16)])
    Reader(archive.db, SilentEngine(), settings, "read/1").read(page)
    assert archive.rows("SELECT text, finish_reason FROM page_text") == [(" \n", "empty")]
    assert archive.rows("SELECT reason, score FROM review") == [("empty", 1.0)]


def test_an_engine_is_asked_with_the_text_that_the_page_carries(archive: Archive, settings: Settings) -> None:
    class Parrot(InstantEngine):
        def submit(
            self, image_hash: str, pixels: Any, prompts: Sequence[Prompt], deadline: float | None = None
        ) -> list[Future[Answer]]:
            futures = [Future[Answer]() for _ in prompts]
            for future, prompt in zip(futures, prompts, strict=True):
                future.set_result(Answer(prompt.text, "stop", 0.0))
            return futures

    image_hash = ImageStore(settings.home / "images").put(encode(Image.new("L", (16, 16))))
    archive.batch(model="instant/1", prompts=[with_hint(OCR)], text_layer="hint")
    page = NewPage(0, image_hash, 16, 16, text_layer="typed\n", text_layer_verdict="stub")
    (waiting,) = archive.ingest(archive.see("/in/a.pdf") or 0, [page])
    Reader(archive.db, Parrot(), settings, "read/1").read(waiting)
    ((text, model),) = archive.rows("SELECT text, model FROM page_text")
    assert text == hinted(with_hint(OCR), "typed").text and model.startswith("instant/1+hint/")
