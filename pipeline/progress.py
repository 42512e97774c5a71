"""How far a batch is: counts that a supervisor may ask for several times a second."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import select

from pipeline.database import Database
from schemas.tables import Document, DocumentState, PageTask, TaskState

_OPEN = (TaskState.PENDING, TaskState.LEASED)


@dataclass(frozen=True, slots=True)
class Progress:
    """What waits or ran for a batch. Work that another batch did first is not counted here."""

    documents_open: int
    tasks_pending: int
    tasks_leased: int
    tasks_done: int
    tasks_failed: int

    @property
    def is_open(self) -> bool:
        return self.documents_open + self.tasks_pending + self.tasks_leased > 0

    @property
    def tasks_total(self) -> int:
        return self.tasks_pending + self.tasks_leased + self.tasks_done + self.tasks_failed


def progress(db: Database, batch_id: int) -> Progress:
    """Counts by state; each is a walk over an index, without the rows."""
    with db.read() as connection:
        tasks = dict(
            connection.execute(
                select(PageTask.state, sa.func.count()).where(PageTask.batch_id == batch_id).group_by(PageTask.state)
            )
            .tuples()
            .all()
        )
        documents = connection.scalar(
            select(sa.func.count()).where(
                Document.batch_id == batch_id, Document.state.in_([DocumentState.PENDING, DocumentState.LEASED])
            )
        )
    return Progress(
        documents or 0,
        tasks.get(TaskState.PENDING, 0),
        tasks.get(TaskState.LEASED, 0),
        tasks.get(TaskState.DONE, 0),
        tasks.get(TaskState.FAILED, 0),
    )


def pages_waiting(db: Database) -> int:
    """Page tasks of all batches that are not read yet: what bounds the images in flight."""
    with db.read() as connection:
        return connection.scalar(select(sa.func.count()).where(PageTask.state.in_(_OPEN))) or 0
