"""Files become rows of a batch, one request after the other, while whoever asked waits for a while.

As `pagepack submit` does it, in a thread of the server. Where the server ends in the middle, the batch says that not
all of its files were seen, and the same request again goes on.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.database.open import open_database
from pipeline.errors import PagepackError
from pipeline.ingest.register import register_all
from pipeline.ingest.selection import ALL_FILES
from pipeline.ingest.submission import check_paths, open_named_batch
from pipeline.settings import Settings
from pipeline.store.batches import OpenBatch
from pipeline.supervisor.engine_choice import asked_model
from schemas.prompts import Prompt

log = logging.getLogger("pagepack.web")

_MOST_WAITING = 100


class Busy(PagepackError):
    """Too much is to be registered already."""

    cause = "busy"


@dataclass(slots=True)
class _Job:
    batch: OpenBatch
    paths: Sequence[Path]
    is_named: bool
    done: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None


class Registrar:
    """Its thread begins with the first job, and ends with the process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._jobs: queue.Queue[_Job] = queue.Queue(_MOST_WAITING)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(
        self, paths: Sequence[Path], prompts: Sequence[Prompt], name: str | None, wait_seconds: float
    ) -> tuple[OpenBatch, bool]:
        """The batch of the paths, and whether all its files are seen by now.

        Raises:
            NothingToDo: no file is there. UsageError: settings or names that do not fit. Busy. Unavailable: the
            database is away, or the disk is full.
        """
        check_paths(paths, self._settings)
        engine, model = asked_model(self._settings, prompts)
        db = open_database(self._settings)
        try:
            batch = open_named_batch(db, self._settings, paths, prompts, name, engine, model)
        finally:
            db.dispose()
        job = _Job(batch, paths, name is not None)
        try:
            self._jobs.put_nowait(job)
        except queue.Full as error:
            raise Busy(f"{_MOST_WAITING} batches wait to be registered; send it again later") from error
        self._start()
        is_done = job.done.wait(wait_seconds)
        if job.error is not None:
            raise job.error
        return batch, is_done

    def _start(self) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="registrar", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                self._register(job)
            except Exception as error:
                job.error = error
                log.warning("batch %s: %s", job.batch.public_id, error, exc_info=not isinstance(error, PagepackError))
            job.done.set()

    def _register(self, job: _Job) -> None:
        never: Callable[[], bool] = lambda: False  # noqa: E731
        db = open_database(self._settings)
        try:
            for _ in register_all(db, job.batch, job.paths, self._settings, ALL_FILES, not job.is_named, never):
                pass
        finally:
            db.dispose()
