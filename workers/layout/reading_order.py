"""From the lines that an engine found on a page to text that reads as the page does.

The page is set level (`lines`), cut into columns (`columns`), its rows become paragraphs (`rows`, `paragraphs`).
Every line's text is in the result once, whatever order the lines come in. Lengths are pixels.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from statistics import median

from workers.layout.columns import regions
from workers.layout.lines import Box, Line, lay_out
from workers.layout.paragraphs import Block, blocks
from workers.layout.rows import join


def text_in_reading_order(lines: Sequence[Line]) -> str:
    """The page's text: columns one after the other, table rows as rows, paragraphs between blank lines."""
    boxes = lay_out(lines)
    if not boxes:
        return ""
    height, body = median(box.size for box in boxes), _body_size(boxes)
    page: list[Block] = []
    for region in regions(boxes, height):
        for block in blocks(region, body):
            if page and _goes_on(page[-1], block):
                page[-1].text = join(page[-1].text, block.text)
                page[-1].is_open = block.is_open
            else:
                page.append(block)
    return "\n\n".join(block.text for block in page)


def _body_size(boxes: list[Box]) -> float:
    """The size that most characters have."""
    ordered = sorted(boxes, key=lambda box: box.size)
    passed = list(accumulate(len(box.text) for box in ordered))
    return ordered[bisect_left(passed, passed[-1] / 2)].size


def _goes_on(before: Block, block: Block) -> bool:
    """A paragraph that the end of a column broke: its last line is full, and the next begins inside a sentence."""
    small, large = sorted((before.size, block.size))
    return before.is_open and block.text[0].islower() and before.text[-1] not in ".:;!?" and large < 1.2 * small
