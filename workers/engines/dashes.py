"""Single dashes in a table's cells, which the detector does not see: it looks for words.

A dash is a short level stroke by itself. It counts where lines of the page say that a cell is there: one stands
level with it, and two of its column, short lines or other such strokes, are near above or below and begin, end or have
their middle where it does. Specks, bullets and the strokes of a drawing stand elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.layout.lines import Line, Quad

_DARKER = 40  # than what surrounds it, of 255
_LONG, _THICK = (0.15, 0.8), 0.25  # in line heights
_CLEAR = 0.4  # line heights of white around it
_LEVEL, _ALIGNED, _NEAR_ROWS = 0.25, 0.35, 4.0
_LEAST_LINES, _LEAST_IN_COLUMN = 6, 2
_SHORT = 8.0  # line heights: longer lines are prose
_MOST = 300  # strokes that are looked at
_LIKE_A_DASH = {"一", "ー"}
_CHINESE = re.compile("(?![一ー])[\u3041-\u30ff\u3400-\u9fff]|[一ー].|.[一ー]")


def find_dashes(pixels: NDArray[np.uint8], lines: list[Line]) -> list[Quad]:
    """Where they are on a level page (RGB) whose lines are read, as boxes that are as high as its lines."""
    import cv2
    import numpy as np

    boxes = [_bounds(line.quad) for line in lines if not line.turn]
    if len(boxes) < _LEAST_LINES:
        return []
    found = np.array(boxes)
    heights = found[:, 3] - found[:, 1]
    height = float(np.median(heights))
    grey: Any = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    around = 2 * max(7, round(height)) + 1
    ink: Any = (cv2.subtract(cv2.blur(grey, (around, around)), grey) > _DARKER).astype(np.uint8)
    _, _, strokes, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    x, y, wide, tall = (strokes[1:, i].astype(float) for i in range(4))
    likely = (wide > _LONG[0] * height) & (wide < _LONG[1] * height) & (tall < _THICK * height) & (wide >= 1.5 * tall)
    centres = (found[:, 1] + found[:, 3]) / 2
    lengths = found[:, 2] - found[:, 0]
    strokes = []
    for left, top, width, thick in np.stack([x, y, wide, tall], axis=1)[likely][:_MOST].tolist():
        right, middle = left + width, top + thick / 2
        beside = np.abs(centres - middle)
        over = (found[:, 0] < right + _CLEAR * height) & (found[:, 2] > left - _CLEAR * height)
        is_read = (over & (found[:, 1] < middle) & (found[:, 3] > middle)).any()
        level = (beside < _LEVEL * height) & (lengths < 3 * _SHORT * height)
        if not is_read and level.any() and _is_alone(ink, (left, top, width, thick), height):
            strokes.append((left, middle, right, middle))
    cells = np.array([*found[lengths < _SHORT * height].tolist(), *strokes]).reshape(-1, 4)
    half = 0.5 * height
    return [
        ((left, middle - half), (right, middle - half), (right, middle + half), (left, middle + half))
        for left, middle, right, _ in strokes
        if _num_in_column(cells, left, middle, right, height) >= _LEAST_IN_COLUMN
    ]


def plain_dashes(lines: list[Line]) -> list[Line]:
    """With the dashes that the recognizer takes for the Chinese number one, on a page without Chinese or Japanese."""
    if any(_CHINESE.search(line.text) for line in lines):
        return lines
    return [replace(line, text="-") if line.text.strip() in _LIKE_A_DASH else line for line in lines]


def _num_in_column(cells: NDArray[np.float64], left: float, middle: float, right: float, height: float) -> int:
    """Short lines and strokes near above and below that begin, end or have their middle where it does."""
    away = abs((cells[:, 1] + cells[:, 3]) / 2 - middle) / height
    reach = _ALIGNED * height
    begins, ends = abs(cells[:, 0] - left) < reach, abs(cells[:, 2] - right) < reach
    is_centred = abs(cells[:, 0] + cells[:, 2] - left - right) < 2 * reach
    over = (cells[:, 0] < right + reach) & (cells[:, 2] > left - reach)
    return int(((begins | ends | is_centred) & over & (away > _LEVEL) & (away < _NEAR_ROWS)).sum())


def _is_alone(ink: Any, stroke: tuple[float, float, float, float], height: float) -> bool:
    """White around it, as no stroke of a letter or a dotted line has."""
    left, top, width, thick = stroke
    clear = round(_CLEAR * height)
    x0, y0 = max(0, int(left) - clear), max(0, int(top) - clear)
    piece = ink[y0 : int(top + thick) + clear, x0 : int(left + width) + clear]
    return int(piece.sum()) <= 1.05 * width * thick


def _bounds(quad: Quad) -> tuple[float, float, float, float]:
    xs, ys = zip(*quad, strict=True)
    return min(xs), min(ys), max(xs), max(ys)
