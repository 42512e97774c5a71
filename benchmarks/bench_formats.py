"""How a page image is stored: bytes, time and legibility of each format, on the pages of `samples/`.

    python -m benchmarks.bench_formats [--no-ocr]

Each page is rasterized as ingest does it; each format encodes and decodes it (the best of 7 times). Legible is the
share of characters that RapidOCR reads alike from the decoded image and from the exact pixels, so 1 for what is
lossless. Means over text pages and over the photo; the last line is JSON.
"""

from __future__ import annotations

import argparse
import difflib
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.blobs import png
from pipeline.documents.discover import discover
from pipeline.documents.identify import identify
from pipeline.documents.rasterize import Rasterizer
from pipeline.documents.render_process import RasterizedPage
from pipeline.errors import DocumentRejected
from pipeline.settings import Settings

SAMPLES = Path(__file__).parent.parent / "samples"


def by_pillow(name: str, **options: Any) -> Callable[[Image.Image], bytes]:
    def encode(image: Image.Image) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, name, **options)
        return buffer.getvalue()

    return encode


FORMATS: dict[str, Callable[[Image.Image], bytes]] = {
    "png unfiltered, level 1 (ours)": png.encode,
    "png, Pillow, level 1": by_pillow("PNG", compress_level=1),
    "png, Pillow, level 6": by_pillow("PNG", compress_level=6),
    "webp lossless, method 0": by_pillow("WEBP", lossless=True, method=0, quality=0),
    "webp lossless, method 4": by_pillow("WEBP", lossless=True, method=4, quality=50),
    "jpeg q90": by_pillow("JPEG", quality=90),
    "jpeg q75": by_pillow("JPEG", quality=75),
}


def best_ms(call: Callable[[], object]) -> float:
    times = []
    for _ in range(7):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times) * 1000


def sample_pages() -> dict[str, Image.Image]:
    settings, pages = Settings(), {}
    with Rasterizer(settings) as rasterizer:
        for found in discover([SAMPLES], settings):
            try:
                with rasterizer.open(found.path, identify(found.path).kind) as document:
                    for page in document.pages():
                        assert isinstance(page, RasterizedPage), page
                        pages[f"{Path(found.path).name} {page.page_index + 1}"] = png.load(page.image)
            except DocumentRejected:
                continue
    return pages


def reader() -> Callable[[Image.Image], str]:
    from rapidocr import RapidOCR

    engine = RapidOCR(params={"Global.log_level": "error"})
    return lambda image: "\n".join(engine(np.asarray(image.convert("RGB"))).txts or ())


def alike(first: str, second: str) -> float:
    return difflib.SequenceMatcher(None, first, second, False).ratio()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-ocr", action="store_true")
    read = None if parser.parse_args().no_ocr else reader()
    pages = sample_pages()
    exact = {name: read(image) for name, image in pages.items()} if read else {}
    facts: dict[str, dict[str, float]] = {}
    print(f"{'':32}{'text, kB':>10}{'encode ms':>11}{'decode ms':>11}{'legible':>9}{'photo, kB':>11}{'encode ms':>11}")
    for label, encode in FORMATS.items():
        rows: dict[bool, list[tuple[Any, ...]]] = {True: [], False: []}
        for name, image in pages.items():
            data = encode(image)
            decoded = Image.open(io.BytesIO(data))
            same = (
                1.0
                if np.array_equal(decoded, image)
                else float("nan")
                if read is None
                else alike(exact[name], read(decoded))
            )
            times = best_ms(lambda: encode(image)), best_ms(lambda: Image.open(io.BytesIO(data)).load())  # noqa: B023
            rows["street" in name].append((len(data) / 1000, *times, same))
        text, photo = (
            [round(statistics.mean(column), 3) for column in zip(*rows[is_photo], strict=True)]
            for is_photo in (False, True)
        )
        facts[label] = dict(zip(("kb", "encode_ms", "decode_ms", "legible"), text, strict=True))
        facts[label] |= {"photo_kb": photo[0], "photo_encode_ms": photo[1], "photo_legible": photo[3]}
        print(f"{label:32}{text[0]:10.0f}{text[1]:11.1f}{text[2]:11.1f}{text[3]:9.4f}{photo[0]:11.0f}{photo[1]:11.1f}")
    print(json.dumps({"benchmark": "formats", "pages": len(pages), "formats": facts}))


if __name__ == "__main__":
    main()
