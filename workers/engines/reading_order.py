"""From the lines that a detector found on a page to text that reads as the page does.

A recursive cut in the family of XY-cut, here with gutters that a heading may cross:

1. Turn the boxes back by the page's median text angle, so that a slight skew closes no gutter.
2. A *gutter* is a vertical strip, one line height wide or more. Lines that cross it (a heading over two columns)
   split the region into bands. A band is read as columns where both sides hold two lines or more and are either
   prose (lines long for their height) or not level with each other. Short cells that stand level with those on
   the other side are a table: it is left whole and read row by row, also right below columns.
3. The gutter that separates most lines wins; left side, then right side, each cut again. No gutter: rows, top down.
4. Rows become paragraphs where size, pitch and the length of the line before allow it.

    Heading over both      lines: Heading, a1, b1, a2, b2 (b to the right of a)
    a1          b1         one gutter, crossed by Heading: bands [Heading], [a1 a2 | b1 b2]
    a2          b2         text: Heading / a1 a2 / b1 b2

Every line's text is in the result once, whatever order the lines come in. Lengths are pixels. Not handled:
vertical writing, writing from right to left, cells of several lines (each line becomes a row).

Nagy and Seth 1984, "Hierarchical representation of optically scanned documents"; Ha, Haralick and Phillips 1995,
"Recursive X-Y cut using bounding boxes of connected components"; Breuel 2002, "Two geometric algorithms for layout
analysis" (gutters as maximal white rectangles, lines that cross them as obstacles).
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """A detected line: corners clockwise from its own top left in pixels, what it says, and how sure (0 to 1)."""

    quad: tuple[Point, Point, Point, Point]
    text: str
    confidence: float = 1.0


@dataclass(frozen=True, slots=True, order=True)
class _Box:
    """A line's upright rectangle after the page is turned level; ordered top down, then left to right."""

    y0: float
    x0: float
    y1: float
    x1: float
    text: str

    @property
    def size(self) -> float:
        """The height of its letters, also where the line stands upright."""
        return min(self.y1 - self.y0, self.x1 - self.x0)

    @property
    def centre(self) -> float:
        return (self.y0 + self.y1) / 2


_Band = tuple[list[_Box], list[_Box]]

# Cells of a table row are joined by this: visible, safe in Markdown and in SQL output, where a tab is neither.
CELL_SEPARATOR = " | "
# Lines of prose are 8 letter heights wide or more (about 16 Latin letters, 8 Chinese); cells of tables are shorter.
_PROSE_WIDTH = 8.0
_LIST_ITEM = re.compile(
    r"[•·●○▪■◦‣*–—-]\s*\S|\(?\d{1,3}[.)、]\s*\D|\(?[a-zA-Z][.)]\s"
    r"|[(（][一二三四五六七八九十\d]+[)）]|[一二三四五六七八九十]+、"
)
_CJK = re.compile("[\u2e80-\u303f\u3040-\u30ff\u3100-\u312f\u3190-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef]")


def text_in_reading_order(lines: Sequence[Line]) -> str:
    """The page's text: columns one after the other, table rows as rows, paragraphs between blank lines."""
    boxes = _level([line for line in lines if line.text.strip()])
    if not boxes:
        return ""
    height = median(box.size for box in boxes)
    return "\n\n".join(_paragraphs(region) for region in _regions(boxes, height))


def _level(lines: list[Line]) -> list[_Box]:
    """Boxes sorted from the top, turned by the median angle of the long lines (if it is slight: under 15°)."""
    angles = []
    for line in lines:
        (ax, ay), (bx, by), _, (dx, dy) = line.quad
        if math.hypot(bx - ax, by - ay) > 4 * math.hypot(dx - ax, dy - ay):
            angles.append(math.atan2(by - ay, bx - ax))
    angle = median(angles) if angles else 0.0
    if abs(angle) > math.radians(15):
        angle = 0.0
    cosine, sine = math.cos(angle), math.sin(angle)
    boxes = []
    for line in lines:
        xs = sorted(x * cosine + y * sine for x, y in line.quad)
        ys = sorted(y * cosine - x * sine for x, y in line.quad)
        # The mean of two corners: a line turned a little more than the page does not grow into its neighbours.
        boxes.append(
            _Box((ys[0] + ys[1]) / 2, (xs[0] + xs[1]) / 2, (ys[2] + ys[3]) / 2, (xs[2] + xs[3]) / 2, line.text.strip())
        )
    return sorted(boxes)


def _regions(boxes: list[_Box], height: float) -> list[list[_Box]]:
    """Cut at the best gutter until none is left; each result is read row by row. `boxes` is sorted."""
    cut = max(
        (_cut_at(boxes, x, height) for x in _gutters(boxes, height)),
        key=lambda bands: sum(min(len(left), len(right)) for left, right in bands),
        default=[],
    )
    if not any(right for _, right in cut):
        return [boxes]
    return [region for band in cut for side in band if side for region in _regions(side, height)]


def _gutters(boxes: list[_Box], height: float) -> list[float]:
    """Left edges of strips worth trying: right of some line's end, at most one in four pixels."""
    right = max(box.x0 for box in boxes)
    return sorted({4.0 * math.ceil(box.x1 / 4) for box in boxes if box.x1 + height <= right + 4})


def _cut_at(boxes: list[_Box], x: float, height: float) -> list[_Band]:
    """The region from the top, for a gutter that begins at `x`: (left, right), or (whole, []) where it is none."""
    bands: list[_Band] = []
    whole: list[_Box] = []
    current: list[_Box] = []

    def end_band() -> None:
        for left, right in _columns_and_tables(current, x, height):
            if len(left) < 2 or len(right) < 2:
                whole.extend(left + right)
                continue
            if whole:
                bands.append((sorted(whole), []))
                whole.clear()
            bands.append((sorted(left), sorted(right)))
        current.clear()

    crossing = sorted(box.centre for box in boxes if box.x0 < x + 0.75 * height and box.x1 > x)
    for box in sorted(boxes, key=lambda box: (box.centre, box)):
        # A short cell beside one that crosses belongs to the same row of a table.
        reach = 0.35 * height if box.x1 - box.x0 < _PROSE_WIDTH * height else 0.0
        if (box.x0 < x + 0.75 * height and box.x1 > x) or _is_near(box.centre, crossing, reach):
            end_band()
            whole.append(box)
        else:
            current.append(box)
    end_band()
    if whole:
        bands.append((sorted(whole), []))
    return bands


def _columns_and_tables(boxes: list[_Box], x: float, height: float) -> list[_Band]:
    """Split what no line crosses where white space does, and put the pieces together again that belong together.

    Columns stay whole over a gap that happens to be level on both sides; a table below them, or a header of two
    words above, becomes a piece of its own: (its lines, []).
    """
    pieces: list[_Band] = []
    bottom = -math.inf
    for box in sorted(boxes):
        if box.y0 > bottom + 0.5 * height:
            pieces.append(([], []))
        pieces[-1][box.x1 > x].append(box)
        bottom = max(bottom, box.y1)
    tables = [_is_table(left, right, height) for left, right in pieces]
    joined: list[_Band] = []
    was_table = None
    for i, (left, right) in enumerate(pieces):
        is_table = tables[i]
        if not left or not right:
            # Goes with what is above; at the top, the left may be the short last line of a paragraph across.
            is_table = bool(left) if was_table is None else was_table
        elif len(left) == len(right) == 1 and 0 < i < len(pieces) - 1 and not tables[i - 1] and not tables[i + 1]:
            is_table = False  # two short lines level by chance
        if is_table:
            left, right = left + right, []
        if is_table == was_table:
            joined[-1] = (joined[-1][0] + left, joined[-1][1] + right)
        else:
            joined.append((left, right))
        was_table = is_table
    return joined


def _is_table(left: list[_Box], right: list[_Box], height: float) -> bool:
    """Short lines, level with those on the other side."""
    if not left or not right:
        return False
    if all(median(box.x1 - box.x0 for box in side) >= _PROSE_WIDTH * height for side in (left, right)):
        return False
    few, many = sorted((left, right), key=len)
    centres = sorted(box.centre for box in many)
    return sum(_is_near(box.centre, centres, 0.35 * height) for box in few) >= 0.5 * len(few)


def _is_near(value: float, ordered: list[float], reach: float) -> bool:
    """Whether one of `ordered` (ascending) lies less than `reach` away."""
    at = bisect_left(ordered, value)
    return any(abs(value - other) < reach for other in ordered[max(at - 1, 0) : at + 1])


def _rows(boxes: list[_Box]) -> list[list[_Box]]:
    """Boxes that stand level, and not above one another, share a row; rows from the top, cells from the left."""
    rows: list[list[_Box]] = []
    for box in sorted(boxes, key=lambda box: (box.centre, box)):
        row = rows[-1] if rows else []
        level = row and abs(box.centre - row[0].centre) < 0.5 * min(box.size, row[0].size)
        if level and all(min(box.x1, cell.x1) - max(box.x0, cell.x0) < 0.5 * box.size for cell in row):
            row.append(box)
        else:
            rows.append([box])
    return [_cells(sorted(row, key=lambda cell: (cell.x0, cell))) for row in rows]


def _cells(row: list[_Box]) -> list[_Box]:
    """A gap under 1.5 letter heights is a line that the detector broke: its pieces become one cell."""
    cells = row[:1]
    for piece in row[1:]:
        cell = cells[-1]
        if piece.x0 - cell.x1 > 1.5 * cell.size:
            cells.append(piece)
            continue
        text = _join(cell.text, piece.text, "")
        y0, y1, x1 = min(cell.y0, piece.y0), max(cell.y1, piece.y1), max(cell.x1, piece.x1)
        cells[-1] = _Box(y0, cell.x0, y1, x1, text)
    return cells


def _paragraphs(region: list[_Box]) -> str:
    rows = _rows(region)
    left = min(box.x0 for box in region)
    right = max(box.x1 for box in region)
    texts = [CELL_SEPARATOR.join(cell.text for cell in row) for row in rows]
    text = texts[0]
    for (before, row), following in zip(pairwise(rows), texts[1:], strict=True):
        text = _join(text, following, _break(before, row, left, right))
    return text


def _break(before: list[_Box], row: list[_Box], left: float, right: float) -> str:
    """What stands between two rows: a blank line, a line break, or "" where the paragraph goes on."""
    above, below = before[0], row[0]
    small, large = sorted((above.size, below.size))
    if large > 1.35 * small or min(b.y0 for b in row) - max(b.y1 for b in before) > 0.8 * small:
        return "\n\n"
    if len(before) > 1 or len(row) > 1 or _LIST_ITEM.match(below.text):
        return "\n"
    indent = below.x0 - above.x0
    if indent > 1.2 * small and above.x0 - left < small and not _LIST_ITEM.match(above.text):
        return "\n\n"
    # A line that leaves room for more than a long word ended on purpose.
    return "\n" if right - above.x1 > max(4 * small, 0.2 * (right - left)) else ""


def _join(text: str, following: str, separator: str) -> str:
    """Join across a line's end: hyphens of Latin words closed (a compound broken at its own hyphen loses it),
    no space beside a CJK character."""
    if separator:
        return text + separator + following
    if re.search(r"[^\W\d_][-\u00ad]$", text) and not _CJK.match(following):
        return (text[:-1] if following[0].islower() else text) + following
    if _CJK.match(text[-1]) or _CJK.match(following[0]):
        return text + following
    return f"{text} {following}"
