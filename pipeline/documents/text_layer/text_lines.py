"""The lines of a PDF page's own text, as MuPDF finds them. Runs only inside the sandboxed process.

Nothing is judged here (`judge.py`, `pdf/size.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import pymupdf as _pymupdf

from pipeline.documents.text_layer.layer_lines import BLANK, COVERED, DOWNWARDS, MAX_LINES, TILTED, UNDRAWN, UPRIGHT

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
_MAX_COVERS = 200  # pictures that may hide text; a page of more is one in strips, and each is held against each line
_PALE = 0xE0  # a channel of a text's colour above which it may be that of the paper


@dataclass(slots=True)
class TextLines:
    """What MuPDF found on a page, in points. Lines stand in the order in which they were drawn, one more than
    MAX_LINES where there are more."""

    boxes: list[tuple[float, float, float, float]]
    marks: list[int]  # of `layer_lines`
    sizes: list[float]  # font sizes; 0 for a line without characters
    directions: list[int | None]  # degrees counter-clockwise in which it reads, or DOWNWARDS
    pictures: list[tuple[float, float, float, float, float]]  # box, and pixels a point
    is_plain: bool  # nothing but dark text and rules, so that the page's picture need not be looked at
    num_vectors: int = 0
    handles: list[Any] = field(default_factory=list)  # MuPDF's own lines; they live as long as their page

    def keep(self, is_kept: Sequence[bool]) -> None:
        """Of the lines, those that are marked here, one mark each."""
        kinds: tuple[list[Any], ...] = self.boxes, self.marks, self.sizes, self.directions, self.handles
        for kind in kinds:
            kind[:] = compress(kind, is_kept)

    def picture_box(self, scale: float) -> tuple[int, int, int, int] | None:
        """Around all pictures, in pixels of the page's picture; None where there is none."""
        if not self.pictures:
            return None
        left, top, right, bottom, _ = zip(*self.pictures, strict=True)
        sides = min(left), min(top), max(right), max(bottom)
        x0, y0, x1, y1 = (round(min(max(side * scale, 0), 1e6)) for side in sides)
        return x0, y0, x1, y1

    def sent(self, scale: float) -> tuple[list[list[float | None]], bool]:
        """As they are sent, in pixels of the page's picture."""
        lines: list[list[float | None]] = [
            [
                *(round(min(max(side * scale, -1e6), 1e6)) for side in box),
                marks,
                round(min(size * scale, 1e6), 1),
                *([] if direction == 0 else [direction]),
            ]
            for box, marks, size, direction in zip(self.boxes, self.marks, self.sizes, self.directions, strict=True)
        ]
        return lines, self.is_plain


def text_lines(text_page: Any) -> TextLines:
    """`text_page` was made with FLAGS. Costs 5 µs a line: a line's first character speaks for it, for what is drawn
    otherwise comes as lines of its own."""
    found = TextLines([], [], [], [], [], True)
    for block in text_page.this:
        kind = block.m_internal.type
        if kind == mupdf.FZ_STEXT_BLOCK_TEXT:
            inside = block.begin().m_internal  # the plain structures: a wrapper for each would take twice as long
            while inside is not None and len(found.boxes) <= MAX_LINES:
                _add_line(found, inside)
                inside = inside.next
            continue
        found.num_vectors += kind == mupdf.FZ_STEXT_BLOCK_VECTOR
        if found.is_plain or kind == mupdf.FZ_STEXT_BLOCK_IMAGE:
            box = block.m_internal.bbox
            found.is_plain = found.is_plain and min(box.x1 - box.x0, box.y1 - box.y0) < _RULE_PT
            if kind == mupdf.FZ_STEXT_BLOCK_IMAGE:
                _add_picture(found, block)
    return found


def _add_line(found: TextLines, inside: Any) -> None:
    box, direction, first = inside.bbox, inside.dir, inside.first_char
    across, down = abs(direction.x), abs(direction.y)
    marks = UPRIGHT * (down > across) | TILTED * (min(across, down) > 0.05)
    is_dark, size = False, 0.0
    if first is None:
        marks |= BLANK
    else:
        colour, size = first.argb, first.size
        is_dark = colour >> 24 == 0xFF and min(colour >> 16 & 0xFF, colour >> 8 & 0xFF, colour & 0xFF) < _PALE
        marks |= UNDRAWN * (not first.flags & (mupdf.FZ_STEXT_FILLED | mupdf.FZ_STEXT_STROKED))
        marks |= BLANK * (chr(first.c).isspace() and chr(inside.last_char.c).isspace())
    found.boxes.append((box.x0, box.y0, box.x1, box.y1))
    found.marks.append(marks)
    found.sizes.append(size)
    found.handles.append(inside)
    if inside.wmode:
        found.directions.append(DOWNWARDS)
    else:
        is_level = direction.y == 0 and direction.x > 0
        angle = 0.0 if is_level else math.degrees(math.atan2(-direction.y, direction.x))
        found.directions.append(0 if math.isnan(angle) else round(angle) % 360)
    found.is_plain = found.is_plain and is_dark


def _add_picture(found: TextLines, block: Any) -> None:
    """And mark the lines that it hides, where it has no transparent parts."""
    image = block.i_image().m_internal
    if image is None:
        return
    box = block.m_internal.bbox
    if box.x1 > box.x0 and box.y1 > box.y0:
        scale = math.sqrt(image.w * image.h / ((box.x1 - box.x0) * (box.y1 - box.y0)))
        found.pictures.append((box.x0, box.y0, box.x1, box.y1, scale))
    if image.mask is not None or image.imagemask or len(found.pictures) > _MAX_COVERS:
        return
    for index, (x0, y0, x1, y1) in enumerate(found.boxes):
        if box.x0 < (x0 + x1) / 2 < box.x1 and box.y0 < (y0 + y1) / 2 < box.y1:
            found.marks[index] |= COVERED
