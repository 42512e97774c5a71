"""At what size a PDF page is drawn, and how high its small print is then. Runs only inside the sandboxed process.

The page's own text has font sizes. A page without text, or one that is a picture for the most part (a scan with
somebody's OCR behind it, or with a stamp), is drawn for a look first, at 4 megapixels or with the pixels that the scan
has. Of two sizes the smaller one counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pymupdf as _pymupdf
from PIL import Image

from pipeline.documents.drawn import Limits, padded_px
from pipeline.documents.page_size import BLANK_PIXELS, UNKNOWN_PIXELS, Size, bound, choose_size, sized, too_small
from pipeline.documents.print_size import size_in_picture, size_of_text

pymupdf: Any = _pymupdf  # half annotated
mupdf: Any = _pymupdf.mupdf
_DRAWN = mupdf.FZ_STEXT_FILLED | mupdf.FZ_STEXT_STROKED  # else the text is somebody's OCR behind a scan
_LOOK_PIXELS = 4_000_000
_MUCH = 0.5  # of the page is pictures: its text layer may not be what is printed
_SCANNED = 0.25  # of the page is one picture: its pixels say how large drawing makes sense


@dataclass(frozen=True, slots=True)
class PageSize:
    size: Size
    print_px: float | None  # font size of the small print
    warning: str


def choose_page_size(
    display_list: Any, text_page: Any, sides_pt: tuple[float, float], detail: str, limits: Limits
) -> PageSize:
    """`text_page` holds the page's images, too (TEXT_PRESERVE_IMAGES)."""
    area = sides_pt[0] * sides_pt[1]
    lines, pictures = _lines_and_pictures(text_page, sides_pt)
    print_pt = size_of_text(lines, max(sides_pt))
    sharp, least_pixels = math.inf, BLANK_PIXELS
    if print_pt is None or sum(covered for covered, _ in pictures) > _MUCH * area:
        scans = [scale for covered, scale in pictures if covered > _SCANNED * area]
        if scans and print_pt is None:
            sharp = max(scans)
        look = min(math.sqrt(_LOOK_PIXELS / area), sharp, bound(*sides_pt, limits))
        seen_px, has_ink = size_in_picture(_grey(display_list, sized(*sides_pt, look, limits)))
        if has_ink:
            least_pixels = UNKNOWN_PIXELS
        if seen_px is not None:
            print_pt = min(seen_px / look, print_pt or math.inf)
    size = choose_size(*sides_pt, detail, limits, print_size=print_pt, least_pixels=least_pixels, sharp=sharp)
    print_px = None if print_pt is None else print_pt * size.scale
    return PageSize(size, print_px, too_small(print_px, size, *sides_pt, detail, limits))


def draw(display_list: Any, size: Size) -> Any:
    """A pixmap in RGB, white up to multiples of 16."""
    pixmap = _white_pixmap(pymupdf.csRGB, padded_px(size.width_px), padded_px(size.height_px))
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


def _lines_and_pictures(
    text_page: Any, sides_pt: tuple[float, float]
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Font size and length of each line on the page; how much of the page each picture covers, and its pixels a point.

    Where a line changes its size, its first character counts: all characters would take as long as drawing them.
    """
    lines, pictures = [], []
    for block in text_page.this:
        if block.m_internal.type == mupdf.FZ_STEXT_BLOCK_IMAGE:
            box = block.m_internal.bbox
            width, height = (
                min(end, side) - max(start, 0.0)
                for start, end, side in zip((box.x0, box.y0), (box.x1, box.y1), sides_pt, strict=True)
            )
            if width > 0 and height > 0:
                image = block.i_image()
                scale = math.sqrt(image.w() * image.h() / ((box.x1 - box.x0) * (box.y1 - box.y0)))
                pictures.append((width * height, scale))
        elif block.m_internal.type == mupdf.FZ_STEXT_BLOCK_TEXT:
            line = block.begin().m_internal  # the plain structures: a wrapper for each would take twice as long
            while line is not None:
                box, first = line.bbox, line.first_char
                is_on_page = box.x1 > 0 and box.y1 > 0 and box.x0 < sides_pt[0] and box.y0 < sides_pt[1]
                if first is not None and is_on_page and first.flags & _DRAWN:
                    lines.append((round(first.size, 1), max(box.x1 - box.x0, box.y1 - box.y0)))
                line = line.next
    return lines, pictures
