"""How long page images are kept: PAGEPACK_KEEP_IMAGES is `keep`, `until-read`, or a number of days.

An image is removed only where nothing waits for it: no task that is pending or leased, of any page that looks the same.
First it goes from the store, then `pages.image_freed_at` says so: a crash in between leaves a row that the next sweep
takes up again, and no image that no row knows. A later prompt finds the image freed, and its document is rendered again
(`pages.render_again`), which no page pays for with an attempt.

    page read ──free_read_images──►  freed  ──another prompt──►  rendered again  ──read──►  freed …
    sweep_images: what readers left behind (a crash, pages that nobody asked about), and days
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy import select, update
from sqlalchemy.orm import aliased

from pipeline.blobs.page_images import ImageStore, open_images
from pipeline.database.engine import Database
from pipeline.errors import PagepackError
from pipeline.settings import Settings
from pipeline.store.conditions import is_open
from schemas.columns import utc_now
from schemas.states import DocumentState
from schemas.tables import Document, Page, PageTask

log = logging.getLogger("pagepack.retention")

_IMAGES_A_STEP = 500


def free_read_images(db: Database, images: ImageStore, page_ids: Sequence[int]) -> int:
    """Remove the images of these pages where nothing waits for them any more; how many images went.

    For `until-read`, after a page is completed. What cannot be removed now is left to the sweep.
    """
    try:
        with db.read() as connection:
            chosen = select(Page.image_hash).where(Page.id.in_(page_ids), _is_kept(), _is_idle())
            hashes = connection.scalars(chosen.distinct()).all()
        return _free(db, images, hashes)
    except PagepackError as error:
        log.warning("page images were not freed, the sweep will: %s", error)
        return 0


def sweep_images(db: Database, settings: Settings, most_images: int = 10_000) -> int:
    """Remove what the settings keep no longer, the oldest first; how many images went.

    No more than about `most_images`, so that a call takes seconds; call it every minute or so. Documents that are still
    being rendered are left alone.

    Raises:
        Unavailable: database or store do not answer.
    """
    if settings.keep_images == "keep":
        return 0
    days = settings.keep_images_days
    is_old = sa.true() if days is None else Page.created_at < utc_now() - timedelta(days=days)
    is_ready = (
        select(Document.id).where(Document.id == Page.document_id, Document.state == DocumentState.READY).exists()
    )
    chosen = select(Page.image_hash).where(_is_kept(), is_old, is_ready, _is_idle()).order_by(Page.created_at)
    images, freed = open_images(settings), 0
    while freed < most_images:
        with db.read() as connection:
            hashes = connection.scalars(chosen.limit(_IMAGES_A_STEP)).all()
        if not hashes:
            break
        freed += _free(db, images, list(dict.fromkeys(hashes)))
    return freed


def _free(db: Database, images: ImageStore, hashes: Sequence[str | None]) -> int:
    gone = [image_hash for image_hash in hashes if image_hash is not None]
    images.delete_all(gone)
    if gone:
        with db.write() as connection:
            connection.execute(
                update(Page).where(Page.image_hash.in_(gone), _is_kept()).values(image_freed_at=utc_now())
            )
    return len(gone)


def _is_kept() -> sa.ColumnElement[bool]:
    return sa.and_(Page.image_hash.is_not(None), Page.image_freed_at.is_(None))


def _is_idle() -> sa.ColumnElement[bool]:
    """Whether no task waits for the image of the enclosing statement's `Page`, on whatever page it is."""
    alike = aliased(Page)
    waiting = (
        select(PageTask.id)
        .join(alike, alike.id == PageTask.page_id)
        .where(alike.image_hash == Page.image_hash, alike.image_freed_at.is_(None))
        .where(is_open(PageTask))
    )
    return ~waiting.correlate(Page).exists()
