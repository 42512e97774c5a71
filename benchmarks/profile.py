"""Where a run's time goes: `pagepack run`, each stage of a page and each part of the engine, as table and picture.

    python -m benchmarks.profile [PATH…] [--engine reader|instant] [--model DIR] [--pages 24] [--picture FILE.svg]

`reader` is the Pixtral engine on the CPU, with the small reader of this repository or the checkpoint of `--model`;
`instant` answers at once: what is left is the pipeline. Without paths, pages are drawn that the small reader can read.

Two sums, which are not to be added: *a page's way* is how long a page is in each stage, beside others; *the engine's
thread* is one thread's time from the first page to the last answer. Stages are those of the metric
`pagepack_stage_seconds`, counted by the run's own processes; parts of the engine are clocks around its calls, which on
a CPU return when they are computed. A step of prompts and answers together is divided between prefill and decode by
its rows. Ends in one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from schemas.prompts import Prompt
from workers.engines import Answer, Begun
from workers.engines.upright import Upright

ROOT = Path(__file__).parent.parent
CHECKPOINT = Path(__file__).parent / "reader" / "checkpoint"
WAY = ("ingest", "queue wait", "claim", "load", "upright", "encode", "engine queue", "engine", "store")
THREAD = ("vision", "prefill", "decode", "sampling", "host gaps", "idle")
_ENGINES = {"reader": "benchmarks.profile:WatchedReader", "instant": "benchmarks.bench_pipeline:BenchEngine"}
_STAGES = {"ingest": "rasterize", "queue wait": "wait", "claim": "claim", "load": "load", "store": "store"}
_FIGURES = "BENCH_FIGURES"  # the file into which a read worker writes what its engine took


class Clocks:
    """Seconds by name; safe to use from many threads."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("upright", "encode", "engine queue", *THREAD), 0.0)
        self._began: float | None = None
        self._lock = threading.Lock()

    def add(self, name: str, seconds: float) -> None:
        with self._lock:
            self.seconds[name] += seconds

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, timed."""

        def timed(*given: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*given, **named)
            finally:
                self.add(name, time.perf_counter() - started)

        return timed

    def begin(self) -> None:
        """The first page is there: from now on a thread without work is idle."""
        self._began = self._began or time.perf_counter()

    def figures(self, busy_seconds: float) -> dict[str, float]:
        """With what the engine's thread did beside its parts, and how long it did nothing."""
        with self._lock:
            found = dict(self.seconds)
        computed = sum(found[name] for name in ("vision", "prefill", "decode", "sampling"))
        elapsed = 0.0 if self._began is None else time.perf_counter() - self._began
        return found | {"host gaps": busy_seconds - computed, "idle": max(0.0, elapsed - busy_seconds)}


def watch(engine: Any, clocks: Clocks) -> None:
    """Put clocks around the parts of a `PixtralEngine` on the CPU, before its first page."""
    built = engine._built
    executor = built.engine.executor
    run = executor.backend.run

    def layers(step: Any, layout: Any, *rest: Any) -> Any:
        started = time.perf_counter()
        hidden = run(step, layout, *rest)
        seconds, rows = time.perf_counter() - started, len(layout.positions)
        prompts = min(rows, layout.first_decode) if step.chunks else 0
        clocks.add("prefill", seconds * prompts / rows)
        clocks.add("decode", seconds * (rows - prompts) / rows)
        return hidden

    executor.backend.run = layers
    executor._encode_images = clocks.around("vision", executor._encode_images)
    executor._sample = clocks.around("sampling", executor._sample)
    built.processor.encode_page = clocks.around("encode", built.processor.encode_page)


class WatchedReader(Upright):
    """The Pixtral engine as a run makes it, with clocks; what they say is written after each answer."""

    name, model = "pixtral", "profiled"

    def __init__(self) -> None:
        from workers.engines.pixtral import PixtralEngine

        engine = PixtralEngine(Path(os.environ["PAGEPACK_MODEL"]), "cpu")
        self._clocks = Clocks()
        watch(engine, self._clocks)
        super().__init__(engine)
        self.model = type(self).model  # by which the run asked for it, before any model was loaded
        self._given = engine.submit
        engine.submit = self._submit_upright  # type: ignore[method-assign]
        self._inner = threading.local()
        self._writing = threading.Lock()

    def submit(self, *given: Any, **named: Any) -> list[Future[Answer]]:
        self._clocks.begin()
        started, self._inner.seconds = time.perf_counter(), 0.0
        futures = super().submit(*given, **named)
        self._clocks.add("upright", time.perf_counter() - started - self._inner.seconds)
        return futures

    def _submit_upright(
        self,
        image_hash: str,
        pixels: Any,
        prompts: Sequence[Prompt],
        deadline: float | None = None,
        begun: Sequence[Begun | None] = (),
    ) -> list[Future[Answer]]:
        started = time.perf_counter()
        futures = self._given(image_hash, pixels, prompts, deadline, begun)
        self._inner.seconds += time.perf_counter() - started
        for future in futures:
            future.add_done_callback(self._write)
        return futures

    def _write(self, future: Future[Answer]) -> None:
        if not future.cancelled() and future.exception() is None:
            self._clocks.add("engine queue", float(future.result().details["queue_seconds"]))
        with self._writing:
            Path(os.environ[_FIGURES]).write_text(json.dumps(self._clocks.figures(self.stats()["busy_seconds"])))


@dataclass(frozen=True, slots=True)
class Profile:
    """Seconds. Those of stages are sums over the pages, of which there are so many."""

    pages: int
    command_seconds: float
    reading_seconds: float  # from the first claim to the last stored answer
    processor_seconds: float  # of all processes
    way: dict[str, float]
    thread: dict[str, float]


def profile(paths: Sequence[Path], engine: str, model: Path) -> Profile:
    """Run `pagepack run` over these paths in a new home, and ask what its processes counted."""
    with tempfile.TemporaryDirectory(prefix="pagepack-profile-") as folder:
        counted, figures, home = Path(folder, "counted"), Path(folder, "figures.json"), Path(folder, "home")
        counted.mkdir()
        variables = {
            "PYTHONPATH": str(ROOT),
            "PROMETHEUS_MULTIPROC_DIR": str(counted),
            "PAGEPACK_INTERNAL_ENGINE": _ENGINES[engine],
            "PAGEPACK_MODEL": str(model),
            _FIGURES: str(figures),
        }
        command = [sys.executable, "-P", "-m", "pipeline", "run", *map(str, paths), "--home", str(home)]
        spent, started = _processor_seconds(), time.monotonic()
        done = subprocess.run(
            [*command, "--text-layer", "keep"], env=os.environ | variables, capture_output=True, text=True
        )
        command_seconds, spent = time.monotonic() - started, _processor_seconds() - spent
        if done.returncode not in (0, 1):
            raise SystemExit(f"pagepack run ended with {done.returncode}:\n{done.stderr[-2000:]}")
        stages = _stages(counted)
        inside = json.loads(figures.read_text()) if figures.exists() else {}
        with sqlite3.connect(home / "pagepack.db") as database:
            attempts = "SELECT count(*), min(started_at), max(ended_at) FROM task_attempts WHERE error IS NULL"
            pages, first, last = database.execute(attempts).fetchone()
        database.close()
    if not pages:
        raise SystemExit("no page was read: name files with pages that need reading")
    way = {name: stages.get(stage, 0.0) for name, stage in _STAGES.items()}
    way |= {name: inside.get(name, 0.0) for name in ("upright", "encode", "engine queue")}
    way["engine"] = stages.get("read", 0.0) - way["upright"] - way["encode"] - way["engine queue"]
    reading = (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()
    thread = {name: inside[name] for name in THREAD} if inside else {}
    return Profile(pages, command_seconds, reading, spent, {name: way[name] for name in WAY}, thread)


def _stages(folder: Path) -> dict[str, float]:
    """Seconds by the label `stage`, over all processes that wrote there."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    return {
        sample.labels["stage"]: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "pagepack_stage_seconds_sum"
    }


def _processor_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def table(found: Profile) -> str:
    """For people, in Markdown."""
    lines = [
        f"{found.pages} pages; {found.command_seconds:.1f} s the command, {found.reading_seconds:.2f} s of them from "
        f"the first claim to the last answer; {found.processor_seconds:.1f} s of processor",
    ]
    for title, seconds in (("a page's way", found.way), ("the engine's thread", found.thread)):
        if not seconds:
            continue  # an engine that answers at once has no thread of its own
        whole = sum(seconds.values()) or 1.0
        lines += ["", f"| {title} | ms a page | share |", "|---|---|---|"]
        lines += [
            f"| {name} | {1e3 * one / found.pages:.2f} | {100 * one / whole:.1f} % |" for name, one in seconds.items()
        ]
        lines += [f"| together | {1e3 * whole / found.pages:.2f} | |"]
    return "\n".join(lines)


def picture(found: Profile) -> str:
    """The same as bars, in SVG: a bar a part, as long as its share of its own sum."""
    left, right, high = 130, 620, 22
    drawn, y = list[str](), 20
    for title, seconds, colour in (
        ("A page's way", found.way, "#3b6ea5"),
        ("The engine's thread", found.thread, "#b5651d"),
    ):
        if not seconds:
            continue
        whole = sum(seconds.values()) or 1.0
        drawn.append(f'<text x="10" y="{y}" font-weight="bold">{title}, ms a page</text>')
        for name, one in seconds.items():
            y += high
            width = max(0.5, (right - left - 130) * max(0.0, one) / whole)
            drawn += [
                f'<text x="{left - 8}" y="{y}" text-anchor="end">{escape(name)}</text>',
                f'<rect x="{left}" y="{y - 12}" width="{width:.1f}" height="14" fill="{colour}"/>',
                f'<text x="{left + width + 6:.1f}" y="{y}">{1e3 * one / found.pages:.2f} '
                f"({100 * one / whole:.0f} %)</text>",
            ]
        y += 2 * high
    body = "\n".join(drawn)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{right}" height="{y}" viewBox="0 0 {right} {y}" '
        f'font-family="sans-serif" font-size="12">\n<rect width="{right}" height="{y}" fill="white"/>\n{body}\n</svg>\n'
    )


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", type=Path, nargs="*", metavar="PATH", help="files and folders; default: drawn pages")
    parser.add_argument("--engine", choices=["reader", "instant"], default="reader")
    parser.add_argument("--model", type=Path, default=CHECKPOINT, help="a checkpoint for `reader`")
    parser.add_argument("--pages", type=int, default=24, help="so many are drawn, where no paths are given")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="draw it there")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="pagepack-profile-") as folder:
        if not given.paths:
            from benchmarks.reader.demo import draw

            draw(Path(folder), given.pages, 0)
        found = profile(given.paths or [Path(folder, "pages")], given.engine, given.model)
    if given.picture:
        given.picture.write_text(picture(found))
    print(table(found))
    conditions = {"engine": given.engine, "pages": found.pages, "command_seconds": round(found.command_seconds, 2)}
    conditions |= {"processor_seconds": round(found.processor_seconds, 2)}
    parts = {
        name: {key: round(1e3 * one / found.pages, 3) for key, one in seconds.items()}
        for name, seconds in (("way_ms_a_page", found.way), ("thread_ms_a_page", found.thread))
    }
    print(json.dumps(conditions | parts))


if __name__ == "__main__":
    main()
