"""The dispatcher on a real broker: what is enqueued, who is told, and again after the broker lost its queues."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.blobs.page_images import open_images
from pipeline.blobs.png import encode
from pipeline.delivery import dispatcher as dispatch
from pipeline.delivery import outbox_relay
from pipeline.delivery.broker import enqueue_pages, make_app, notify, queue_depth, read_queue
from pipeline.delivery.dispatcher import Dispatcher
from pipeline.delivery.embedded_broker import EmbeddedBroker
from pipeline.delivery.pacing import share_out
from pipeline.errors import Unavailable
from pipeline.settings import Settings
from pipeline.store.backpressure import Room
from pipeline.store.batch_end import finish_batch
from pipeline.store.leases import return_claim
from pipeline.store.pages import NewPage
from pipeline.store.worker_registry import enlist
from pipeline.supervisor.leader import take_leadership
from pipeline.supervisor.queue_metrics import Backlog
from pipeline.supervisor.supervisor import Supervisor
from schemas.messages import INGEST_QUEUE, READ_QUEUE, DocumentDone
from tests.conftest import Archive
from tests.running import wait_until
from tests.stand_ins import InstantEngine, OcrOnlyEngine
from tests.worker_processes import workers

DATABASES = ("sqlite", "postgresql")


@given(st.integers(0, 500), st.dictionaries(st.integers(0, 20), st.integers(0, 300), min_size=1, max_size=12))
def test_messages_are_shared_so_that_the_lowest_levels_rise_together(room: int, out: dict[int, int]) -> None:
    shares = share_out(room, out)
    assert sum(shares.values()) == room and min(shares.values()) >= 0
    levels = {batch: out[batch] + share for batch, share in shares.items()}
    got = [level for batch, level in levels.items() if shares[batch]]
    if got:
        assert max(got) - min(levels.values()) <= 1  # whoever got a message stands no higher than those who are lowest


def test_notices_stay_rows_while_nobody_reads_their_queue(
    archive: Archive, broker: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_relay, "MOST_NOTICES", 3)
    archive.batch("b")
    archive.execute("UPDATE batches SET notify = 'mine.done@mine'")
    app, said = make_app(broker), list[str]()
    for number in range(3):
        notify(app, "mine.done@mine", DocumentDone(document_id=str(number), batch_id="b"))
    archive.file("/in/a.pdf", ["text"])
    dispatcher = Dispatcher(archive.db, settings, said.append)
    dispatcher.tick(app)
    assert queue_depth(app, "mine") == 3 and "3 messages wait in its queue" in said[0]
    with app.connection_for_write() as connection:
        connection.default_channel.queue_purge("mine")
    Dispatcher(archive.db, settings, said.append).tick(app)
    assert queue_depth(app, "mine") == 1 and len(said) == 1


def test_a_broker_that_is_away_is_said_once_until_it_is_back(
    archive: Archive, tmp_path: Path, settings: Settings
) -> None:
    archive.see("/in/a.pdf")
    server, said = EmbeddedBroker(tmp_path / "broker"), list[str]()
    dispatcher, app = Dispatcher(archive.db, settings, said.append), make_app(server.url)
    for outage in (1, 2):
        for _ in range(3):
            dispatcher.tick(app)
        assert sum("the broker does not answer" in line for line in said) == outage, said
        server.start()
        try:
            dispatcher.tick(app)
        finally:
            server.stop()


class Flushed:
    """A broker that forgets, and a dispatcher that looks again at once."""

    def __init__(self, archive: Archive, url: str, settings: Settings) -> None:
        self.app = make_app(url)
        self.said: list[str] = []
        self._archive, self.settings = archive, settings
        self.client = redis.Redis(unix_socket_path=url.removeprefix("redis+socket://").partition("?")[0])

    def tick(self) -> None:
        Dispatcher(self._archive.db, self.settings, self.said.append).tick(self.app)

    def flush(self) -> None:
        self.client.flushall()

    def enqueued(self, model: str = "m1") -> int:
        """Messages in the queue of a model's readers."""
        return queue_depth(self.app, read_queue(self.app, model))

    def take(self, queue: str, count: int) -> None:
        for _ in range(count):
            assert self.client.rpop(queue) is not None


@pytest.fixture
def flushed(archive: Archive, broker: str, settings: Settings) -> Flushed:
    return Flushed(archive, broker, settings)


def test_what_lay_in_its_queue_when_the_broker_was_flushed_is_told_again(archive: Archive, flushed: Flushed) -> None:
    archive.batch("b")
    archive.execute("UPDATE batches SET notify = 'mine.done@mine'")
    for number in range(5):
        archive.file(f"/in/{number}.pdf", [f"text {number}"])
    flushed.tick()
    assert queue_depth(flushed.app, "mine") == 5
    flushed.take("mine", 2)
    flushed.tick()  # sees that two have left
    flushed.flush()
    flushed.tick()
    assert queue_depth(flushed.app, "mine") == 3 and "sending 3 notices again" in flushed.said[-1]
    flushed.take("mine", 3)
    flushed.tick()
    flushed.flush()
    flushed.tick()
    flushed.tick()
    assert queue_depth(flushed.app, "mine") == 0 and len(flushed.said) == 1, "nothing lay there, nothing is said"


def test_targets_that_share_a_queue_are_taken_in_the_order_of_sending(archive: Archive, flushed: Flushed) -> None:
    for name in ("a", "b", "c"):
        archive.batch(name)
        archive.execute("UPDATE batches SET notify = :target WHERE name = :name", name=name, target=f"{name}@mine")
    archive.execute("UPDATE batches SET notify = 'a@mine' WHERE name = 'c'")
    for name in ("a", "b", "c"):
        archive.file(f"/in/{name}.pdf", [name], batch=name)
        flushed.tick()
    flushed.take("mine", 2)  # the first of `a` and that of `b`; the second of `a` lies there
    flushed.tick()
    flushed.flush()
    flushed.tick()
    assert queue_depth(flushed.app, "mine") == 1
    lying = "SELECT b.name FROM notices n JOIN batches b ON b.id = n.batch_id WHERE n.taken_at IS NULL"
    assert archive.rows(lying) == [("c",)]


def test_a_flush_before_it_was_seen_what_was_taken_costs_a_repetition_not_a_notice(
    archive: Archive, flushed: Flushed
) -> None:
    archive.batch("b")
    archive.execute("UPDATE batches SET notify = 'mine.done@mine'")
    archive.file("/in/a.pdf", ["text"])
    flushed.tick()
    flushed.take("mine", 1)
    flushed.flush()  # its queue is as short as if it had been taken, and as if it had been lost
    flushed.tick()
    assert queue_depth(flushed.app, "mine") == 1


def test_a_flush_while_notices_are_being_sent_loses_none(
    archive: Archive, flushed: Flushed, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.batch("b")
    archive.execute("UPDATE batches SET notify = 'mine.done@mine'")
    for number in range(4):
        archive.file(f"/in/{number}.pdf", [f"text {number}"])
    dispatcher, sent = Dispatcher(archive.db, flushed.settings, flushed.said.append), []

    def notify_and_lose(app: Celery, target: str, message: DocumentDone) -> None:
        notify(app, target, message)
        sent.append(message.document_id)
        if len(sent) == 2:
            flushed.flush()

    monkeypatch.setattr(outbox_relay, "notify", notify_and_lose)
    dispatcher.tick(flushed.app)
    assert queue_depth(flushed.app, "mine") == 2, "the flush came in the middle"
    flushed.tick()  # of whoever leads then
    assert set(sent[2:]) == {identity for (identity,) in archive.rows("SELECT public_id FROM documents")}


def test_a_broker_that_comes_back_without_its_last_second_tells_again(archive: Archive, flushed: Flushed) -> None:
    """What was stored of it before is there, the first notice and its mark; the second notice is not."""
    archive.batch("b")
    archive.execute("UPDATE batches SET notify = 'mine.done@mine'")
    archive.file("/in/a.pdf", ["a"])
    flushed.tick()
    kept = {key: flushed.client.dump(key) for key in flushed.client.scan_iter()}
    archive.file("/in/b.pdf", ["b"])
    flushed.tick()
    flushed.flush()
    for key, value in kept.items():
        flushed.client.restore(key, 0, value)
    flushed.tick()
    assert queue_depth(flushed.app, "mine") == 3, "the first one that came back, and both again"


def test_a_run_on_the_same_broker_takes_no_loss_for_its_own(archive: Archive, flushed: Flushed) -> None:
    archive.batch("b")
    archive.execute("UPDATE batches SET notify = 'mine.done@mine'")
    archive.file("/in/a.pdf", ["a"])
    flushed.tick()
    flushed.flush()
    Dispatcher(archive.db, flushed.settings, flushed.said.append, archive.batches["b"]).tick(flushed.app)
    flushed.tick()
    assert queue_depth(flushed.app, "mine") == 1


def test_a_queue_that_cannot_be_asked_holds_up_nobody(archive: Archive, flushed: Flushed) -> None:
    archive.batch("b")
    archive.execute("UPDATE batches SET notify = 'mine.done@mine'")
    archive.file("/in/a.pdf", ["a"])
    flushed.tick()
    flushed.client.delete("mine")
    flushed.client.set("mine", "not a list")
    archive.ingest(archive.see("/in/b.pdf") or 0, ["b"])
    flushed.tick()
    assert flushed.enqueued() == 1


def test_after_a_flush_messages_are_enqueued_again_at_once(archive: Archive, flushed: Flushed) -> None:
    archive.ingest(archive.see("/in/a.pdf") or 0, ["0", "1", "2"])
    archive.see("/in/b.pdf")
    flushed.tick()
    assert (flushed.enqueued(), queue_depth(flushed.app, INGEST_QUEUE)) == (3, 1)
    flushed.flush()
    flushed.tick()
    assert (flushed.enqueued(), queue_depth(flushed.app, INGEST_QUEUE)) == (3, 1)
    assert "enqueueing 4 rows again" in flushed.said[-1]


def test_a_document_is_enqueued_for_each_slot_of_the_ingest_workers(archive: Archive, flushed: Flushed) -> None:
    """It was 64 of a batch, in hand or in the queue, whatever the fleet; what was enqueued was counted in both."""
    archive.see_all([f"/in/{number}.pdf" for number in range(220)])
    for host in range(2):
        enlist(archive.db, f"h{host}:ingest-1", "ingest", 40)
    enlist(archive.db, "h0:read-1", "read", 40, engine="rapidocr", model="m1")
    flushed.tick()
    assert queue_depth(flushed.app, INGEST_QUEUE) == 80
    flushed.tick()
    assert queue_depth(flushed.app, INGEST_QUEUE) == 80, "one message for each slot"
    flushed.take(INGEST_QUEUE, 70)
    archive.execute("UPDATE documents SET state = 'leased', owner = 'h0:ingest-1/1', lease_until = 9e9 WHERE id <= 70")
    flushed.tick()
    assert queue_depth(flushed.app, INGEST_QUEUE) == 80, "those that were taken are in hand, and others wait"


def test_for_a_small_fleet_little_is_enqueued_ahead(archive: Archive, flushed: Flushed) -> None:
    """What lies in the queue stands before a higher priority."""
    archive.see_all([f"/in/{number}.pdf" for number in range(20)])
    enlist(archive.db, "h:ingest-1", "ingest", 2)
    flushed.tick()
    assert queue_depth(flushed.app, INGEST_QUEUE) == 8


def test_for_a_model_that_no_reader_has_nothing_is_enqueued(archive: Archive, flushed: Flushed) -> None:
    """Its messages would be taken by those who cannot read it, as fast as they are enqueued, and others would wait."""
    archive.batch("theirs", model="m9")
    archive.execute("UPDATE batches SET priority = 5")
    archive.ingest(archive.see("/in/a.pdf", batch="theirs") or 0, [str(page) for page in range(20)])
    archive.batch("ours")
    archive.ingest(archive.see("/in/b.pdf", batch="ours") or 0, ["b"])
    enlist(archive.db, "h:read-1", "read", 4, engine="rapidocr", model="m1")
    enlist(archive.db, "h:read-3", "run", 4, engine="rapidocr", model="m9")  # hears its own run alone
    flushed.tick()
    assert (flushed.enqueued(), flushed.enqueued("m9")) == (1, 0)
    enlist(archive.db, "h:read-2", "read", 4, engine="rapidocr", model="m9")
    flushed.tick()
    assert flushed.enqueued("m9") > 1
    assert flushed.enqueued() == 1


def test_each_of_several_models_has_its_queue(archive: Archive, flushed: Flushed) -> None:
    """As `pagepack.read` alone it would be: each takes messages of the other in vain, as fast as they are enqueued."""
    for number, model in enumerate(("m/1", "m/2", "")):
        archive.batch(model, model=model)
        archive.ingest(archive.see(f"/in/{number}.pdf", batch=model) or 0, [f"{number} {page}" for page in range(3)])
    archive.execute("UPDATE batches SET model = '' WHERE name = ''")
    archive.execute("UPDATE page_tasks SET model = '' WHERE batch_id = (SELECT id FROM batches WHERE name = '')")
    for model in ("m/1", "m/2"):
        enlist(archive.db, f"h:{model}", "read", 4, engine="rapidocr", model=model)
    flushed.tick()
    queues = [read_queue(flushed.app, model) for model in ("m/1", "m/2")]
    assert queues == ["pagepack.read.m-1", "pagepack.read.m-2"]
    assert [queue_depth(flushed.app, queue) for queue in (*queues, READ_QUEUE)] == [3, 3, 3]
    depths = Backlog(archive.db, flushed.app, 60)
    assert not depths.problems()
    (gauge,) = [gauge for gauge in depths.collect() if gauge.name == "pagepack_queue_depth"]
    assert {sample.labels["queue"]: sample.value for sample in gauge.samples} == dict.fromkeys(
        (*queues, READ_QUEUE), 3
    ) | {INGEST_QUEUE: 0}


def test_a_page_that_comes_back_after_its_batch_was_asked_of_another_model_is_dropped(
    archive: Archive, flushed: Flushed
) -> None:
    """It was in flight when those that waited were superseded. No reader of the new model can take it."""
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, ["a"])
    claim = archive.claim(page)
    archive.batch("b", model="m2")
    archive.see("/in/a.pdf")
    assert claim is not None and return_claim(archive.db, claim, "the worker stops") == 1
    archive.read(page, "text", model="m2")
    flushed.tick()
    tasks = "SELECT model, state, cause FROM page_tasks ORDER BY model"
    assert archive.rows(tasks) == [("m1", "failed", "superseded"), ("m2", "done", None)]
    flushed.tick()
    assert archive.scalar("SELECT state FROM batches") == "finished"


def test_a_page_that_one_batch_dropped_is_read_for_another(archive: Archive, flushed: Flushed) -> None:
    archive.batch("b")
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, ["a"])
    claim = archive.claim(page)
    archive.batch("c")
    archive.execute("UPDATE batches SET notify = 'mine.done@mine' WHERE name = 'c'")
    archive.see("/in/a.pdf", batch="c")
    archive.batch("b", model="m2")
    assert claim is not None and return_claim(archive.db, claim, "the worker stops") == 1
    enlist(archive.db, "h:read-1", "read", 4, engine="rapidocr", model="m1")  # and none of m2
    flushed.tick()
    assert not finish_batch(archive.db, archive.batches["c"]) and queue_depth(flushed.app, "mine") == 0
    flushed.tick()
    assert flushed.enqueued() == 1
    archive.read(page, "text")
    flushed.tick()
    assert queue_depth(flushed.app, "mine") == 1


def test_with_one_model_what_any_may_read_shares_its_queue(archive: Archive, flushed: Flushed) -> None:
    """Else a higher priority there would share with lower ones here."""
    archive.batch("any")
    archive.execute("UPDATE batches SET model = '', priority = 5")
    archive.ingest(archive.see("/in/a.pdf", batch="any") or 0, [f"any {page}" for page in range(50)])
    archive.batch("m1")
    archive.ingest(archive.see("/in/b.pdf", batch="m1") or 0, [f"m1 {page}" for page in range(50)])
    enlist(archive.db, "h:read-1", "read", 4, engine="rapidocr", model="m1")
    flushed.tick()
    enqueued = (
        "SELECT DISTINCT b.name FROM page_tasks t JOIN batches b ON b.id = t.batch_id WHERE enqueued_at IS NOT NULL"
    )
    assert archive.rows(enqueued) == [("any",)]
    assert flushed.enqueued() == 8 and queue_depth(flushed.app, READ_QUEUE) == 0


@pytest.fixture
def steady(archive: Archive, flushed: Flushed, monkeypatch: pytest.MonkeyPatch) -> Dispatcher:
    """One dispatcher for many ticks, and a batch of 50 pages that any model may read."""
    monkeypatch.setattr(dispatch, "_WORKERS_SECONDS", 0.0)
    archive.batch("any")
    archive.execute("UPDATE batches SET model = ''")
    archive.ingest(archive.see("/in/a.pdf", batch="any") or 0, [f"any {page}" for page in range(50)])
    return Dispatcher(archive.db, flushed.settings, flushed.said.append)


def test_what_was_enqueued_before_the_first_reader_was_known_goes_first(
    archive: Archive, flushed: Flushed, steady: Dispatcher
) -> None:
    """It lies in another queue, and readers take from both in turn: a lower priority would share with a higher one."""
    steady.tick(flushed.app)
    assert queue_depth(flushed.app, READ_QUEUE) == 8
    enlist(archive.db, "h:read-1", "read", 4, engine="rapidocr", model="m1")
    steady.tick(flushed.app)
    assert flushed.enqueued() == 0 and steady.is_busy, "it looks again soon"
    flushed.take(READ_QUEUE, 8)
    steady.tick(flushed.app)
    assert flushed.enqueued() == 8 and queue_depth(flushed.app, READ_QUEUE) == 0


def test_what_nobody_takes_from_the_queue_of_before_holds_up_nothing_for_long(
    archive: Archive, flushed: Flushed, steady: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_MOVE_SECONDS", 0.5)
    steady.tick(flushed.app)
    enlist(archive.db, "h:read-1", "read", 4, engine="rapidocr", model="m1")
    steady.tick(flushed.app)
    assert flushed.enqueued() == 0
    time.sleep(0.6)
    steady.tick(flushed.app)
    assert flushed.enqueued() == 8 and queue_depth(flushed.app, READ_QUEUE) == 8


def test_for_readers_of_a_second_model_messages_are_enqueued_at_once(
    archive: Archive, flushed: Flushed, steady: Dispatcher
) -> None:
    """Though what any may read is enqueued in the queue of all from then on, which is never empty."""
    archive.batch("m2")
    archive.ingest(archive.see("/in/b.pdf", batch="m2") or 0, [f"m2 {page}" for page in range(50)])
    archive.execute("UPDATE batches SET model = 'm2', priority = 9 WHERE name = 'm2'")
    archive.execute("UPDATE page_tasks SET model = 'm2' WHERE batch_id = (SELECT id FROM batches WHERE name = 'm2')")
    enlist(archive.db, "h:read-1", "read", 4, engine="rapidocr", model="m1")
    steady.tick(flushed.app)
    assert flushed.enqueued("m1") == 8 and flushed.enqueued("m2") == 0, "nobody has that model"
    enlist(archive.db, "h:read-2", "read", 4, engine="pixtral", model="m2")
    steady.tick(flushed.app)
    assert flushed.enqueued("m2") == 8 and queue_depth(flushed.app, READ_QUEUE) > 0
    steady.tick(flushed.app)
    assert flushed.enqueued("m2") == 8


@pytest.mark.only("sqlite")
def test_readers_of_two_models_take_no_messages_of_each_other(
    archive: Archive, broker: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every other message comes to nothing, and its page is enqueued again."""
    enqueued: list[int] = []

    def enqueue(app: Celery, page_ids: list[int], queue: str, together: int) -> list[int]:
        enqueued.extend(page_ids)
        return enqueue_pages(app, page_ids, queue, together)

    monkeypatch.setattr(dispatch, "enqueue_pages", enqueue)
    images, app = open_images(settings), make_app(broker)
    models = (InstantEngine.model, OcrOnlyEngine.model)
    for number, model in enumerate(models):
        archive.batch(model, model=model)
        colours = [(number, page, 0) for page in range(30)]
        hashes = [images.put(encode(Image.new("RGB", (16, 16), colour))) for colour in colours]
        pages = [NewPage(index, image_hash, 16, 16) for index, image_hash in enumerate(hashes)]
        archive.ingest(archive.see(f"/in/{number}.pdf", batch=model) or 0, pages)
    dispatcher = Dispatcher(archive.db, settings, print)
    with (
        workers(settings, broker, "read"),
        workers(settings, broker, "read", engine="OcrOnlyEngine", PAGEPACK_INTERNAL_OWNER="other/"),
    ):

        def is_read() -> bool:
            dispatcher.tick(app)
            return archive.scalar("SELECT count(*) FROM page_tasks WHERE state <> 'done'") == 0

        wait_until(is_read)
    assert len(enqueued) < 75, "60 pages"


@pytest.mark.only("postgresql")
def test_a_host_that_does_not_reach_the_broker_leads_no_more(
    archive: Archive, broker: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "BROKER_SECONDS", 0.0)
    archive.batch()
    archive.execute("UPDATE batches SET notify = 'mine.done@mine'")
    supervisor = Supervisor(archive.db, settings, [], lambda _: None)
    supervisor._app = make_app("redis://127.0.0.1:1/0")  # it came up, and then something came between
    with pytest.raises(Unavailable):
        supervisor.tick()
    assert take_leadership(archive.db, "dispatch", "another:1", 0.1)
    time.sleep(0.2)
    with pytest.raises(Unavailable):  # nor does it say that all is well, or lead again, while it is cut off
        supervisor.tick()
    assert take_leadership(archive.db, "dispatch", "another:1", 0.1)
    time.sleep(0.2)
    supervisor._app = make_app(broker)
    supervisor.tick()
    assert supervisor.is_leader


def test_a_broker_that_dies_while_messages_are_enqueued_is_away(tmp_path: Path) -> None:
    """Messages go out in one pipeline; kombu has an error of its own for one that is cut."""
    server = EmbeddedBroker(tmp_path)
    server.start()
    app = make_app(server.url)
    enqueue_pages(app, [1])

    def until_it_dies() -> Iterator[int]:
        yield 2
        server.stop()
        yield 3

    with pytest.raises(Unavailable):
        enqueue_pages(app, until_it_dies())


def test_room_for_images_is_one_for_all_batches_and_each_has_its_share(archive: Archive) -> None:
    huge = archive.batch("huge").id
    archive.ingest(archive.see("/in/huge.pdf", batch="huge") or 0, [str(page) for page in range(60)])
    small = archive.batch("small").id
    archive.see("/in/small.pdf", batch="small")
    assert Room(archive.db, 61).is_left(huge) and Room(archive.db, 61).is_left(small)
    full = Room(archive.db, 60)
    assert not full.is_left(huge) and full.is_left(small)
    archive.ingest(archive.see("/in/more.pdf", batch="small") or 0, [f"small {page}" for page in range(20)])
    assert not Room(archive.db, 41).is_left(small), "a share of 20, and 20 wait"
    assert not Room(archive.db, 20).is_left(small), "twice the limit wait in all"
    archive.execute("UPDATE batches SET state = 'paused' WHERE name = 'huge'")
    assert Room(archive.db, 61).is_left(small), "what is paused is given to nobody, and holds nobody up"
