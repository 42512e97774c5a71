"""How long a page takes in each stage: into the histogram, and as a span of the page's trace where traces are on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pipeline.store.claims import DocumentClaim, PageClaim
from pipeline.telemetry import metrics, traces
from pipeline.telemetry.traces import TracedPage

if TYPE_CHECKING:
    from pipeline.documents.rasterize import PageFailure
    from pipeline.documents.render_process import RasterizedPage


class stage:  # noqa: N801 - a context manager, used like a function
    """`with stage("read", claim): …`; where the claim itself is what takes time: `with stage("claim") as timed:
    claim = timed.claim = …`. A claim that found nothing is not counted."""

    __slots__ = ("_began", "_started", "claim", "name")

    def __init__(self, name: str, claim: PageClaim | None = None) -> None:
        self.name = name
        self.claim = claim

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        self._began = time.time() if traces.is_tracing() else 0.0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.claim is not None:
            seconds = time.perf_counter() - self._started
            metrics.observe("pagepack_stage_seconds", seconds, stage=self.name)
            if traces.is_tracing():
                reason = None if error is None else f"{type(error).__name__}: {error}"
                traces.record_span(self.name, traced(self.claim), self._began, self._began + seconds, reason)


def waited(claim: PageClaim) -> None:
    """The stage between the page's bell and its claim, by the database's clock."""
    if claim.waited_seconds is not None:
        metrics.observe("pagepack_stage_seconds", claim.waited_seconds, stage="wait")
        if traces.is_tracing():
            now = time.time()
            traces.record_span("wait", traced(claim), now - claim.waited_seconds, now)


def rasterizing(
    claim: DocumentClaim, pages: Iterator[RasterizedPage | PageFailure]
) -> Iterator[RasterizedPage | PageFailure]:
    """The same pages; times how long each is waited for."""
    started, began = time.perf_counter(), time.time()
    for page in pages:
        seconds = time.perf_counter() - started
        metrics.observe("pagepack_stage_seconds", seconds, stage="rasterize")
        if traces.is_tracing():
            about = TracedPage(claim.public_id, page.page_index + 1, claim.token)
            error = getattr(page, "error", None)
            traces.record_span(traces.ROOT, about, began, began + seconds, str(error) if error else None)
        yield page
        started, began = time.perf_counter(), time.time()


def traced(claim: PageClaim) -> TracedPage:
    return TracedPage(claim.document_public_id, claim.page_index + 1, claim.tasks[0].token)
