"""Blocks that lie on their side on a page that stands upright: a wide table, a plan's legend, a caption along a margin.

Their lines are taken out, turned with the piece of the page that they stand on, and laid out as a page of their own;
what comes out goes back as one block. A single line (the name of an axis, a stamp) stays what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from pipeline.layout.connected import connected
from pipeline.layout.lines import CJK, Line, Point

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LEAST_LINES = 4
# Lines this many line heights apart or nearer are of one block: rows, and the cells of a row.
_REACH, _REACH_ALONG = 3.0, 12.0
_LEFT, _RIGHT = 1, 3  # quarter turns counter-clockwise that set the block upright


@dataclass(frozen=True, slots=True)
class SidewaysBlock:
    """`lines` as they stand on the page, with `bounds` around them (left, top, right, bottom); `upright`, and `pixels`
    of their piece of it, after both were turned by `turn` quarters."""

    lines: list[Line]
    bounds: tuple[int, int, int, int]
    turn: int
    upright: list[Line]
    pixels: NDArray[np.uint8] | None


def take_sideways(
    lines: Sequence[Line], pixels: NDArray[np.uint8] | None
) -> tuple[list[Line], list[SidewaysBlock], NDArray[np.uint8] | None]:
    """The other lines, the blocks, and the page with white where they were (itself where there is none)."""
    lying = [line for line in lines if line.turn in (_LEFT, _RIGHT) and not CJK.search(line.text)]
    blocks = []
    for turn in (_LEFT, _RIGHT):
        for group in _groups([line for line in lying if line.turn == turn]):
            # A page of which most lies on its side was turned before, or is in doubt: it is no block of itself.
            if _are_rows(group) and _length(group) < 0.75 * _length(lines):
                blocks.append(_block(group, turn, pixels))
    if not blocks:
        return list(lines), [], pixels
    if pixels is not None:
        pixels = pixels.copy()
        for block in blocks:
            left, top, right, bottom = block.bounds
            pixels[top:bottom, left:right] = 255
    taken = {id(line) for block in blocks for line in block.lines}
    return [line for line in lines if id(line) not in taken], blocks, pixels


def _groups(lines: list[Line]) -> list[list[Line]]:
    """Lines that stand near each other."""
    if not lines:
        return []
    size = median(_thickness(line) for line in lines)
    reach, along = _REACH * size, _REACH_ALONG * size
    boxes = [_extent([line]) for line in lines]
    links = (
        (i, j)
        for i, (left, top, right, bottom) in enumerate(boxes)
        for j, (x0, y0, x1, y1) in enumerate(boxes[:i])
        if x0 - reach < right and left < x1 + reach and y0 - along < bottom and top < y1 + along
    )
    return [[lines[i] for i in group] for group in connected(len(lines), links)]


def _are_rows(lines: list[Line]) -> bool:
    """Not one below the other along a margin, as the names of axes do."""
    if len(lines) < _LEAST_LINES:
        return False
    left, _, right, _ = _extent(lines)
    return right - left > 1.5 * median(_thickness(line) for line in lines)


def _block(lines: list[Line], turn: int, pixels: NDArray[np.uint8] | None) -> SidewaysBlock:
    left, top, right, bottom = _bounds(lines)
    if pixels is not None:
        right, bottom = min(right, pixels.shape[1]), min(bottom, pixels.shape[0])
    upright = []
    for line in lines:
        corners: list[Point] = [(y - top, right - x) if turn == _LEFT else (bottom - y, x - left) for x, y in line.quad]
        a, b, c, d = corners
        quad = (b, c, d, a) if turn == _LEFT else (d, a, b, c)
        upright.append(Line(quad, line.text, line.confidence, number=line.number))
    bounds = left, top, right, bottom
    piece = None if pixels is None else _turned(pixels[top:bottom, left:right], turn)
    return SidewaysBlock(lines, bounds, turn, upright, piece)


def _turned(pixels: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    import numpy as np  # only where there is a picture: a text layer has none, and its process no numpy

    return np.ascontiguousarray(np.rot90(pixels, turn))


def _bounds(lines: list[Line]) -> tuple[int, int, int, int]:
    """Whole pixels, with room for the rulings around: left, top, right, bottom."""
    left, top, right, bottom = _extent(lines)
    margin = median(_thickness(line) for line in lines)
    return max(0, int(left - margin)), max(0, int(top - margin)), int(right + margin), int(bottom + margin)


def _extent(lines: Sequence[Line]) -> tuple[float, float, float, float]:
    xs = [x for line in lines for x, _ in line.quad]
    ys = [y for line in lines for _, y in line.quad]
    return min(xs), min(ys), max(xs), max(ys)


def _thickness(line: Line) -> float:
    left, top, right, bottom = _extent([line])
    return min(right - left, bottom - top)


def _length(lines: Sequence[Line]) -> int:
    return sum(len(line.text) for line in lines)
