"""A message for many pages: sent where readers are fast, and read as many messages would be."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import pytest
from celery.exceptions import Reject
from PIL import Image

from pipeline.blobs.page_images import ImageStore
from pipeline.blobs.png import encode
from pipeline.delivery.broker import make_app, queue_depth, read_queue
from pipeline.delivery.dispatcher import Dispatcher
from pipeline.delivery.pacing import Pace
from pipeline.errors import PageFailed, StorageGone
from pipeline.settings import Settings
from pipeline.store.pages import NewPage
from pipeline.store.worker_registry import enlist
from schemas.messages import READ_PAGES_TASK, READ_TASK
from schemas.prompts import Prompt
from tests.conftest import Archive
from tests.running import wait_until
from tests.stand_ins import InstantEngine
from workers.engines import Answer
from workers.reader import Reader
from workers.tasks import add_read_task

DATABASES = ("sqlite", "postgresql")


class HeldEngine(InstantEngine):
    """Holds two pages, and answers each when it is told to."""

    capacity = 2

    def __init__(self) -> None:
        self.given: dict[str, Future[Answer]] = {}  # by image hash, in order
        self.most_at_once = 0
        self._lock = threading.Lock()

    def submit(
        self, image_hash: str, pixels: Any, prompts: Sequence[Prompt], deadline: float | None = None
    ) -> list[Future[Answer]]:
        with self._lock:
            self.given[image_hash] = Future()
            self.most_at_once = max(self.most_at_once, len(self.open()))
        return [self.given[image_hash]]

    def open(self) -> list[str]:
        return [image_hash for image_hash, future in list(self.given.items()) if not future.done()]  # readers add to it

    def answer(self, image_hash: str) -> None:
        self.given[image_hash].set_result(Answer(f"text of {image_hash}", "stop", 0.0))


def waiting(archive: Archive, settings: Settings, count: int) -> tuple[list[int], list[str]]:
    """Pages that wait for the instant engine's model, each with an image of its own."""
    images = ImageStore(settings.home / "images")
    hashes = [images.put(encode(Image.new("L", (16, 16), shade))) for shade in range(count)]
    archive.batch(model="instant/1")
    pages = [NewPage(index, image_hash, 16, 16) for index, image_hash in enumerate(hashes)]
    return archive.ingest(archive.see("/in/a.pdf") or 0, pages), hashes


@pytest.fixture
def running() -> Iterator[list[threading.Thread]]:
    threads: list[threading.Thread] = []
    yield threads
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def start(threads: list[threading.Thread], reader: Reader, pages: Sequence[int]) -> list[BaseException]:
    raised: list[BaseException] = []

    def read() -> None:
        try:
            reader.read(*pages)
        except BaseException as error:
            raised.append(error)

    threads.append(threading.Thread(target=read))
    threads[-1].start()
    return raised


def stored(archive: Archive) -> int:
    return int(archive.scalar("SELECT count(*) FROM page_text"))


def test_a_page_that_takes_long_holds_up_none_of_its_message(
    archive: Archive, settings: Settings, running: list[threading.Thread]
) -> None:
    pages, hashes = waiting(archive, settings, 8)
    engine = HeldEngine()
    reader = Reader(archive.db, engine, settings, "read/1")
    start(running, reader, pages)
    for count in range(1, 8):  # the first is left open; each answer makes room for the next page
        wait_until(lambda: any(image_hash != hashes[0] for image_hash in engine.open()))
        engine.answer(next(image_hash for image_hash in engine.open() if image_hash != hashes[0]))
        wait_until(lambda count=count: stored(archive) == count)
    assert archive.rows("SELECT state, count(*) FROM page_tasks GROUP BY 1 ORDER BY 1") == [("done", 7), ("leased", 1)]
    engine.answer(hashes[0])
    running[0].join(60)
    assert stored(archive) == 8 and engine.most_at_once == 3, "two that it holds, and one kept ready"
    assert reader.has_room()


@pytest.mark.only("sqlite")
def test_messages_in_hand_are_for_twice_the_pages_that_a_reader_holds(
    archive: Archive, settings: Settings, running: list[threading.Thread]
) -> None:
    pages, hashes = waiting(archive, settings, 8)
    engine = HeldEngine()
    reader = Reader(archive.db, engine, settings, "read/1")
    start(running, reader, pages[:4])
    wait_until(lambda: len(engine.given) == 3)
    assert reader.has_room()
    start(running, reader, pages[4:])
    wait_until(lambda: not reader.has_room())
    assert engine.given.keys() == set(hashes[:3]), "a second message finds no place while the first takes all"
    while stored(archive) < 8:
        for image_hash in engine.open():
            engine.answer(image_hash)


def test_what_cannot_be_read_of_a_message_is_its_own_affair(archive: Archive, settings: Settings) -> None:
    class Picky(InstantEngine):
        def submit(self, image_hash: str, *rest: Any) -> list[Future[Answer]]:
            if image_hash == hashes[1]:
                raise RuntimeError("a fault of the engine")
            futures = super().submit(image_hash, *rest)
            if image_hash == hashes[2]:
                futures = [Future()]
                futures[0].set_exception(PageFailed("no text can be read here", cause="unreadable"))
            return futures

    pages, hashes = waiting(archive, settings, 6)
    ImageStore(settings.home / "images").delete(hashes[3])
    archive.execute("UPDATE page_tasks SET crashes = 1 WHERE page_id = :page", page=pages[4])  # a suspect
    Reader(archive.db, Picky(), settings, "read/1").read(*pages, 999, 2**40, pages[0])
    assert archive.rows("SELECT page_number FROM page_text ORDER BY 1") == [(1,), (5,), (6,)]
    assert archive.rows("SELECT page_number, cause FROM failures") == [(3, "unreadable")]
    states = "SELECT page_id, attempts FROM page_tasks WHERE state = 'pending' ORDER BY 1"
    assert archive.rows(states) == [(pages[1], 1), (pages[3], 1)], "tried again, and drawn again"
    assert archive.scalar("SELECT count(*) FROM page_tasks WHERE state = 'leased'") == 0


def test_an_error_of_one_page_leaves_no_suspect_of_its_message_unread(
    archive: Archive, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was raised before suspects were read, which waited until their message came again."""
    pages, hashes = waiting(archive, settings, 4)
    archive.execute("UPDATE page_tasks SET crashes = 1 WHERE page_id IN (:a, :b)", a=pages[0], b=pages[3])
    pixels = ImageStore.pixels

    def broken(self: ImageStore, image_hash: str) -> Any:
        if image_hash in hashes[1:3]:
            raise RuntimeError(f"a fault of ours with {image_hash}")
        return pixels(self, image_hash)

    monkeypatch.setattr(ImageStore, "pixels", broken)
    with pytest.raises(RuntimeError, match=hashes[1]):
        Reader(archive.db, InstantEngine(), settings, "read/1").read(*pages)
    assert archive.rows("SELECT page_number FROM page_text ORDER BY 1") == [(1,), (4,)]
    states = "SELECT page_id, state FROM page_tasks WHERE state != 'done' ORDER BY 1"
    assert archive.rows(states) == [(pages[1], "pending"), (pages[2], "pending")]


@pytest.mark.only("sqlite")
def test_where_images_cannot_be_reached_the_rest_of_a_message_stays(
    archive: Archive, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    def gone(_: ImageStore, image_hash: str) -> Any:
        looks.append(image_hash)
        raise StorageGone("the bucket is gone")

    pages, _ = waiting(archive, settings, 40)  # more than the engine holds
    monkeypatch.setattr(ImageStore, "pixels", gone)
    reader = Reader(archive.db, InstantEngine(), settings, "read/1")
    with pytest.raises(StorageGone):
        reader.read(*pages)
    assert len(looks) == 1, "no other page waits for it in vain"
    assert archive.rows("SELECT state, count(*) FROM page_tasks GROUP BY 1") == [("pending", 40)]
    assert reader.has_room()


def test_a_worker_that_stops_gives_its_message_back(
    archive: Archive, settings: Settings, running: list[threading.Thread]
) -> None:
    pages, hashes = waiting(archive, settings, 8)
    engine = HeldEngine()
    reader = Reader(archive.db, engine, settings.model_copy(update={"grace_seconds": 0.5}), "read/1")
    raised = start(running, reader, pages)
    wait_until(lambda: len(engine.given) == 3)
    reader.stop()
    engine.answer(hashes[0])  # within the grace period
    running[0].join(60)
    assert [type(error) for error in raised] == [Reject] and len(engine.given) == 3
    assert archive.rows("SELECT state, count(*) FROM page_tasks GROUP BY 1 ORDER BY 1") == [("done", 1), ("pending", 7)]
    assert archive.scalar("SELECT sum(crashes) + sum(attempts) FROM page_tasks") == 1


@pytest.mark.only("sqlite")
def test_both_forms_of_a_message_are_understood(
    archive: Archive, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    pages, _ = waiting(archive, settings, 5)
    app = make_app("memory://")
    add_read_task(app, Reader(archive.db, InstantEngine(), settings, "read/1"))
    app.tasks[READ_TASK](version=1, page_id=pages[0])
    app.tasks[READ_PAGES_TASK](version=1, page_ids=pages[1:])
    app.tasks[READ_PAGES_TASK](version=1, page_ids=pages)  # delivered again
    assert stored(archive) == 5 and archive.scalar("SELECT count(*) FROM attempts") == 5 and not caplog.messages
    for odd in ({"page_ids": []}, {"page_ids": ["1"]}, {"page_ids": list(range(65))}, {"version": 2, "page_ids": [1]}):
        app.tasks[READ_PAGES_TASK](**odd)
        assert "a message that this version does not know" in caplog.messages[-1]


def test_a_message_names_what_a_fast_reader_uses_up_in_a_tenth_of_a_second() -> None:
    pace = Pace()
    assert pace.together(500, 2) == 1, "of which nothing is known"
    assert [Pace(rate).together(500, 2) for rate in (4, 39, 40, 600, 5_000)] == [1, 1, 2, 30, 64]
    assert Pace(400).together(500, 100) == 1, "a hundred slow readers are no fast one"
    assert Pace(600).together(8, 4) == 2, "the last pages are for all"
    pace.sent([20, 20, 5])
    pace.look(2)
    assert pace.depth == 25 and pace.per_second > 0
    pace.look(4)  # of others
    assert pace.depth == 27


def just_seen() -> Pace:
    """Of 109 pages a second, of which the next look takes a hundredth away however late it comes."""
    return Pace(109.0, looked_at=math.inf)


@pytest.mark.only("sqlite")
def test_several_pages_are_named_to_readers_that_know_it(archive: Archive, broker: str, settings: Settings) -> None:
    archive.ingest(archive.see("/in/a.pdf") or 0, [str(page) for page in range(50)])
    enlist(archive.db, "h:read-1", "read", 64, engine="instant", model="m1")
    app = make_app(broker)
    queue = read_queue(app, "m1")
    dispatcher = Dispatcher(archive.db, settings, print)
    dispatcher._paces = {queue: just_seen()}
    dispatcher.tick(app)
    assert 5 <= queue_depth(app, queue) <= 7 and dispatcher._paces[queue].depth == 50
    # An older reader would drop what it does not know; one with a budget reads one page of a message at a time.
    for others in ("engine = 'endpoint'", "version = '0.1', engine = 'instant'"):
        with app.connection_for_write() as connection:
            connection.default_channel.queue_purge(queue)
        archive.execute("UPDATE page_tasks SET enqueued_at = NULL")
        archive.execute(f"UPDATE worker_processes SET {others}")
        other = Dispatcher(archive.db, settings, print)
        other._paces = {queue: just_seen()}
        other.tick(app)
        assert queue_depth(app, queue) == 50, others
