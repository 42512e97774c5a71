"""Due rows: for which waiting rows a message was sent, and which of those messages were lost.

due ──message──► enqueued_at ──claim──► …
    ▲                     │
    └── the broker lost it (`forget_enqueued`, or nothing came of it for a while)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import ARRAY

from pipeline.database.engine import Database
from pipeline.database.retry import retried
from pipeline.store.conditions import Leased, is_in, locked_ids
from pipeline.store.page_tasks import superseded
from schemas.base import Key
from schemas.states import BatchState, DocumentState, TaskState
from schemas.tables import Batch, Document, PageTask


def take_due_documents(db: Database, batch_id: int, *, limit: int, lost_after: float) -> list[int]:
    """Ids of documents to enqueue, marked so: never enqueued, or enqueued `lost_after` seconds ago."""
    return [row.id for row in _take_due(db, Document, (Document.id,), batch_id, limit, lost_after)]


def is_ingest_wanted(db: Database, batch_id: int, seconds: float) -> bool:
    """Whether a document of another batch was enqueued so long ago, and no ingest worker was free to hear it."""
    unheard = (
        is_in(Document, DocumentState.PENDING),
        Document.enqueued_at.is_not(None),
        Document.enqueued_at < db.clock() - seconds,
    )
    running = select(Batch.id).where(Batch.state == BatchState.RUNNING, Batch.id != batch_id)
    with db.read(by_key=True) as connection:
        return bool(
            connection.scalar(select(select(Document.id).where(Document.batch_id.in_(running), *unheard).exists()))
        )


def take_due_pages(db: Database, batch_id: int, *, limit: int, lost_after: float) -> list[int]:
    """Ids of pages to enqueue, marked so: never enqueued, or enqueued `lost_after` seconds ago.

    A task that was in flight while its batch was asked for again with another model, and came back, is dropped; another
    batch that asks for it takes it up when it tries to finish.
    """
    is_old = PageTask.model != select(Batch.model).where(Batch.id == batch_id).scalar_subquery()
    due = _take_due(db, PageTask, (PageTask.page_id, is_old, PageTask.id), batch_id, limit, lost_after)
    if old := [task_id for _, was_old, task_id in due if was_old]:
        _drop(db, locked_ids(PageTask, PageTask.id.in_(old)), is_old)
    return sorted({page_id for page_id, was_old, _ in due if not was_old})


@retried
def _drop(db: Database, ids: sa.Select[tuple[int]], is_old: sa.ColumnElement[bool]) -> None:
    with db.write() as connection:
        connection.execute(superseded(PageTask.id.in_(ids), is_old))


@retried
def _take_due(
    db: Database, table: Leased, columns: Sequence[Any], batch_id: int, limit: int, lost_after: float
) -> list[Any]:
    """Each of the two looks reads an index that holds what it looks for, in its order, and nothing else.

    By a list of one batch, and in the order of batches: of a single one PostgreSQL knows that this order says nothing,
    and reads all tasks in the order of their ids, past each that is done.
    """
    is_server = db.dialect == "postgresql"
    of_batch = table.batch_id == (sa.any_(sa.literal([batch_id], ARRAY(Key))) if is_server else batch_id)
    due = select(table.id).where(of_batch, is_in(table, TaskState.PENDING), table.next_attempt_at <= db.clock())
    is_lost = (table.enqueued_at.is_not(None), table.enqueued_at < db.clock() - lost_after)
    looks = [
        due.where(table.enqueued_at.is_(None)).order_by(table.batch_id, table.id),
        due.where(*is_lost).order_by(table.enqueued_at),
    ]
    if limit > 0 and not is_server:  # mostly there is nothing: ask before taking the one write lock
        with db.read() as connection:
            looks = [look for look in looks if connection.scalar(look.limit(1)) is not None]
    found: list[Any] = []
    if limit <= 0 or not looks:
        return found
    with db.write() as connection:
        for look in looks:
            taken = select(look.limit(limit - len(found)).with_for_update(skip_locked=True).cte("due").c.id)
            # An array is looked up id by id. What IN is given may be of any size, for all that a kept plan knows of it.
            is_taken = table.id == sa.any_(sa.func.array(taken.scalar_subquery())) if is_server else table.id.in_(taken)
            enqueue = update(table).where(is_taken).values(enqueued_at=db.clock())
            found += connection.execute(enqueue.returning(*columns)).all()
            if len(found) >= limit:
                break
    return found


def enqueued_pages(db: Database) -> dict[int, int]:
    """Batch id → page tasks that were enqueued and are not read yet; a batch without any is not there."""
    out: dict[int, int] = {}
    with db.read() as connection:
        for look in (
            (is_in(PageTask, TaskState.PENDING), PageTask.enqueued_at.is_not(None)),
            (is_in(PageTask, TaskState.LEASED),),
        ):
            counted = select(PageTask.batch_id, sa.func.count()).where(*look).group_by(PageTask.batch_id)
            for batch_id, count in connection.execute(counted):
                out[batch_id] = out.get(batch_id, 0) + count
    return out


@retried
def forget_enqueued(db: Database) -> int:
    """The broker is new and empty: whatever waits shall be enqueued again. Returns how many rows were."""
    out = 0
    with db.write() as connection:
        for table in (Document, PageTask):
            enqueued = locked_ids(table, is_in(table, TaskState.PENDING), table.enqueued_at.is_not(None))
            forgotten = update(table).where(table.id.in_(enqueued)).values(enqueued_at=None).returning(table.id)
            out += len(connection.scalars(forgotten).all())
    return out
