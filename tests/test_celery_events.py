"""Celery's events: what Flower lives on, when they are asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.broker import make_app
from pipeline.database import Database
from pipeline.settings import Settings
from tests.worker_processes import broker, draw_pdf, submit, wait_until, workers


def test_workers_send_heartbeats_and_tasks_and_answer_a_ping(settings: Settings, db: Database, tmp_path: Path) -> None:
    folder = draw_pdf(tmp_path / "docs" / "a.pdf", 2).parent
    with (
        broker(settings.home) as url,
        workers(settings, url, "ingest", "read", PAGEPACK_CELERY_EVENTS="true") as running,
    ):
        app = make_app(url, events=True)
        wait_until(lambda: running["read"].is_ready())
        wait_until(lambda: len(app.control.ping(timeout=0.5)) == 2)
        seen: Counter[tuple[str, str]] = Counter()

        def take(event: dict[str, Any]) -> None:
            seen[event["type"], str(event["hostname"]).partition("@")[0]] += 1

        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": take})
            submitted = False
            wanted = {
                ("worker-heartbeat", "pagepack.read"): 1,
                ("worker-heartbeat", "pagepack.ingest"): 1,
                ("task-succeeded", "pagepack.ingest"): 1,
                ("task-succeeded", "pagepack.read"): 2,
            }

            def is_complete() -> bool:
                nonlocal submitted
                try:
                    for _ in receiver.itercapture(limit=1, timeout=1, wakeup=False):
                        pass
                except TimeoutError:
                    pass
                if not submitted:  # only now does the receiver listen
                    submit(db, url, settings, folder)
                    submitted = True
                return all(seen[key] >= number for key, number in wanted.items())

            wait_until(is_complete)
            assert seen["task-succeeded", "pagepack.read"] == 2


def test_without_the_setting_workers_say_and_answer_nothing(settings: Settings, db: Database) -> None:
    with broker(settings.home) as url, workers(settings, url, "read") as running:
        wait_until(lambda: running["read"].is_ready())
        app = make_app(url, events=True)
        assert app.control.ping(timeout=1.5) == []
