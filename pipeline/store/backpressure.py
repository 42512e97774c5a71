"""Whether ingest may draw more pages: what bounds the page images in flight."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm
from sqlalchemy import select

from pipeline.database.engine import Database
from pipeline.store.conditions import is_in
from pipeline.store.progress import open_looks
from schemas.states import BatchState, TaskState
from schemas.tables import Batch, Page, PageTask

PAGES_STORED_AT_ONCE = 16  # by ingest, in one transaction; so no batch's share is smaller


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
        self._share = PAGES_STORED_AT_ONCE
        if _half(limit) <= self._in_all < 2 * limit:
            with db.read(by_key=True) as connection:
                count = connection.scalar(select(sa.func.count()).select_from(_at_work().subquery())) or 1
            self._share = max(PAGES_STORED_AT_ONCE, limit // count)

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
    return select(Batch.id).where(Batch.state == BatchState.RUNNING, sa.or_(*open_looks(Batch.id)))


def _waiting(db: Database, of: sa.ColumnElement[bool], limit: int) -> int:
    """Page tasks that are not read yet, counted up to `limit`.

    A page whose image was freed or lost does not count: it waits for ingest itself.
    """
    states = (
        (is_in(PageTask, TaskState.PENDING), PageTask.enqueued_at.is_(None)),
        (is_in(PageTask, TaskState.PENDING), PageTask.enqueued_at.is_not(None)),
        (is_in(PageTask, TaskState.LEASED),),
    )  # each has an index that holds nothing else
    tasks = sa.union_all(*(select(PageTask.page_id).where(of, *state) for state in states)).subquery()
    drawn = select(Page.id).join(tasks, tasks.c.page_id == Page.id).where(Page.image_freed_at.is_(None))
    waiting = drawn.limit(limit)
    with db.read(by_key=True) as connection:
        return connection.scalar(select(sa.func.count()).select_from(waiting.subquery())) or 0
