"""Back-pressure: what ingest has in hand while enough pages wait, and how often a document is fetched for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.delivery.broker import make_app, queue_depth
from pipeline.delivery.dispatcher import Dispatcher
from pipeline.ingest import ingester as ingest
from pipeline.ingest.ingester import Ingester
from pipeline.ingest.register import register
from pipeline.settings import Settings
from pipeline.store.batch_states import cancel_batch
from pipeline.store.due import take_due_documents
from schemas.messages import INGEST_QUEUE
from tests.conftest import NEVER, Archive
from tests.running import wait_until, write_pdf

LIMIT = 16


class CountingFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Files in memory; counts how often one is opened to be read."""

    protocol = "counting"
    num_fetched = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("counting://")))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        CountingFileSystem.num_fetched += mode == "rb"
        return super()._open(path, mode, **options)


@pytest.fixture
def small(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(ingest, "_SECONDS_HELD_BACK", 0.0)
    return settings.model_copy(update={"max_waiting_pages": LIMIT, "max_side_px": 128})


@pytest.fixture
def far(archive: Archive, small: Settings, tmp_path: Path) -> int:
    """A document of 48 pages behind a URL, registered."""
    fsspec.register_implementation("counting", CountingFileSystem, clobber=True)
    far = fsspec.filesystem("counting")
    far.pipe_file("/bucket/a.pdf", write_pdf(tmp_path / "in" / "a.pdf", 48).read_bytes())
    url = "counting://bucket/a.pdf"
    for _ in register(archive.db, archive.batch(), [url], small, forget_gone=False, is_stopping=lambda: False):
        pass
    CountingFileSystem.num_fetched = 0
    return int(archive.scalar("SELECT id FROM documents"))


@pytest.fixture
def in_hand(archive: Archive, small: Settings, far: int) -> Iterator[Callable[[], bool]]:
    """The document in the hand of an ingest worker that has drawn as much as may wait; whether it is still there."""
    stopping: list[bool] = []
    ingester = Ingester(archive.db, small, "ingest/1", lambda: bool(stopping))
    thread = threading.Thread(target=ingester.ingest, args=(far,), daemon=True)
    thread.start()
    wait_until(lambda: archive.scalar("SELECT count(*) FROM pages") >= LIMIT)
    yield thread.is_alive
    stopping.append(True)
    thread.join(60)


def test_a_long_document_is_fetched_once_however_slowly_it_is_read(archive: Archive, small: Settings, far: int) -> None:
    """It was fetched and hashed again for every 16 pages."""
    ingester = Ingester(archive.db, small, "ingest/1", lambda: False)
    finished = threading.Event()

    def read_slowly() -> None:
        while not finished.wait(0.2):
            for (page,) in archive.rows("SELECT page_id FROM page_tasks WHERE state = 'pending'"):
                archive.read(page, "text")

    reading = threading.Thread(target=read_slowly, daemon=True)
    reading.start()
    try:
        while archive.scalar("SELECT state FROM documents") != "ready":
            ingester.ingest(far)  # as whoever enqueues it would have it
            time.sleep(0.05)
    finally:
        finished.set()
        reading.join(60)
    assert CountingFileSystem.num_fetched == 1
    assert archive.scalar("SELECT count(*) FROM pages") == 48


def test_a_document_in_hand_makes_place_for_another_batch(archive: Archive, in_hand: Callable[[], bool]) -> None:
    other = archive.see("/in/other.pdf", batch="other")
    assert take_due_documents(archive.db, archive.batches["other"].id, limit=1, lost_after=NEVER) == [other]
    archive.execute(
        "UPDATE documents SET enqueued_at = enqueued_at - 60 WHERE id = :other", other=other
    )  # no worker heard it
    wait_until(lambda: not in_hand())
    assert archive.rows("SELECT state, attempts, crashes FROM documents ORDER BY id") == [("pending", 0, 0)] * 2


def test_a_document_in_hand_whose_batch_is_cancelled_is_let_go(archive: Archive, in_hand: Callable[[], bool]) -> None:
    cancel_batch(archive.db, archive.batches["b"].id)
    wait_until(lambda: not in_hand())
    assert archive.rows("SELECT state, cause FROM documents") == [("failed", "cancelled")]


def test_a_document_begins_where_half_of_what_may_wait_is_read(
    archive: Archive, broker: str, settings: Settings
) -> None:
    """In hand it would be drawn in pieces as small as the room, and fetched for each where it is given back."""
    settings = settings.model_copy(update={"max_waiting_pages": 40})
    pages = archive.ingest(archive.see("/in/a.pdf") or 0, [str(page) for page in range(30)])
    archive.see("/in/b.pdf")
    app = make_app(broker)
    Dispatcher(archive.db, settings, lambda _: None).tick(app)
    assert queue_depth(app, INGEST_QUEUE) == 0, "30 wait"
    for page in pages[:11]:
        archive.read(page, "text")
    Dispatcher(archive.db, settings, lambda _: None).tick(app)
    assert queue_depth(app, INGEST_QUEUE) == 1, "19 wait"
