"""The dispatcher: enqueues what waits, takes back what expired, closes what is done. For one batch, or for all.

    each tick    close batches of which nothing waits · enqueue documents and pages, while few messages are out
    each second  notices
    at times     the sweep: expired leases, workers that fell silent, page images that are not needed any more

Messages are few on purpose. What waits is in the database; the queue holds only what the workers use up in the next
seconds, so that a flushed or slow broker costs little, and a small batch does not stand behind all of a huge one. The
room in the queue goes to the highest priority first, and among equals to whoever has the fewest messages out:

    room 6, messages out {a: 8, b: 0, c: 1}   →   {b: 4, c: 2 …}: levels rise together, like water

Messages for pages that a certain model shall read go into a queue of its readers: those of another model would take
them in vain, as fast as they are sent. Where there are several models, all read one more queue: of what any may read.

Longer than most modules: the parts of a tick stand in the order in which they run.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence

from celery import Celery

from pipeline import __version__
from pipeline.database.boottime import boottime
from pipeline.database.engine import Database
from pipeline.delivery.broker import enqueue_documents, enqueue_pages, queue_depth, queue_of, read_queue
from pipeline.delivery.outbox_relay import OutboxRelay
from pipeline.delivery.pacing import Pace, share_out
from pipeline.errors import PagepackError, Unavailable
from pipeline.settings import Settings
from pipeline.store.backpressure import Room
from pipeline.store.batch_end import finish_batch, finish_batches
from pipeline.store.batches import OpenBatch
from pipeline.store.due import enqueued_pages, forget_enqueued, take_due_documents, take_due_pages
from pipeline.store.fleet import WorkerRow, workers
from pipeline.store.leases import Limits, expire
from pipeline.store.progress import Open, running_work, what_is_open
from pipeline.store.retention import sweep_images
from pipeline.store.worker_registry import forget_silent
from schemas.messages import INGEST_TASK

log = logging.getLogger("pagepack.dispatch")

BROKER_SECONDS = 60.0  # a broker that is silent so long is said to be away; rows wait, nothing is lost
_IMAGE_SWEEP_SECONDS = 60.0
_NOTICES_SECONDS = 1.0
_WORKERS_SECONDS = 1.0
_QUESTIONS_SECONDS = 0.5
_MOVE_SECONDS = 6.0  # the longest that a model's queue waits for what was sent before to the queue of all
_LOST_SECONDS = 5.0  # with an empty queue, a message that led to nothing for so long was lost


class Dispatcher:
    """`only` is the batch of a `pagepack run`, whose readers are `own`; without it, all that run. Not thread-safe.

    A run also sees to the questions that are asked in its home meanwhile: it draws their pages, and reads those that
    its model shall read. Nobody else has the home's broker.
    """

    def __init__(
        self,
        db: Database,
        settings: Settings,
        say: Callable[[str], None],
        only: OpenBatch | None = None,
        own: Callable[[], Collection[str]] | None = None,
    ) -> None:
        self._db = db
        self._settings = settings
        self._say = say
        self._only = only
        self._own = own
        self._next_questions = 0.0
        self._limits = Limits.of(settings)
        self._paces: dict[str, Pace] = {}  # by queue
        self._next_sweep = self._next_notices = 0.0
        self._next_image_sweep = time.monotonic() + _IMAGE_SWEEP_SECONDS
        self._image_sweep = threading.Thread()
        self._answered_at, self._is_away = time.monotonic(), False  # of the broker
        self._clock_ahead = time.time() - boottime()
        self._turn = 0
        self._outbox = OutboxRelay(db, say, settings.sweep_seconds)
        self._looks_for_taken = False
        self._next_look_at_workers = 0.0
        self._workers: list[WorkerRow] = []
        self._readers: list[WorkerRow] = []  # that are there
        self._any_model = ""  # into whose queue messages go for what any may read
        self._moves_until = 0.0  # from the queue of all
        self._ticked_at = boottime()
        self._leases_at = time.time()
        self._closing: dict[int, tuple[float, float]] = {}  # batch → seconds to wait, moment of the next try
        self.is_busy = False  # whether the last tick sent any, or will as soon as it may: the next one may come soon

    def tick(self, app: Celery) -> None:
        """Enqueue what waits and do what is due.

        Raises:
            Unavailable: the broker has been silent for a minute, or the database does not answer.
        """
        self.is_busy = False
        self._hold_sweep_if_it_slept()
        if time.monotonic() >= self._next_sweep:
            self.sweep()
            self._next_sweep = time.monotonic() + self._settings.sweep_seconds
        try:
            self._relay_notices(app)  # first, for it sees whether messages were lost
            self._enqueue(app)
            self._answered_at, self._is_away = time.monotonic(), False
        except Unavailable as error:
            if time.monotonic() - self._answered_at > BROKER_SECONDS:
                raise
            if not self._is_away:  # once; it may be so for a minute
                self._say(str(error))
            self._is_away = True
            time.sleep(1)

    def _hold_sweep_if_it_slept(self) -> None:
        """Or was stopped; or on SQLite the clock that leases run by, which is this machine's, was set on."""
        slept = boottime() - self._ticked_at
        if self._db.dialect == "sqlite":
            slept = max(slept, time.time() - self._leases_at)
        if slept > self._settings.lease_seconds / 2:
            self.hold_sweep()
        self._ticked_at, self._leases_at = boottime(), time.time()

    def hold_sweep(self) -> None:
        """Whatever kept this process may have kept all from renewing: those who live get the time for two heartbeats.

        The database was away or locked, or the whole machine slept.
        """
        self._next_sweep = max(self._next_sweep, time.monotonic() + self._settings.lease_seconds / 2)

    def sweep(self) -> None:
        """What no message brings: leases of dead workers, workers that fell silent, batches that others finished."""
        self._watch_clock()
        self._outbox.try_all_again()
        self._looks_for_taken = True
        expire(self._db, self._limits, self._ticked_at)
        forget_silent(self._db, 10 * self._settings.lease_seconds)
        if self._only is None:
            finish_batches(self._db)
        if time.monotonic() >= self._next_image_sweep and not self._image_sweep.is_alive():
            self._image_sweep = threading.Thread(target=self._sweep_images, name="retention", daemon=True)
            self._image_sweep.start()
            self._next_image_sweep = time.monotonic() + _IMAGE_SWEEP_SECONDS

    def _watch_clock(self) -> None:
        """Set back, this host's clock puts enqueued rows into the future, where none is lost. A server has its own."""
        ahead = time.time() - boottime()
        if self._db.dialect == "sqlite" and ahead < self._clock_ahead - 1:
            self._say("the clock was set back; enqueueing again all that waits")
            forget_enqueued(self._db)
        self._clock_ahead = ahead

    def _sweep_images(self) -> None:
        """In a thread: a thousand deletes in an object store take seconds."""
        try:
            sweep_images(self._db, self._settings)
        except PagepackError as error:
            self._say(f"page images were not freed: {error}")
        except BaseException as error:  # the next sweep begins another thread
            log.exception("the sweep of page images failed")
            self._say(f"page images were not freed: {type(error).__name__}: {error}")

    def _enqueue(self, app: Celery) -> None:
        if self._only is not None:
            work = [(self._only, 0, "", what_is_open(self._db, self._only.id)), *self._questions(self._only)]
        else:
            work = running_work(self._db)
        for batch, _, _, now in work:
            if not now and batch != self._only:
                self._close(batch)
        drawing = [(batch, priority) for batch, priority, _, now in work if now.documents]
        if drawing:
            self._enqueue_documents(app, drawing)
        for model, batches in self._by_model(work).items():
            queue = read_queue(app, model)
            if time.monotonic() < self._moves_until and queue_depth(app, read_queue(app)):
                self.is_busy = True
                continue  # readers take from both queues in turn: what was sent before would no longer go first
            readers = [worker for worker in self._readers if not model or worker.model == model]
            room, lost_after = self._look(app, queue, 2 * sum(worker.slots for worker in readers))
            for priority in sorted({priority for _, priority in batches}, reverse=True):
                equals = [batch for batch, its_priority in batches if its_priority == priority]
                room -= self._enqueue_pages(app, queue, equals, room, lost_after, readers)

    def _questions(self, only: OpenBatch) -> list[tuple[OpenBatch, int, str, Open]]:
        """Those of this home that wait, now and then; on a server's database the leader of the workers has them."""
        if self._settings.database_url is not None or time.monotonic() < self._next_questions:
            return []
        self._next_questions = time.monotonic() + _QUESTIONS_SECONDS
        return [work for work in running_work(self._db, questions_only=True) if work[0] != only]

    def _by_model(self, work: Sequence[tuple[OpenBatch, int, str, Open]]) -> dict[str, list[tuple[OpenBatch, int]]]:
        """Batches of which pages wait, with their priorities, under the model that shall read them ("": any).

        None whose model no reader has, unless no reader is there at all. Where all readers have one model, it reads
        what any may read, too: in one queue, priorities and shares hold among all.
        """
        waiting = [(batch, priority, model) for batch, priority, model, now in work if now.tasks_pending]
        if waiting:
            is_run = self._only is not None
            there = [worker for worker in self._known_workers() if worker.is_reading()]
            own = self._own() if self._own is not None else None
            self._readers = [
                worker for worker in there if (own is None or worker.owner in own if is_run else worker.role == "read")
            ]
        models = {reader.model or "" for reader in self._readers}
        any_model = min(models) if len(models) == 1 and self._only is None else ""
        if any_model != self._any_model:
            self._any_model = any_model
            self._moves_until = time.monotonic() + _MOVE_SECONDS if any_model else 0.0
        found: dict[str, list[tuple[OpenBatch, int]]] = {}
        for batch, priority, model in waiting:
            if self._only is not None and batch != self._only and model not in models:
                continue  # a question that this run's readers do not answer; whoever asks it has readers of its own
            if not model or not models or model in models:
                found.setdefault(model or any_model, []).append((batch, priority))
        return found

    def _known_workers(self) -> list[WorkerRow]:
        if time.monotonic() >= self._next_look_at_workers:
            self._next_look_at_workers = time.monotonic() + _WORKERS_SECONDS
            self._workers = workers(self._db)
        return self._workers

    def _relay_notices(self, app: Celery) -> None:
        """Once a second: is the broker's memory whole? Then send the notices of documents that are done."""
        if self._only is not None or time.monotonic() < self._next_notices:
            return
        self._next_notices = time.monotonic() + _NOTICES_SECONDS
        self._outbox.watch_memory(app)
        self._outbox.relay(app)
        if self._looks_for_taken:
            self._looks_for_taken = False
            self._outbox.note_taken(app)

    def _close(self, batch: OpenBatch) -> None:
        """Try to finish a batch; where it cannot be yet (another batch reads its pages), less and less often."""
        wait, due = self._closing.get(batch.id, (0.5, 0.0))
        if time.monotonic() < due:
            return
        if finish_batch(self._db, batch):
            self._closing.pop(batch.id, None)
        else:
            self._closing[batch.id] = min(2 * wait, self._settings.sweep_seconds), time.monotonic() + wait

    def _look(self, app: Celery, queue: str, at_once: int) -> tuple[int, float]:
        """Room for messages in a queue whose workers may take so many at once, and after how long one is lost."""
        depth = queue_depth(app, queue)
        pace = self._paces.setdefault(queue, Pace())
        pace.look(depth)
        room = pace.wanted(at_once) - depth
        if depth == 0:
            return room, _LOST_SECONDS
        return room, 60.0 + 3 * depth / max(pace.per_second, 0.01)

    def _enqueue_documents(self, app: Celery, batches: list[tuple[OpenBatch, int]]) -> None:
        """The highest priority first; of equals another begins in each tick.

        One for each process slot of an ingest worker, or as many as they use up in the next seconds. What they have in
        hand is not in the queue, and takes no room there.
        """
        queue = queue_of(app, INGEST_TASK)
        process_slots = sum(worker.slots for worker in self._known_workers() if worker.is_ingesting())
        room, lost_after = self._look(app, queue, process_slots)
        if room <= 0:
            return
        first = self._turn = (self._turn + 1) % len(batches)
        images = Room(self._db, self._settings.max_waiting_pages)
        for batch, _ in sorted(batches[first:] + batches[:first], key=lambda pair: -pair[1]):
            if images.is_ample(batch.id):
                due = take_due_documents(self._db, batch.id, limit=room, lost_after=lost_after)
                enqueue_documents(app, due)
                self._paces[queue].sent([1] * len(due))
                self.is_busy = self.is_busy or bool(due)
                room -= len(due)
                if room <= 0:
                    return

    def _enqueue_pages(
        self,
        app: Celery,
        queue: str,
        batches: Sequence[OpenBatch],
        room: int,
        lost_after: float,
        readers: Sequence[WorkerRow],
    ) -> int:
        if room <= 0 or not batches:
            return 0
        level = enqueued_pages(self._db) if len(batches) > 1 else {}
        out = {batch.id: level.get(batch.id, 0) for batch in batches}
        pace, sent = self._paces[queue], 0
        # Elsewhere a reader takes as many messages ahead as it has room for pages; an older one does not know several;
        # one with a budget reads the pages of a message one after the other, and would hold fewer than it may.
        may_name_several = app.conf.worker_disable_prefetch and all(
            one.version == __version__ and one.engine != "endpoint" for one in readers
        )
        for batch_id, share in share_out(room, out).items():
            if share == 0:
                continue
            due = take_due_pages(self._db, batch_id, limit=share, lost_after=lost_after)
            together = pace.together(len(due), len(readers)) if may_name_several else 1
            pace.sent(enqueue_pages(app, due, queue, together))
            sent += len(due)
        self.is_busy = self.is_busy or sent > 0
        return sent
