"""`pagepack retry`: failed files and pages, and answers that were cut, back to waiting, with fresh counts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, delete, select, update

from pipeline.database.engine import Database
from pipeline.database.retry import retried
from pipeline.store.batch_states import RUNS_AGAIN, reopen
from pipeline.store.conditions import locked_ids
from pipeline.store.cut_answers import LENGTH
from schemas.states import BatchState, DocumentState, TaskState
from schemas.tables import Answer, Batch, BatchPrompt, BatchSource, Document, Page, PageTask, Source, TextLayer


def retry_failures(db: Database, batch_id: int, failures: Sequence[tuple[str, int | None]]) -> tuple[int, int]:
    """Failures, as (source path, page number or None for the file), back to waiting with fresh counts.

    Returns how many documents are rendered again (rejected ones, and those with pages that could not be rendered) and
    how many page tasks are read again. Each transaction takes some of them, so that others write and leases live
    meanwhile; a call that died on its way is finished by the next, which finds the rest among the failures.
    """
    documents, tasks = set[int](), 0
    # Once at least, which a read-only database refuses.
    for start in range(0, max(len(failures), 1), _FAILURES_A_TRANSACTION):
        drawn, read = _retry_some(db, batch_id, failures[start : start + _FAILURES_A_TRANSACTION])
        documents |= drawn  # one with many failed pages may be in several
        tasks += read
    return len(documents), tasks


@retried
def _retry_some(db: Database, batch_id: int, failures: Sequence[tuple[str, int | None]]) -> tuple[set[int], int]:
    """The documents that are drawn again, and how many tasks are read again.

    A document that is being drawn while a failed page of it goes is taken from its worker, which would go on from its
    own place and leave the page out.
    """
    with db.write() as connection:
        seen = select(Source.path, BatchSource.document_id).join(BatchSource, BatchSource.source_id == Source.id)
        seen = seen.where(BatchSource.batch_id == batch_id, BatchSource.document_id.is_not(None))
        rows = connection.execute(seen.where(Source.path.in_({path for path, _ in failures})))
        document_of = {row.path: row.document_id for row in rows}  # what was not taken in, the next run looks at again
        chosen = [(document_of[path], number) for path, number in failures if path in document_of]
        states = _lock(connection, set(document_of.values()))
        at = {(document_id, number - 1) for document_id, number in chosen if number is not None}
        pages = select(Page.id, Page.document_id, Page.cause)
        pages = pages.where(sa.tuple_(Page.document_id, Page.page_index).in_(at))
        found = connection.execute(pages).all()  # without those that went already, under another path
        gone = [page.id for page in found if page.cause is not None]
        connection.execute(delete(TextLayer).where(TextLayer.page_id.in_(gone)))
        connection.execute(delete(Page).where(Page.id.in_(gone)))
        lacking = {page.document_id for page in found if page.cause is not None}
        whole = {document_id for document_id, number in chosen if number is None}
        drawn = {one for one in whole if states[one] in (DocumentState.REJECTED, DocumentState.FAILED)}
        drawn |= {one for one in lacking if states[one] in (DocumentState.READY, DocumentState.LEASED)}
        fresh = _FRESH | {"batch_id": batch_id}
        free = {"owner": None, "lease_until": None}
        connection.execute(update(Document).where(Document.id.in_(drawn)).values(**fresh, **free))
        model = select(Batch.model).where(Batch.id == batch_id).scalar_subquery()
        versions = select(BatchPrompt.prompt_version).where(BatchPrompt.batch_id == batch_id)
        of_pages = PageTask.page_id.in_([page.id for page in found if page.cause is None])
        failed = (of_pages, PageTask.state == TaskState.FAILED, PageTask.model == model)
        failed_ids = locked_ids(PageTask, *failed, PageTask.prompt_version.in_(versions))
        read = update(PageTask).where(PageTask.id.in_(failed_ids)).values(fresh).returning(PageTask.id)
        task_ids = connection.scalars(read).all()
        reopen(connection, drawn | lacking, task_ids)
        if drawn or lacking or task_ids:
            again = update(Batch).where(Batch.id == batch_id, Batch.state == BatchState.CANCELLED)
            connection.execute(again.values(RUNS_AGAIN))
        return drawn, len(task_ids)


def retry_cut(db: Database, batch_id: int, pages: Sequence[tuple[str, int]], max_tokens: int) -> int:
    """Answers of the batch that were cut at their longest length, by source path and page number, wait to go on.

    They may come to `max_tokens`; how many there were with fewer. Their pages show what there is until then. Those that
    failed because a cut answer does not fit its schema wait, too.
    """
    tasks = 0
    for start in range(0, max(len(pages), 1), _FAILURES_A_TRANSACTION):
        tasks += _retry_some_cut(db, batch_id, pages[start : start + _FAILURES_A_TRANSACTION], max_tokens)
    return tasks


@retried
def _retry_some_cut(db: Database, batch_id: int, pages: Sequence[tuple[str, int]], max_tokens: int) -> int:
    with db.write() as connection:
        seen = select(Source.path, BatchSource.document_id).join(BatchSource, BatchSource.source_id == Source.id)
        seen = seen.where(BatchSource.batch_id == batch_id, BatchSource.document_id.is_not(None))
        rows = connection.execute(seen.where(Source.path.in_({path for path, _ in pages})))
        document_of = {row.path: row.document_id for row in rows}
        _lock(connection, set(document_of.values()))
        at = {(document_of[path], number - 1) for path, number in pages if path in document_of}
        chosen = select(Page.id).where(sa.tuple_(Page.document_id, Page.page_index).in_(at))
        model = select(Batch.model).where(Batch.id == batch_id).scalar_subquery()
        versions = select(BatchPrompt.prompt_version).where(BatchPrompt.batch_id == batch_id)
        # By the answer's key: a list of all that were cut would read every answer of the archive.
        own = select(Answer.id).where(Answer.id == PageTask.answer_id)
        cut = own.where(Answer.finish_reason == LENGTH, Answer.output_tokens < max_tokens)
        is_cut = sa.and_(PageTask.state == TaskState.DONE, cut.exists())
        is_unfit = sa.and_(PageTask.state == TaskState.FAILED, PageTask.cause == LENGTH)  # and has no answer
        asked = (PageTask.page_id.in_(chosen), PageTask.model == model, PageTask.prompt_version.in_(versions))
        ids = locked_ids(PageTask, *asked, sa.or_(is_cut, is_unfit))
        again = update(PageTask).where(PageTask.id.in_(ids))
        values = _FRESH | {"batch_id": batch_id, "max_tokens": max_tokens}
        task_ids = connection.scalars(again.values(values).returning(PageTask.id)).all()
        reopen(connection, set(), task_ids)
        if task_ids:
            cancelled = update(Batch).where(Batch.id == batch_id, Batch.state == BatchState.CANCELLED)
            connection.execute(cancelled.values(RUNS_AGAIN))
        return len(task_ids)


_FAILURES_A_TRANSACTION = 1_000  # a fraction of a second
_FRESH: dict[str, Any] = {
    "state": TaskState.PENDING,
    "cause": None,
    "reason": None,
    "enqueued_at": None,
    "attempts": 0,
    "crashes": 0,
    "next_attempt_at": 0.0,
    "finished_at": None,
}


def _lock(connection: Connection, documents: Collection[int]) -> dict[int, str]:
    """Document id → state; the batches that saw them first, as whoever finishes a batch locks them.

    Else one could finish that looked before this transaction's end, and never see what waits for it.
    """
    sharing = select(BatchSource.batch_id).where(BatchSource.document_id.in_(documents))
    batches = select(Batch.id).where(Batch.id.in_(sharing)).order_by(Batch.id)
    connection.execute(batches.with_for_update(key_share=True)).all()
    states = select(Document.id, Document.state).where(Document.id.in_(documents)).order_by(Document.id)
    return {row.id: row.state for row in connection.execute(states.with_for_update())}
