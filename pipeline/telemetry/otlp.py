"""Spans over OTLP/HTTP, with ids that are given, not drawn. Imported only where traces are on: it needs the extra."""

from __future__ import annotations

import os
import threading
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags

_LAST_SECONDS = 3.0


class Exporter:
    """The tracer provider of one process; its own thread sends in batches, and drops where the collector is away."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._ids = _GivenIds()
        name = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "pagepack"}
        self._provider = TracerProvider(id_generator=self._ids, resource=Resource.create(name), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("pagepack")

    def record(
        self,
        name: str,
        ids: tuple[int, int],
        is_root: bool,
        seconds: tuple[float, float],
        attributes: dict[str, Any],
        error: str | None,
    ) -> None:
        """`ids` are those of the trace and of its root span; `seconds` are start and end, since the epoch."""
        # The sampler is asked about the trace: below a parent that says "sampled" it would keep every span.
        if self._provider.sampler.should_sample(None, ids[0], name).decision is not Decision.RECORD_AND_SAMPLE:
            return
        start, end = (int(moment * 1e9) for moment in seconds)
        if is_root:
            self._ids.next.ids = ids
            span = self._tracer.start_span(name, start_time=start, attributes=attributes)
        else:
            root = SpanContext(*ids, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
            parent = trace.set_span_in_context(NonRecordingSpan(root))
            span = self._tracer.start_span(name, parent, start_time=start, attributes=attributes)
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(end_time=max(start, end))

    def close(self) -> None:
        """Send what waits, if that is soon done: a collector that is away would hold up the end for half a minute."""
        thread = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        thread.start()
        thread.join(_LAST_SECONDS)


class _GivenIds(RandomIdGenerator):
    """The ids of the next root span in this thread; all other spans draw theirs."""

    def __init__(self) -> None:
        self.next = threading.local()

    def generate_trace_id(self) -> int:
        return int(self.next.ids[0])  # asked for root spans only, and first

    def generate_span_id(self) -> int:
        given = getattr(self.next, "ids", None)
        self.next.ids = None
        return int(given[1]) if given else super().generate_span_id()

    def is_trace_id_random(self) -> bool:
        return True  # as good as: bytes of a hash
