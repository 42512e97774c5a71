"""The statements of claims. Each is made once for a process: to make one takes as long as to execute it."""

from __future__ import annotations

import functools
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam, select, update

from pipeline.database.dialect import clock, is_given
from pipeline.store.conditions import Leased, is_batch_running, is_in
from schemas.columns import server_now
from schemas.states import BatchState, DocumentState, TaskState
from schemas.tables import Answer, Batch, Document, Page, PageTask, Source


@functools.cache
def lease_document(dialect: str) -> Any:
    columns = (Document.token, Document.kind, Document.content_hash, Document.page_count, Document.batch_id)
    told = (Document.public_id, Document.attempts, Document.detail)
    return (
        update(Document)
        .where(Document.id == bindparam("document"))
        .where(is_in(Document, DocumentState.PENDING), is_batch_running(Document))
        .where(Document.next_attempt_at <= clock(dialect))
        .values(_leased(dialect, Document, bindparam("by"), bindparam("seconds")))
        .returning(*columns, *told)
    )


@functools.cache
def files() -> sa.Select[str, str]:
    return select(Source.location, Source.path).where(Source.document_id == bindparam("document"))


@functools.cache
def drawn_pages() -> sa.Select[int]:
    is_drawn = Page.image_freed_at.is_(None)  # or could not be; one that was freed or lost is drawn again
    of_document = select(Page.page_index).where(Page.document_id == bindparam("document"), is_drawn)
    return of_document.order_by(Page.page_index)


@functools.cache
def public_id() -> sa.Select[str]:
    return select(Batch.public_id).where(Batch.id == bindparam("batch"))


@functools.cache
def waiting_tasks(dialect: str) -> sa.Select[*tuple[Any, ...]]:
    return (
        select(
            PageTask.id,
            PageTask.page_id,
            PageTask.token,
            PageTask.prompt_version,
            PageTask.model,
            PageTask.crashes,
            Page.document_id,
            Page.page_index,
            Page.image_hash,
            Document.public_id,
            Batch.public_id.label("batch_public_id"),
            _a_path().label("source_path"),
            PageTask.attempts,
            (clock(dialect) - PageTask.enqueued_at).label("waited_seconds"),
            PageTask.max_tokens,
            PageTask.answer_id.label("own_answer_id"),  # of one that was cut
            Answer.id.label("answer_id"),
            Answer.finish_reason,
            Answer.output_tokens,
        )
        .join(Page, Page.id == PageTask.page_id)
        .join(Document, Document.id == Page.document_id)
        .join(Batch, Batch.id == PageTask.batch_id)
        .outerjoin(
            Answer,
            sa.and_(
                Answer.image_hash == Page.image_hash,
                Answer.prompt_version == PageTask.prompt_version,
                Answer.model == bindparam("answers_of"),
            ),
        )
        .where(
            is_given(dialect, PageTask.page_id, "page_ids"),
            is_in(PageTask, TaskState.PENDING),
            Batch.state == BatchState.RUNNING,
        )
        .where(is_given(dialect, PageTask.model, "models"), PageTask.next_attempt_at <= clock(dialect))
        .order_by(PageTask.id)
        .with_for_update(of=PageTask)
    )


def _a_path() -> sa.ScalarSelect[str]:
    """Any path of the page's document: one look into an index, however many files have the same content."""
    return select(Source.path).where(Source.document_id == Page.document_id).limit(1).scalar_subquery()


@functools.cache
def lease_tasks(dialect: str) -> sa.Update:
    leased = _leased(dialect, PageTask, bindparam("by"), bindparam("seconds")) | {"leased_at": server_now()}
    return update(PageTask).where(is_given(dialect, PageTask.id, "task_ids")).values(leased)


def _leased(dialect: str, table: Leased, owner: Any, lease_seconds: Any) -> dict[str, Any]:
    return {
        "state": TaskState.LEASED,
        "owner": owner,
        "token": table.token + 1,
        "lease_until": clock(dialect) + lease_seconds,
    }
