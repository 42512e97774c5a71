"""A document whose pages all have their rows stays ready, whatever becomes of drawing it again.

Page images are freed, or lost; a later prompt sends the document back to ingest, in the name of one batch. Where
nothing comes of that (the file is gone, or kills its worker; the batch is cancelled), what waits for an image fails and
says why. The pages, their answers, and what other batches say of them stay.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, select, update

from schemas.columns import server_now
from schemas.states import DocumentState, TaskState
from schemas.tables import Document, Page, PageTask


def drawn_before(connection: Connection, documents: Collection[int]) -> set[int]:
    """Those of these documents whose pages all have their rows."""
    stored = select(sa.func.count(Page.id)).where(Page.document_id == Document.id)
    rows = stored.where(Page.page_index < Document.page_count).correlate(Document).scalar_subquery()
    whole = (Document.id.in_(documents), Document.page_count > 0, rows == Document.page_count)
    return set(connection.scalars(select(Document.id).where(*whole)))


def fail_undrawn(connection: Connection, document_id: int, cause: str, reason: str) -> None:
    """What waits for those images of a document that are not there fails."""
    undrawn = select(Page.id).where(Page.document_id == document_id, Page.image_freed_at.is_not(None))
    waiting = (PageTask.page_id.in_(undrawn), PageTask.state == TaskState.PENDING)
    locked = select(PageTask.id).where(*waiting).order_by(PageTask.id).with_for_update().cte("locked")
    failed = {
        "state": TaskState.FAILED,
        "cause": cause,
        "reason": reason,
        "enqueued_at": None,
        "finished_at": server_now(),
    }
    connection.execute(update(PageTask).where(PageTask.id.in_(select(locked.c.id))).values(failed))


def ended(connection: Connection, document_id: int, values: dict[str, Any]) -> dict[str, Any]:
    """The values that end a document; where they would reject or fail one that was drawn before, it is ready."""
    if values["state"] not in (DocumentState.REJECTED, DocumentState.FAILED):
        return values
    if document_id not in drawn_before(connection, [document_id]):
        return values
    fail_undrawn(connection, document_id, values["cause"], values["reason"])
    fresh = {"attempts": 0, "crashes": 0}  # for whoever asks next
    return values | fresh | {"state": DocumentState.READY, "cause": None, "reason": None}
