"""Sample pages: print of a known text on pages of several shapes, or the first pages of somebody's files."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.errors import PagepackError, UsageError
from pipeline.settings import Settings

SHAPES = ((736, 1024), (512, 384), (384, 512), (640, 320), (256, 128), (192, 64))  # px; multiples of 16
FONT_PX = 15
WORDS = (
    "the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not", "he",
    "this", "have", "from", "or", "had", "which", "their", "would", "there", "when", "more", "other", "first", "after",
    "1913", "27.50", "Table", "Total", "January", "Street", "Office", "Report", "number", "between", "received",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Page:
    name: str
    pixels: NDArray[np.uint8]
    is_drawn: bool  # else it is somebody's, and what is on it stays out of the file to send


def drawn_pages(count: int) -> list[Page]:
    """Lines of print, a table on every second page; the same at each call."""
    return [_draw(number, *SHAPES[number % len(SHAPES)]) for number in range(count)]


def _draw(number: int, width: int, height: int) -> Page:
    rng, font = random.Random(number), ImageFont.load_default(FONT_PX)
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    margin, pitch = min(24, width // 12), round(FONT_PX * 1.5)
    for line, top in enumerate(range(margin // 2, height - pitch, pitch)):
        if number % 2 and 3 <= line < 8:  # rows of a table
            for column in range(3):
                draw.text((margin + column * width // 3, top), f"{rng.randrange(10_000):,}", "black", font)
            continue
        text = ""
        while draw.textlength(f"{text} {(word := rng.choice(WORDS))}", font) < width - 2 * margin:
            text = f"{text} {word}".strip()
        draw.text((margin, top), text, "black", font)
    return Page(f"drawn {number + 1}, {width} × {height} px", np.array(image), is_drawn=True)


def pages_of(paths: Sequence[Path], count: int, settings: Settings) -> list[Page]:
    """The first pages of files, as large as one image of the model's.

    Raises:
        UsageError: a file holds no page that can be drawn.
    """
    from pipeline.blobs.png import load
    from pipeline.documents.identify import identify
    from pipeline.documents.pages.raster import drawn_for
    from pipeline.documents.rasterize import Rasterizer
    from pipeline.documents.render_process import RasterizedPage

    pages: list[Page] = []
    with Rasterizer(settings) as rasterizer:
        for path in paths:
            try:
                with rasterizer.open(path, identify(path).kind, detail=drawn_for(settings, "page")) as document:
                    for number, page in enumerate(document.pages(), 1):
                        if isinstance(page, RasterizedPage) and len(pages) < count:
                            pixels = np.array(load(page.image).convert("RGB"))
                            pages.append(Page(f"{path.name} page {number}", pixels, is_drawn=False))
                        if len(pages) >= count:
                            return pages
            except PagepackError as error:
                named = str(error) if str(path) in str(error) else f"{path}: {error}"
                raise UsageError(f"{named}; name another file, or none for drawn pages") from error
    if not pages:
        raise UsageError(f"{', '.join(map(str, paths))}: no page could be drawn; name another file, or none")
    return pages
