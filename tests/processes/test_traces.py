"""Traces of real workers, as a real OTLP/HTTP receiver gets them."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from pipeline.database.engine import Database
from pipeline.settings import Settings
from pipeline.telemetry import traces
from pipeline.telemetry.traces import TracedPage
from tests.running import wait_until, write_pdf
from tests.worker_processes import broker, submit, workers


@dataclass
class Receiver:
    """What was posted to /v1/traces."""

    port: int = 0
    spans: list[Any] = field(default_factory=list)
    services: set[str] = field(default_factory=set)

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
            self.services.add(about["service.name"])
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)

    @property
    def environment(self) -> dict[str, str]:
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}"}


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            receiver.take(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield receiver
        server.shutdown()


def value(span: Any, key: str) -> Any:
    found = {attribute.key: attribute.value for attribute in span.attributes}[f"pagepack.{key}"]
    return found.string_value or found.int_value


@pytest.fixture
def fresh() -> Iterator[None]:
    """This process traces nothing before and after."""
    yield
    traces.stop_traces()
    traces._is_on = False


def test_a_pages_spans_of_two_processes_are_one_trace(settings: Settings, db: Database, tmp_path: Path) -> None:
    folder = write_pdf(tmp_path / "docs" / "a.pdf", 3).parent

    def is_done() -> bool:
        with db.read() as connection:
            answers: int = connection.exec_driver_sql("SELECT count(*) FROM current_answers").scalar_one()
            return answers == 3

    with (
        receiving() as receiver,
        broker(settings.home) as url,
        workers(settings, url, "ingest", "read", **receiver.environment) as running,
    ):
        submit(db, url, settings, folder)
        wait_until(is_done)
        for worker in running.values():
            worker.stop()  # which sends what waits: else a batch goes out every five seconds
    with db.read() as connection:
        document_id = connection.exec_driver_sql("SELECT public_id FROM documents").scalar()
    assert receiver.services == {"pagepack"}
    for number in (1, 2, 3):
        trace_id, root_id = (
            part.to_bytes(size) for part, size in zip(TracedPage(document_id, number).ids(), (16, 8), strict=True)
        )
        spans = {span.name: span for span in receiver.spans if span.trace_id == trace_id}
        assert set(spans) == {"rasterize", "wait", "claim", "load", "read", "store"}
        assert spans["rasterize"].span_id == root_id and spans["rasterize"].parent_span_id == b""
        assert {span.parent_span_id for name, span in spans.items() if name != "rasterize"} == {root_id}
        assert len({span.span_id for span in spans.values()}) == 6
        in_order = [spans[name] for name in ("rasterize", "claim", "load", "read", "store")]
        starts = [span.start_time_unix_nano for span in in_order]
        assert starts == sorted(starts)
        assert all(span.end_time_unix_nano >= span.start_time_unix_nano for span in spans.values())
        assert {value(span, "document_id") for span in spans.values()} == {document_id}
        assert {value(span, "page_number") for span in spans.values()} == {number}
        assert value(spans["read"], "attempt") == 1
    assert len(receiver.spans) == 18


def test_a_ratio_keeps_or_drops_a_page_as_a_whole(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as receiver:
        for name, setting in receiver.environment.items():
            monkeypatch.setenv(name, setting)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
        traces.set_up_traces()
        for number in range(1, 101):
            for name in ("read", "rasterize", "store"):
                error = "redis://:s3cret@host is away" if name == "store" else None
                traces.record_span(name, TracedPage("0195-a", number), 1.0, 2.0, error)
        traces.stop_traces()
    pages = [value(span, "page_number") for span in receiver.spans]
    assert 25 < len(set(pages)) < 75 and all(pages.count(number) == 3 for number in pages)
    assert {span.status.message for span in receiver.spans} == {"", "redis://:***@host is away"}


def test_a_collector_that_is_away_does_not_hold_up_the_end(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    traces.set_up_traces()
    for number in range(3_000):
        traces.record_span("read", TracedPage("0195-a", number), 1.0, 2.0)
    started = time.monotonic()
    traces.stop_traces()
    assert time.monotonic() - started < 60, "the exporter alone would try for longer"


def test_traces_are_off_without_an_endpoint_and_a_missing_package_is_said(
    fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    traces.set_up_traces()
    assert not traces.is_tracing() and not caplog.records
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/v1/traces")
    traces.set_up_traces()
    assert traces.is_tracing()
    monkeypatch.setattr(traces, "_is_installed", lambda: False)
    traces.set_up_traces()
    assert not traces.is_tracing() and "pagepack[otel]" in caplog.text
