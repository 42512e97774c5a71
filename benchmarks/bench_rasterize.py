"""The rasterizer against a bare PyMuPDF loop at the same size, in one run.

    python -m benchmarks.bench_rasterize [--pages 200] [--rounds 5] [--detail auto] [PDF…]

By default the PDFs of `samples/` and a dense text of 20 pages, over and over until `--pages`. Each round times, on the
same open order of documents, so that a machine's moods fall on all alike:

    bare          page.get_pixmap(matrix) in this process at the rasterizer's scale, pixels thrown away
    bare+text     the same and page.get_text(), which the rasterizer gives too
    bare+all      the same, then grey detection, hash and PNG as they are stored
    rasterizer    Rasterizer.open(…).pages(): child process, text layer, pixels to this process; not encoded
    rasterizer+all  the same, grey detection, hash and PNG included: what ingest waits for

The figures are medians of the rounds: pages per second, and processor time per page of this process and the child,
which tells more on a machine that others use too. The child is started before the clock. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymupdf
from PIL import Image

from pipeline.blobs import png
from pipeline.documents.rasterize import Rasterizer
from pipeline.documents.render_process import RasterizedPage
from pipeline.errors import DocumentRejected
from pipeline.settings import Settings

SAMPLES = Path(__file__).parent.parent / "samples"
TEXT = "the harbour log says that fog came in at six and the ferry waited for the tide while gulls sat on the pier"
WORDS = TEXT.split()


def dense_text(path: Path) -> Path:
    """20 A4 pages of 55 lines."""
    document: Any = pymupdf.open()
    for number in range(20):
        page = document.new_page(width=595, height=842)
        for line in range(55):
            words = [WORDS[(number * 7 + line * 3 + k) % len(WORDS)] for k in range(15)]
            page.insert_text((50, 50 + line * 13.5), " ".join(words), fontsize=10)
    document.save(path)
    return path


def bare(paths: list[Path], scales: dict[Path, list[float]], then: Callable[[Any, Any], object]) -> int:
    pages = 0
    for path in paths:
        document: Any = pymupdf.open(path)
        for page, scale in zip(document, scales[path], strict=True):
            then(page, page.get_pixmap(matrix=pymupdf.Matrix(scale, scale)))  # type: ignore[no-untyped-call]
            pages += 1
    return pages


def stored(page: Any, pixmap: Any) -> None:
    page.get_text()
    size = (pixmap.width, pixmap.height)
    image = png.canonical(Image.frombuffer("RGB", size, pixmap.samples, "raw", "RGB", 0, 1))
    png.hash_pixels(image)
    png.encode(image)


def sandboxed(rasterizer: Rasterizer, paths: list[Path]) -> int:
    pages = 0
    for path in paths:
        with rasterizer.open(path, "pdf") as document:
            for result in document.pages():
                assert isinstance(result, RasterizedPage), result
                pages += 1
    return pages


def without_encoding(rasterizer: Rasterizer, paths: list[Path]) -> int:
    kept = png.encode, png.hash_pixels, png.canonical
    png.encode, png.hash_pixels, png.canonical = (lambda _: b""), (lambda _: ""), (lambda image: image)
    try:
        return sandboxed(rasterizer, paths)
    finally:
        png.encode, png.hash_pixels, png.canonical = kept


def cpu_seconds(rasterizer: Rasterizer) -> float:
    """Processor time of this process and of the rasterizer's child (Linux; elsewhere of this process alone)."""
    own = time.process_time()
    try:
        fields = Path(f"/proc/{rasterizer.child().pid}/stat").read_text().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        return own
    return own + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--pages", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--detail", default="auto")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Rasterizer(Settings(detail=given.detail)) as rasterizer:
        unit = given.paths or [*sorted(SAMPLES.glob("*.pdf")), dense_text(Path(folder) / "text.pdf")]
        paths: list[Path] = []
        scales: dict[Path, list[float]] = {}
        pages = 0
        while pages < given.pages:
            for path in list(unit):
                try:
                    with rasterizer.open(path, "pdf") as document:
                        if path not in scales:
                            drawn = list(document.pages())
                            scales[path] = [
                                page.dpi / 72 for page in drawn if isinstance(page, RasterizedPage) and page.dpi
                            ]
                        pages += document.page_count
                        paths.append(path)
                except DocumentRejected:
                    unit.remove(path)
        ways: dict[str, Callable[[], int]] = {
            "bare": lambda: bare(paths, scales, lambda page, pixmap: None),
            "bare+text": lambda: bare(paths, scales, lambda page, pixmap: page.get_text()),
            "bare+all": lambda: bare(paths, scales, stored),
            "rasterizer": lambda: without_encoding(rasterizer, paths),
            "rasterizer+all": lambda: sandboxed(rasterizer, paths),
        }
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        costs: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(given.rounds):
            for name, way in ways.items():
                started, used = time.perf_counter(), cpu_seconds(rasterizer)
                count = way()
                speeds[name].append(count / (time.perf_counter() - started))
                costs[name].append((cpu_seconds(rasterizer) - used) / count * 1000)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    cpu = {name: statistics.median(values) for name, values in costs.items()}
    for name, value in medians.items():
        spread = f"{min(speeds[name]):.0f} to {max(speeds[name]):.0f}"
        print(f"{name:15} {value:6.0f} pages/s ({spread:>10})  {cpu[name]:6.2f} ms of processor a page")
    facts = {
        "benchmark": "rasterize",
        "pages": pages,
        "documents": len(paths),
        "rounds": given.rounds,
        "detail": given.detail,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "pymupdf": pymupdf.VersionBind,
        "pages_per_second": {name: round(value, 1) for name, value in medians.items()},
        "cpu_ms_per_page": {name: round(value, 2) for name, value in cpu.items()},
        "ratio_to_bare": round(medians["rasterizer"] / medians["bare"], 3),
        "ratio_to_bare_with_text": round(medians["rasterizer"] / medians["bare+text"], 3),
        "ratio_with_encoding": round(medians["rasterizer+all"] / medians["bare+all"], 3),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
