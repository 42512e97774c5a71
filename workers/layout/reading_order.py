"""From the lines that an engine found on a page to text that reads as the page does.

    sideways       blocks that lie on their side, each a page of its own and one box from here on
    lines          boxes on a level page that reads from the left and the top, whatever the script
    rulings        the lines that are drawn on it; `grids`: the tables that they make, each one box from here on
    columns        regions that read row by row
    rows           boxes that stand level; `aligned`: the tables that they make by where their cells stand
    paragraphs     lines joined where a sentence goes on, and only there; `headings`

Every line's text is in the result once, whatever order the lines come in. Lengths are pixels.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from statistics import median
from typing import TYPE_CHECKING

from workers.layout.columns import regions
from workers.layout.grids import take_tables
from workers.layout.headings import with_headings
from workers.layout.lines import Box, Line, find_frame, lay_out
from workers.layout.paragraphs import Block, blocks
from workers.layout.rows import join, united
from workers.layout.rulings import find_rulings, in_frame, outside_text
from workers.layout.sideways import take_sideways

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def text_in_reading_order(lines: Sequence[Line], pixels: NDArray[np.uint8] | None = None) -> str:
    """The page's text: columns one after the other, tables as tables, paragraphs between blank lines.

    `pixels` is the page that the lines were found on (RGB); without it no ruling is seen.
    """
    upright, lying, pixels = take_sideways(lines, pixels)
    frame = find_frame(upright)
    boxes = lay_out(upright, frame)
    if not boxes:
        return ""
    height, body = median(box.size for box in boxes), _body_size(boxes)
    for one in lying:
        text = text_in_reading_order(one.upright, one.pixels)
        boxes.append(replace(united(lay_out(one.lines, frame), text), is_table=True))
    boxes.sort()
    if pixels is not None:
        rulings = in_frame(find_rulings(pixels, frame.angle, height), frame)
        boxes = take_tables(boxes, outside_text(rulings, boxes), height)
    page: list[Block] = []
    for region in regions(boxes, height):
        for block in blocks(region, body):
            if page and _goes_on(page[-1], block):
                page[-1].text = join(page[-1].text, block.text)
                page[-1].is_open = block.is_open
            else:
                page.append(block)
    return "\n\n".join(with_headings(page, body))


def _body_size(boxes: list[Box]) -> float:
    """The size that most characters have."""
    ordered = sorted(boxes, key=lambda box: box.size)
    passed = list(accumulate(len(box.text) for box in ordered))
    return ordered[bisect_left(passed, passed[-1] / 2)].size


def _goes_on(before: Block, block: Block) -> bool:
    """A paragraph that the end of a column broke: its last line is full, and the next begins inside a sentence."""
    small, large = sorted((before.size, block.size))
    return (
        before.is_open
        and not block.is_table
        and block.text[0].islower()
        and before.text[-1] not in ".:;!?"
        and large < 1.2 * small
    )
