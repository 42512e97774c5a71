"""A batch followed on the terminal until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.database.engine import Database
from pipeline.database.open import open_database
from pipeline.query.batch_status import asked_prompts, find_batch
from pipeline.settings import Settings
from pipeline.store.batches import OpenBatch
from pipeline.store.progress import batch_state, progress
from pipeline.store.worker_registry import why_nobody_reads, workers
from schemas.tables import BatchState

if TYPE_CHECKING:
    from pipeline.cli.progress_bar import ProgressBar


def follow_batch(settings: Settings, batch: OpenBatch, bar: ProgressBar, is_stopping: Callable[[], bool]) -> bool:
    """Show a batch's progress until it ends; False where the user left first."""
    db = open_database(settings, readonly=True)
    try:
        return follow(db, batch, bar, is_stopping) is not None
    finally:
        db.dispose()


_LOOK_SECONDS = 1.0
_ALONE_SECONDS = 15.0


def follow(db: Database, batch: OpenBatch, bar: ProgressBar, is_stopping: Callable[[], bool]) -> str | None:
    """Show a batch's progress until it ends, and say so if nobody reads; its last state, None where told to stop."""
    asked, prompts = find_batch(db, batch.public_id), asked_prompts(db, batch.id)
    alone_since = time.monotonic()
    next_count = 0.0
    while True:
        state = batch_state(db, batch.id)
        is_over = state in (BatchState.FINISHED, BatchState.CANCELLED)
        started = time.monotonic()
        if is_over or started >= next_count:
            bar.show(progress(db, batch.id), None, True)
            next_count = started + 20 * (time.monotonic() - started)  # counting a large batch must not become the work
        if is_over:
            return state
        if is_stopping():
            return None
        there = [worker for worker in workers(db) if worker.role != "run"]
        why = why_nobody_reads(there, asked.engine, asked.model, prompts)
        if why is None:
            alone_since = time.monotonic()
        elif time.monotonic() - alone_since > _ALONE_SECONDS:
            bar.say(why)
            alone_since = time.monotonic() + 300 - _ALONE_SECONDS
        time.sleep(_LOOK_SECONDS)
