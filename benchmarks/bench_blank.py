"""Which pages are taken for blank, and what it costs to look: sheets that the repository draws (`quality/blank.py`).

    python -m benchmarks.bench_blank              30 of each kind, 480 sheets: five minutes on one core
    python -m benchmarks.bench_blank --per-kind 2

Each is drawn by the sandboxed rasterizer as `pagepack run` draws it, and judged as it is stored. Ends in one line of
JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from PIL import Image

from benchmarks.quality.blank import LEFT_BY_SCANNING, TO_READ, blank_sheet, nearly_blank_sheet
from pipeline.documents.pages.blank import is_blank
from pipeline.documents.rasterize import Rasterizer
from pipeline.documents.render_process import RasterizedPage
from pipeline.settings import load_settings

BLANK = ("clean", *LEFT_BY_SCANNING, "several")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-kind", type=int, default=30)
    parser.add_argument("--first-seed", type=int, default=1000)
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.per_kind)
    found: Counter[str] = Counter()
    milliseconds: list[float] = []
    with Rasterizer(load_settings()) as rasterizer, tempfile.TemporaryDirectory() as folder:
        for kinds, draw in ((BLANK, blank_sheet), (TO_READ, nearly_blank_sheet)):
            for kind in kinds:
                for page in _pages(rasterizer, kind, draw, seeds, Path(folder)):
                    found[kind] += page.is_blank
                    if max(page.width_px, page.height_px) <= 1024:
                        milliseconds.append(_milliseconds(page))
                print(f"{kind:12} {found[kind]:4} of {len(seeds)} blank", flush=True)
    summary = {
        "benchmark": "blank",
        "blank_sheets": len(BLANK) * len(seeds),
        "found": sum(found[kind] for kind in BLANK),
        "sheets_to_read": len(TO_READ) * len(seeds),
        "taken_for_blank": sum(found[kind] for kind in TO_READ),
        "milliseconds_at_1024_px": round(median(milliseconds), 2),
        "most_milliseconds": round(max(milliseconds), 2),
    }
    print(json.dumps(summary))


def _pages(
    rasterizer: Rasterizer, kind: str, draw: Callable[[str, int], Image.Image], seeds: range, folder: Path
) -> Iterator[RasterizedPage]:
    for seed in seeds:
        path = folder / "sheet.png"
        draw(kind, seed).save(path, compress_level=1)
        with rasterizer.open(path, "png") as document:
            for page in document.pages():
                assert isinstance(page, RasterizedPage), page
                yield page


def _milliseconds(page: RasterizedPage) -> float:
    """Processor time; the second look, for the first may wait for an import."""
    picture = Image.open(io.BytesIO(page.image))
    picture.load()
    is_blank(picture)
    began = time.process_time()
    is_blank(picture)
    return 1000 * (time.process_time() - began)


if __name__ == "__main__":
    main()
