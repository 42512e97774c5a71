"""Prose, which tells columns from tables: lines that are long and go on in the next."""

from __future__ import annotations

from statistics import median

from pipeline.layout.lines import Box

# Lines of prose are 8 letter heights wide or more (about 16 Latin letters, 8 Chinese); cells of tables are shorter.
PROSE_WIDTH = 8.0
_LEAST_WORDS = 3


def is_prose(lines: list[Box], height: float) -> bool:
    """Lines that are long and go on in the next: it begins with a small letter, or they fill their width; `height` is
    that of the page's usual line.

    Cells that are as long (the entries of a table of contents, names) begin with capitals and numbers. Scripts without
    capitals say it by their ends alone. One small letter says nothing: an I that was read as an l.
    """
    if len(lines) < 3 or median(box.width for box in lines) < PROSE_WIDTH * height:
        return False
    capitals = sum(box.text[0].isupper() for box in lines)
    small = sum(box.text[0].islower() for box in lines)
    if capitals + small >= 0.5 * len(lines):
        return small >= max(2, 0.3 * len(lines))
    right = max(box.x1 for box in lines)
    fills = right - 0.15 * (right - min(box.x0 for box in lines))
    return sum(box.x1 >= fills for box in lines) >= 0.6 * len(lines)


def are_of_two_lines(boxes: list[Box], height: float) -> bool:
    """Columns of prose of two lines each, which `is_prose` does not know: they are long and of several words, and
    each of the lower ones goes on. A table's second row would begin so in all of its columns by chance alone."""
    ordered = sorted(boxes, key=lambda box: box.centre)
    steps = [i for i in range(1, len(ordered)) if ordered[i].centre - ordered[i - 1].centre > 0.5 * height]
    if len(steps) != 1 or not 2 <= len(ordered) - steps[0] <= steps[0]:
        return False
    upper, lower = ordered[: steps[0]], ordered[steps[0] :]
    return (
        median(box.width for box in upper) >= PROSE_WIDTH * height
        and all(len(box.text.split()) >= _LEAST_WORDS for box in boxes)
        and all(box.text[0].islower() for box in lower)
        and not any(box.text[-1] in ".:;!?" for box in upper)
    )
