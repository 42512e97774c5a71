"""Charts of what was read over time, drawn as SVG on the server, each with its numbers in a table beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from fastapi import APIRouter, Request
from starlette.responses import Response

from pipeline.query.batch_status import batch_rows
from pipeline.query.history import MOST_TRIES, Bucket, History, history
from pipeline.web.lookup import batch_named
from pipeline.web.render import render
from pipeline.web.request_site import TheSite

router = APIRouter()

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640.0, 200.0, 48.0, 22.0, 8.0
_WIDEST_BAR = 40.0


@dataclass(frozen=True, slots=True)
class Bar:
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Geometry in units of the drawing; `rows` are what it shows, in words."""

    name: str
    title: str
    says: str
    bars: list[Bar]
    rules: list[tuple[float, str]]  # y, words
    ticks: list[tuple[float, str]]  # x, words
    rows: list[tuple[datetime, str]]
    width: float = _WIDTH
    height: float = _HEIGHT
    left: float = _LEFT


@router.get("/charts")
def show_charts(request: Request, site: TheSite, batch: str = "") -> Response:
    chosen = batch_named(site, batch)
    key = ("history", None if chosen is None else chosen.id)
    result = site.gathered.get(
        key, lambda: history(site.db, None if chosen is None else chosen.id), fresh_seconds=5.0, wait_seconds=0.12
    )
    return render(
        request,
        "charts.html",
        batches=batch_rows(site.db, limit=50),
        batch=batch,
        charts=None if result.value is None else draw(result.value),
        age_seconds=result.age_seconds,
        most_tries=MOST_TRIES,
    )


def draw(found: History) -> list[Chart]:
    """Throughput, packing, failures and quality."""
    if not found.buckets:
        return []
    seconds = found.step.total_seconds()
    shares = [_share(bucket) for bucket in found.buckets]
    return [
        _chart(found, "throughput", "Answers a second", [bucket.answers / seconds for bucket in found.buckets]),
        _chart(found, "packing", "Pages in hand at once", [bucket.pages_in_hand for bucket in found.buckets]),
        _chart(found, "failures", "Share of tries that failed", shares, is_share=True),
        _chart(found, "quality", "Mean confidence", [bucket.confidence for bucket in found.buckets], is_share=True),
    ]


def _share(bucket: Bucket) -> float | None:
    tries = bucket.answers + bucket.failures
    return bucket.failures / tries if tries else None


def _chart(found: History, name: str, title: str, values: Sequence[float | None], *, is_share: bool = False) -> Chart:
    known = [value for value in values if value is not None]
    top = _top(max(known, default=0.0)) if not is_share or name == "failures" else 1.0
    top = min(top, 1.0) if is_share else top
    deep = _HEIGHT - _BOTTOM - _TOP
    step = (_WIDTH - _LEFT) / len(values)
    bars = [
        Bar(
            round(_LEFT + index * step + min(step * 0.1, 2), 1),
            round(_TOP + deep * (1 - value / top), 1),
            round(min(max(step - min(step * 0.2, 4), 0.5), _WIDEST_BAR), 1),
            round(max(deep * value / top, 0.0), 1),
        )
        for index, value in enumerate(values)
        if value is not None
    ]
    rules = [(round(_TOP + deep * (1 - part), 1), _words(top * part, is_share)) for part in (0.0, 0.5, 1.0)]
    every = max(len(values) // 5, 1)
    ticks = [
        (round(_LEFT + index * step, 1), _when(found.buckets[index].start, found.step))
        for index in range(0, len(values), every)
    ]
    rows = [
        (bucket.start, "–" if value is None else _words(value, is_share))
        for bucket, value in zip(found.buckets, values, strict=True)
    ]
    says = "no value yet"
    if known:
        says = (
            f"from {_words(min(known), is_share)} to {_words(max(known), is_share)}, last {_words(known[-1], is_share)}"
        )
    return Chart(name, title, says, bars, rules, ticks, rows)


def _top(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50 … above."""
    if value <= 0:
        return 1.0
    power = 10.0 ** len(str(int(value))) / 10 if value >= 1 else 0.001
    while True:
        for step in (1, 2, 5, 10):
            if value <= power * step:
                return power * step
        power *= 10


def _words(value: float, is_share: bool) -> str:
    if is_share:
        return f"{value:.1%}"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"


def _when(moment: datetime, step: timedelta) -> str:
    if step < timedelta(hours=1):
        return f"{moment:%H:%M}"
    return f"{moment:%d %b %H:%M}" if step < timedelta(days=1) else f"{moment:%Y-%m-%d}"
