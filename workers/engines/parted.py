"""Cuts what the detector took for one line where it is several: cells that stand close, lines of two columns.

A ruling cuts a line if it runs past it above and below, and has blank paper beside it within the line: so no letter's
stem and no shadow of a scan cuts a word. A dotted one that runs through most lines on its way is none, but digits that
stand below each other. The ruling itself is left out: it would be read as a 1 or an l.

A gutter cuts a line if three lines near it begin where the gutter ends and three end before, and if the line has a
blank there that is wider than between words, as have most of its neighbours that run across.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.layout.lines import Quad
from pipeline.layout.rulings import Ruling, Rulings
from workers.engines.regions import Region

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.layout.lines import Point

    Boxes = NDArray[np.float64]

Cut = tuple[int, int]
"""First column of a line's image that is left out, and the first after it."""

# In heights of the line: how far away lines may be that say where columns begin; neighbours; a gutter's least width.
_NEAR, _NEXT, _LEAST_GUTTER = 15.0, 3.5, 0.35
_LEAST_LINES = 3


def parted(regions: Sequence[Region], rulings: Rulings) -> list[Region]:
    """In the same order, from the left; `rulings` are those of the page on which the regions were found."""
    import numpy as np

    if not regions:
        return []
    boxes = np.array([_level(region, rulings.angle) for region in regions])  # (regions, 4): x0, y0, x1, y1
    blanks = [_blanks(region, box, boxes) for region, box in zip(regions, boxes, strict=True)]
    upright = [one for one in rulings.upright if not (one.is_dotted and _is_of_letters(one, boxes))]
    found: list[Region] = []
    for i, (region, box) in enumerate(zip(regions, boxes, strict=True)):
        cuts = [cut for start, cut in blanks[i].items() if cut is not None and _is_gutter(start, i, blanks, boxes)]
        if region.runs_across:
            cuts += _cuts_at_rulings(region, box, upright)
        found += _parts(region, cuts) if cuts else [region]
    return found


def _level(region: Region, angle: float) -> tuple[float, float, float, float]:
    cosine, sine = math.cos(angle), math.sin(angle)
    a, b, c, d = ((x * cosine + y * sine, y * cosine - x * sine) for x, y in region.quad)
    return (a[0] + d[0]) / 2, (a[1] + b[1]) / 2, (b[0] + c[0]) / 2, (c[1] + d[1]) / 2


def _blanks(region: Region, box: Boxes, boxes: Boxes) -> dict[float, Cut | None]:
    """Where columns begin within the line, and the blank before each."""
    starts = _starts_of_columns(box, boxes) if region.runs_across else []
    if not starts:
        return {}
    ink = _ink(region.image)
    return {start: _blank_before(ink, (start - box[0]) / (box[2] - box[0]) * ink.shape[1]) for start in starts}


def _starts_of_columns(box: Boxes, boxes: Boxes) -> list[float]:
    """Where lines near this one begin, while others end before; from the left."""
    x0, y0, x1, y1 = box
    size, sizes = y1 - y0, boxes[:, 3] - boxes[:, 1]
    is_near = (abs(boxes[:, 1] + boxes[:, 3] - y0 - y1) < 2 * _NEAR * size) & (abs(sizes - size) < 0.35 * size)
    near = boxes[is_near & (boxes[:, 2] > x0) & (boxes[:, 0] < x1)]
    starts: list[float] = []
    for start in sorted(near[(near[:, 0] > x0 + 3 * size) & (near[:, 0] < x1 - 2 * size), 0].tolist()):
        if starts and start - starts[-1] < size:
            continue
        begin = (abs(near[:, 0] - start) < 0.35 * size).sum()
        end = ((near[:, 0] < start - 3 * size) & (near[:, 2] < start)).sum()
        if begin >= _LEAST_LINES and end >= _LEAST_LINES:
            starts.append(start)
    return starts


def _is_gutter(start: float, i: int, blanks: list[dict[float, Cut | None]], boxes: Boxes) -> bool:
    """Most lines that run across it just here have a blank there: one alone may have it between two words."""
    size = boxes[i, 3] - boxes[i, 1]
    found = [
        cut is not None
        for j in (abs(boxes[:, 1] - boxes[i, 1]) < _NEXT * size).nonzero()[0]
        for other, cut in blanks[j].items()
        if abs(other - start) < 0.5 * size
    ]
    return sum(found) >= 0.6 * len(found)


def _is_of_letters(one: Ruling, boxes: Boxes) -> bool:
    """It runs through lines for most of its length, as the digits of a close column do that stand below each other."""
    sizes = boxes[:, 3] - boxes[:, 1]
    crossed = boxes[(boxes[:, 0] + 0.3 * sizes < one.at) & (one.at < boxes[:, 2] - 0.3 * sizes)]
    inside = [max(0.0, min(bottom, one.end) - max(top, one.start)) for _, top, _, bottom in crossed]
    return bool(sum(inside) > 0.5 * (one.end - one.start))


def _cuts_at_rulings(region: Region, box: Boxes, upright: Sequence[Ruling]) -> list[Cut]:
    x0, y0, x1, y1 = box
    size = y1 - y0

    def crosses(one: Ruling) -> bool:
        runs_past = one.start < y0 + 0.1 * size and one.end > y1 - 0.1 * size
        return bool(runs_past and x0 + 0.3 * size < one.at < x1 - 0.3 * size)

    crossing = [one for one in upright if crosses(one)]
    if not crossing:
        return []
    ink = _ink(region.image)
    cuts = [_cut_at_ruling(ink, (one.at - x0) / (x1 - x0) * ink.shape[1]) for one in crossing]
    return [cut for cut in cuts if cut is not None]


def _parts(region: Region, cuts: list[Cut]) -> list[Region]:
    ink, width = _ink(region.image), region.image.shape[1]
    begins, ends = [0], []
    for start, end in sorted(cuts):
        if start >= begins[-1]:
            ends.append(start)
            begins.append(end)
    parts = [
        Region(_between(region.quad, begin / width, end / width), region.image[:, begin:end])
        for begin, end in zip(begins, [*ends, width], strict=True)
        if end - begin > 0.2 * ink.shape[0] and ink[:, begin:end].any()
    ]
    return parts or [region]


def _ink(image: Any) -> Any:
    """Which pixels are written on: the darker ones, or on a dark ground the lighter ones."""
    import cv2

    _, ink = cv2.threshold(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), 0, 1, cv2.THRESH_BINARY_INV + cv2.THRESH_OTSU)
    return ink if 2 * ink.mean() <= 1 else 1 - ink


def _cut_at_ruling(ink: Any, at: float) -> Cut | None:
    """First column of the ruling near `at`, and the first behind it; None where letters stand on both sides of it."""
    height, width = ink.shape
    filled = ink.mean(axis=0)
    near = range(max(0, round(at) - max(2, height // 8)), min(width, round(at) + max(2, height // 8) + 1))
    start = max(near, key=lambda column: filled[column] - 0.01 * abs(column - at))
    end = start + 1
    if filled[start] < 0.6:  # lighter than the letters
        start, end = round(at) - 1, round(at) + 2
    while start > 0 and filled[start - 1] > 0.6:
        start -= 1
    while end < width and filled[end] > 0.6:
        end += 1
    blank = max(2, round(0.1 * height))
    before, behind = filled[max(0, start - 1 - blank) : max(0, start - 1)], filled[end + 1 : end + 1 + blank]
    if end - start > 0.4 * height or (before.size and before.max() > 0.04 and behind.size and behind.max() > 0.04):
        return None
    return start, end


def _blank_before(ink: Any, at: float) -> Cut | None:
    """The widest blank just before column `at`, but for a little white beside the letters; None: only between words."""
    height, width = ink.shape
    is_blank = [share <= 0.02 for share in ink.mean(axis=0)] + [False]
    first, last = max(0, round(at - 1.2 * height)), min(width, round(at + 0.4 * height))
    blank, start = (0, 0), None
    for column in range(first, last + 1):
        if is_blank[column] and column < last:
            start = column if start is None else start
        elif start is not None:
            blank, start = max(blank, (column - start, start)), None
    length, begin = blank
    margin = min(length // 4, round(0.1 * height))
    return (begin + margin, begin + length - margin) if length >= _LEAST_GUTTER * height else None


def _between(quad: Quad, start: float, end: float) -> Quad:
    a, b, c, d = quad

    def along(one: Point, other: Point, part: float) -> Point:
        return one[0] + part * (other[0] - one[0]), one[1] + part * (other[1] - one[1])

    return along(a, b, start), along(a, b, end), along(d, c, end), along(d, c, start)
