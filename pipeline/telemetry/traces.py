"""Traces of a page's life, for whoever runs an OpenTelemetry collector: the extra `otel`.

    rasterize ─┬─ wait      from the wake-up message to the claim
               ├─ claim
               ├─ load
               ├─ read
               └─ store

Nothing travels in messages: a trace's id is made of the document's id and the page's number, in whatever process a span
is made. Rasterizing is the root; its span's id is made of the same, so that the others know their parent.

On where OTEL_EXPORTER_OTLP_ENDPOINT (or …_TRACES_ENDPOINT) is set. The other OTEL_* variables hold too, the sampler's
among them: a ratio keeps or drops a page's trace as a whole.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import redacted

if TYPE_CHECKING:
    from pipeline.telemetry.otlp import Exporter


log = logging.getLogger("pagepack.traces")

ROOT = "rasterize"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_is_on = False
_lock = threading.Lock()
_exporter: Exporter | None = None


@dataclass(frozen=True, slots=True)
class TracedPage:
    """The page that a span is about; `attempt` is the token of its claim."""

    document_id: str  # the public one
    page_number: int
    attempt: int | None = None

    def ids(self) -> tuple[int, int]:
        """Of its trace and of the root span: 16 and 8 bytes of one hash."""
        digest = hashlib.sha256(f"{self.document_id}/{self.page_number}".encode()).digest()
        return int.from_bytes(digest[:16]), int.from_bytes(digest[16:24])


def set_up_traces() -> None:
    """Look whether traces are asked for and can be made. Imports nothing: what exports is made at the first span."""
    global _is_on
    is_asked = any(os.environ.get(name) for name in _ENDPOINTS) and os.environ.get("OTEL_SDK_DISABLED") != "true"
    _is_on = is_asked and _is_installed()
    if is_asked and not _is_on:
        log.warning("an OTLP endpoint is set, but the exporter is not installed: pip install 'pagepack[otel]'")


def is_tracing() -> bool:
    return _is_on


def record_span(
    name: str, page: TracedPage, start_seconds: float, end_seconds: float, error: str | None = None, **attributes: Any
) -> None:
    """Export a span that is over; times are seconds since the epoch, attributes that are None are left out."""
    if _is_on:
        about = {"document_id": page.document_id, "page_number": page.page_number, "attempt": page.attempt}
        attributes = {f"pagepack.{key}": value for key, value in (about | attributes).items() if value is not None}
        reason = redacted(error) if error is not None else None
        _own().record(name, page.ids(), name == ROOT, (start_seconds, end_seconds), attributes, reason)


def stop_traces() -> None:
    """Send what waits; call it where a process ends, for a forked one runs no exit handlers."""
    global _exporter
    exporter, _exporter = _exporter, None
    if exporter is not None and exporter.pid == os.getpid():
        exporter.close()


def _own() -> Exporter:
    """This process's own: an exporter's thread does not survive a fork."""
    global _exporter
    with _lock:
        if _exporter is None or _exporter.pid != os.getpid():
            from pipeline.telemetry.otlp import Exporter

            _exporter = Exporter()
        return _exporter


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:  # not even a parent of it
        return False
