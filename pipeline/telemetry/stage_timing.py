"""How long a page takes in each stage: into the histogram, and as a span of the page's trace where traces are on."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from pipeline.store.claims import PageClaim
from pipeline.telemetry import metrics, traces
from pipeline.telemetry.traces import TracedPage


class stage:  # noqa: N801 - a context manager, used like a function
    """`with stage("load", claim): …`, for one page or for several that take the same time.

    Where the claim itself is what takes time: `with stage("claim") as timed: timed.claims = …`. A claim that found
    nothing is not counted. Where no block holds all of it, `end` does what leaving the block does.
    """

    __slots__ = ("_began", "_started", "claims", "name")

    def __init__(self, name: str, *claims: PageClaim) -> None:
        self.name = name
        self.claims: Iterable[PageClaim] = claims
        self._started = time.perf_counter()
        self._began = time.time() if traces.is_tracing() else 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end(error)

    def end(self, error: BaseException | None = None) -> None:
        seconds = time.perf_counter() - self._started
        reason = None if error is None else f"{type(error).__name__}: {error}"
        for claim in self.claims:
            metrics.observe("pagepack_stage_seconds", seconds, stage=self.name)
            if traces.is_tracing():
                traces.record_span(self.name, traced(claim), self._began, self._began + seconds, reason)


def waited(claim: PageClaim) -> None:
    """The stage between the page's wake-up message and its claim, by the database's clock."""
    if claim.waited_seconds is not None:
        metrics.observe("pagepack_stage_seconds", claim.waited_seconds, stage="wait")
        if traces.is_tracing():
            now = time.time()
            traces.record_span("wait", traced(claim), now - claim.waited_seconds, now)


def traced(claim: PageClaim) -> TracedPage:
    return TracedPage(claim.document_public_id, claim.page_index + 1, claim.tasks[0].token)
