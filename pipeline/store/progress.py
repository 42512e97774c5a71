"""How far a batch is: what a supervisor asks several times a second."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
import sqlalchemy.orm
from sqlalchemy import select

from pipeline.database.engine import Database
from pipeline.store.batches import QUESTION_KEY, OpenBatch
from pipeline.store.conditions import Leased, is_in
from pipeline.store.wished_model import without_choices
from schemas.states import BatchState, TaskState
from schemas.tables import Batch, Document, PageTask


@dataclass(frozen=True, slots=True)
class Open:
    """Whether anything of a batch waits or runs; each answer is one look into an index, whatever the batch's size."""

    documents: bool
    tasks_pending: bool
    tasks_leased: bool

    def __bool__(self) -> bool:
        return self.documents or self.tasks_pending or self.tasks_leased


def what_is_open(db: Database, batch_id: int) -> Open:
    """Asked in every tick of a run."""
    with db.read(by_key=True) as connection:
        row = connection.execute(select(*open_looks(batch_id))).one()
    return Open(*map(bool, row))


def running_work(db: Database, questions_only: bool = False) -> list[tuple[OpenBatch, int, str, Open]]:
    """Every running batch, the oldest first, with its priority, model and what is open of it: one statement for all.

    The model is "" where any may read.
    """
    which = [Batch.key.startswith(QUESTION_KEY, autoescape=True)] if questions_only else []
    with db.read(by_key=True) as connection:
        rows = connection.execute(
            select(Batch.id, Batch.public_id, Batch.name, Batch.priority, Batch.model, *open_looks(Batch.id))
            .where(Batch.state == BatchState.RUNNING, *which)
            .order_by(Batch.id)
        )
        return [
            (OpenBatch(*row[:3]), row.priority, without_choices(row.model), Open(*map(bool, row[5:]))) for row in rows
        ]


def open_looks(batch_id: int | sa.orm.InstrumentedAttribute[int]) -> list[sa.ColumnElement[bool]]:
    def exists(table: Leased, *which: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
        return select(table.id).where(table.batch_id == batch_id, *which).exists()

    def is_pending(table: Leased) -> sa.ColumnElement[bool]:  # each has an index that holds nothing else
        pending = is_in(table, TaskState.PENDING)
        return sa.or_(
            exists(table, pending, table.enqueued_at.is_(None)), exists(table, pending, table.enqueued_at.is_not(None))
        )

    def is_leased(table: Leased) -> sa.ColumnElement[bool]:
        return exists(table, is_in(table, TaskState.LEASED))

    return [sa.or_(is_pending(Document), is_leased(Document)), is_pending(PageTask), is_leased(PageTask)]


def pages_in_hand(db: Database, batch_id: int) -> int:
    """Pages of which a worker holds some task."""
    held = select(sa.func.count(PageTask.page_id.distinct()))
    with db.read() as connection:
        where = (PageTask.batch_id == batch_id, is_in(PageTask, TaskState.LEASED))
        return int(connection.execute(held.where(*where)).scalar_one())


def batch_state(db: Database, batch_id: int) -> str:
    """One of BatchState."""
    with db.read() as connection:
        return connection.execute(select(Batch.state).where(Batch.id == batch_id)).scalar_one()
