"""What waits in the whole installation: asked of the database and the broker when somebody scrapes.

Each of the two is asked in a thread of its own, at most every five seconds and never twice at a time; a scrape waits
three seconds for it and then goes on without. So a broker that is away costs its own figures, not all of them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from celery import Celery
from sqlalchemy import select

from pipeline.database.engine import Database
from pipeline.delivery.broker import queue_depth, read_queue
from pipeline.errors import PagepackError
from pipeline.store.conditions import is_open
from pipeline.telemetry.metrics import METRICS
from schemas.messages import INGEST_QUEUE, READ_QUEUE
from schemas.states import BatchState, TaskState
from schemas.tables import Batch, Document, PageTask
from schemas.worker_tables import WorkerProcess

log = logging.getLogger("pagepack.host")

_KEPT_SECONDS = 5.0
_TIMEOUT_SECONDS = 3.0
_SHARE = 20  # a look that takes long is taken more seldom, so that counting does not become the work

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the database. Only open batches are counted: an index leads to them, however much was read before."""

    waiting_documents: int = 0
    pages: dict[str, int] = field(default_factory=dict)  # by state
    failed_pages: dict[str, int] = field(default_factory=dict)  # by cause
    workers: dict[str, int] = field(default_factory=dict)  # by role
    models: frozenset[str] = frozenset()  # of the readers


class Backlog:
    """A collector for prometheus_client, and the answer to whether database and broker are there."""

    def __init__(self, db: Database, app: Celery, lease_seconds: float) -> None:
        self._models: frozenset[str] = frozenset()  # as they were known last
        self._database = _Looker(lambda: _figures(db, lease_seconds))
        self._broker = _Looker(lambda: {queue: queue_depth(app, queue) for queue in self._queues(app)})

    def problems(self) -> dict[str, str]:
        """What does not answer, and what it says instead."""
        looks = {"database": self._database.look(), "broker": self._broker.look()}
        return {name: look for name, look in looks.items() if isinstance(look, str)}

    def _queues(self, app: Celery) -> list[str]:
        """Each model of a reader has one beside that of all."""
        if isinstance(figures := self._database.found, Figures):
            self._models = figures.models
        return [INGEST_QUEUE, READ_QUEUE, *(read_queue(app, model) for model in sorted(self._models))]

    def collect(self) -> Iterable[Any]:
        """The gauges; those of a part that does not answer are left out."""
        figures, depths = self._database.look(), self._broker.look()
        reachable = {"database": not isinstance(figures, str), "broker": not isinstance(depths, str)}
        yield _gauge("pagepack_reachable", {name: float(is_there) for name, is_there in reachable.items()})
        if not isinstance(depths, str):
            yield _gauge("pagepack_queue_depth", depths)
        if not isinstance(figures, str):
            yield _gauge("pagepack_waiting_documents", figures.waiting_documents)
            yield _gauge("pagepack_waiting_pages", figures.pages.get(TaskState.PENDING, 0))
            yield _gauge("pagepack_leased_pages", figures.pages.get(TaskState.LEASED, 0))
            yield _gauge("pagepack_failed_pages", figures.failed_pages)
            yield _gauge("pagepack_workers", figures.workers)


def _figures(db: Database, lease_seconds: float) -> Figures:
    opened = select(Batch.id).where(Batch.state.in_([BatchState.RUNNING, BatchState.PAUSED]))
    failed = (PageTask.batch_id.in_(opened), PageTask.state == TaskState.FAILED)
    unread = (PageTask.batch_id.in_(opened), is_open(PageTask))
    with db.read() as connection:

        def counts(column: Any, *where: Any) -> dict[str, int]:
            rows = connection.execute(select(column, sa.func.count()).where(*where).group_by(column))
            return {str(name): int(number) for name, number in rows}

        is_there = WorkerProcess.seen_at > db.now(connection) - lease_seconds
        models = select(WorkerProcess.model).where(WorkerProcess.role == "read", WorkerProcess.model.is_not(None))
        return Figures(
            counts(Document.state, Document.batch_id.in_(opened), Document.state == "pending").get("pending", 0),
            counts(PageTask.state, *unread),
            counts(PageTask.cause, *failed),
            counts(WorkerProcess.role, is_there),
            frozenset(connection.scalars(models.distinct())),
        )


def _gauge(name: str, value: float | dict[str, Any]) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    metric = METRICS[name]
    if not isinstance(value, dict):
        return GaugeMetricFamily(name, metric.meaning, value=value)
    family = GaugeMetricFamily(name, metric.meaning, labels=metric.labels)
    for label, number in value.items():
        family.add_metric([label], number)
    return family


class _Looker(Generic[T]):
    """A value that may be slow to get, or not to be had: then a sentence that says why."""

    def __init__(self, get: Callable[[], T]) -> None:
        self._get = get
        self.found: T | str = "was not asked yet"
        self._again_at = 0.0
        self._answered = threading.Event()
        self._is_asking = False
        self._lock = threading.Lock()

    def look(self) -> T | str:
        with self._lock:
            if not self._is_asking and time.monotonic() >= self._again_at:
                self._is_asking = True
                self._answered.clear()
                try:
                    threading.Thread(target=self._ask, name="backlog", daemon=True).start()
                except RuntimeError as error:  # no thread is to be had now; the next look asks again
                    self._is_asking = False
                    return f"was not asked: {error}"
        if self._answered.wait(_TIMEOUT_SECONDS):
            return self.found
        return f"did not answer within {_TIMEOUT_SECONDS:g} s"

    def _ask(self) -> None:
        started = time.monotonic()
        try:
            self.found = self._get()
        except PagepackError as error:
            self.found = str(error)
        except BaseException as error:  # else nobody would ask again
            log.exception("the backlog is not known")
            self.found = str(error) or type(error).__name__
        took = time.monotonic() - started
        with self._lock:
            self._again_at = time.monotonic() + max(_KEPT_SECONDS, _SHARE * took)
            self._is_asking = False
        self._answered.set()
