"""How far a batch is: what a supervisor asks several times a second, and the counts that it shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm
from sqlalchemy import select

from pipeline.batches import TEXT_LAYER, OpenBatch
from pipeline.database.engine import Database
from pipeline.leases import Leased, is_in
from schemas.tables import Batch, BatchState, Document, Page, PageTask, TaskState

_SMALLEST_SHARE = 16  # pages that ingest stores at once


@dataclass(frozen=True, slots=True)
class Open:
    """Whether anything of a batch waits or runs; each answer is one look into an index, whatever the batch's size."""

    documents: bool
    tasks_pending: bool
    tasks_leased: bool

    def __bool__(self) -> bool:
        return self.documents or self.tasks_pending or self.tasks_leased


@dataclass(frozen=True, slots=True)
class Progress:
    """Page tasks of a batch by state. Work that another batch did first is not counted here."""

    documents_open: bool
    tasks_pending: int  # the states in the order of TaskState
    tasks_leased: int
    tasks_done: int
    tasks_failed: int

    @property
    def tasks_total(self) -> int:
        return self.tasks_pending + self.tasks_leased + self.tasks_done + self.tasks_failed


def what_is_open(db: Database, batch_id: int) -> Open:
    """Asked in every tick of a run."""
    with db.read(by_key=True) as connection:
        row = connection.execute(select(*_is_open(batch_id))).one()
    return Open(*map(bool, row))


def running_work(db: Database) -> list[tuple[OpenBatch, int, str, Open]]:
    """Every running batch, the oldest first, with its priority, model and what is open of it: one statement for all.

    The model is "" where any may read.
    """
    with db.read(by_key=True) as connection:
        rows = connection.execute(
            select(Batch.id, Batch.public_id, Batch.name, Batch.priority, Batch.model, *_is_open(Batch.id))
            .where(Batch.state == BatchState.RUNNING)
            .order_by(Batch.id)
        )
        return [
            (OpenBatch(*row[:3]), row.priority, row.model.removesuffix(TEXT_LAYER), Open(*map(bool, row[5:])))
            for row in rows
        ]


def _is_open(batch_id: int | sa.orm.InstrumentedAttribute[int]) -> list[sa.ColumnElement[bool]]:
    def exists(table: Leased, *which: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
        return select(table.id).where(table.batch_id == batch_id, *which).exists()

    def is_pending(table: Leased) -> sa.ColumnElement[bool]:  # each has an index that holds nothing else
        pending = is_in(table, "pending")
        return sa.or_(
            exists(table, pending, table.rung_at.is_(None)), exists(table, pending, table.rung_at.is_not(None))
        )

    def is_leased(table: Leased) -> sa.ColumnElement[bool]:
        return exists(table, is_in(table, "leased"))

    return [sa.or_(is_pending(Document), is_leased(Document)), is_pending(PageTask), is_leased(PageTask)]


def progress(db: Database, batch_id: int) -> Progress:
    """Counts by state: a walk over an index of the batch's tasks, 60 ms for 300,000 of them."""
    counted = select(PageTask.state, sa.func.count()).where(PageTask.batch_id == batch_id).group_by(PageTask.state)
    with db.read() as connection:
        tasks = {row[0]: row[1] for row in connection.execute(counted)}
    counts = [tasks.get(state, 0) for state in TaskState]
    return Progress(what_is_open(db, batch_id).documents, *counts)


class Room:
    """Whether ingest may draw more pages, as it was when this was made: what bounds the images in flight.

    It may while fewer than `limit` page tasks wait in all running batches together. Then still a batch of which fewer
    wait than its share: a small one shall not wait behind a huge one, nor any behind one that nobody reads. In all no
    more than twice the limit wait, but for what ingest stores at once of each batch.

    What is in hand goes on while there `is_left` any. What is not begins when there `is_ample` room, half of that: for
    a few pages no document shall be fetched, hashed and opened.
    """

    def __init__(self, db: Database, limit: int) -> None:
        self._db = db
        self._limit = limit
        running = select(Batch.id).where(Batch.state == BatchState.RUNNING)
        self._in_all = _waiting(db, PageTask.batch_id.in_(running), 2 * limit)
        self._share = _SMALLEST_SHARE
        if _half(limit) <= self._in_all < 2 * limit:
            with db.read(by_key=True) as connection:
                count = connection.scalar(select(sa.func.count()).select_from(_at_work().subquery())) or 1
            self._share = max(_SMALLEST_SHARE, limit // count)

    def is_left(self, batch_id: int) -> bool:
        """For this batch's next pages."""
        return self._is_under(batch_id, self._limit, self._share)

    def is_ample(self, batch_id: int) -> bool:
        """For another document of this batch."""
        return self._is_under(batch_id, _half(self._limit), _half(self._share))

    def _is_under(self, batch_id: int, limit: int, share: int) -> bool:
        return self._in_all < limit or _waiting(self._db, PageTask.batch_id == batch_id, share) < share


def _half(limit: int) -> int:
    return (limit + 1) // 2


def _at_work() -> sa.Select[Any]:
    """The running batches that have anything open."""
    return select(Batch.id).where(Batch.state == BatchState.RUNNING, sa.or_(*_is_open(Batch.id)))


def _waiting(db: Database, of: sa.ColumnElement[bool], limit: int) -> int:
    """Page tasks that are not read yet, counted up to `limit`.

    A page whose image was freed or lost does not count: it waits for ingest itself.
    """
    states = (
        (is_in(PageTask, "pending"), PageTask.rung_at.is_(None)),
        (is_in(PageTask, "pending"), PageTask.rung_at.is_not(None)),
        (is_in(PageTask, "leased"),),
    )  # each has an index that holds nothing else
    tasks = sa.union_all(*(select(PageTask.page_id).where(of, *state) for state in states)).subquery()
    drawn = select(Page.id).join(tasks, tasks.c.page_id == Page.id).where(Page.image_freed_at.is_(None))
    waiting = drawn.limit(limit)
    with db.read(by_key=True) as connection:
        return connection.scalar(select(sa.func.count()).select_from(waiting.subquery())) or 0
