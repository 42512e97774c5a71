"""Deaths of workers and servers that are lost: warnings in the log, and a metric; from a real host."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.database.engine import Database
from pipeline.settings import Settings
from tests.conftest import STOPS
from tests.postgres import PostgresServer
from tests.processes.test_watch import Samples, get, scrape
from tests.running import environment, free_port, processes_of, start_host, wait_until

RESTARTS = "pagepack_worker_restarts_total"
Host = Callable[..., tuple[Path, int]]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Starts `pagepack worker`; the file of its log, and the port of its metrics."""
    started: list[subprocess.Popen[Any]] = []

    def begin(home: Path, **variables: str) -> tuple[Path, int]:
        log, port = tmp_path / "host.log", free_port()
        own = {"PAGEPACK_LOG_FORMAT": "json", "PAGEPACK_METRICS_PORT": str(port), "PAGEPACK_INGEST_PROCESSES": "1"}
        process = start_host(home, environment("InstantEngine", **own, **variables), log)
        started.append(process)
        wait_until(lambda: "ready: read, ingest" in log.read_text())
        return log, port

    yield begin
    for process in started:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=600)


def worker(home: Path, role: str) -> psutil.Process:
    found = [one for one in processes_of(home) if one.name() == f"pagepack:{role}"]
    return min(found, key=lambda one: one.create_time())  # of ingest, the pool's are forked from it


def said(log: Path, *levels: str) -> list[str]:
    """What the host itself said at these levels."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [line["message"] for line in lines if line["logger"] == "pagepack.host" and line["level"] in levels]


def test_deaths_are_warnings_and_are_counted_by_role_and_cause(settings: Settings, db: Database, host: Host) -> None:
    log, port = host(settings.home)
    before = scrape(port)
    assert before[RESTARTS, "died,read"] == before[RESTARTS, "died,ingest"] == 0, "what begins with 1 has not risen"
    # Where nothing was read yet, "no page was read" must be a figure: without one its alert is silent.
    assert {before["pagepack_pages_total", outcome] for outcome in ("done", "reused", "failed")} == {0}
    assert before["pagepack_retries_total", ""] == before["pagepack_leases_lost_total", ""] == 0

    (of_pool,) = worker(settings.home, "ingest").children()  # Celery itself starts another; its words are heard
    of_pool.kill()
    wait_until(lambda: "signal 9" in log.read_text())
    lines = [json.loads(line) for line in log.read_text().splitlines() if "signal 9" in line]
    assert {line["level"] for line in lines} <= {"WARNING", "ERROR"}

    worker(settings.home, "read").kill()
    wait_until(lambda: scrape(port)[RESTARTS, "died,read"] == 1)
    wait_until(lambda: any(line.startswith("the read worker died (exit code -9)") for line in said(log, "WARNING")))
    wait_until(lambda: get(port, "/readyz")[0] == 200)
    for broker in processes_of(settings.home):  # the server, and the shell that guards it
        with suppress(psutil.NoSuchProcess):  # one ends with the other
            if any("broker.sock" in word for word in broker.cmdline()):
                broker.kill()
    wait_until(lambda: scrape(port).get((RESTARTS, "broker,read")) == 1)
    wait_until(lambda: "the embedded broker died; starting it again" in said(log, "WARNING"))
    after: Samples = scrape(port)
    assert after[RESTARTS, "broker,ingest"] == 1 and after[RESTARTS, "died,ingest"] == 0
    assert not any("died" in line for line in said(log, "INFO"))


@STOPS
def test_a_database_that_is_lost_is_a_warning_and_its_return_is_not(
    server_to_stop: PostgresServer, url_to_stop: str, broker: str, tmp_path: Path, host: Host
) -> None:
    log, _ = host(tmp_path / "home", PAGEPACK_BROKER_URL=broker, PAGEPACK_DATABASE_URL=url_to_stop)
    server_to_stop.stop()
    wait_until(lambda: any("did not answer" in line for line in said(log, "WARNING")))
    server_to_stop.start()
    wait_until(lambda: "all is back" in said(log, "INFO"))
    assert not any("did not answer" in line for line in said(log, "INFO"))
