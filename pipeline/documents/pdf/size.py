"""At what size a PDF page is drawn, and how high its small print is then. Runs only inside the sandboxed process.

The page's own text has font sizes. A page without text, or one that is a picture for the most part (a scan with
somebody's OCR behind it, or with a stamp), is drawn for a look first, at two or eight megapixels or with the pixels
that the scan has. Of two sizes the smaller one counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pymupdf as _pymupdf
from PIL import Image

from pipeline.documents.pages.drawn import Limits
from pipeline.documents.pages.print_size import look_at, size_of_text
from pipeline.documents.pages.size import BLANK_PIXELS, UNKNOWN_PIXELS, Size, bound, choose_size, sized, too_small
from pipeline.documents.text_layer.layer_lines import UNDRAWN
from pipeline.documents.text_layer.text_lines import TextLines

pymupdf: Any = _pymupdf  # half annotated
mupdf: Any = _pymupdf.mupdf
_LOOK_PIXELS = (2_000_000, 8_000_000)  # and closer where print may be smaller than can be seen
_MUCH = 0.5  # of the page is pictures: its text layer may not be what is printed
_SCANNED = 0.25  # of the page is one picture: its pixels say how large drawing makes sense


@dataclass(frozen=True, slots=True)
class PageSize:
    size: Size
    print_px: float | None  # font size of the small print
    warning: str


def choose_page_size(
    display_list: Any, found: TextLines, sides_pt: tuple[float, float], detail: str, limits: Limits
) -> PageSize:
    area = sides_pt[0] * sides_pt[1]
    lines = [
        (round(size, 1), max(box[2] - box[0], box[3] - box[1]))
        for box, marks, size in zip(found.boxes, found.marks, found.sizes, strict=True)
        if not marks & UNDRAWN and min(_on_page(box, sides_pt)) > 0
    ]
    pictures = [
        (width * height, scale)
        for *box, scale in found.pictures
        for width, height in [_on_page(box, sides_pt)]
        if min(width, height) > 0
    ]
    print_pt = size_of_text(lines, max(sides_pt))
    sharp, least_pixels = math.inf, BLANK_PIXELS
    if print_pt is None or sum(covered for covered, _ in pictures) > _MUCH * area:
        scans = [scale for covered, scale in pictures if covered > _SCANNED * area]
        if scans and print_pt is None:
            sharp = max(scans)
        most = min(sharp, bound(*sides_pt, limits))
        seen_pt = None
        for pixels in _LOOK_PIXELS:
            scale = min(math.sqrt(pixels / area), most)
            look = look_at(_grey(display_list, sized(*sides_pt, scale, limits)))
            seen_pt = look.size / scale if look.size is not None else seen_pt
            if look.has_ink:
                least_pixels = UNKNOWN_PIXELS
            if look.is_sure or scale == most:
                break
        if seen_pt is not None:
            print_pt = min(seen_pt, print_pt or math.inf)
    size = choose_size(*sides_pt, detail, limits, print_size=print_pt, least_pixels=least_pixels, sharp=sharp)
    print_px = None if print_pt is None else print_pt * size.scale
    return PageSize(size, print_px, too_small(print_px, size, *sides_pt, detail, limits))


def draw(display_list: Any, size: Size, limits: Limits) -> Any:
    """A pixmap in RGB, white up to multiples of the model's square."""
    pixmap = _white_pixmap(pymupdf.csRGB, limits.padded(size.width_px), limits.padded(size.height_px))
    _draw_into(pixmap, display_list, size.scale)
    # What lies outside the page was drawn into the padding: a device with a smaller box than its pixmap's
    # (fz_new_draw_device_with_bbox) corrupts the heap in MuPDF 1.28.
    for margin in (
        mupdf.FzIrect(size.width_px, 0, pixmap.width, pixmap.height),
        mupdf.FzIrect(0, size.height_px, pixmap.width, pixmap.height),
    ):
        mupdf.fz_clear_pixmap_rect_with_value(pixmap.this, 255, margin)
    return pixmap


def _grey(display_list: Any, size: Size) -> Image.Image:
    pixmap = _white_pixmap(pymupdf.csGRAY, size.width_px, size.height_px)
    _draw_into(pixmap, display_list, size.scale)
    return Image.frombytes("L", (pixmap.width, pixmap.height), pixmap.samples)


def _draw_into(pixmap: Any, display_list: Any, scale: float) -> None:
    device = mupdf.fz_new_draw_device(mupdf.FzMatrix(scale, 0, 0, scale, 0, 0), pixmap.this)
    everything = mupdf.FzRect(mupdf.FzRect.Fixed_INFINITE)
    mupdf.fz_run_display_list(display_list.this, device, mupdf.FzMatrix(), everything, mupdf.FzCookie())
    mupdf.fz_close_device(device)


def _white_pixmap(colour_space: Any, width_px: int, height_px: int) -> Any:
    # As Page.get_pixmap makes it. pymupdf.Pixmap(csRGB, …) lacks the empty separations: black text then goes through
    # a profile, comes out tinted and takes ten times as long.
    box = mupdf.FzIrect(0, 0, width_px, height_px)
    pixmap = mupdf.fz_new_pixmap_with_bbox(colour_space.this, box, mupdf.FzSeparations(), 0)
    mupdf.fz_clear_pixmap_with_value(pixmap, 255)
    return pymupdf.Pixmap("raw", pixmap)


def _on_page(box: Sequence[float], sides_pt: tuple[float, float]) -> tuple[float, float]:
    """Width and height of the part of a box that lies on the page; not above 0 where none does."""
    return min(box[2], sides_pt[0]) - max(box[0], 0.0), min(box[3], sides_pt[1]) - max(box[1], 0.0)
