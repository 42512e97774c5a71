"""Whether pages are found to lie as they do: all kinds that the repository draws, upright and turned.

    python -m benchmarks.bench_upright                16 of each of 19 kinds, each in four ways: an hour on one core
    python -m benchmarks.bench_upright --per-kind 2

Each is drawn by the sandboxed rasterizer as `pagepack run` draws it, and looked at as before Pixtral reads it. Pages
in a script that RapidOCR does not read count apart: only what knows whole pages tells them from those on their heads.
Ends in one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.quality.draw import KINDS, draw
from pipeline.documents.identify import identify
from pipeline.documents.rasterize import Rasterizer
from pipeline.documents.render_process import RasterizedPage
from pipeline.settings import load_settings
from workers.engines.page_lie import find_lie
from workers.engines.rapidocr import load
from workers.engines.regions import Models

_UNREAD = "other script"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-kind", type=int, default=16)
    parser.add_argument("--seed", type=int, default=99)
    arguments = parser.parse_args()
    models, seconds, counts = Models(load()), list[float](), Counter[str]()
    for number in range(arguments.per_kind):
        for kind, pixels in _pages(number, arguments.seed):
            for turns in range(4):
                began = time.process_time()
                lie = find_lie(models, np.ascontiguousarray(np.rot90(pixels, turns)))
                seconds.append(time.process_time() - began)
                lies = ("unread_" if kind == _UNREAD else "") + ("turned" if turns else "upright")
                counts[lies] += 1
                if (lie.turn + turns) % 4:
                    counts[f"{lies}_wrong"] += 1
                    print(f"{kind} {number}, turned {turns} times: {lie}", flush=True)
    print(json.dumps({"benchmark": "upright", **counts, "seconds": round(median(seconds), 2)}))


def _pages(number: int, seed: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    with Rasterizer(load_settings()) as rasterizer, tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            if kind == "turned":
                continue
            page, data = draw(kind, number, seed)
            path = Path(folder, page.file)
            path.write_bytes(data)
            with rasterizer.open(path, identify(path).kind) as document:
                for drawn in document.pages():
                    assert isinstance(drawn, RasterizedPage), drawn
                    yield kind, np.array(Image.open(BytesIO(drawn.image)).convert("RGB"))


if __name__ == "__main__":
    main()
