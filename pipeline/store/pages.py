"""Documents and their pages into the database: what ingest workers store.

Each function is one transaction, guarded by the claim's token: where the lease was lost meanwhile, it changes nothing
and says so. A document is ready when it has as many page rows as pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, insert, select, update

from pipeline.database.engine import Database
from pipeline.database.retry import retried
from pipeline.errors import PagepackError
from pipeline.store import redraw, storing
from pipeline.store.claims import DocumentClaim, PageClaim, TaskClaim
from pipeline.store.conditions import is_batch_running, is_open
from pipeline.store.layer_text import Boxes, text_of
from pipeline.store.leases import Limits
from pipeline.store.outbox import note_ended
from pipeline.store.page_tasks import ensure_tasks, fail_tasks
from pipeline.store.results import after_failure, held_tasks
from schemas.columns import server_now, utc_now
from schemas.states import BatchState, DocumentState, TaskState
from schemas.tables import Batch, BatchSource, Document, Page, PageTask, TaskAttempt
from schemas.text_layers import Verdict

_RENDER_SECONDS = 60.0  # then a page that waits for its image looks again; ingest enqueues it as soon as it is there


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
    width_pt: float | None = None
    height_pt: float | None = None
    text_layer_verdict: str | None = None  # of schemas/text_layers.py
    dpi: float | None = None
    print_px: float | None = None
    text_layer_boxes: Boxes = None  # of each line of the text, in pixels of the image, and the page's rulings
    is_blank: bool | None = None


@retried
def add_pages(db: Database, claim: DocumentClaim, pages: Sequence[NewPage]) -> bool:
    """Store some pages of a claimed document with their tasks. False where the lease was lost.

    Pages come in order and in several calls: reading begins before a long document is through, and an ingest worker
    that dies costs only the pages since the last call.
    """
    if not pages:
        return True
    in_order = _own_texts(db, claim, pages)
    own_texts: dict[int, str] = {}
    with db.write() as connection:
        if not _holds_document(connection, claim):
            return False
        indexes = [page.page_index for page in pages]
        known = connection.execute(storing.known_pages(), {"document": claim.document_id, "indexes": indexes})
        known_pages = {row.page_index: row for row in known}
        drawn: dict[int, NewPage] = {}
        for page in pages:
            before = known_pages.get(page.page_index)
            if before is not None and before.cause is not None:
                continue  # it failed, and batches that have finished say so; `retry` forgets it
            if before is not None and page.error is not None:
                _fail_waiting(connection, before.id, page.error)
                continue
            drawn[page.page_index] = page
        rows = [_row(claim, page) for page in drawn.values()]
        for page_id, index in connection.execute(storing.put(db.dialect), rows).all() if rows else []:
            page = drawn[index]
            if page.text_layer:
                about = {"verdict": page.text_layer_verdict, "boxes": page.text_layer_boxes}
                layer = {"page_id": page_id, "text": page.text_layer, **about}
                connection.execute(storing.put_text_layer(db.dialect), layer)
                if index not in known_pages and index in in_order:
                    own_texts[page_id] = in_order[index]
        first_page = pages[0].page_index
        seen_by = connection.execute(storing.seen_by(), {"document": claim.document_id}).all()
        for batch_id in (row.id for row in seen_by if row.state != BatchState.CANCELLED):
            ensure_tasks(connection, batch_id, [claim.document_id], first_page, own_texts=own_texts)
        for batch_id in (row.id for row in seen_by if row.state == BatchState.CANCELLED):
            fail_tasks(connection, batch_id, [claim.document_id], first_page)
        stored = {"document": claim.document_id, "first_page": first_page, "last_page": pages[-1].page_index}
        connection.execute(storing.have_images(), stored)
        return True


def _row(claim: DocumentClaim, page: NewPage) -> dict[str, Any]:
    return {
        "document_id": claim.document_id,
        "page_index": page.page_index,
        "image_hash": page.image_hash,
        "width_px": page.width_px,
        "height_px": page.height_px,
        "width_pt": page.width_pt,
        "height_pt": page.height_pt,
        "dpi": page.dpi,
        "print_px": page.print_px,
        "is_blank": page.is_blank,
        "warnings": page.warnings or None,
        "cause": page.error.cause if page.error else None,
        "reason": str(page.error) if page.error else None,
        "created_at": utc_now(),
        "image_freed_at": None,
    }


def _own_texts(db: Database, claim: DocumentClaim, pages: Sequence[NewPage]) -> dict[int, str]:
    """The texts that pages carry, by their numbers and as answers, where a batch may take them. That takes milliseconds
    each, in which no other writer shall wait."""
    carrying = [page for page in pages if page.text_layer and page.text_layer.strip()]
    if not carrying:
        return {}
    batches = select(Batch.text_layer).join(BatchSource, BatchSource.batch_id == Batch.id)
    with db.read() as connection:
        choices = set(connection.scalars(batches.where(BatchSource.document_id == claim.document_id).distinct()))
    return {
        page.page_index: text_of(page.text_layer or "", page.text_layer_boxes)
        for page in carrying
        if "always" in choices or (choices & {"auto", "prefer"} and page.text_layer_verdict == Verdict.SOUND)
    }


def _fail_waiting(connection: Connection, page_id: int, error: PagepackError) -> None:
    """A page that had an image, lost it and cannot be rendered any more: what waits for it fails, answers stay."""
    connection.execute(
        update(PageTask)
        .where(PageTask.page_id == page_id, PageTask.state == TaskState.PENDING)
        .values(state=TaskState.FAILED, cause=error.cause, reason=str(error), finished_at=server_now())
    )


@retried
def finish_document(db: Database, claim: DocumentClaim, page_count: int) -> bool:
    """Ready, where every page has its row; else it waits again, and whoever takes it begins at the missing one.

    False where it waits, or where the lease was lost.
    """
    with db.write() as connection:
        if not _holds_document(connection, claim):
            return False
        document = {"document": claim.document_id, "count": page_count}
        is_whole = connection.scalar(storing.stored_pages(), document) == page_count
        ended = {"state": DocumentState.READY, "finished_at": utc_now()}
        values = ended if is_whole else {"state": DocumentState.PENDING, "enqueued_at": None}
        freed = {"owner": None, "lease_until": None, "page_count": page_count}
        connection.execute(storing.end_document(), {"document": claim.document_id, **values, **freed})
        note_ended(connection, [claim.document_id])
        return is_whole


@retried
def set_page_count(db: Database, claim: DocumentClaim, page_count: int) -> None:
    """As soon as it is known, so that progress has a total."""
    with db.write() as connection:
        connection.execute(storing.set_page_count(), {**claim.held, "count": page_count})


@retried
def reject_document(db: Database, claim: DocumentClaim, error: PagepackError) -> bool:
    """The content cannot be taken in; `failures` says why. False where the lease was lost."""
    rejected = {"state": DocumentState.REJECTED, "cause": error.cause, "reason": str(error)}
    with db.write() as connection:
        if not _holds_document(connection, claim):
            return False
        values = redraw.ended(connection, claim.document_id, rejected)
        freed = {"owner": None, "lease_until": None, "finished_at": utc_now()}
        connection.execute(storing.end_document(), {"document": claim.document_id, **values, **freed})
        note_ended(connection, [claim.document_id])
        return True


@retried
def retry_document(db: Database, claim: DocumentClaim, error: Exception, limits: Limits) -> bool:
    """Something that may pass: wait and try again, or fail after `max_attempts`."""
    with db.write() as connection:
        if not _holds_document(connection, claim):
            return False
        attempts = connection.execute(select(Document.attempts).where(Document.id == claim.document_id)).scalar_one()
        values = after_failure(db, attempts + 1, error, limits) | {"attempts": attempts + 1}
        values = redraw.ended(connection, claim.document_id, values)
        connection.execute(update(Document).where(Document.id == claim.document_id).values(values))
        note_ended(connection, [claim.document_id])
        return True


@retried
def render_again(db: Database, claim: PageClaim, asked: Sequence[TaskClaim] | None = None) -> bool:
    """The page's image is gone from the store: its document goes back to ingest, which renders it again.

    Where retention had freed it, nothing has failed: those of the claim's tasks that `asked` for it (all, if None) wait
    for the new image, no attempt is counted, and this is True. The document's other freed pages wait likewise, else
    each would be claimed in vain before its image is there. A claim that was lost asks for nothing. A document that is
    on its way, but for a batch that is paused, goes on its way for this one.
    """
    with db.write() as connection:
        leased = held_tasks(connection, [claim])
        held_ids = {task.task_id for task in claim.tasks if (task.task_id, task.token) in leased}
        if not held_ids:
            return False
        is_left = sa.and_(Document.state == DocumentState.PENDING, ~is_batch_running(Document))
        asking = select(PageTask.batch_id).join(Batch, Batch.id == PageTask.batch_id).where(PageTask.id.in_(held_ids))
        is_held_up = sa.case((Batch.state == BatchState.RUNNING, 0), else_=1)  # by a pause, with all that waits for it
        connection.execute(
            update(Document)
            .where(Document.id == claim.document_id, sa.or_(Document.state == DocumentState.READY, is_left))
            .values(
                state=DocumentState.PENDING,
                batch_id=asking.order_by(is_held_up, PageTask.id).limit(1).scalar_subquery(),
                enqueued_at=None,
                next_attempt_at=0.0,
                finished_at=None,
            )
        )
        was_freed = connection.scalar(select(Page.image_freed_at).where(Page.id == claim.page_id)) is not None
        lost = (Page.id == claim.page_id, Page.image_freed_at.is_(None))
        connection.execute(update(Page).where(*lost).values(image_freed_at=utc_now()))
        document = select(Document.id).where(Document.id == claim.document_id, is_open(Document))
        if not was_freed or connection.scalar(document) is None:
            return False
        waiting_ids = {task.task_id for task in (claim.tasks if asked is None else asked)}
        held = PageTask.id.in_(waiting_ids & held_ids)
        history = select(
            PageTask.id,
            PageTask.token,
            PageTask.owner,
            sa.literal("its image was freed; it is rendered again"),
            PageTask.batch_id,
            PageTask.leased_at,
        )
        columns = ["task_id", "token", "worker", "error", "batch_id", "started_at"]
        connection.execute(insert(TaskAttempt).from_select(columns, history.where(held)))
        waiting = {"state": TaskState.PENDING, "owner": None, "lease_until": None, "enqueued_at": None}
        until = db.now(connection) + _RENDER_SECONDS
        connection.execute(update(PageTask).where(held).values(**waiting, next_attempt_at=until))
        freed = select(Page.id).where(Page.document_id == claim.document_id, Page.image_freed_at.is_not(None))
        others = select(PageTask.id).where(PageTask.page_id.in_(freed), PageTask.state == TaskState.PENDING)
        others = others.where(PageTask.next_attempt_at <= db.clock())  # else each reader of them writes them all again
        free = others.order_by(PageTask.id).with_for_update(skip_locked=True).cte("others")
        later = update(PageTask).where(PageTask.id.in_(select(free.c.id)))
        connection.execute(later.values(enqueued_at=None, next_attempt_at=until))
        return True


def _holds_document(connection: Connection, claim: DocumentClaim) -> bool:
    return connection.scalar(storing.held_document(), claim.held) is not None
