"""`pagepack run` as a whole: what the pipeline costs over the bare engine, a repeated run, and memory.

    python -m benchmarks.bench_run overhead [--pages 16]    real OCR through the pipeline, then a bare RapidOCR loop
    python -m benchmarks.bench_run again [--files 1000]     the same command over a finished folder
    python -m benchmarks.bench_run memory [--pages 100 1000 10000]    peak resident memory of each process
    python -m benchmarks.bench_run startup [--times 5] [--against DIR]    processor time of --help and of one page

Each prints a table and ends in one line of JSON. `overhead` counts from the first claim to the last stored answer, so
start-up (printed beside) is out of both sides of the ratio. `again` and `memory` put an engine that answers at once in
the place of OCR: 10,000 pages of real OCR would take most of a day here. `startup` counts the processor time of all the
processes of a command, each time in a new home, and takes turns with another checkout where one is named.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pymupdf

ROOT = Path(__file__).parent.parent


def cpu_seconds() -> float:
    """Processor time of this process and of all that it has waited for, and they for."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def run(folder: Path, home: Path, engine: str | None) -> tuple[float, dict[str, int]]:
    """Seconds of the whole command, and the peak resident bytes of each kind of process."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if engine is not None:
        environment["PAGEPACK_INTERNAL_ENGINE"] = engine
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "pipeline", "run", str(folder), "--home", str(home), "--json"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peaks: dict[str, int] = {}
    while process.poll() is None:
        for member in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            try:
                name, resident = _kind([member.name(), *member.cmdline()]), member.memory_info().rss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            peaks[name] = max(peaks.get(name, 0), resident)
        time.sleep(0.5)
    assert process.returncode == 0, f"pagepack run ended with {process.returncode}"
    return time.monotonic() - started, peaks


def _kind(command: list[str]) -> str:
    words = " ".join(command)
    for mark, name in (
        ("pagepack:read", "read worker"),
        ("pagepack:ingest", "ingest worker"),
        ("rasterize_child", "rasterizer"),
        ("valkey", "broker"),
        ("pipeline run", "supervisor"),
    ):
        if mark in words:
            return name
    return "other"


def overhead(num_pages: int, work: Path) -> dict[str, float]:
    from PIL import Image

    from benchmarks.bench_rapidocr import BEST, bare_loop, draw_page, measure  # tuned there

    folder = work / "pages"
    folder.mkdir()
    pages = [draw_page(index)[0] for index in range(num_pages)]
    for index, pixels in enumerate(pages):
        Image.fromarray(pixels).save(folder / f"{index:03}.png", compress_level=1)
    before = cpu_seconds()
    whole, _ = run(folder, work / "home", None)
    cpu = cpu_seconds() - before
    with sqlite3.connect(work / "home" / "pagepack.db") as database:
        query = "SELECT (julianday(max(ended_at)) - julianday(min(ended_at))) * 86400, count(*) FROM task_attempts"
        span, count = database.execute(query).fetchone()
        first_seconds = database.execute("SELECT seconds FROM answer_versions ORDER BY id LIMIT 1").fetchone()[0]
    in_pipeline = count / (span + first_seconds)
    texts = [draw_page(index) for index in range(num_pages)]
    row = measure("bare best", bare_loop(BEST), texts)
    bare, bare_cpu = row["pages_per_second"], num_pages / row["pages_per_second"] * row["cores"]
    print(
        f"pipeline {in_pipeline:.3f} pages/s (whole command {whole:.1f} s, {cpu:.1f} s of processor with start-up), "
        f"bare loop {bare:.3f} pages/s ({bare_cpu:.1f} s of processor)"
    )
    return {
        "pages_per_second": in_pipeline,
        "bare_pages_per_second": bare,
        "ratio": in_pipeline / bare,
        "cpu_seconds": cpu,
        "bare_cpu_seconds": bare_cpu,
    }


def again(num_files: int, work: Path) -> dict[str, float]:
    folder = work / "files"
    folder.mkdir()
    for index in range(num_files):
        _pdf(folder / f"{index:05}.pdf", 1, index)
    first, _ = run(folder, work / "home", "tests.stand_ins:InstantEngine")
    second, _ = run(folder, work / "home", "tests.stand_ins:InstantEngine")
    print(f"{num_files} files: first run {first:.1f} s, the same command again {second:.2f} s")
    return {"files": num_files, "first_seconds": first, "again_seconds": second}


def memory(page_counts: list[int], work: Path) -> dict[str, object]:
    table: dict[str, dict[str, float]] = {}
    for count in page_counts:
        folder = work / f"m{count}"
        folder.mkdir()
        for start in range(0, count, 100):
            _pdf(folder / f"{start:06}.pdf", min(100, count - start), start)
        seconds, peaks = run(folder, work / f"home{count}", "tests.stand_ins:InstantEngine")
        table[str(count)] = {name: round(size / 2**20) for name, size in sorted(peaks.items())}
        print(f"{count:>7} pages in {seconds:6.1f} s, {count / seconds:5.1f} pages/s, peak MiB {table[str(count)]}")
        shutil.rmtree(folder)
    return {"peak_mib": table}


def startup(times: int, against: Path | None, work: Path) -> dict[str, object]:
    commands = {
        "help": (["--help"], None),
        "page_instant": (["run", str(ROOT / "samples" / "street.jpg")], "tests.stand_ins:InstantEngine"),
        "page_rapidocr": (["run", str(ROOT / "samples" / "street.jpg"), "--engine", "rapidocr"], None),
    }
    trees = {"here": ROOT} | ({"against": against.resolve()} if against is not None else {})
    taken: dict[str, dict[str, list[tuple[float, float]]]] = {name: {tree: [] for tree in trees} for name in commands}
    if sys.platform == "linux":  # what outlives its own parent is waited for here, and so counted
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER, linux/prctl.h
    for turn in range(times):
        for name, (command, engine) in commands.items():
            for tree, root in trees.items():
                home = [] if name == "help" else ["--home", str(work / f"{tree}-{name}-{turn}")]
                taken[name][tree].append(_taken([*command, *home], root, engine))
    row: dict[str, object] = {}
    for name, of_trees in taken.items():
        for tree, figures in of_trees.items():
            cpu, wall = (statistics.median(column) for column in zip(*figures, strict=True))
            print(f"{name:<14} {tree:<8} {cpu:6.2f} s of processor, {wall:6.2f} s, median of {times}")
            row[f"{name}_{tree}_cpu_seconds"], row[f"{name}_{tree}_seconds"] = round(cpu, 3), round(wall, 3)
    return row


def _taken(command: list[str], root: Path, engine: str | None) -> tuple[float, float]:
    """Processor seconds of all processes of a command, and its own seconds."""
    environment = os.environ | {"PYTHONPATH": str(root)} | ({"PAGEPACK_INTERNAL_ENGINE": engine} if engine else {})
    before, started = cpu_seconds(), time.monotonic()
    python = [sys.executable, "-P", "-m", "pipeline"]
    subprocess.run([*python, *command], env=environment, cwd=root, check=True, capture_output=True)
    seconds = time.monotonic() - started
    with suppress(ChildProcessError):
        while os.wait():
            pass
    return cpu_seconds() - before, seconds


def _pdf(path: Path, pages: int, start: int) -> None:
    with pymupdf.open() as document:
        for index in range(pages):
            document.new_page().insert_text((72, 72), f"page {start} {index}", fontsize=11)
        document.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["overhead", "again", "memory", "startup"])
    parser.add_argument("--files", type=int, default=1_000)
    parser.add_argument("--pages", type=int, nargs="+", default=None)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--against", type=Path, help="another checkout, measured in turns with this one")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="pagepack-bench-"))
    try:
        if arguments.what == "overhead":
            result: dict[str, object] = dict(overhead((arguments.pages or [16])[0], work))
        elif arguments.what == "again":
            result = dict(again(arguments.files, work))
        elif arguments.what == "startup":
            result = startup(arguments.times, arguments.against, work)
        else:
            result = memory(arguments.pages or [100, 1_000, 10_000], work)
    finally:
        shutil.rmtree(work)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
