"""What is served to Prometheus and to whoever probes: over real HTTP, from real workers' own figures."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.database.engine import Database
from pipeline.delivery.broker import make_app
from pipeline.errors import UsageError
from pipeline.settings import Settings
from pipeline.supervisor.health import Pulse, serve
from pipeline.supervisor.queue_metrics import Backlog
from pipeline.telemetry.metrics import METRICS, collecting, is_counting
from tests.conftest import Archive
from tests.running import ROOT, wait_until, write_pdf
from tests.worker_processes import broker, submit, workers

Samples = dict[tuple[str, str], float]


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=120) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def scrape(port: int) -> Samples:
    """(name, its only label's value or "") → value."""
    status, body = get(port, "/metrics")
    assert status == 200, body
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


def well() -> dict[str, str]:
    return {}


def test_real_workers_are_added_up_and_what_they_counted_outlives_them(
    settings: Settings, db: Database, tmp_path: Path
) -> None:
    folder = write_pdf(tmp_path / "docs" / "a.pdf", 5, dark=2).parent
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 and no more")
    with collecting() as figures, broker(settings.home) as url:
        backlog = Backlog(db, make_app(url), settings.lease_seconds)
        with serve(
            "127.0.0.1", 0, is_alive=well, readiness=backlog.problems, folder=figures, extra_metrics=[backlog]
        ) as port:
            assert get(port, "/readyz") == (200, '{"ok": true}\n')
            variables = {"PAGEPACK_LEASE_SECONDS": "1"}  # a heartbeat four times a second
            with workers(settings, url, "ingest", "read", engine="FailingEngine", **variables):
                submit(db, url, settings, folder)
                wait_until(lambda: scrape(port).get(("pagepack_pages_total", "done")) == 4)
                wait_until(lambda: scrape(port).get(("pagepack_failures_total", "engine")) == 1)
                now = scrape(port)
                assert now["pagepack_documents_total", "rendered"] == 1
                assert now["pagepack_documents_total", "rejected"] == 1
                assert now["pagepack_failures_total", "damaged"] == 1
                assert now["pagepack_pages_total", "failed"] == 1
                for stage in ("rasterize", "wait", "claim", "load", "read", "store"):
                    assert now["pagepack_stage_seconds_count", stage] == 5, stage
                assert 0 < now["pagepack_stage_seconds_sum", "rasterize"] < 30
                wait_until(lambda: ("pagepack_leases", "") in scrape(port))
            at_last = {  # of the database and the broker, whose figures are kept for five seconds
                ("pagepack_waiting_pages", ""): 0,
                ("pagepack_leased_pages", ""): 0,
                ("pagepack_failed_pages", "engine"): 1,
                ("pagepack_queue_depth", "pagepack.read"): 0,
            }
            wait_until(lambda: at_last.items() <= scrape(port).items())
            after = scrape(port)
            assert after["pagepack_pages_total", "done"] == 4
            assert ("pagepack_leases", "") not in after, "a gauge of a process that is gone"
            assert {name for name, _ in after} <= served_names(), "an undocumented metric"
    assert not figures.exists() and not is_counting()


def served_names() -> set[str]:
    """Sample names of the documented metrics."""
    parts = ("_bucket", "_count", "_sum")
    histograms = {name + part for name, metric in METRICS.items() if metric.kind == "histogram" for part in parts}
    created = {name.removesuffix("_total") + "_created" for name in METRICS}
    return set(METRICS) | histograms | created


def test_a_file_that_was_just_made_costs_no_figure() -> None:
    """A process opens its file and makes room in it in two steps; it may be killed between them."""
    with collecting() as figures, serve("127.0.0.1", 0, is_alive=well, readiness=well, folder=figures) as port:
        count = [
            sys.executable,
            "-c",
            "from pipeline.telemetry.metrics import count; count('pagepack_pages_total', outcome='done')",
        ]
        subprocess.run(count, check=True, cwd=ROOT)
        (figures / "counter_1.db").touch()
        assert scrape(port)["pagepack_pages_total", "done"] == 1


def test_a_broker_that_is_away_costs_its_own_figures_only(settings: Settings, archive: Archive) -> None:
    archive.ingest(archive.see("/in/a.pdf") or 0, ["x", "y"])
    archive.see("/in/b.pdf")
    app = make_app(f"redis+socket://{settings.home}/nobody.sock")
    backlog = Backlog(archive.db, app, settings.lease_seconds)
    with (
        collecting() as figures,
        serve(
            "127.0.0.1", 0, is_alive=well, readiness=backlog.problems, folder=figures, extra_metrics=[backlog]
        ) as port,
    ):
        now = scrape(port)
        assert now["pagepack_reachable", "database"] == 1 and now["pagepack_reachable", "broker"] == 0
        assert now["pagepack_waiting_pages", ""] == 2 and now["pagepack_waiting_documents", ""] == 1
        assert not any(name == "pagepack_queue_depth" for name, _ in now)
        status, body = get(port, "/readyz")
        assert status == 503 and list(json.loads(body)["wrong"]) == ["broker"]


def test_a_silent_database_does_not_hold_up_a_scrape(settings: Settings, db: Database) -> None:
    is_over = threading.Event()

    class Silent(Database):
        def read(self):  # type: ignore[no-untyped-def]
            is_over.wait()

    backlog = Backlog(Silent(db.engine, "silent"), make_app("redis://127.0.0.1:1/0"), 60)
    assert "did not answer" in backlog.problems()["database"]
    is_over.set()


def test_health_follows_the_loop_and_names_what_is_wrong(tmp_path: Path) -> None:
    pulse = Pulse()
    loading = {"read worker": "its engine is loading, at redis://:s3cret@host/0"}
    with serve("127.0.0.1", 0, is_alive=pulse.problems, readiness=lambda: loading, folder=tmp_path) as port:
        assert get(port, "/healthz")[0] == 200
        pulse._ticked_at -= 3_600
        status, body = get(port, "/healthz")
        assert status == 503 and re.fullmatch(r"no tick for 36\d\d s", json.loads(body)["wrong"]["loop"])
        pulse.tick()
        assert get(port, "/healthz")[0] == 200
        status, body = get(port, "/readyz")
        assert status == 503 and "loading" in body and "s3cret" not in body and body.count("\n") == 1
        assert get(port, "/etc/passwd")[0] == 404
    with pytest.raises(urllib.error.URLError):
        get(port, "/healthz")


def test_an_address_that_cannot_be_had_is_a_usage_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for host in ("127.0.0.1", "no.such.host.invalid"):
            with (
                pytest.raises(UsageError, match="PAGEPACK_METRICS_PORT"),
                serve(host, port, is_alive=well, readiness=well, folder=tmp_path),
            ):
                pass


def test_gauges_of_the_dead_go_and_engines_counters_rise_through_a_restart(tmp_path: Path) -> None:
    """Two processes one after the other, each with an engine that begins to count anew."""
    code = (
        "from pipeline.telemetry.metrics import EngineFigures\n"
        "figures = EngineFigures()\n"
        "figures.take({'steps': 3.0, 'running': 2.0, 'cache_use': 0.5, 'seconds': 1.0})\n"
        "figures.take({'steps': 5.0, 'running': 1.0, 'cache_use': 0.25, 'seconds': 2.0})\n"
    )
    with (
        collecting() as figures,
        serve("127.0.0.1", 0, is_alive=well, readiness=well, folder=figures) as port,
    ):
        for _ in range(2):
            subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
        now = scrape(port)
    assert now["pagepack_engine_steps_total", ""] == 10
    assert not {"pagepack_engine_running", "pagepack_engine_cache_use"} & {name for name, _ in now}


def test_without_a_folder_counting_writes_nothing_and_imports_nothing(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pipeline.telemetry.metrics import count, observe\n"
        "count('pagepack_pages_total', outcome='done')\n"
        "observe('pagepack_stage_seconds', 1.0, stage='read')\n"
        "assert 'prometheus_client' not in sys.modules\n"
    )
    environment = {name: value for name, value in os.environ.items() if "PROMETHEUS" not in name}
    environment["PYTHONPATH"] = str(ROOT)
    subprocess.run([sys.executable, "-P", "-c", code], check=True, cwd=tmp_path, env=environment)
    assert not list(tmp_path.iterdir())
    shutil.rmtree(tmp_path)


def test_names_follow_the_conventions() -> None:
    for name, metric in METRICS.items():
        assert name.startswith("pagepack_")
        assert (metric.kind == "counter") == name.endswith("_total"), name
        assert set(metric.labels) <= {"outcome", "kind", "stage", "cause", "queue", "role", "part"}
