"""The lines of a PDF page's own text, as MuPDF finds them. Runs only inside the sandboxed process.

Nothing is judged here (`text_layer.py`); a line is sent as its box in pixels of the page's picture, then its marks.
"""

from __future__ import annotations

from typing import Any

import pymupdf as _pymupdf

from pipeline.documents.layer_lines import BLANK, COVERED, MAX_LINES, TILTED, UNDRAWN, UPRIGHT

pymupdf: Any = _pymupdf  # half annotated
mupdf: Any = _pymupdf.mupdf

FLAGS = (
    (
        pymupdf.TEXTFLAGS_TEXT
        & ~pymupdf.TEXT_PRESERVE_LIGATURES
        & ~pymupdf.TEXT_CID_FOR_UNKNOWN_UNICODE  # a glyph without a meaning is U+FFFD, not the letter of its number
    )
    | pymupdf.TEXT_PRESERVE_IMAGES
    | pymupdf.TEXT_COLLECT_VECTORS
)
_RULE_PT = 2.0  # thinner is a rule, which neither says anything nor hides it
_PALE = 0xE0  # a channel of a text's colour above which it may be that of the paper


def text_lines(text_page: Any, scale: float) -> tuple[list[list[int]], bool]:
    """The lines in the order in which they were drawn, one more than MAX_LINES where there are more; and whether the
    page holds nothing but dark text and rules, so that its picture need not be looked at.

    `text_page` was made with FLAGS. Costs 5 µs a line: a line's first character speaks for it, for what is drawn
    otherwise comes as lines of its own.
    """
    lines: list[list[int]] = []
    is_plain = True
    for block in text_page.this:
        kind = block.m_internal.type
        if kind == mupdf.FZ_STEXT_BLOCK_TEXT:
            inside = block.begin().m_internal  # the plain structures: a wrapper for each would take twice as long
            while inside is not None and len(lines) <= MAX_LINES:
                line, is_dark = _line(inside, scale)
                lines.append(line)
                is_plain = is_plain and is_dark
                inside = inside.next
        elif is_plain or kind == mupdf.FZ_STEXT_BLOCK_IMAGE:
            box = block.m_internal.bbox
            is_plain = is_plain and min(box.x1 - box.x0, box.y1 - box.y0) < _RULE_PT
            if kind == mupdf.FZ_STEXT_BLOCK_IMAGE:
                _cover(lines, block, scale)
    return lines, is_plain


def _line(inside: Any, scale: float) -> tuple[list[int], bool]:
    box, direction, first = inside.bbox, inside.dir, inside.first_char
    across, down = abs(direction.x), abs(direction.y)
    marks = UPRIGHT * (down > across) | TILTED * (min(across, down) > 0.05)
    is_dark = False
    if first is None:
        marks |= BLANK
    else:
        colour = first.argb
        is_dark = colour >> 24 == 0xFF and min(colour >> 16 & 0xFF, colour >> 8 & 0xFF, colour & 0xFF) < _PALE
        marks |= UNDRAWN * (not first.flags & (mupdf.FZ_STEXT_FILLED | mupdf.FZ_STEXT_STROKED))
        marks |= BLANK * (chr(first.c).isspace() and chr(inside.last_char.c).isspace())
    sides = (box.x0 * scale, box.y0 * scale, box.x1 * scale, box.y1 * scale)
    return [*(round(min(max(side, -1e6), 1e6)) for side in sides), marks], is_dark


def _cover(lines: list[list[int]], block: Any, scale: float) -> None:
    """Mark the lines that a picture hides which has no transparent parts."""
    image = block.i_image().m_internal
    if image is None or image.mask is not None or image.imagemask:
        return
    box = block.m_internal.bbox
    left, top, right, bottom = box.x0 * scale, box.y0 * scale, box.x1 * scale, box.y1 * scale
    for line in lines:
        if left < (line[0] + line[2]) / 2 < right and top < (line[1] + line[3]) / 2 < bottom:
            line[4] |= COVERED
