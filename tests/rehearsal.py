"""A small batch by the store's own calls: its statements are compiled once, where all others are forked from.

The processes of a run of one page compile for 0.15 s of processor together. What is left out here is compiled when it
is needed, and what is rehearsed is in no database afterwards.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image

from pipeline.database.engine import Database
from pipeline.database.open import open_database
from pipeline.ingest.register import register_all
from pipeline.ingest.selection import ALL_FILES
from pipeline.ingest.submission import open_named_batch
from pipeline.settings import Settings
from pipeline.store.answers import ReadAnswer
from pipeline.store.attendance import attend, forget_the_dead, leave
from pipeline.store.backpressure import Room
from pipeline.store.batch_end import finish_batch, finish_batches
from pipeline.store.batches import OpenBatch
from pipeline.store.claims import claim_document, claim_pages
from pipeline.store.drawn_otherwise import files_drawn_for_another_model
from pipeline.store.due import forget_enqueued, take_due_documents, take_due_pages
from pipeline.store.fleet import workers
from pipeline.store.leases import Limits, expire, give_back, has_answered, holds_pages, renew_document
from pipeline.store.pages import NewPage, add_pages, finish_document, set_page_count
from pipeline.store.progress import batch_state, pages_in_hand, running_work, what_is_open
from pipeline.store.results import complete_pages
from pipeline.store.retention import sweep_images
from pipeline.store.task_counts import progress
from pipeline.store.worker_registry import dismiss, enlist, forget_silent, is_enlisted, still_there
from schemas.prompts import OCR
from tests.statements import compile_once

_OWNER, _MODEL, _LONG = "rehearsal/", "none", 60.0


def rehearse() -> None:
    """Engines that are made from now on, here and in what is forked, share what was compiled."""
    compile_once()
    with tempfile.TemporaryDirectory() as folder:
        settings, file = Settings(home=Path(folder)), Path(folder) / "a.png"
        Image.new("L", (8, 8)).save(file)
        db = open_database(settings, create=True)
        _begin(db, limits := Limits.of(settings))
        batch = open_named_batch(db, settings, [file], [OCR], None, "none", _MODEL)
        attend(db, batch.id, _OWNER, _LONG)
        for _ in register_all(db, batch, [file], settings, ALL_FILES, True, lambda: False):
            pass
        _look(db, batch, settings)
        _draw(db, batch)
        _read(db, batch, limits)
        _end(db, batch, settings, limits)
        db.dispose()


def _begin(db: Database, limits: Limits) -> None:
    give_back(db, "", reason="rehearsed", crashed=False, limits=limits)
    forget_enqueued(db)
    forget_the_dead(db)
    enlist(db, _OWNER, "read", 1, device=None, engine="none", model=_MODEL, prompts=None)
    assert still_there(db, _OWNER) and is_enlisted(db, _OWNER)


def _look(db: Database, batch: OpenBatch, settings: Settings) -> None:
    """As a supervisor does, tick after tick."""
    assert what_is_open(db, batch.id) and Room(db, settings.max_waiting_pages).is_ample(batch.id)
    batch_state(db, batch.id)
    progress(db, batch.id)
    workers(db)
    running_work(db, questions_only=True)
    files_drawn_for_another_model(db, batch.id)


def _draw(db: Database, batch: OpenBatch) -> None:
    [document_id] = take_due_documents(db, batch.id, limit=1, lost_after=_LONG)
    claim = claim_document(db, document_id, _OWNER, _LONG)
    assert claim is not None
    set_page_count(db, claim, 1)
    renew_document(db, claim, _LONG)
    add_pages(db, claim, [NewPage(0, "0" * 64, 8, 8)])
    finish_document(db, claim, 1)


def _read(db: Database, batch: OpenBatch, limits: Limits) -> None:
    [page_id] = take_due_pages(db, batch.id, limit=1, lost_after=_LONG)
    claim = claim_pages(db, [page_id], _OWNER, [_MODEL], _LONG, alone=set()).pages[page_id]
    assert holds_pages(db, _OWNER) and pages_in_hand(db, batch.id) == 1
    answer = ReadAnswer(engine="none", model=_MODEL, text="rehearsed", finish_reason="stop")
    complete_pages(db, _OWNER, [(claim, {task.task_id: answer for task in claim.tasks})], limits)
    assert has_answered(db, _OWNER)


def _end(db: Database, batch: OpenBatch, settings: Settings, limits: Limits) -> None:
    assert finish_batch(db, batch)
    finish_batches(db)
    sweep_images(db, settings)
    expire(db, limits, 0.0)
    forget_silent(db, _LONG)
    dismiss(db, _OWNER)
    leave(db, batch.id, _OWNER)
