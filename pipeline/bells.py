"""Bells: for which waiting rows a message was sent, and which of those messages were lost.

rung_at null ──ring──► rung_at ──claim──► …
    ▲                     │
    └── the broker lost it (`forget_bells`, or nothing came of it for a while)
"""

from __future__ import annotations

import sqlalchemy as sa
import sqlalchemy.orm
from sqlalchemy import select, update

from pipeline.database import Database, retried
from pipeline.leases import Leased, is_in, locked_ids
from schemas.tables import Document, PageTask


def take_due_documents(db: Database, batch_id: int, *, limit: int, lost_after: float = 30.0) -> list[int]:
    """Ids of documents to ring for, marked as rung: never rung for, or `lost_after` seconds ago.

    Never are more than `limit` rung or leased at a time.
    """
    leased = select(sa.func.count()).where(Document.batch_id == batch_id, Document.state == "leased")
    rung = select(sa.func.count()).where(Document.batch_id == batch_id, is_in(Document, "pending"))
    rung = rung.where(Document.rung_at.is_not(None), Document.rung_at > db.clock() - lost_after)
    with db.read() as connection:
        busy = (connection.scalar(leased) or 0) + (connection.scalar(rung) or 0)
    return _take_due(db, Document, Document.id, batch_id, limit - busy, lost_after)


def take_due_pages(db: Database, batch_id: int, *, limit: int, lost_after: float | None) -> list[int]:
    """Ids of pages to ring for, marked as rung: never rung for, or `lost_after` seconds ago."""
    return sorted(set(_take_due(db, PageTask, PageTask.page_id, batch_id, limit, lost_after)))


@retried
def _take_due(
    db: Database,
    table: Leased,
    column: sa.orm.InstrumentedAttribute[int],
    batch_id: int,
    limit: int,
    lost_after: float | None,
) -> list[int]:
    """Each of the two looks reads an index that holds what it looks for, in its order, and nothing else."""
    due = select(table.id).where(
        table.batch_id == batch_id, is_in(table, "pending"), table.next_attempt_at <= db.clock()
    )
    looks = [due.where(table.rung_at.is_(None)).order_by(table.id)]
    if lost_after is not None:
        looks.append(
            due.where(table.rung_at.is_not(None), table.rung_at < db.clock() - lost_after).order_by(table.rung_at)
        )
    if limit > 0 and db.dialect == "sqlite":  # mostly there is nothing: ask before taking the one write lock
        with db.read() as connection:
            looks = [look for look in looks if connection.scalar(look.limit(1)) is not None]
    found: list[int] = []
    if limit <= 0 or not looks:
        return found
    with db.write() as connection:
        for look in looks:
            taken = look.limit(limit - len(found)).with_for_update(skip_locked=True).cte("due")
            ring = update(table).where(table.id.in_(select(taken.c.id))).values(rung_at=db.clock())
            found += connection.scalars(ring.returning(column))
            if len(found) >= limit:
                break
    return found


def bells_out(db: Database) -> dict[int, int]:
    """Batch id → page tasks that were rung for and are not read yet; a batch without any is not there."""
    out: dict[int, int] = {}
    with db.read() as connection:
        for look in ((is_in(PageTask, "pending"), PageTask.rung_at.is_not(None)), (is_in(PageTask, "leased"),)):
            counted = select(PageTask.batch_id, sa.func.count()).where(*look).group_by(PageTask.batch_id)
            for batch_id, count in connection.execute(counted):
                out[batch_id] = out.get(batch_id, 0) + count
    return out


@retried
def forget_bells(db: Database) -> int:
    """The broker is new and empty: whatever waits shall be rung for again. Returns for how many rows a bell was out."""
    out = 0
    with db.write() as connection:
        for table in (Document, PageTask):
            rung = locked_ids(table, is_in(table, "pending"), table.rung_at.is_not(None))
            silenced = update(table).where(table.id.in_(rung)).values(rung_at=None).returning(table.id)
            out += len(connection.scalars(silenced).all())
    return out
