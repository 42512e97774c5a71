"""The images of a page, whole or in tiles, and the words that say what they are.

Needs neither torch nor mistral-common.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from pipeline.documents.pages.tiles import Tiling, scale_within

ABOUT_TILES = (
    "Image 1 shows a whole page. Images 2 to {last} show parts of the same page, enlarged: {rows} rows of {columns}, "
    "row by row from the top, from left to right in each; neighbouring parts overlap. Take the layout and the order of "
    "reading from image 1, and the letters from the parts. What stands in several images stands once on the page.\n\n"
)


def filled(pixels: NDArray[np.uint8], cell: int) -> NDArray[np.uint8]:
    """With white on the right and at the bottom, up to whole cells: stretched to them, all print would blur."""
    below, beside = -pixels.shape[0] % cell, -pixels.shape[1] % cell
    if not (below or beside):
        return pixels
    return np.pad(pixels, ((0, below), (0, beside), (0, 0)), constant_values=255)


def cut(pixels: NDArray[np.uint8], tiling: Tiling) -> list[PillowImage.Image]:
    """The whole page and its tiles."""
    page = PillowImage.fromarray(pixels)
    whole = _brought_to(tiling.whole, page)
    scaled = _brought_to(tiling.scaled, page) if tiling.boxes else whole
    return [whole, *(scaled.crop(box) for box in tiling.boxes)]


def _brought_to(size: tuple[int, int], page: PillowImage.Image) -> PillowImage.Image:
    """In its own proportions, white beside it. Lanczos weighs all pixels that vanish, so no thin stroke is lost."""
    if page.size == size:
        return page
    scale = scale_within(page.size, size)
    width, height = (max(round(side * scale), 1) for side in page.size)
    canvas = PillowImage.new("RGB", size, "white")
    canvas.paste(page.resize((width, height), PillowImage.Resampling.LANCZOS))
    return canvas


def about(tiling: Tiling | None) -> str:
    """What the images are, before the question; nothing where there is one."""
    if tiling is None or not tiling.boxes:
        return ""
    return ABOUT_TILES.format(last=1 + len(tiling.boxes), rows=tiling.rows, columns=tiling.columns)
