"""The straight strokes that a PDF page draws, level or upright, as tables have them around their cells.

Runs only inside the sandboxed process.

MuPDF hands out the vectors of a page in its structured text, each with a box. What a vector is (stroke or area, which
colour) PyMuPDF says only in XML; so the page runs once more, for its vectors alone.
"""

from __future__ import annotations

import re
from typing import Any

import pymupdf as _pymupdf

pymupdf: Any = _pymupdf  # half annotated
mupdf: Any = _pymupdf.mupdf

_MAX_VECTORS = 3_000  # of a page; more is a drawing. The densest public table that was seen has 900
_THICKEST_PT = 2.5
_SHORTEST_PT = 4.0
_LEAST_BOX_PT = 6.0  # the sides of a box; what is thinner is a bar
_PAPER = 0xF8  # channels of a colour from which on it is that of the paper
_VECTOR = re.compile(
    r'<vector bbox="(\S+) (\S+) (\S+) (\S+)" stroke="([01])" rectangle="([01])".*?argb="([0-9a-f]{8})"'
)

Strokes = tuple[list[list[int]], list[list[int]]]
"""Level and upright ones, each [at, start, end] in pixels of the page's picture."""


def page_strokes(display_list: Any, num_vectors: int, scale: float) -> Strokes:
    """`num_vectors` as `text_lines` counted them; costs 0.3 ms and 5 µs for each."""
    level: list[list[int]] = []
    upright: list[list[int]] = []
    if not 3 <= num_vectors <= _MAX_VECTORS:
        return level, upright
    for x0, y0, x1, y1, is_stroked, is_rectangle, colour in _vectors(display_list):
        width, height = x1 - x0, y1 - y0
        long, thick = max(width, height), min(width, height)
        if long < _SHORTEST_PT or _is_of_paper(colour):
            continue
        left, top, right, bottom = (round(min(max(side * scale, -1e6), 1e6)) for side in (x0, y0, x1, y1))
        if thick <= _THICKEST_PT and long > 2 * thick:
            if width > height:
                level.append([(top + bottom) // 2, left, right])
            else:
                upright.append([(left + right) // 2, top, bottom])
        elif is_stroked and is_rectangle and thick >= _LEAST_BOX_PT:
            level += [[top, left, right], [bottom, left, right]]
            upright += [[left, top, bottom], [right, top, bottom]]
    return level, upright


def _vectors(display_list: Any) -> list[tuple[float, float, float, float, bool, bool, int]]:
    options = mupdf.FzStextOptions()
    options.flags = mupdf.FZ_STEXT_COLLECT_VECTORS
    text_page = mupdf.FzStextPage(mupdf.fz_bound_display_list(display_list.this))
    device = mupdf.fz_new_stext_device(text_page, options)
    of_device = device.m_internal
    of_device.fill_text = of_device.stroke_text = of_device.ignore_text = of_device.fill_image = None
    everywhere = mupdf.FzRect(mupdf.FzRect.Fixed_INFINITE)
    mupdf.fz_run_display_list(display_list.this, device, mupdf.FzMatrix(), everywhere, mupdf.FzCookie())
    mupdf.fz_close_device(device)
    xml = pymupdf.TextPage(text_page).extractXML()
    return [
        (float(x0), float(y0), float(x1), float(y1), stroke == "1", rectangle == "1", int(colour, 16))
        for x0, y0, x1, y1, stroke, rectangle, colour in _VECTOR.findall(xml)
    ]


def _is_of_paper(colour: int) -> bool:
    """White, or hardly to be seen."""
    return colour >> 24 < 0x20 or min(colour >> 16 & 0xFF, colour >> 8 & 0xFF, colour & 0xFF) >= _PAPER
