"""Lines of a page, set level and turned so that every script reads from the left and from the top.

Lines come with four corners, for a scan lies a little askew. The page's angle is the weighted mean of the
middle half of the lines' own: a line's angle is known as well as the line is long, so its weight is the square of its
length. Ten short lines whose corners err by a pixel do not outvote one long line, and where all are short, the page
stays as it is.

Then the page is laid out as English is, whatever its script, so that all that follows needs one order only:

    left to right   (x, y)
    right to left   (-x, y)      a mirror: the rightmost column comes first
    vertical        (y, -x)      a quarter turn: the rightmost line becomes the top one
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

Point = tuple[float, float]
Quad = tuple[Point, Point, Point, Point]

CJK = re.compile("[\u2e80-\u303f\u3040-\u30ff\u3100-\u312f\u3190-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
# A detector's box reaches beyond the letters by a tenth of its height or more: large type closes a gutter so.
_PADDING = 0.1
_MAX_SKEW = math.radians(15)
_NEAR_LEVEL = 4.0  # times what corners may err by: further no page is set askew by them
_LEVEL, _AFAR = 0.1, 8.0  # in line heights
BOX_HEIGHT = 1.25
"""Of a detector's box, in sizes of the line's font: medians over two public pages are 1.27 and 1.33."""


@dataclass(frozen=True, slots=True)
class Line:
    """A detected line: corners clockwise from the top left in pixels, what it says, and how sure (0 to 1)."""

    quad: Quad
    text: str
    confidence: float = 1.0
    turn: int = 0
    """Quarter turns counter-clockwise after which it reads from the left, on a page that stands upright."""
    number: int = 0
    """Its place in the order that somebody gave the lines, where that is worth something."""


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """A line's upright rectangle after the page is turned level; ordered top down, then left to right."""

    y0: float
    x0: float
    y1: float
    x1: float
    text: str
    is_table: bool = False
    """It is a whole table, and `text` is how that is written."""
    number: int = field(default=0, compare=False)
    """Of its line; of several lines that of the first."""
    is_apart: bool = field(default=False, compare=False)
    """It is no piece of what stands to its left, however near."""

    # They are asked for some hundred times each while a page is cut.
    size: float = field(init=False, compare=False)
    """The height of its letters, also where the line stands upright."""
    width: float = field(init=False, compare=False)
    is_upright: bool = field(init=False, compare=False)
    """A line turned by a quarter: the name of an axis, a stamp in the margin. Its text runs along its height."""
    centre: float = field(init=False, compare=False)
    """Where it belongs among the rows: an upright line at its top, so that it stands before what it names."""

    def __post_init__(self) -> None:
        height, width = self.y1 - self.y0, self.x1 - self.x0
        is_upright = height > 2 * width and len(self.text) > 2 and not self.is_table
        size = width if is_upright else height
        known = {
            "size": size,
            "width": width,
            "is_upright": is_upright,
            "centre": self.y0 + size / 2 if is_upright else (self.y0 + self.y1) / 2,
        }
        for name, value in known.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True)
class Frame:
    """How a page lies and which way it reads."""

    angle: float = 0.0
    is_vertical: bool = False
    is_mirrored: bool = False

    def turned(self, x: float, y: float) -> Point:
        """Of a page that is level already."""
        if self.is_vertical:
            return y, -x
        return (-x, y) if self.is_mirrored else (x, y)


def find_frame(lines: Sequence[Line], angle: float | None = None) -> Frame:
    """`angle` where it is known, in radians."""
    is_vertical = _is_vertical(lines)
    return Frame(
        find_angle(lines) if angle is None else angle, is_vertical, not is_vertical and _is_right_to_left(lines)
    )


def lay_out(lines: Sequence[Line], frame: Frame | None = None) -> list[Box]:
    """The lines that have text as boxes of a level page that reads from the left and the top, sorted."""
    frame = frame or find_frame(lines)
    cosine, sine = math.cos(frame.angle), math.sin(frame.angle)
    boxes = []
    for line in lines:
        text = line.text.strip()
        if not text:
            continue
        points = [frame.turned(x * cosine + y * sine, y * cosine - x * sine) for x, y in line.quad]
        xs, ys = sorted(x for x, _ in points), sorted(y for _, y in points)
        # The mean of two corners: a line turned a little more than the page does not grow into its neighbours.
        y0, x0, y1, x1 = (ys[0] + ys[1]) / 2, (xs[0] + xs[1]) / 2, (ys[2] + ys[3]) / 2, (xs[2] + xs[3]) / 2
        padding = _PADDING * min(y1 - y0, x1 - x0)
        boxes.append(Box(y0, x0 + padding, y1, x1 - padding, text, number=line.number))
    return sorted(boxes)


def find_angle(lines: Sequence[Line]) -> float:
    """The page's slight angle in radians; 0 where the lines do not say it, or it is no skew (15° or more)."""
    found = []
    for line in lines:
        (ax, ay), (bx, by), _, (dx, dy) = line.quad
        width, height = math.hypot(bx - ax, by - ay), math.hypot(dx - ax, dy - ay)
        if width > 4 * height:
            found.append((math.atan2(by - ay, bx - ax), width * width, height))
        elif height > 4 * width and CJK.search(line.text):
            found.append((math.atan2(ax - dx, dy - ay), height * height, width))
    if not found:
        return 0.0
    found.sort()
    passed = list(accumulate(weight for _, weight, _ in found))
    total = passed[-1]
    # The mean of the middle half: corners lie on whole pixels, so short lines know few angles, and their median is one.
    low, high = 0.25 * total, 0.75 * total
    shares = [max(0.0, min(end, high) - max(end - one[1], low)) for one, end in zip(found, passed, strict=True)]
    angle = sum(share * one[0] for share, one in zip(shares, found, strict=True)) / sum(shares)
    # A corner errs by about a tenth of the line's height: what is within twice that is no angle, nor what is within
    # three times where most lines say another.
    error = 0.1 * sum(weight * height for _, weight, height in found) / total / math.sqrt(total)
    agreed = sum(weight for one, weight, _ in found if abs(one - angle) < 0.5 * abs(angle))
    least = (2 if agreed > 0.6 * total else 3) * error
    if not least < abs(angle) < _MAX_SKEW:
        return 0.0
    # Where lines are short, all may err to one side, a little: those that share a row from afar know better.
    if abs(angle) < _NEAR_LEVEL * least and _num_level(lines, 0.0) > _num_level(lines, angle):
        return 0.0
    return angle


def _num_level(lines: Sequence[Line], angle: float) -> int:
    """How many pairs of lines that lie far from each other are level on a page turned by so much."""
    cosine, sine = math.cos(angle), math.sin(angle)
    centres = []
    for line in lines:
        (ax, ay), (bx, by), (cx, cy), (dx, dy) = line.quad
        x, y = (ax + bx + cx + dx) / 4, (ay + by + cy + dy) / 4
        height = min(math.hypot(dx - ax, dy - ay), math.hypot(bx - ax, by - ay))
        centres.append((y * cosine - x * sine, x * cosine + y * sine, height))
    centres.sort()
    count = 0
    for i, (y, x, height) in enumerate(centres):
        for below, beside, _ in centres[i + 1 :]:
            if below - y > _LEVEL * height:
                break
            count += abs(beside - x) > _AFAR * height
    return count


def _is_vertical(lines: Sequence[Line]) -> bool:
    """Most Chinese or Japanese characters stand in lines that are twice as high as wide, or more."""
    vertical = horizontal = 0
    for line in lines:
        (ax, ay), (bx, by), _, (dx, dy) = line.quad
        if math.hypot(dx - ax, dy - ay) > 2 * math.hypot(bx - ax, by - ay):
            vertical += 0 if line.text.isascii() else len(CJK.findall(line.text))
        else:
            horizontal += len(line.text)
    return vertical > horizontal


def _is_right_to_left(lines: Sequence[Line]) -> bool:
    letters = right_to_left = 0
    for line in lines:
        letters += sum(map(str.isalpha, line.text))
        right_to_left += 0 if line.text.isascii() else len(_RIGHT_TO_LEFT.findall(line.text))
    return 2 * right_to_left > letters
