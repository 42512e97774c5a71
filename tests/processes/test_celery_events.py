"""Celery's events: what Flower lives on, when they are asked for."""

from __future__ import annotations

import socket
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from pipeline.database.engine import Database
from pipeline.delivery.broker import make_app
from pipeline.settings import Settings
from tests.running import wait_until, write_pdf
from tests.worker_processes import broker, submit, workers
from workers.serve import node_name


@contextmanager
def listening(app: Celery) -> Iterator[Counter[tuple[str, str]]]:
    """Counts events by type and by the worker's role; each worker's name says its host."""
    seen: Counter[tuple[str, str]] = Counter()

    def take(event: dict[str, Any]) -> None:
        role, _, rest = str(event["hostname"]).removeprefix("pagepack.").partition("-")
        assert rest.endswith(f"@{socket.gethostname()}"), event
        seen[event["type"], role] += 1

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
                ("worker-heartbeat", "read"): 1,
                ("worker-heartbeat", "ingest"): 1,
                ("task-succeeded", "ingest"): 1,
                ("task-succeeded", "read"): 2,
            }
            wait_until(lambda: all(seen[key] >= number for key, number in wanted.items()))
            assert seen["task-succeeded", "read"] == 2


@pytest.mark.parametrize(
    ("role", "device", "name"),
    [
        ("read", None, "read-"),
        ("read", "0", "read-gpu0-"),
        ("read", "MIG-1a", "read-MIG-1a-"),
        ("ingest", None, "ingest-"),
    ],
)
def test_a_workers_name_says_its_gpu_and_host_and_is_its_own(
    monkeypatch: pytest.MonkeyPatch, role: str, device: str | None, name: str
) -> None:
    """Two on one host, for two homes perhaps, must not share an inbox; and a log line leads to the row in Flower."""
    monkeypatch.delenv("PAGEPACK_INTERNAL_DEVICE", raising=False)
    if device is not None:
        monkeypatch.setenv("PAGEPACK_INTERNAL_DEVICE", device)
    owners = [f"gpu7:{role}-{uuid.uuid4().hex}/" for _ in range(2)]
    names = [node_name(role, owner) for owner in owners]
    assert names == [f"pagepack.{name}{owner[-9:-1]}@{socket.gethostname()}" for owner in owners]
