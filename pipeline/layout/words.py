"""Where lines and their words stand on a page, from the boxes that are stored with an answer.

    stored   [left, top, right, bottom, confidence, text]             it reads as the page does
             [left, top, right, bottom, confidence, text, degrees]    counter-clockwise in which it reads; null: down

The box is upright, in pixels of the page's image as it was given to the engine. A line that lies askew or on its side
is laid into its box again: of a box of W × H around a line of length l and thickness t at an angle a

    W = l cos a + t sin a          l = (W cos a - H sin a) / cos 2a
    H = l sin a + t cos a          t = (H cos a - W sin a) / cos 2a

A word is a part of its line as long as its letters' share of all letters' widths (`advances`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from pipeline.layout.advances import advance, clusters, visual_order
from pipeline.layout.lines import CJK, Point, Quad

_UPRIGHT = 2.0  # times as high as wide: a line of more than two letters that stands on its side
_DIAGONAL = 0.3  # of cos 2a, below which a box does not say how long a line is


@dataclass(frozen=True, slots=True)
class PlacedLine:
    """What a line says, and its corners as it reads: its own top left first, then clockwise."""

    text: str
    quad: Quad
    confidence: float | None = None

    @property
    def angle(self) -> float:
        """Degrees counter-clockwise in which it reads, from 0 to under 360."""
        (x0, y0), (x1, y1), _, _ = self.quad
        return round(math.degrees(math.atan2(y0 - y1, x1 - x0)), 1) % 360


@dataclass(frozen=True, slots=True)
class Word:
    """Without white space; corners as those of its line."""

    text: str
    quad: Quad


def placed_lines(stored: Sequence[object], angle: float | None, margin: float = 0.0) -> Iterator[PlacedLine]:
    """`angle` is that of the answer: degrees clockwise by which the page was turned to be read. `margin` is how far a
    box reaches beyond the letters, in its own heights."""
    for line in stored:
        if not isinstance(line, Sequence) or len(line) < 6 or not isinstance(text := line[5], str):
            continue
        box = [float(side) for side in line[:4] if isinstance(side, int | float) and math.isfinite(side)]
        if len(box) < 4 or box[0] >= box[2] or box[1] >= box[3] or not (text := " ".join(text.split())):
            continue
        left, top, right, bottom = box
        degrees: object = line[6] if len(line) > 6 else _guessed(right - left, bottom - top, text, angle or 0)
        degrees = degrees if isinstance(degrees, int | float) else 270
        confidence = line[4] if isinstance(line[4], int | float) else None
        yield PlacedLine(text, _laid_in(left, top, right, bottom, degrees, margin), confidence)


def words_of(line: PlacedLine) -> list[Word]:
    """In the order in which they are read; of a line from right to left the first one stands on the right."""
    letters = clusters(line.text)
    starts: dict[int, float] = {}
    at = 0.0
    for index in visual_order(letters):
        starts[index] = at
        at += advance(letters[index])
    if not at:
        return []
    found = []
    for is_space, group in groupby(range(len(letters)), key=lambda index: letters[index].isspace()):
        if is_space:
            continue
        members = list(group)
        start = min(starts[index] for index in members)
        end = max(starts[index] + advance(letters[index]) for index in members)
        found.append(Word("".join(letters[index] for index in members), _part(line.quad, start / at, end / at)))
    return found


def around(corners: Sequence[Point]) -> tuple[float, float, float, float]:
    """The upright box: left, top, right, bottom."""
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def spread(text: str, width: float, height: float) -> Iterator[PlacedLine]:
    """Lines of a text of which nobody knows where it stands: over the whole page, from the top."""
    texts = [" ".join(line.split()) for line in text.split("\n")]
    texts = [line for line in texts if line]
    step = height / max(len(texts), 1)
    for number, line in enumerate(texts):
        top, bottom = number * step, number * step + min(step, height / 40)
        yield PlacedLine(line, ((0.0, top), (width, top), (width, bottom), (0.0, bottom)))


def _guessed(width: float, height: float, text: str, angle: float) -> float:
    """Answers of an older pagepack do not say how a line reads that runs across the others."""
    lies_turned = round(angle / 90) % 2 == 1
    along, across = (height, width) if lies_turned else (width, height)
    if across <= _UPRIGHT * along or len(text) <= 2:
        return angle
    return angle + (270 if CJK.search(text) else 90)  # writing from the top down; else as on the back of a book


def _laid_in(left: float, top: float, right: float, bottom: float, degrees: float, margin: float) -> Quad:
    x, y = (left + right) / 2, (top + bottom) / 2
    width, height = right - left, bottom - top
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    c, s = abs(cosine), abs(sine)
    if abs(c * c - s * s) < _DIAGONAL:
        length, thick = math.hypot(width, height), min(width, height) / 4
    else:
        length, thick = (width * c - height * s) / (c * c - s * s), (height * c - width * s) / (c * c - s * s)
    thick = max(thick, min(width, height) / 4)
    length, thick = max(length - 2 * margin * thick, 1.0) / 2, thick * (1 - 2 * margin) / 2
    corners = ((-length, -thick), (length, -thick), (length, thick), (-length, thick))
    a, b, c_, d = ((x + u * cosine + v * sine, y + v * cosine - u * sine) for u, v in corners)
    return a, b, c_, d


def _part(quad: Quad, start: float, end: float) -> Quad:
    a, b, c, d = quad
    return _between(a, b, start), _between(a, b, end), _between(d, c, end), _between(d, c, start)


def _between(one: Point, other: Point, share: float) -> Point:
    return one[0] + (other[0] - one[0]) * share, one[1] + (other[1] - one[1]) * share
