"""How far a batch is: what a supervisor asks several times a second, and the counts that it shows."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
import sqlalchemy.orm
from sqlalchemy import select

from pipeline.batches import OpenBatch
from pipeline.database import Database
from schemas.tables import Batch, BatchState, Document, DocumentState, Page, PageTask, TaskState

_OPEN_TASKS = (TaskState.PENDING, TaskState.LEASED)
_OPEN_DOCUMENTS = (DocumentState.PENDING, DocumentState.LEASED)


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
    with db.read() as connection:
        row = connection.execute(select(*_is_open(batch_id))).one()
    return Open(*map(bool, row))


def running_work(db: Database) -> list[tuple[OpenBatch, int, Open]]:
    """Every running batch, the oldest first, with its priority and what is open of it: one statement for all."""
    with db.read() as connection:
        rows = connection.execute(
            select(Batch.id, Batch.public_id, Batch.name, Batch.priority, *_is_open(Batch.id))
            .where(Batch.state == BatchState.RUNNING)
            .order_by(Batch.id)
        )
        return [(OpenBatch(*row[:3]), row[3], Open(*map(bool, row[4:]))) for row in rows]


def _is_open(batch_id: int | sa.orm.InstrumentedAttribute[int]) -> list[sa.ColumnElement[bool]]:
    def exists(table: type[Document] | type[PageTask], *states: str) -> sa.ColumnElement[bool]:
        return select(table.id).where(table.batch_id == batch_id, table.state.in_(states)).exists()

    return [
        exists(Document, *_OPEN_DOCUMENTS),
        exists(PageTask, TaskState.PENDING),
        exists(PageTask, TaskState.LEASED),
    ]


def progress(db: Database, batch_id: int) -> Progress:
    """Counts by state: a walk over an index of the batch's tasks, 60 ms for 300,000 of them."""
    with db.read() as connection:
        tasks = dict(
            connection.execute(
                select(PageTask.state, sa.func.count()).where(PageTask.batch_id == batch_id).group_by(PageTask.state)
            )
            .tuples()
            .all()
        )
    counts = [tasks.get(state, 0) for state in TaskState]
    return Progress(what_is_open(db, batch_id).documents, *counts)


def pages_waiting(db: Database, batch_id: int, limit: int) -> int:
    """Page tasks of a batch that are not read yet, counted up to `limit`: what bounds the images in flight.

    Of one batch, for those of an interrupted one wait until somebody goes on with it. A page whose image was freed or
    lost does not count: it waits for ingest itself.
    """
    waiting = (
        select(PageTask.id)
        .join(Page, Page.id == PageTask.page_id)
        .where(PageTask.batch_id == batch_id, PageTask.state.in_(_OPEN_TASKS), Page.image_freed_at.is_(None))
        .limit(limit)
    )
    with db.read() as connection:
        return connection.scalar(select(sa.func.count()).select_from(waiting.subquery())) or 0
