"""Results into the database: pages from ingest, answers and failures from reading.

Each function is one transaction, guarded by the claim's token: where the lease was lost meanwhile, it changes nothing
and says so. Only after it returns may the message be acknowledged; a crash in between repeats a message whose rows are
done, which changes nothing either.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, delete, insert, select, update

from pipeline import redraw
from pipeline.answers import AnswerKey, ReadAnswer, ReusedAnswer, Settled, add_attempts, put_answers, settle
from pipeline.batches import ensure_tasks, reopen
from pipeline.database.dialect import insert_for, is_given
from pipeline.database.engine import Database
from pipeline.database.retry import retried
from pipeline.errors import PagepackError
from pipeline.leases import DocumentClaim, Limits, PageClaim, TaskClaim, locked_ids
from pipeline.notices import note_ended
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
        of_these = (Page.document_id == claim.document_id, Page.page_index.in_([page.page_index for page in pages]))
        known = connection.execute(select(Page.id, Page.page_index, Page.cause).where(*of_these))
        known_pages = {row.page_index: row for row in known}
        for page in pages:
            before = known_pages.get(page.page_index)
            if before is not None and before.cause is not None:
                continue  # it failed, and batches that have finished say so; `retry` forgets it
            if before is not None and page.error is not None:
                _fail_waiting(connection, before.id, page.error)
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


def _fail_waiting(connection: Connection, page_id: int, error: PagepackError) -> None:
    """A page that had an image, lost it and cannot be rendered any more: what waits for it fails, answers stay."""
    connection.execute(
        update(PageTask)
        .where(PageTask.page_id == page_id, PageTask.state == TaskState.PENDING)
        .values(state=TaskState.FAILED, cause=error.cause, reason=str(error), finished_at=utc_now())
    )


@retried
def finish_document(db: Database, claim: DocumentClaim, page_count: int) -> bool:
    """Ready, where every page has its row; else it waits again, and whoever takes it begins at the missing one.

    False where it waits, or where the lease was lost.
    """
    with db.write() as connection:
        if not _holds_document(connection, claim):
            return False
        stored = select(sa.func.count(Page.id)).where(Page.document_id == claim.document_id)
        is_whole = connection.scalar(stored.where(Page.page_index < page_count)) == page_count
        ended = {"state": DocumentState.READY, "finished_at": utc_now()}
        values = ended if is_whole else {"state": DocumentState.PENDING, "rung_at": None}
        freed = {"owner": None, "lease_until": None, "page_count": page_count}
        connection.execute(update(Document).where(Document.id == claim.document_id).values(**values, **freed))
        note_ended(connection, [claim.document_id])
        return is_whole


@retried
def set_page_count(db: Database, claim: DocumentClaim, page_count: int) -> None:
    """As soon as it is known, so that progress has a total."""
    with db.write() as connection:
        connection.execute(update(Document).where(_is_held(claim)).values(page_count=page_count))


@retried
def reject_document(db: Database, claim: DocumentClaim, error: PagepackError) -> bool:
    """The content cannot be taken in; `failures` says why. False where the lease was lost."""
    rejected = {"state": DocumentState.REJECTED, "cause": error.cause, "reason": str(error)}
    with db.write() as connection:
        if not _holds_document(connection, claim):
            return False
        values = redraw.ended(connection, claim.document_id, rejected)
        freed = {"owner": None, "lease_until": None, "finished_at": utc_now()}
        connection.execute(update(Document).where(Document.id == claim.document_id).values(**values, **freed))
        note_ended(connection, [claim.document_id])
        return True


@retried
def retry_document(db: Database, claim: DocumentClaim, error: Exception, limits: Limits) -> bool:
    """Something that may pass: wait and try again, or fail after `max_attempts`."""
    with db.write() as connection:
        if not _holds_document(connection, claim):
            return False
        attempts = connection.execute(select(Document.attempts).where(Document.id == claim.document_id)).scalar_one()
        values = _after_failure(db, attempts + 1, error, limits) | {"attempts": attempts + 1}
        values = redraw.ended(connection, claim.document_id, values)
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
    how many page tasks are read again. Each transaction takes some of them, so that others write and leases live
    meanwhile; a call that died on its way is finished by the next, which finds the rest among the failures.
    """
    documents, tasks = set[int](), 0
    for start in range(0, len(failures), _FAILURES_A_TRANSACTION):
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
        if not chosen:
            return set(), 0
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
            connection.execute(again.values(state=BatchState.RUNNING, finished_at=None))
        return drawn, len(task_ids)


_FAILURES_A_TRANSACTION = 1_000  # a fraction of a second
_FRESH: dict[str, Any] = {
    "state": "pending",
    "cause": None,
    "reason": None,
    "rung_at": None,
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
