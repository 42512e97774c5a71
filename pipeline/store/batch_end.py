"""A batch's end: it is closed when nothing of it waits, and not before."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import sqlalchemy as sa
from sqlalchemy import Connection, bindparam, select, update

from pipeline.database.engine import Database
from pipeline.database.retry import retried
from pipeline.store.batches import OpenBatch, running_batches
from pipeline.store.conditions import is_asked_about, is_batch_running, is_open
from pipeline.store.outbox import note_all_ended
from pipeline.store.page_tasks import (
    IS_DROPPED,
    PAGES_A_TRANSACTION,
    ensure_tasks,
    in_parts,
    is_left_behind,
)
from schemas.columns import server_now
from schemas.states import BatchState, DocumentState, TaskState
from schemas.tables import Batch, BatchPrompt, BatchSource, Document, Page, PageTask


def finish_batches(db: Database) -> None:
    """Close every running batch of which nothing waits: a retried document may have reopened several."""
    for batch, _ in running_batches(db):
        finish_batch(db, batch)


def finish_batch(db: Database, batch: OpenBatch) -> bool:
    """Close the batch where nothing of it waits any more; whether it is finished, by whomever.

    First makes sure of its tasks: a page stored while the batch was being registered may have missed it. And at the
    end of its notices: a document may have been done before the batch asked about it.

    The walks through its documents read, and write in short transactions of their own where there is something to
    write. The last one looks at all again, with the batch's row locked, and closes it: what was stored meanwhile makes
    it wait, and whoever opens anything again locks that row, and comes before that look or after the end.
    """
    with db.read(by_key=True) as connection:  # cheap looks first: the rest costs a walk through all that it asked
        own = {"batch": batch.id}
        row = connection.execute(_says(), own).one()
        if row.state == BatchState.FINISHED:
            return True
        if row.state != BatchState.RUNNING or not row.all_seen:
            return False
        if connection.scalar(_open_task(), own) is not None:
            return False
    if _any(db, batch.id, _open_documents()):
        _take_documents_over(db, batch.id)
        return False
    if _any(db, batch.id, _open_pages()):
        for _, documents in _parts(db, batch.id):
            _take_pages_over(db, batch.id, documents)
        if _any(db, batch.id, _open_pages()):
            return False
    if row.notify is not None:
        for sources, _ in _parts(db, batch.id):
            _note_ended(db, batch.id, sources)
    return _close(db, batch.id)


@retried
def _close(db: Database, batch_id: int) -> bool:
    with db.write() as connection:
        state = connection.scalar(_state_of_seen(), {"batch": batch_id})
        if state != BatchState.RUNNING:
            return state == BatchState.FINISHED
        for look in (_open_documents(), _open_pages()):
            if connection.scalar(look, {"batch": batch_id}) is not None:
                return False
        note_all_ended(connection, batch_id)
        connection.execute(_finish(), {"batch": batch_id})
        return True


@retried
def _any(db: Database, batch_id: int, look: sa.Select[int]) -> bool:
    with db.read() as connection:
        return connection.scalar(look, {"batch": batch_id}) is not None


# Each statement is made once for a process: to make one takes as long as to execute it.


@functools.cache
def _says() -> sa.Select[str, bool, str | None]:
    return select(Batch.state, Batch.all_seen, Batch.notify).where(Batch.id == bindparam("batch"))


@functools.cache
def _open_task() -> sa.Select[int]:
    return select(PageTask.id).where(PageTask.batch_id == bindparam("batch"), is_open(PageTask)).limit(1)


@functools.cache
def _state_of_seen() -> sa.Select[str]:
    seen = select(Batch.state).where(Batch.id == bindparam("batch"), Batch.all_seen)
    return seen.with_for_update(key_share=True)


@functools.cache
def _finish() -> sa.Update:
    finished = {"state": BatchState.FINISHED, "finished_at": server_now()}
    return update(Batch).where(Batch.id == bindparam("batch")).values(finished)


def _documents() -> sa.Select[int | None]:
    of_batch = (BatchSource.batch_id == bindparam("batch"), BatchSource.document_id.is_not(None))
    return select(BatchSource.document_id).where(*of_batch)


@functools.cache
def _open_documents() -> sa.Select[int]:
    """One of them."""
    return select(Document.id).where(Document.id.in_(_documents()), is_open(Document)).limit(1)


@functools.cache
def _open_pages() -> sa.Select[int]:
    """The document of a page that the batch asks about and that is not through: not asked yet, waiting, or dropped."""
    is_left = sa.or_(_IS_MISSING, is_open(PageTask), IS_DROPPED)
    return _asked_pages().where(Page.document_id.in_(_documents()), is_left).limit(1)


_IS_MISSING = sa.and_(PageTask.id.is_(None), Page.image_hash.is_not(None))


def _asked_pages() -> sa.Select[int]:
    """Document ids, one for each page and prompt that the batch asks, with the `PageTask` where there is one."""
    task = sa.and_(
        PageTask.page_id == Page.id,
        PageTask.prompt_version == BatchPrompt.prompt_version,
        PageTask.model == Batch.model,
    )
    return (
        select(Page.document_id)
        .join(Batch, Batch.id == bindparam("batch"))
        .join(BatchPrompt, BatchPrompt.batch_id == Batch.id)
        .outerjoin(PageTask, task)
        .where(is_asked_about())
    )


_SOURCES_AT_ONCE = 500


def _parts(db: Database, batch_id: int) -> Iterator[tuple[tuple[int, int], list[int]]]:
    """One part of the batch's sources after the other, as the first and last id and as their documents."""
    after = 0
    while True:
        with db.read() as connection:
            rows = connection.execute(_part(), {"batch": batch_id, "after": after}).all()
        if not rows:
            return
        documents = sorted({row.document_id for row in rows if row.document_id is not None})
        yield (rows[0].source_id, rows[-1].source_id), documents
        after = rows[-1].source_id


@functools.cache
def _part() -> sa.Select[int, int | None]:
    of_batch = (BatchSource.batch_id == bindparam("batch"), BatchSource.source_id > bindparam("after"))
    part = select(BatchSource.source_id, BatchSource.document_id).where(*of_batch)
    return part.order_by(BatchSource.source_id).limit(_SOURCES_AT_ONCE)


@retried
def _take_documents_over(db: Database, batch_id: int) -> None:
    """One that went back to ingest waits for the batch that saw it first; where that is held, it waits for this one."""
    waits = (Document.state == DocumentState.PENDING, ~is_batch_running(Document))
    left = select(Document.id).where(Document.id.in_(_documents()), *waits)
    with db.read() as connection:
        ids = connection.scalars(left.limit(PAGES_A_TRANSACTION), {"batch": batch_id}).all()
    if not ids:
        return
    with db.write() as connection:
        if _is_running(connection, batch_id):
            taken = update(Document).where(Document.id.in_(ids), *waits)
            connection.execute(taken.values(batch_id=batch_id, enqueued_at=None))


def _take_pages_over(db: Database, batch_id: int, documents: Sequence[int]) -> None:
    """The batch's tasks for pages of these documents that miss them, or whose tasks wait for no one."""
    with db.read() as connection:
        rows = connection.execute(_lacking(), {"batch": batch_id, "documents": documents}).all()
    for some, first_page, last_page in in_parts(rows):
        _ensure_some(db, batch_id, some, first_page, last_page)


@functools.cache
def _lacking() -> sa.Select[int, int]:
    is_left = sa.and_(PageTask.state == TaskState.PENDING, is_left_behind())
    of_these = Page.document_id.in_(bindparam("documents", expanding=True))
    lacking = _asked_pages().where(of_these, sa.or_(_IS_MISSING, IS_DROPPED, is_left))
    pages = lacking.add_columns(sa.func.max(Page.page_index) + 1).group_by(Page.document_id)
    return pages.order_by(Page.document_id)


@retried
def _ensure_some(db: Database, batch_id: int, documents: Sequence[int], first_page: int, last_page: int) -> None:
    with db.write() as connection:
        if _is_running(connection, batch_id):
            ensure_tasks(connection, batch_id, documents, first_page, last_page, show=False)


@retried
def _note_ended(db: Database, batch_id: int, sources: tuple[int, int]) -> None:
    with db.write() as connection:
        note_all_ended(connection, batch_id, sources)


def _is_running(connection: Connection, batch_id: int) -> bool:
    """Locked, so that it stays so: a batch that was paused or cancelled meanwhile takes nothing more."""
    running = select(Batch.id).where(Batch.id == batch_id, Batch.state == BatchState.RUNNING)
    return connection.scalar(running.with_for_update(key_share=True)) is not None
