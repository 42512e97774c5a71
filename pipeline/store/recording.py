"""The statements of `record_files`. Each is made once for a process: to make one takes as long as to execute it."""

from __future__ import annotations

import functools
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam, select, update

from pipeline.database.dialect import insert_of
from pipeline.store.conditions import is_batch_running
from pipeline.store.page_tasks import CANCELLED, WAITS_AGAIN
from schemas.states import DocumentState, TaskState
from schemas.tables import Batch, BatchSource, Document, Page, PageTask, Source

OF_THE_PATH = ("missing", "unreadable", "changed", "empty", "special", "symlink")
"""Causes that are a path's own; the others are the content's, and the same content fails the same way again."""


def _documents() -> sa.BindParameter[Any]:
    return bindparam("documents", expanding=True)


@functools.cache
def asked() -> sa.Select[str, str]:
    return select(Batch.state, Batch.detail).where(Batch.id == bindparam("batch")).with_for_update(key_share=True)


@functools.cache
def put_documents(dialect: str) -> Any:
    return insert_of(dialect)(Document).on_conflict_do_nothing()


@functools.cache
def ids_of_documents() -> sa.Select[str, int]:
    is_one = Document.content_hash.in_(bindparam("hashes", expanding=True))
    return select(Document.content_hash, Document.id).where(is_one)


@functools.cache
def put_sources(dialect: str) -> Any:
    source = insert_of(dialect)(Source)
    fields = ("location", "document_id", "size_bytes", "modified_ns", "cause", "reason", "seen_at", "members_mark")
    fresh = {field: source.excluded[field] for field in fields} | {"gone_at": None}
    return source.on_conflict_do_update(index_elements=["path"], set_=fresh)


@functools.cache
def mark_seen(dialect: str) -> Any:
    """The files at `paths`, as they are now, are the batch's."""
    as_seen = {
        **{field: getattr(Source, field) for field in ("document_id", "size_bytes", "cause", "reason", "seen_at")},
        "modified_ns": sa.case((Source.location.startswith("file:"), Source.modified_ns)),
    }
    batch = bindparam("batch", type_=BatchSource.batch_id.type)
    rows = select(batch, Source.id, *as_seen.values()).where(Source.path.in_(bindparam("paths", expanding=True)))
    seen = insert_of(dialect)(BatchSource).from_select(["batch_id", "source_id", *as_seen], rows)
    fresh = {field: seen.excluded[field] for field in as_seen}
    last = sa.case((BatchSource.seen_at > fresh["seen_at"], BatchSource.seen_at), else_=fresh["seen_at"])
    # Walks may overlap: a later one that has met this file shall not find it marked as before its time, and gone.
    return seen.on_conflict_do_update(index_elements=["batch_id", "source_id"], set_=fresh | {"seen_at": last})


@functools.cache
def take_over(is_paused: bool) -> sa.Update:
    """Documents that wait, wait for this batch; for a paused one only those that wait for no running one."""
    is_free = ~is_batch_running(Document) if is_paused else sa.true()
    waiting = (Document.id.in_(_documents()), Document.state == DocumentState.PENDING, is_free)
    return update(Document).where(*waiting).values(batch_id=bindparam("batch"))


@functools.cache
def wait_again() -> list[Any]:
    """Documents that ended for a cause of their path alone, or because their batch was cancelled; returns their ids.

    What was wrong with a path then (gone, changed, no permission) says nothing of the content that lies here now. Nor
    does it say anything that another batch, which waited for it, was cancelled.
    """
    statements = []
    for state, causes in ((DocumentState.REJECTED, OF_THE_PATH), (DocumentState.FAILED, (CANCELLED,))):
        ended = (Document.id.in_(_documents()), Document.state == state, Document.cause.in_(causes))
        waits = update(Document).where(*ended).values(**WAITS_AGAIN, batch_id=bindparam("batch"))
        statements.append(waits.returning(Document.id))
    return statements


@functools.cache
def draw_as_asked() -> sa.Update:
    """Those that wait for this batch are drawn as it asks: `drawn`."""
    is_drawn = sa.exists().where(Page.document_id == Document.id)  # then all of it is drawn alike, and again
    waiting = (Document.id.in_(_documents()), Document.batch_id == bindparam("batch"))
    waiting_new = (*waiting, Document.state == DocumentState.PENDING, ~is_drawn)
    return update(Document).where(*waiting_new).values(detail=bindparam("drawn"))


@functools.cache
def read_again() -> Any:
    """Tasks that failed for a cause of the path alone, of pages that are drawn again; returns their ids."""
    undrawn = select(Page.id).where(Page.document_id.in_(_documents()), Page.image_freed_at.is_not(None))
    of_path = (PageTask.state == TaskState.FAILED, PageTask.cause.in_(OF_THE_PATH), PageTask.page_id.in_(undrawn))
    tasks = update(PageTask).where(PageTask.batch_id == bindparam("batch"), *of_path)
    return tasks.values(**WAITS_AGAIN, next_attempt_at=0.0).returning(PageTask.id)


@functools.cache
def stored_pages() -> sa.Select[int, int]:
    """Documents that have pages, with the number of their pages."""
    pages = select(Page.document_id, sa.func.max(Page.page_index) + 1).where(Page.document_id.in_(_documents()))
    return pages.group_by(Page.document_id).order_by(Page.document_id)
