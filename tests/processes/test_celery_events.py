"""Celery's events: what Flower lives on, when they are asked for."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery import Celery

from pipeline.database.engine import Database
from pipeline.delivery.broker import make_app
from pipeline.settings import Settings
from pipeline.store.progress import progress
from tests.running import wait_until, write_pdf
from tests.worker_processes import broker, submit, workers


@contextmanager
def listening(app: Celery) -> Iterator[Counter[tuple[str, str]]]:
    """Counts events by type and by the part of the worker's name that says its role."""
    seen: Counter[tuple[str, str]] = Counter()

    def take(event: dict[str, Any]) -> None:
        seen[event["type"], str(event["hostname"]).partition("@")[0]] += 1

    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": take})
        thread = threading.Thread(target=receiver.capture, daemon=True)
        thread.start()
        wait_until(lambda: sum(seen.values()) > 0)  # a heartbeat: it listens
        yield seen
        receiver.should_stop = True
        thread.join()


def test_workers_send_heartbeats_and_tasks_and_answer_a_ping(settings: Settings, db: Database, tmp_path: Path) -> None:
    folder = write_pdf(tmp_path / "docs" / "a.pdf", 2).parent
    with (
        broker(settings.home) as url,
        workers(settings, url, "ingest", "read", PAGEPACK_CELERY_EVENTS="true"),
    ):
        app = make_app(url, events=True)
        wait_until(lambda: len(app.control.ping(timeout=5, limit=2)) == 2)
        with listening(app) as seen:
            submit(db, url, settings, folder)
            wanted = {
                ("worker-heartbeat", "pagepack.read"): 1,
                ("worker-heartbeat", "pagepack.ingest"): 1,
                ("task-succeeded", "pagepack.ingest"): 1,
                ("task-succeeded", "pagepack.read"): 2,
            }
            wait_until(lambda: all(seen[key] >= number for key, number in wanted.items()))
            assert seen["task-succeeded", "pagepack.read"] == 2


def test_without_the_setting_workers_say_and_answer_nothing(settings: Settings, db: Database, tmp_path: Path) -> None:
    folder = write_pdf(tmp_path / "docs" / "a.pdf", 1).parent
    with broker(settings.home) as url, workers(settings, url, "ingest", "read"):
        submit(db, url, settings, folder)
        wait_until(lambda: progress(db, 1).tasks_done == 1)  # they take messages
        app = make_app(url, events=True)
        assert app.control.ping(timeout=1.5) == []
