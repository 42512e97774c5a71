"""From the lines of a page to the answer that is stored: text, boxes, confidence, and whether it is worth a look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.layout.lines import Line
from pipeline.layout.reading_order import text_in_reading_order
from workers.engines import Answer
from workers.engines.doubts import confidence_of, doubt_of
from workers.engines.orientation import Turn
from workers.engines.page_lines import PageLines

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def answer_of(page: PageLines, pixels: NDArray[np.uint8], seconds: float, sound_confidence: float) -> Answer:
    """`pixels` are the page as given; below `sound_confidence` the engine's text is worth a look."""
    import numpy as np

    doubt = doubt_of(page, sound_confidence)
    details: dict[str, Any] = {"lines": [_compact(line, page.turn, pixels.shape) for line in page.lines]}
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


def _compact(line: Line, turn: Turn, shape: tuple[int, ...]) -> list[float | int | str]:
    """[x0, y0, x1, y1, confidence, text]: the upright rectangle around the line, whole pixels of the page as given."""
    corners = list(line.quad)
    height, width = shape[0], shape[1]
    if turn == Turn.LEFT:
        corners = [(width - y, x) for x, y in corners]
    elif turn == Turn.HALF:
        corners = [(width - x, height - y) for x, y in corners]
    elif turn == Turn.RIGHT:
        corners = [(y, height - x) for x, y in corners]
    xs, ys = zip(*corners, strict=True)
    return [round(min(xs)), round(min(ys)), round(max(xs)), round(max(ys)), round(line.confidence, 3), line.text]
