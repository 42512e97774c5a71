"""Running heads and feet: the line at the top and the one at the bottom of a page, with the page's number. And what
runs up or down its margin.

They belong to no column. On a page of two columns a name stands at the left margin and the number at the right one, or
both at one of them: read with the columns, they tear the sentence that goes on from the first to the second. White
space across the whole page parts them from the text, more than parts the rows next to them; they are short; and a
number stands in them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from pipeline.layout.lines import Box

_PAGE_NUMBER = re.compile(r"\W{0,3}(page |p\.? ?)?(\d{1,4}|[ivxlc]{1,7})( ?(/|of) ?\d{1,4})?\W{0,3}", re.IGNORECASE)
# White between the line and the text, in line heights, and against that between the rows next to it.
_LEAST_WHITE, _MORE_WHITE = 0.4, 1.4
_ROWS_BESIDE = 5
_LEAST_IN_MARGIN = 8.0  # line heights
_MOST_OF_PIECE = 2  # characters
_MOST_BOXES, _MOST_OF_WIDTH = 4, 0.6  # of the line


def set_apart(boxes: Sequence[Box], height: float) -> tuple[list[Box], list[Box], list[Box]]:
    """Running head, text and running foot of a page whose usual line is so high; the outer two may be empty."""
    rows = _rows_across(boxes)
    whites = [min(box.y0 for box in below) - max(box.y1 for box in above) for above, below in pairwise(rows)]
    width = max((box.x1 for box in boxes), default=0.0) - min((box.x0 for box in boxes), default=0.0)

    def is_running(row: list[Box], white: float, beside: Sequence[float]) -> bool:
        return (
            white > max(_LEAST_WHITE * height, _MORE_WHITE * median(beside) if beside else 0.0)
            and len(row) <= _MOST_BOXES
            and sum(box.width for box in row) < _MOST_OF_WIDTH * width
            and any(_PAGE_NUMBER.fullmatch(box.text) for box in row)
            and not any(box.is_table or box.is_upright for box in row)
        )

    first, last = 0, len(rows)
    if len(rows) > 2 and is_running(rows[-1], whites[-1], whites[-1 - _ROWS_BESIDE : -1]):
        last -= 1
    if last > 1 and is_running(rows[0], whites[0], whites[1 : 1 + _ROWS_BESIDE]):
        first = 1
    head, text, foot = ([box for row in part for box in row] for part in (rows[:first], rows[first:last], rows[last:]))
    return sorted(head), sorted(text), sorted(foot)


def in_margin(boxes: Sequence[Box]) -> list[Box]:
    """Long upright lines, like an archive's stamp, to the left or the right of all level text: no part of it, wherever
    they begin. The name of an axis is shorter."""
    level = [box for box in boxes if not box.is_upright and len(box.text) > _MOST_OF_PIECE]
    if not level:
        return []
    left, right = min(box.x0 for box in level), max(box.x1 for box in level)
    long = [
        box
        for box in boxes
        if box.is_upright and box.y1 - box.y0 > _LEAST_IN_MARGIN * box.size and (box.x1 < left or box.x0 > right)
    ]
    # With pieces of them, which are too short to tell how they run.
    pieces = [
        box
        for box in boxes
        if len(box.text) <= _MOST_OF_PIECE and any(one.x0 < (box.x0 + box.x1) / 2 < one.x1 for one in long)
    ]
    return sorted(long + pieces)


def _rows_across(boxes: Sequence[Box]) -> list[list[Box]]:
    """What white space across the whole page parts, from the top."""
    rows: list[list[Box]] = []
    bottom = 0.0
    for box in sorted(boxes, key=lambda box: box.y0):
        if rows and box.y0 < bottom:
            rows[-1].append(box)
            bottom = max(bottom, box.y1)
        else:
            rows.append([box])
            bottom = box.y1
    return rows
