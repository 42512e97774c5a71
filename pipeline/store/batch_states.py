"""A batch's states: paused, resumed, cancelled, running again. Nothing of it is given out while it is not running.

A page that another batch wants too goes over to that one. All of this may be repeated: a call that died on its way is
finished by the next. A batch is opened in `batches` and closed in `batch_end`; docs/architecture.md has the table.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, bindparam, select, update

from pipeline.database.engine import Database
from pipeline.database.retry import retried
from pipeline.store.answers import without_answer
from pipeline.store.conditions import Leased, is_asked_about, is_in, is_open
from pipeline.store.outbox import forget_notices
from pipeline.store.page_tasks import CANCELLED, CANCELLED_REASON, enqueue_again, fail_tasks, in_parts
from pipeline.store.redraw import drawn_before
from schemas.columns import server_now
from schemas.states import BatchState, DocumentState, TaskState
from schemas.tables import Batch, BatchPrompt, BatchSource, Document, Page, PageTask, TaskAttempt

_ROWS_A_TRANSACTION = 2_000  # of a batch of millions, so that nobody waits long for a row


def pause_batch(db: Database, batch_id: int) -> bool:
    """Give nothing more of it out; what is in hand is finished. False where it was not running."""
    if not _set_state(db, batch_id, BatchState.PAUSED, BatchState.RUNNING):
        return False
    _take_all(db, batch_id, is_cancelled=False)
    return True


@retried
def resume_batch(db: Database, batch_id: int) -> bool:
    """Go on with a paused batch. False where it was not paused."""
    with db.write() as connection:
        paused = (Batch.id == batch_id, Batch.state == BatchState.PAUSED)
        if connection.execute(update(Batch).where(*paused).values(state=BatchState.RUNNING)).rowcount == 0:
            return False
        enqueue_again(connection, batch_id)
        return True


def cancel_batch(db: Database, batch_id: int) -> bool:
    """Fail what is not done with the cause `cancelled`, also what a worker has in hand: its late write is fenced off.

    `open_batch` with the same key takes it up again. False where the batch had ended before.
    """
    before = (BatchState.RUNNING, BatchState.PAUSED, BatchState.CANCELLED)
    if not _set_state(db, batch_id, BatchState.CANCELLED, *before):
        return False
    _take_all(db, batch_id, is_cancelled=True)
    seen = select(BatchSource.document_id).where(BatchSource.batch_id == batch_id)
    stored = select(Page.document_id, sa.func.count()).where(Page.document_id.in_(seen)).group_by(Page.document_id)
    with db.read() as connection:
        pages = connection.execute(stored).all()
    for part in in_parts(pages):
        _fail_unregistered(db, batch_id, *part)
    return True


@retried
def _fail_unregistered(db: Database, batch_id: int, documents: Sequence[int], first_page: int, last_page: int) -> None:
    """Pages without a task: asked again otherwise, the batch had not come to look at their file anew."""
    with db.write() as connection:
        state = select(Batch.state).where(Batch.id == batch_id).with_for_update(key_share=True)
        if connection.scalar(state) == BatchState.CANCELLED:
            fail_tasks(connection, batch_id, documents, first_page, last_page)


@retried
def _set_state(db: Database, batch_id: int, state: BatchState, *before: BatchState) -> bool:
    ended = {"finished_at": sa.func.coalesce(Batch.finished_at, server_now())} if state == BatchState.CANCELLED else {}
    with db.write() as connection:
        at = (Batch.id == batch_id, Batch.state.in_([*before, state]))
        return connection.execute(update(Batch).where(*at).values(state=state, **ended)).rowcount == 1


def _take_all(db: Database, batch_id: int, is_cancelled: bool) -> None:
    """Documents first: after them no more pages come."""
    for table in (Document, PageTask):
        if table is PageTask:
            _wait_for_pages(db, batch_id)
        after: int | None = 0
        while after is not None:
            after = _take_some(db, table, batch_id, after, is_cancelled)


@retried
def _wait_for_pages(db: Database, batch_id: int) -> None:
    """Of a document that another batch waits for as well: who stores pages now may have found this batch running."""
    seen = select(BatchSource.document_id).where(BatchSource.batch_id == batch_id)
    drawn = (
        select(Document.id).where(is_in(Document, DocumentState.LEASED), Document.id.in_(seen)).order_by(Document.id)
    )
    with db.write() as connection:
        connection.execute(drawn.with_for_update(read=True)).all()


@retried
def _take_some(db: Database, table: Leased, batch_id: int, after: int, is_cancelled: bool) -> int | None:
    """Hand over or fail the next rows of a batch that is not running any more; the last one's id, None at the end."""
    is_taken = is_open(table) if is_cancelled else table.state == TaskState.PENDING
    takers = [BatchState.RUNNING, BatchState.PAUSED] if is_cancelled else [BatchState.RUNNING]
    others = select(Batch.id).where(Batch.state.in_(takers), Batch.id != batch_id).order_by(Batch.id)
    other = _another_batch(table, batch_id, takers).scalar_subquery().label("other")
    began = [PageTask.leased_at] if table is PageTask else []
    mine = (
        select(table.id, table.token, table.owner, table.batch_id, *began, other)
        .where(table.batch_id == batch_id, is_taken, table.id > after)
        .order_by(table.id)
        .limit(_ROWS_A_TRANSACTION)
        .with_for_update(of=table)
    )
    with db.write() as connection:
        # One that was paused or cancelled meanwhile has gone through its own rows, and would not look at these again.
        connection.execute(others.with_for_update(read=True)).all()
        rows = connection.execute(mine).all()
        _take(connection, table, rows, is_cancelled)
    return rows[-1].id if rows else None


def _take(connection: Connection, table: Leased, rows: Sequence[Any], is_cancelled: bool) -> None:
    handed = [{"row": row.id, "other": row.other} for row in rows if row.other is not None]
    at_row = update(table).where(table.id == bindparam("row"))
    if handed:
        connection.execute(at_row.values(batch_id=bindparam("other"), enqueued_at=None), handed)
    gone = [row for row in rows if row.other is None] if is_cancelled else []
    freed = {"owner": None, "lease_until": None, "enqueued_at": None}
    if drawn := drawn_before(connection, [row.id for row in gone]) if gone and table is Document else set():
        connection.execute(
            at_row.values(**freed, state=DocumentState.READY, finished_at=server_now()), [{"row": one} for one in drawn]
        )
        gone = [row for row in gone if row.id not in drawn]
    if gone:
        failed = {
            "state": TaskState.FAILED,
            "cause": CANCELLED,
            "reason": CANCELLED_REASON,
            "finished_at": server_now(),
        }
        connection.execute(at_row.values(**failed, **freed), [{"row": row.id} for row in gone])
    held = [row for row in gone if row.owner is not None]
    if held and table is PageTask:
        connection.execute(sa.insert(TaskAttempt), [without_answer(row, CANCELLED_REASON) for row in held])


def _another_batch(table: Leased, batch_id: int, takers: Sequence[BatchState]) -> sa.Select[Any]:
    """The oldest other batch in one of these states that wants a row of the enclosing statement; first the running."""
    others = (
        select(Batch.id)
        .join(BatchSource, BatchSource.batch_id == Batch.id)
        .where(Batch.state.in_(takers), Batch.id != batch_id)
        .order_by(sa.case((Batch.state == BatchState.RUNNING, 0), else_=1), Batch.id)
        .limit(1)
    )
    if table is Document:
        return others.where(BatchSource.document_id == Document.id).correlate(Document)
    return (
        others.join(Page, Page.document_id == BatchSource.document_id)
        .join(BatchPrompt, BatchPrompt.batch_id == Batch.id)
        .where(Page.id == PageTask.page_id, BatchPrompt.prompt_version == PageTask.prompt_version)
        .where(Batch.model == PageTask.model, is_asked_about())
        .correlate(PageTask)
    )


RUNS_AGAIN = {"state": BatchState.RUNNING, "finished_at": None}


def reopen(connection: Connection, documents: Collection[int], task_ids: Collection[int]) -> None:
    """Documents that are drawn again, and tasks that are read again: whoever shares them is told of them again.

    None of those batches may say that it is finished while a file of it waits. One that shares a document, but asks for
    none of the tasks, has said its last.
    """
    if not documents and not task_ids:
        return
    asked = sa.and_(BatchPrompt.batch_id == Batch.id, BatchPrompt.prompt_version == PageTask.prompt_version)
    asking = (
        select(BatchSource.batch_id, BatchSource.document_id)
        .join(Page, Page.document_id == BatchSource.document_id)
        .join(PageTask, PageTask.page_id == Page.id)
        .join(Batch, sa.and_(Batch.id == BatchSource.batch_id, Batch.model == PageTask.model))
        .join(BatchPrompt, asked)
        .where(PageTask.id.in_(task_ids), is_asked_about())
    )
    sharing = select(BatchSource.batch_id, BatchSource.document_id).where(BatchSource.document_id.in_(documents))
    rows = connection.execute(sa.union(asking, sharing)).all()
    batches = {row.batch_id for row in rows}
    # Locked whatever their states are: one that is about to finish has looked at its documents as they were.
    locked = select(Batch.id).where(Batch.id.in_(batches)).order_by(Batch.id)
    connection.execute(locked.with_for_update(key_share=True)).all()
    forget_notices(connection, {row.document_id for row in rows}, batches)
    finished = (Batch.id.in_(batches), Batch.state == BatchState.FINISHED)
    connection.execute(update(Batch).where(*finished).values(RUNS_AGAIN))
