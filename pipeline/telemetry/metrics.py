"""What is counted for people who watch, under the names that Prometheus sees.

Worker processes, and the processes that they fork, each write figures of their own into memory-mapped files of one
folder (prometheus_client's multiprocess mode); their supervisor serves the sums (`supervisor/health.py`). The folder's
name comes through PROMETHEUS_MULTIPROC_DIR. Without it, as in `pagepack run`, every function here returns at once, and
prometheus_client is not even imported. A count then costs 0.1 µs, else 3.6 µs
(200,000 in a loop; on one core of an EPYC).

Labels hold words of a closed set, never a path or an id: each new value is a new series for ever.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own name for it


@dataclass(frozen=True, slots=True)
class Metric:
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()
    over_processes: Literal["livesum", "livemin", "livemax"] = "livesum"  # of gauges; counters are always added up


METRICS = {
    "pagepack_pages_total": Metric(
        "counter",
        "pages, once a prompt: done (read and stored), reused (the same image had this answer), failed for good, "
        "unrendered (could not be drawn)",
        ("outcome",),
    ),
    "pagepack_documents_total": Metric(
        "counter", "documents: rendered (each page has its row), rejected, failed", ("outcome",)
    ),
    "pagepack_tokens_total": Metric("counter", "tokens of stored answers: prompt, output", ("kind",)),
    "pagepack_stage_seconds": Metric(
        "histogram",
        "time of a page in a stage: rasterize, wait (from its wake-up message to its claim), claim, load, read, store",
        ("stage",),
    ),
    "pagepack_failures_total": Metric("counter", "pages and documents that failed for good, by cause", ("cause",)),
    "pagepack_retries_total": Metric("counter", "failures that may pass: the page or document waits for another try"),
    "pagepack_leases": Metric("gauge", "pages and documents in the workers' hands, at their last heartbeats"),
    "pagepack_leases_lost_total": Metric("counter", "leases that went to another worker while this one was at work"),
    "pagepack_worker_restarts_total": Metric(
        "counter",
        "worker processes that their supervisor started again: died, stalled (took no page though some waited), broker "
        "(the supervisor's own had died)",
        ("role", "cause"),
    ),
    "pagepack_engine_waiting": Metric("gauge", "requests that wait in the engines"),
    "pagepack_engine_running": Metric("gauge", "requests that the engines compute together"),
    "pagepack_engine_tokens_per_second": Metric("gauge", "output tokens a second over the last 64 steps, all engines"),
    "pagepack_engine_packing_efficiency": Metric(
        "gauge", "rows of the computed batches that were of use, 0 to 1; the worst engine", over_processes="livemin"
    ),
    "pagepack_engine_cache_use": Metric(
        "gauge", "blocks of the key-value cache in use, 0 to 1; the fullest engine", over_processes="livemax"
    ),
    "pagepack_engine_steps_total": Metric("counter", "steps that the engines computed"),
    "pagepack_engine_preemptions_total": Metric("counter", "requests that gave their cache to another and began again"),
    "pagepack_engine_prefix_hit_tokens_total": Metric("counter", "prompt tokens that were found in the cache"),
    "pagepack_engine_busy_seconds_total": Metric("counter", "time in which the engines had something to compute"),
    # The rest is of the whole installation, asked for by each supervisor: take the maximum over hosts, not the sum.
    "pagepack_reachable": Metric("gauge", "1 where it answers: database, broker", ("part",)),
    "pagepack_queue_depth": Metric("gauge", "messages that wait; each model of a reader has a queue", ("queue",)),
    "pagepack_waiting_documents": Metric("gauge", "documents of open batches that wait for ingest"),
    "pagepack_waiting_pages": Metric("gauge", "pages of open batches that wait to be read, once a prompt"),
    "pagepack_leased_pages": Metric("gauge", "pages of open batches that some worker reads, once a prompt"),
    "pagepack_failed_pages": Metric("gauge", "pages of open batches that failed, once a prompt", ("cause",)),
    "pagepack_workers": Metric(
        "gauge", "worker processes: ingest, read, or run (one that reads for its own)", ("role",)
    ),
}
"""Every name that pagepack serves; docs/watching.md holds the same table."""

_STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

_is_counting = bool(os.environ.get(_DIRECTORY))
_families: dict[str, Any] = {}
_lock = threading.Lock()


def is_counting() -> bool:
    return _is_counting


def look_again() -> None:
    """Whether to count: a forked worker gets its variables after this module."""
    global _is_counting
    _is_counting = bool(os.environ.get(_DIRECTORY))


def count(name: str, amount: float = 1, **labels: str) -> None:
    """Add to a counter."""
    if _is_counting and amount:
        _family(name, labels).inc(amount)


def begin_at_zero(name: str, **labels: str) -> None:
    """A counter that is there before its first count: for Prometheus what appears with 1 has not risen."""
    if _is_counting:
        _family(name, labels)


def set_gauge(name: str, value: float) -> None:
    """Say what this process has now."""
    if _is_counting:
        _family(name, {}).set(value)


def observe(name: str, seconds: float, **labels: str) -> None:
    """Add to a histogram."""
    if _is_counting:
        _family(name, labels).observe(max(0.0, seconds))


class EngineFigures:
    """What an engine's `stats()` says, whichever of these it has, as gauges and as counters that only rise."""

    def __init__(self) -> None:
        self._before: dict[str, float] = {}

    def take(self, stats: Mapping[str, float]) -> None:
        if not _is_counting:
            return
        for key, value in stats.items():
            name = f"pagepack_engine_{key}"
            if name in METRICS:
                set_gauge(name, value)
            elif f"{name}_total" in METRICS:
                count(f"{name}_total", max(0.0, value - self._before.get(key, 0.0)))
        self._before = dict(stats)


@contextmanager
def collecting() -> Iterator[Path]:
    """A fresh folder for the figures of this process and of the children that it starts meanwhile; then it is gone.

    Enter it before the first child starts, and before anything imports prometheus_client: that reads the variable once.
    """
    global _is_counting
    folder = tempfile.mkdtemp(prefix="pagepack-metrics-")
    os.environ[_DIRECTORY] = folder
    _is_counting = True
    try:
        yield Path(folder)
    finally:
        _is_counting = False
        del os.environ[_DIRECTORY]
        shutil.rmtree(folder, ignore_errors=True)


def forget_the_dead(folder: Path) -> None:
    """Drop the gauges of processes that are gone; what they counted stays."""
    for file in folder.glob("gauge_live*_*.db"):
        try:
            os.kill(int(file.stem.rpartition("_")[2]), 0)
        except ProcessLookupError:
            file.unlink(missing_ok=True)
        except PermissionError:
            pass  # it runs, as another user


def _family(name: str, labels: Mapping[str, str]) -> Any:
    """The metric in this process, made at its first use: a gauge that is made is a gauge that says 0."""
    family = _families.get(name)
    if family is None:
        with _lock:
            family = _families.get(name) or _make(name, METRICS[name])
            _families[name] = family
    return family.labels(**labels) if labels else family


def _make(name: str, metric: Metric) -> Any:
    import prometheus_client as prometheus

    # In no registry: the supervisor reads the files.
    if metric.kind == "counter":
        return prometheus.Counter(name, metric.meaning, metric.labels, registry=None)
    if metric.kind == "histogram":
        return prometheus.Histogram(name, metric.meaning, metric.labels, registry=None, buckets=_STAGE_BUCKETS)
    return prometheus.Gauge(name, metric.meaning, metric.labels, registry=None, multiprocess_mode=metric.over_processes)
