"""Rulings: the thin straight lines that are drawn around and between cells, found in a page's pixels.

A pixel is ink if it is darker than what surrounds it. A ruling is ink that runs level or upright for longer than any
letter does, and is thin; dots and dashes are closed first, and must then run longer still. Solid areas, and what
lies inside a line of text (a letter's stem, a stroke through a word), are none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.layout.lines import Box, Frame

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# How much darker than its surroundings, of 255.
_INK = 20
# Under a tenth of a degree a ruling across the page stays within its own thickness.
_LEAST_ANGLE = math.radians(0.1)
_MOST = 400  # strokes of a page that are long enough, each way; more is a drawing, and each is held against each


@dataclass(frozen=True, slots=True, order=True)
class Ruling:
    """`at` is its y if it is level and its x if it is upright; it runs from `start` to `end` along the other."""

    at: float
    start: float
    end: float
    is_dotted: bool = False
    """Or dashed: so may letters seem that stand below each other."""


@dataclass(slots=True)
class Rulings:
    level: list[Ruling] = field(default_factory=list)
    upright: list[Ruling] = field(default_factory=list)
    angle: float = 0.0
    """By how much the page is turned, in radians; places are those after it is set level around its top left corner."""


def find_rulings(pixels: NDArray[np.uint8], angle: float, height: float) -> Rulings:
    """Of an RGB page whose lines are turned by `angle` (radians) and usually `height` px high.

    Costs 0.1 to 0.15 s of one core for a page of 2,048 px.
    """
    import cv2
    import numpy as np

    grey: Any = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    left = top = 0.0
    if abs(angle) > _LEAST_ANGLE:
        cosine, sine = math.cos(angle), math.sin(angle)
        rows, columns = grey.shape
        xs = [x * cosine + y * sine for x in (0, columns) for y in (0, rows)]
        ys = [y * cosine - x * sine for x in (0, columns) for y in (0, rows)]
        left, top = min(xs), min(ys)
        turn = np.array([[cosine, sine, -left], [-sine, cosine, -top]])
        size = (math.ceil(max(xs) - left), math.ceil(max(ys) - top))
        grey = cv2.warpAffine(grey, turn, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    around = 2 * max(7, round(height)) + 1
    ink: Any = (cv2.subtract(cv2.blur(grey, (around, around)), grey) > _INK).astype(np.uint8)
    found = []
    for across in (True, False):
        solid, dotted = (4.0, 8.0) if across else (1.7, 4.0)
        x, y = (left, top) if across else (top, left)
        ruled = []
        for length, gap in ((solid * height, 1), (dotted * height, 5)):
            mask = _runs(ink, max(12, round(length)), gap, across=across)
            ruled += [
                Ruling(at + y, start + x, end + x, gap > 1)
                for at, start, end in _thin(mask, 0.35 * height, across=across)
            ]
        found.append(_united(ruled, height))
    return Rulings(found[0], found[1], angle)


def _runs(ink: Any, length: int, gap: int, *, across: bool) -> Any:
    import cv2
    import numpy as np

    def bar(size: int) -> Any:
        return np.ones((1, size) if across else (size, 1), np.uint8)

    if gap > 1:
        ink = cv2.morphologyEx(ink, cv2.MORPH_CLOSE, bar(gap))
    return cv2.morphologyEx(ink, cv2.MORPH_OPEN, bar(length))


def _thin(mask: Any, thickest: float, *, across: bool) -> list[tuple[float, float, float]]:
    import cv2
    import numpy as np

    _, _, found, _ = cv2.connectedComponentsWithStats(cv2.dilate(mask, np.ones((3, 3), np.uint8)))
    thin = []
    for x, y, width, height, _ in found[1:].tolist():
        at, start, length, thickness = (y, x, width, height) if across else (x, y, height, width)
        if thickness <= max(7.0, thickest):
            thin.append((at + thickness / 2, start + 1.0, start + length - 1.0))
    return thin


def _united(found: list[Ruling], height: float) -> list[Ruling]:
    """Pieces of one ruling, and both edges of a thick one, are one."""
    united: list[Ruling] = []
    for one in sorted(found):
        for i, other in enumerate(united):
            is_near = one.at - other.at <= 0.3 * height
            if is_near and one.start <= other.end + 0.5 * height and other.start <= one.end + 0.5 * height:
                longer = max(one, other, key=lambda ruling: ruling.end - ruling.start)
                start, end = min(one.start, other.start), max(one.end, other.end)
                united[i] = Ruling(longer.at, start, end, one.is_dotted and other.is_dotted)
                break
        else:
            united.append(one)
    return sorted(united)


def of_strokes(level: Sequence[Sequence[float]], upright: Sequence[Sequence[float]], height: float) -> Rulings:
    """Of the strokes that a page draws, each [at, start, end]: those long enough, pieces put together. None where there
    are more than a table has."""
    joined = Rulings(_joined(level, height, 2 * height), _joined(upright, height, height))
    return joined if max(len(joined.level), len(joined.upright)) <= _MOST else Rulings()


def _joined(strokes: Sequence[Sequence[float]], height: float, shortest: float) -> list[Ruling]:
    """As `_united`, in a time that grows with their number alone: strokes a third of a line apart are on one line, and
    on one line those that nearly touch are one."""
    found: list[Ruling] = []
    ordered = sorted(Ruling(at, start, end) for at, start, end in strokes)
    start = 0
    for i in range(1, len(ordered) + 1):
        if i < len(ordered) and ordered[i].at - ordered[start].at <= 0.3 * height:
            continue
        pieces = sorted(ordered[start:i], key=lambda one: one.start)
        whole = longest = pieces[0]
        for piece in pieces[1:]:
            if piece.start <= whole.end + 0.5 * height:
                longest = max(longest, piece, key=lambda one: one.end - one.start)
                whole = Ruling(longest.at, whole.start, max(whole.end, piece.end))
            else:
                found.append(whole)
                whole = longest = piece
        found.append(whole)
        start = i
    return sorted(one for one in found if one.end - one.start >= shortest)


def taken_out(rulings: Rulings, bounds: tuple[int, int, int, int], turn: int) -> tuple[Rulings, Rulings]:
    """(those of a piece of a level page, as they lie after it was turned counter-clockwise by `turn` quarters, 1 or 3;
    the others)."""
    left, top, right, bottom = bounds

    def is_inside(across: tuple[int, int], along: tuple[int, int], one: Ruling) -> bool:
        return across[0] < one.at < across[1] and along[0] < (one.start + one.end) / 2 < along[1]

    inside: list[list[Ruling]] = [[], []]
    rest: list[list[Ruling]] = [[], []]
    places = ((rulings.level, (top, bottom), (left, right)), (rulings.upright, (left, right), (top, bottom)))
    for i, (some, across, along) in enumerate(places):
        for one in some:
            (inside if is_inside(across, along, one) else rest)[i].append(one)
    if turn == 1:
        level = [Ruling(right - one.at, one.start - top, one.end - top) for one in inside[1]]
        upright = [Ruling(one.at - top, right - one.end, right - one.start) for one in inside[0]]
    else:
        level = [Ruling(one.at - left, bottom - one.end, bottom - one.start) for one in inside[1]]
        upright = [Ruling(bottom - one.at, one.start - left, one.end - left) for one in inside[0]]
    return Rulings(sorted(level), sorted(upright)), Rulings(rest[0], rest[1], rulings.angle)


def in_frame(rulings: Rulings, frame: Frame) -> Rulings:
    """Of a level page, as its boxes are laid out."""
    if frame.is_vertical:
        turned = [Ruling(-one.at, one.start, one.end) for one in rulings.upright]
        upright = sorted(Ruling(one.at, -one.end, -one.start) for one in rulings.level)
        return Rulings(sorted(turned), upright, rulings.angle)
    if frame.is_mirrored:
        level = sorted(Ruling(one.at, -one.end, -one.start) for one in rulings.level)
        return Rulings(level, sorted(Ruling(-one.at, one.start, one.end) for one in rulings.upright), rulings.angle)
    return rulings


def outside_text(rulings: Rulings, boxes: Sequence[Box]) -> Rulings:
    """Without those that run through lines of text for a third of their length or more."""

    def runs_through(one: Ruling, *, level: bool) -> bool:
        covered = 0.0
        for box in boxes:
            low, high, first, last = (box.y0, box.y1, box.x0, box.x1) if level else (box.x0, box.x1, box.y0, box.y1)
            if low + 0.15 * box.size < one.at < high - 0.15 * box.size:
                covered += max(0.0, min(one.end, last) - max(one.start, first))
        return 3 * covered > one.end - one.start

    return Rulings(
        [one for one in rulings.level if not runs_through(one, level=True)],
        [one for one in rulings.upright if not runs_through(one, level=False)],
        rulings.angle,
    )
