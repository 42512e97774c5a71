"""From the lines of a page to the answer that is stored: text, boxes, confidence, and whether it is worth a look."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pipeline.layout.lines import Line, find_angle
from pipeline.layout.reading_order import text_in_reading_order
from workers.engines import Answer
from workers.engines.doubts import confidence_of, doubt_of
from workers.engines.orientation import Turn
from workers.engines.page_lines import PageLines

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LONG = 3.0  # times as long as high
_APART = math.radians(2)


def answer_of(page: PageLines, pixels: NDArray[np.uint8], seconds: float, sound_confidence: float) -> Answer:
    """`pixels` are the page as given; below `sound_confidence` the engine's text is worth a look."""
    import numpy as np

    doubt = doubt_of(page, sound_confidence)
    skew = find_angle(page.lines)
    details: dict[str, Any] = {"lines": [_compact(line, page.turn, skew, pixels.shape) for line in page.lines]}
    if page.turn:
        details["turned_degrees"] = 90 * page.turn  # counter-clockwise
    if num_unread := len(page.unread) + len(page.foreign):
        details["unread_regions"] = num_unread
    return Answer(
        text_in_reading_order(page.lines, np.rot90(pixels, page.turn), page.rulings),
        "deadline" if page.is_late else "stop",
        seconds,
        confidence=confidence_of(page.lines),
        details=details,
        angle=float(-90 * page.turn % 360) if page.lines else None,
        review_reason=doubt.reason if doubt else None,
        review_score=round(doubt.score, 3) if doubt else None,
        lowest_confidence=min((line.confidence for line in page.lines), default=None),
    )


def _compact(line: Line, turn: Turn, skew: float, shape: tuple[int, ...]) -> list[float | int | str]:
    """[x0, y0, x1, y1, confidence, text]: the upright rectangle around the line, whole pixels of the page as given;
    then in how many degrees counter-clockwise it reads there, where that is not to the right."""
    corners = list(line.quad)
    height, width = shape[0], shape[1]
    if turn == Turn.LEFT:
        corners = [(width - y, x) for x, y in corners]
    elif turn == Turn.HALF:
        corners = [(width - x, height - y) for x, y in corners]
    elif turn == Turn.RIGHT:
        corners = [(y, height - x) for x, y in corners]
    xs, ys = zip(*corners, strict=True)
    degrees = round(-90 * (turn + line.turn) - math.degrees(_skew(line, skew)), 1) % 360
    box = [round(min(xs)), round(min(ys)), round(max(xs)), round(max(ys))]
    return [*box, round(line.confidence, 3), line.text, *([degrees] if degrees else [])]


def _skew(line: Line, of_page: float) -> float:
    """How far it lies askew, clockwise in radians: as the page does, but for a long one that clearly differs, as the
    print of a stamp; a short one's corners do not say it."""
    (ax, ay), (bx, by), _, (dx, dy) = line.quad
    along, across = math.hypot(bx - ax, by - ay), math.hypot(dx - ax, dy - ay)
    own = math.atan2(by - ay, bx - ax)
    if line.turn % 2:
        along, across, own = across, along, math.atan2(ax - dx, dy - ay)
    return own if along > _LONG * across and abs(own - of_page) > _APART else of_page
