"""Results into the database: pages from ingest, answers and failures from reading.

Each function is one transaction, guarded by the claim's token: where the lease was lost meanwhile, it changes nothing
and says so. Only after it returns may the message be acknowledged; a crash in between repeats a message whose rows are
done, which changes nothing either.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, delete, insert, select, update

from pipeline.answers import AnswerKey, ReadAnswer, ReusedAnswer, Settled, add_attempts, put_answers, settle
from pipeline.batches import ensure_tasks
from pipeline.database import Database, insert_for, is_given, retried
from pipeline.errors import PagepackError
from pipeline.leases import DocumentClaim, Limits, PageClaim, TaskClaim
from pipeline.notices import forget_notices, note_ended
from schemas.tables import (
    Batch,
    BatchPrompt,
    BatchSource,
    BatchState,
    Document,
    DocumentState,
    Page,
    PageTask,
    Source,
    TaskAttempt,
    TaskState,
    TextLayer,
    utc_now,
)

_RENDER_SECONDS = 60.0  # then a page that waits for its image looks again; ingest rings as soon as it is there
_BACKOFF_SECONDS = 5.0  # first wait after a failure that may pass; doubles with each attempt


@dataclass(frozen=True, slots=True)
class NewPage:
    """A page as ingest found it: an image in the store, or an error."""

    page_index: int
    image_hash: str | None = None
    width_px: int | None = None
    height_px: int | None = None
    text_layer: str | None = None
    warnings: str | None = None
    error: PagepackError | None = None


@retried
def add_pages(db: Database, claim: DocumentClaim, pages: Sequence[NewPage]) -> list[int] | None:
    """Store some pages of a claimed document with their tasks; the ids of pages that now wait, None if fenced off.

    Pages come in order and in several calls: reading begins before a long document is through, and an ingest worker
    that dies costs only the pages since the last call.
    """
    if not pages:
        return []
    with db.write() as connection:
        if not _holds_document(connection, claim):
            return None
        for page in pages:
            if page.error is not None and _fail_known_page(connection, claim.document_id, page.page_index, page.error):
                continue
            found = {
                "image_hash": page.image_hash,
                "width_px": page.width_px,
                "height_px": page.height_px,
                "warnings": page.warnings or None,
                "cause": page.error.cause if page.error else None,
                "reason": str(page.error) if page.error else None,
                "created_at": utc_now(),
                "image_freed_at": None,
            }
            page_id = connection.execute(
                insert_for(connection)(Page)
                .values(document_id=claim.document_id, page_index=page.page_index, **found)
                .on_conflict_do_update(index_elements=["document_id", "page_index"], set_=found)
                .returning(Page.id)
            ).scalar_one()
            if page.text_layer:
                layer = insert_for(connection)(TextLayer).values(page_id=page_id, text=page.text_layer)
                connection.execute(layer.on_conflict_do_nothing())
        first_page = pages[0].page_index
        batches = (
            select(Batch.id)
            .join(BatchSource, BatchSource.batch_id == Batch.id)
            .where(BatchSource.document_id == claim.document_id, Batch.state == BatchState.RUNNING)
        )
        for batch_id in connection.scalars(batches.distinct()).all():
            ensure_tasks(connection, batch_id, [claim.document_id], first_page)
        new = select(Page.id).where(
            Page.document_id == claim.document_id, Page.page_index.between(first_page, pages[-1].page_index)
        )
        waiting = [PageTask.page_id.in_(new), PageTask.state == TaskState.PENDING]
        ids = connection.scalars(select(PageTask.page_id).where(*waiting).distinct().order_by(PageTask.page_id)).all()
        connection.execute(update(PageTask).where(*waiting).values(next_attempt_at=0.0))  # some waited for their image
        return list(ids)


def _fail_known_page(connection: Connection, document_id: int, page_index: int, error: PagepackError) -> bool:
    """A page that had an image, lost it and cannot be rendered any more: what waits for it fails, answers stay."""
    at = (Page.document_id == document_id, Page.page_index == page_index, Page.image_hash.is_not(None))
    page_id = connection.scalar(select(Page.id).where(*at))
    if page_id is None:
        return False
    connection.execute(
        update(PageTask)
        .where(PageTask.page_id == page_id, PageTask.state == TaskState.PENDING)
        .values(state=TaskState.FAILED, cause=error.cause, reason=str(error), finished_at=utc_now())
    )
    return True


def finish_document(db: Database, claim: DocumentClaim, page_count: int) -> bool:
    """Every page has its row. False where the lease was lost."""
    return _end_document(db, claim, {"state": DocumentState.READY, "page_count": page_count})


@retried
def set_page_count(db: Database, claim: DocumentClaim, page_count: int) -> None:
    """As soon as it is known, so that progress has a total."""
    with db.write() as connection:
        connection.execute(update(Document).where(_is_held(claim)).values(page_count=page_count))


def reject_document(db: Database, claim: DocumentClaim, error: PagepackError) -> bool:
    """The content cannot be taken in; `failures` says why."""
    return _end_document(db, claim, {"state": DocumentState.REJECTED, "cause": error.cause, "reason": str(error)})


@retried
def retry_document(db: Database, claim: DocumentClaim, error: Exception, limits: Limits) -> bool:
    """Something that may pass: wait and try again, or fail after `max_attempts`."""
    with db.write() as connection:
        if not _holds_document(connection, claim):
            return False
        attempts = connection.execute(select(Document.attempts).where(Document.id == claim.document_id)).scalar_one()
        values = _after_failure(db, attempts + 1, error, limits) | {"attempts": attempts + 1}
        connection.execute(update(Document).where(Document.id == claim.document_id).values(values))
        note_ended(connection, [claim.document_id])
        return True


Outcome = ReadAnswer | ReusedAnswer | Exception


def complete_page(db: Database, claim: PageClaim, worker: str, outcomes: Mapping[int, Outcome], limits: Limits) -> int:
    """`complete_pages` of one; how many of its tasks were still ours."""
    return len(complete_pages(db, worker, [(claim, outcomes)], limits))


@retried
def complete_pages(
    db: Database, worker: str, pages: Sequence[tuple[PageClaim, Mapping[int, Outcome]]], limits: Limits
) -> set[int]:
    """Store what became of claimed pages' tasks, keyed by task id; those that were still ours. All in one transaction.

    An answer settles its task. A `PagepackError` that is not retryable fails it; any other error makes it wait and
    try again until `max_attempts`.
    """
    with db.write() as connection:
        attempts_of = _held_tasks(connection, [claim for claim, _ in pages])
        ended = [
            _Ended(claim, task, outcomes[task.task_id])
            for claim, outcomes in pages
            for task in claim.tasks
            if task.task_id in outcomes and (task.task_id, task.token) in attempts_of
        ]
        read = [(one.key, one.outcome) for one in ended if isinstance(one.outcome, ReadAnswer)]
        ids = put_answers(connection, read)
        settle(connection, [one.settled(ids) for one in ended if not isinstance(one.outcome, Exception)])
        for one in ended:
            if isinstance(one.outcome, Exception):
                attempts = attempts_of[one.task.task_id, one.task.token] + 1
                values = _after_failure(db, attempts, one.outcome, limits) | {"attempts": attempts}
                connection.execute(update(PageTask).where(PageTask.id == one.task.task_id).values(values))
        if tried := [one.attempt(worker) for one in ended if not isinstance(one.outcome, ReusedAnswer)]:
            add_attempts(connection, tried)
        note_ended(connection, {one.claim.document_id for one in ended})
        return {one.task.task_id for one in ended}


@dataclass(frozen=True, slots=True)
class _Ended:
    """A task that is still its claim's, and what became of it."""

    claim: PageClaim
    task: TaskClaim
    outcome: Outcome

    @property
    def key(self) -> AnswerKey:
        assert isinstance(self.outcome, ReadAnswer)
        return AnswerKey(self.claim.image_hash, self.task.prompt.version, self.outcome.model)

    def settled(self, ids: Mapping[AnswerKey, int]) -> Settled:
        at = (self.task.task_id, self.claim.page_id, self.task.prompt.name)
        if isinstance(self.outcome, ReusedAnswer):
            return Settled(*at, self.outcome.answer_id)
        return Settled(*at, ids[self.key], attempts=1)

    def attempt(self, worker: str) -> dict[str, Any]:
        answer = self.outcome if isinstance(self.outcome, ReadAnswer) else None
        return {
            "task_id": self.task.task_id,
            "token": self.task.token,
            "worker": worker,
            **{field: getattr(answer, field, None) for field in _OF_AN_ATTEMPT},
            "error": None if answer else str(self.outcome),
        }


_OF_AN_ATTEMPT = ("engine", "finish_reason", "temperature", "prompt_tokens", "output_tokens", "seconds")


def reuse_answers(db: Database, claim: PageClaim, answers: Mapping[int, int]) -> None:
    """Settle claimed tasks with answers that exist already (task id → answer id); nothing is read."""
    outcomes = {task_id: ReusedAnswer(answer_id) for task_id, answer_id in answers.items()}
    complete_pages(db, "", [(claim, outcomes)], Limits(0.0, 0, 0))


@retried
def render_again(db: Database, claim: PageClaim, asked: Sequence[TaskClaim] | None = None) -> bool:
    """The page's image is gone from the store: its document goes back to ingest, which renders it again.

    Where retention had freed it, nothing has failed: those of the claim's tasks that `asked` for it (all, if None) wait
    for the new image, no attempt is counted, and this is True. The document's other freed pages wait likewise, else
    each would be claimed in vain before its image is there. A claim that was lost asks for nothing.
    """
    with db.write() as connection:
        leased = _held_tasks(connection, [claim])
        held_ids = {task.task_id for task in claim.tasks if (task.task_id, task.token) in leased}
        if not held_ids:
            return False
        connection.execute(
            update(Document)
            .where(Document.id == claim.document_id, Document.state == DocumentState.READY)
            .values(
                state=DocumentState.PENDING,
                batch_id=select(PageTask.batch_id).where(PageTask.id == claim.tasks[0].task_id).scalar_subquery(),
                page_count=None,
                rung_at=None,
                next_attempt_at=0.0,
                finished_at=None,
            )
        )
        was_freed = connection.scalar(select(Page.image_freed_at).where(Page.id == claim.page_id)) is not None
        lost = (Page.id == claim.page_id, Page.image_freed_at.is_(None))
        connection.execute(update(Page).where(*lost).values(image_freed_at=utc_now()))
        on_its_way = Document.state.in_([DocumentState.PENDING, DocumentState.LEASED])
        document = select(Document.id).where(Document.id == claim.document_id, on_its_way)
        if not was_freed or connection.scalar(document) is None:
            return False
        waiting_ids = {task.task_id for task in (claim.tasks if asked is None else asked)}
        held = PageTask.id.in_(waiting_ids & held_ids)
        history = select(
            PageTask.id,
            PageTask.token,
            PageTask.owner,
            sa.literal("its image was freed; it is rendered again"),
        )
        columns = ["task_id", "token", "worker", "error"]
        connection.execute(insert(TaskAttempt).from_select(columns, history.where(held)))
        waiting = {"state": TaskState.PENDING, "owner": None, "lease_until": None, "rung_at": None}
        until = db.now(connection) + _RENDER_SECONDS
        connection.execute(update(PageTask).where(held).values(**waiting, next_attempt_at=until))
        freed = select(Page.id).where(Page.document_id == claim.document_id, Page.image_freed_at.is_not(None))
        others = select(PageTask.id).where(PageTask.page_id.in_(freed), PageTask.state == TaskState.PENDING)
        others = others.where(PageTask.next_attempt_at <= db.clock())  # else each reader of them writes them all again
        free = others.order_by(PageTask.id).with_for_update(skip_locked=True).cte("others")
        later = update(PageTask).where(PageTask.id.in_(select(free.c.id)))
        connection.execute(later.values(rung_at=None, next_attempt_at=until))
        return True


def retry_failures(db: Database, batch_id: int, failures: Sequence[tuple[str, int | None]]) -> tuple[int, int]:
    """Failures, as (source path, page number or None for the file), back to waiting with fresh counts.

    Returns how many documents are rendered again (rejected ones, and those with pages that could not be rendered) and
    how many page tasks are read again.
    """
    fresh = {
        "state": "pending",
        "batch_id": batch_id,
        "cause": None,
        "reason": None,
        "rung_at": None,
        "attempts": 0,
        "crashes": 0,
        "next_attempt_at": 0.0,
        "finished_at": None,
    }
    documents, tasks, touched = 0, 0, set[int]()
    with db.write() as connection:
        model = select(Batch.model).where(Batch.id == batch_id).scalar_subquery()
        versions = select(BatchPrompt.prompt_version).where(BatchPrompt.batch_id == batch_id)
        asked = (PageTask.model == model, PageTask.prompt_version.in_(versions))
        for path, page_number in failures:
            seen = select(BatchSource.document_id).join(Source, Source.id == BatchSource.source_id)
            document_id = connection.scalar(seen.where(Source.path == path, BatchSource.batch_id == batch_id))
            if document_id is None:
                continue  # not taken in: the next run looks at the file again anyway
            again = update(Document).where(Document.id == document_id).values(fresh)
            if page_number is None:
                ended = Document.state.in_([DocumentState.REJECTED, DocumentState.FAILED])
                documents += connection.execute(again.where(ended)).rowcount
                touched.add(document_id)
                continue
            at = (Page.document_id == document_id, Page.page_index == page_number - 1)
            page = connection.execute(select(Page.id, Page.cause).where(*at)).one_or_none()
            if page is None:
                continue  # the same document failed under another path, and this page went already
            if page.cause is not None:
                connection.execute(delete(TextLayer).where(TextLayer.page_id == page.id))
                connection.execute(delete(Page).where(Page.id == page.id))
                documents += connection.execute(again.where(Document.state == DocumentState.READY)).rowcount
            else:
                failed = (PageTask.page_id == page.id, PageTask.state == TaskState.FAILED, *asked)
                tasks += connection.execute(update(PageTask).where(*failed).values(fresh)).rowcount
            touched.add(document_id)
        forget_notices(connection, touched)
        _reopen(connection, batch_id, touched)
    return documents, tasks


def _reopen(connection: Connection, batch_id: int, documents: set[int]) -> None:
    """Batches share documents: none of them may say that it is finished while a file of it waits."""
    batches = {batch_id} if documents else set()
    for document_id in documents:
        batches.update(connection.scalars(select(BatchSource.batch_id).where(BatchSource.document_id == document_id)))
    connection.execute(
        update(Batch)
        .where(Batch.id.in_(batches), Batch.state == BatchState.FINISHED)
        .values(state=BatchState.RUNNING, finished_at=None)
    )
    if documents:
        again = (Batch.id == batch_id, Batch.state == BatchState.CANCELLED)
        connection.execute(update(Batch).where(*again).values(state=BatchState.RUNNING, finished_at=None))


def _is_held(claim: DocumentClaim) -> sa.ColumnElement[bool]:
    return sa.and_(
        Document.id == claim.document_id, Document.token == claim.token, Document.state == DocumentState.LEASED
    )


def _holds_document(connection: Connection, claim: DocumentClaim) -> bool:
    return connection.scalar(select(Document.id).where(_is_held(claim)).with_for_update()) is not None


@functools.cache
def _leased_tasks(dialect: str) -> sa.Select[*tuple[Any, ...]]:
    return (
        select(PageTask.id, PageTask.token, PageTask.attempts)
        .where(is_given(dialect, PageTask.id, "task_ids"), PageTask.state == TaskState.LEASED)
        .order_by(PageTask.id)
        .with_for_update()
    )


def _held_tasks(connection: Connection, claims: Sequence[PageClaim]) -> dict[tuple[int, int], int]:
    """(Task id, token) → attempts so far, of the claims' tasks; a claim whose token is not there lost its lease."""
    ids = [task.task_id for claim in claims for task in claim.tasks]
    rows = connection.execute(_leased_tasks(connection.dialect.name), {"task_ids": ids})
    return {(row.id, row.token): row.attempts for row in rows}


@retried
def _end_document(db: Database, claim: DocumentClaim, values: dict[str, Any]) -> bool:
    ended = {"owner": None, "lease_until": None, "finished_at": utc_now()}
    with db.write() as connection:
        done = connection.execute(update(Document).where(_is_held(claim)).values(**values, **ended))
        note_ended(connection, [claim.document_id])
        return done.rowcount == 1


def is_final(error: Exception, attempts: int, limits: Limits) -> bool:
    """Whether a failure is for good: another try would fail again, or with this one there were `attempts` enough."""
    would_fail_again = isinstance(error, PagepackError) and not error.retryable
    return would_fail_again or attempts >= limits.max_attempts


def _after_failure(db: Database, attempts: int, error: Exception, limits: Limits) -> dict[str, Any]:
    values: dict[str, Any] = {"owner": None, "lease_until": None, "rung_at": None}
    if is_final(error, attempts, limits):
        cause = error.cause if isinstance(error, PagepackError) else "engine"
        reason = str(error) or type(error).__name__
        return values | {"state": "failed", "cause": cause, "reason": reason, "finished_at": utc_now()}
    wait = _BACKOFF_SECONDS * 2 ** (attempts - 1)
    return values | {"state": "pending", "next_attempt_at": db.clock() + wait}
