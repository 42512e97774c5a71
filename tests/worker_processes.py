"""Real workers for tests: `python -m workers ROLE` as a supervisor starts it, on a broker of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.database.engine import Database
from pipeline.delivery.broker import enqueue_documents, enqueue_pages, make_app
from pipeline.delivery.embedded_broker import EmbeddedBroker
from pipeline.ingest.register import register
from pipeline.settings import Settings
from pipeline.store.batches import open_batch
from pipeline.store.due import take_due_documents, take_due_pages
from pipeline.store.progress import what_is_open
from schemas.prompts import OCR
from tests.running import ROOT, start_worker, variables_around, wait_until


@dataclass
class Worker:
    process: subprocess.Popen[Any]
    log: Path

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=600)


@contextmanager
def broker(home: Path) -> Iterator[str]:
    """A Valkey server; its URL."""
    server = EmbeddedBroker(home)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


@contextmanager
def workers(
    settings: Settings, url: str, *roles: str, engine: str = "InstantEngine", **variables: str
) -> Iterator[dict[str, Worker]]:
    """One process a role, stopped at the end; PAGEPACK_… and other variables as given."""
    environment = variables_around() | {
        "PYTHONPATH": str(ROOT),
        "PAGEPACK_HOME": str(settings.home),
        "PAGEPACK_BROKER_URL": url,
        "PAGEPACK_INTERNAL_ENGINE": f"tests.stand_ins:{engine}",
        "PAGEPACK_INGEST_PROCESSES": "1",
    }
    started: dict[str, Worker] = {}
    try:
        for role in roles:
            log = settings.home / f"{role}.log"
            own = {"PAGEPACK_INTERNAL_OWNER": f"{role}-of-a-test/"}
            started[role] = Worker(start_worker(role, environment | own | variables, log), log)
        yield started
    finally:
        for worker in started.values():
            if worker.process.poll() is None:
                os.killpg(worker.process.pid, signal.SIGTERM)
        for worker in started.values():
            try:
                worker.process.wait(timeout=600)
            except subprocess.TimeoutExpired:
                os.killpg(worker.process.pid, signal.SIGKILL)
                worker.process.wait()


def submit(db: Database, url: str, settings: Settings, folder: Path) -> None:
    """Register a folder's files, enqueue its documents, and their pages when they are drawn."""
    batch = open_batch(db, key="b", name="b", prompts=[OCR], engine="instant", model="instant/1", text_layer="keep")
    for _ in register(db, batch, [folder], settings, forget_gone=False, is_stopping=lambda: False):
        pass
    app = make_app(url)
    enqueue_documents(app, take_due_documents(db, batch.id, limit=100, lost_after=60.0))
    wait_until(lambda: not what_is_open(db, batch.id).documents)
    enqueue_pages(app, take_due_pages(db, batch.id, limit=100, lost_after=60.0))
