"""Prose, which tells columns from tables: lines that are long and go on in the next."""

from __future__ import annotations

from statistics import median

from pipeline.layout.lines import Box

# Lines of prose are 8 letter heights wide or more (about 16 Latin letters, 8 Chinese); cells of tables are shorter.
PROSE_WIDTH = 8.0


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
