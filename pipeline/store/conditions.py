"""Conditions that several statements of the store share."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import select

from schemas.states import BatchState, DocumentState, TaskState
from schemas.tables import Batch, BatchPages, Document, Page, PageTask

Leased = type[Document] | type[PageTask]


def is_in(table: Leased, state: DocumentState | TaskState) -> sa.ColumnElement[bool]:
    """`state = '…'` as the partial indexes say it: of a parameter no planner knows that it fits their condition."""
    return table.state == sa.literal_column(f"'{state}'")


def is_open(table: Leased) -> sa.ColumnElement[bool]:
    """Pending or leased: it waits, or somebody has it in hand."""
    return table.state.in_([TaskState.PENDING, TaskState.LEASED])  # documents call both the same


def is_batch_running(table: Leased) -> sa.ColumnElement[bool]:
    """Whether the batch that a row waits for is running: nothing is given out of another.

    A batch that tries to finish takes up shared rows of which this is false, and leaves the others: batches try in
    turn, and one that took what waits for another, which is enqueued, would lose it to the next one before its own turn
    to enqueue.
    """
    return table.batch_id.in_(select(Batch.id).where(Batch.state == BatchState.RUNNING).correlate(None))


def is_asked_about() -> sa.ColumnElement[bool]:
    """Whether the `Batch` of the enclosing statement asks about its `Page`: about all, or within its ranges."""
    inside = select(BatchPages.batch_id).where(
        BatchPages.batch_id == Batch.id, Page.page_index.between(BatchPages.first_index, BatchPages.last_index)
    )
    return sa.or_(Batch.all_pages, inside.correlate(Batch, Page).exists())


def is_asked_by(batch_id: int | sa.BindParameter[Any]) -> sa.ColumnElement[bool]:
    """`is_asked_about` of a batch that the enclosing statement does not join.

    Joined within `ensure_tasks`, it hides from PostgreSQL that each page comes once, which then sorts them out again.
    """
    ranges = select(BatchPages.batch_id).where(BatchPages.batch_id == batch_id)
    inside = ranges.where(Page.page_index.between(BatchPages.first_index, BatchPages.last_index))
    return sa.or_(~ranges.exists(), inside.correlate(Page).exists())


def locked_ids(table: Leased, *where: sa.ColumnElement[bool]) -> sa.Select[tuple[int]]:
    """The ids of rows, locked in their order before the statement around it writes."""
    locked = select(table.id).where(*where).order_by(table.id).with_for_update().cte("locked")
    return select(locked.c.id)
