"""The statements that store pages. Each is made once for a process: to make one takes as long as to execute it."""

from __future__ import annotations

import functools
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam, select, update

from pipeline.database.dialect import insert_of
from pipeline.store.claims import is_held
from schemas.states import BatchState, TaskState
from schemas.tables import Batch, BatchSource, Document, Page, PageTask, TextLayer


@functools.cache
def known_pages() -> sa.Select[int, int, str | None]:
    at = (Page.document_id == bindparam("document"), Page.page_index.in_(bindparam("indexes", expanding=True)))
    return select(Page.id, Page.page_index, Page.cause).where(*at)


_FOUND = (
    *("image_hash", "width_px", "height_px", "width_pt", "height_pt", "dpi", "print_px", "is_blank", "warnings"),
    *("cause", "reason", "created_at", "image_freed_at"),
)


@functools.cache
def put(dialect: str) -> Any:
    page = insert_of(dialect)(Page)
    fresh = {field: page.excluded[field] for field in _FOUND}
    return page.on_conflict_do_update(index_elements=["document_id", "page_index"], set_=fresh).returning(
        Page.id, Page.page_index
    )


@functools.cache
def put_text_layer(dialect: str) -> Any:
    """The text stays that is there, and that answers were made of; an older pagepack did not judge it."""
    layer = insert_of(dialect)(TextLayer)
    about = {"verdict": layer.excluded.verdict, "boxes": layer.excluded.boxes}
    return layer.on_conflict_do_update(index_elements=["page_id"], set_=about)


@functools.cache
def seen_by() -> sa.Select[int, str]:
    batches = select(Batch.id, Batch.state).join(BatchSource, BatchSource.batch_id == Batch.id)
    is_seen = BatchSource.document_id == bindparam("document")
    return batches.where(is_seen, Batch.state != BatchState.FINISHED).distinct()


@functools.cache
def have_images() -> sa.Update:
    """Some tasks waited for the image of their page."""
    between = Page.page_index.between(bindparam("first_page"), bindparam("last_page"))
    new = select(Page.id).where(Page.document_id == bindparam("document"), between)
    waiting = (PageTask.page_id.in_(new), PageTask.state == TaskState.PENDING)
    return update(PageTask).where(*waiting).values(next_attempt_at=0.0)


@functools.cache
def stored_pages() -> sa.Select[int]:
    """The number of those that a document of `count` pages has stored."""
    stored = (Page.document_id == bindparam("document"), Page.page_index < bindparam("count"))
    return select(sa.func.count(Page.id)).where(*stored)


@functools.cache
def end_document() -> sa.Update:
    """Executed with the values that it gets."""
    return update(Document).where(Document.id == bindparam("document"))


@functools.cache
def set_page_count() -> sa.Update:
    return update(Document).where(is_held()).values(page_count=bindparam("count"))


@functools.cache
def held_document() -> sa.Select[int]:
    return select(Document.id).where(is_held()).with_for_update()
