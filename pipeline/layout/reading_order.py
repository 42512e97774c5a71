"""From the lines that an engine found on a page to text that reads as the page does.

    sideways       blocks that lie on their side, each a page of its own and one box from here on
    lines          boxes on a level page that reads from the left and the top, whatever the script
    rulings        the lines that are drawn on it; `grids`: the tables that they make, each one box from here on
    running_lines  a page's head and foot, which belong to no column
    columns        regions that read row by row; `given_order`: what a file's own order of them is worth
    rows           boxes that stand level; `aligned`: the tables that they make by where their cells stand
    paragraphs     lines joined where a sentence goes on, and only there; `headings`

Every line's text is in the result once, whatever order the lines come in. Lengths are pixels.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, groupby
from statistics import median
from typing import TYPE_CHECKING

from pipeline.layout.columns import regions
from pipeline.layout.given_order import as_given, regions_as_given
from pipeline.layout.grids import take_tables
from pipeline.layout.headings import with_headings
from pipeline.layout.lines import Box, Line, find_frame, lay_out
from pipeline.layout.paragraphs import GAP, Block, blocks_of_rows
from pipeline.layout.rows import Row, join, rows, united, with_cells_apart, with_whole_lines
from pipeline.layout.rulings import Ruling, Rulings, find_rulings, in_frame, outside_text, taken_out
from pipeline.layout.running_lines import in_margin, set_apart
from pipeline.layout.sideways import take_sideways

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ERROR = 0.3  # of a line's height: by so much a detector errs about where it begins or ends
_LEAST_OF_CHART = 3  # blocks, one after the other
_NUMBER = r"[-+−–±<>≈~$€£¥(]*\d[\d.,:/']*[%‰°)]*"
_OF_CHART = re.compile(rf"{_NUMBER}(?:\s+{_NUMBER})*|\S{{1,5}}(?:{GAP}\S{{1,5}}){{3,}}")  # numbers, or an axis
_COMPOUND = re.compile(r"[^\W\d_]+-[^\W\d_]+")


def text_in_reading_order(
    lines: Sequence[Line],
    pixels: NDArray[np.uint8] | None = None,
    rulings: Rulings | None = None,
    *,
    is_given: bool = False,
) -> str:
    """The page's text: columns one after the other, tables as tables, paragraphs between blank lines.

    `pixels` is the page that the lines were found on (RGB); without it no ruling is seen. `rulings` are its own, where
    they are known. `is_given`: the lines' numbers are an order that somebody gave them, which holds where it can.
    """
    upright, lying, pixels = take_sideways(lines, pixels)
    of_lying: list[Rulings | None] = [None] * len(lying)
    if lying and pixels is not None:
        rulings = None  # some are of what was taken
    elif rulings is not None:
        for i, one in enumerate(lying):
            of_lying[i], rulings = taken_out(rulings, one.bounds, one.turn)
    frame = find_frame(upright, rulings.angle if rulings else None)
    boxes = lay_out(upright, frame)
    if not boxes:
        return ""
    height, body = median(box.size for box in boxes), _body_size(boxes)
    for one, own in zip(lying, of_lying, strict=True):
        text = text_in_reading_order(one.upright, one.pixels, own, is_given=is_given)
        boxes.append(united(lay_out(one.lines, frame), text, is_table=True))
    boxes.sort()
    if rulings is None and pixels is not None:
        rulings = find_rulings(pixels, frame.angle, height)
    ruled: list[Ruling] = []
    if rulings is not None:
        drawn = outside_text(in_frame(rulings, frame), boxes)
        boxes, ruled = take_tables(boxes, drawn, height), drawn.level
    if is_given:
        found = regions_as_given(boxes, height, ruled)
    else:
        beside = in_margin(boxes)
        head, boxes_of_text, foot = set_apart([box for box in boxes if box not in beside], height)
        found = [part for part in (head, *regions(boxes_of_text, height, ruled), foot, beside) if part]
    of_page = (as_given(found, height) if is_given else None) or [rows(region) for region in found]
    if is_given:  # and broken at white
        of_page = [with_whole_lines(region) for region in of_page]
    else:
        of_page = [with_cells_apart(region, _ERROR) for region in of_page]
    page = _with_whole_charts(_in_order(of_page, body, _compounds(boxes)))
    return "\n\n".join(with_headings(page, body))


def _in_order(found: list[list[Row]], body: float, compounds: frozenset[str]) -> list[Block]:
    """The blocks of regions, given with their rows; a paragraph that the end of a column broke is one, also past a
    figure and its caption."""
    page: list[Block] = []
    broken: Block | None = None
    for region in found:
        for block in blocks_of_rows(region, body, compounds):
            before = page[-1] if page and _goes_on(page[-1], block) else broken
            if before is not None and _goes_on(before, block) and (before is page[-1] or block.is_prose):
                before.text = join(before.text, block.text, compounds)
                before.is_open = block.is_open
                continue
            page.append(block)
            # A caption may look like the text, but half a word waits for its other half.
            if broken is not None and block.is_prose and _are_of_one_size(broken, block) and broken.text[-1] != "-":
                broken = None
        if page[-1].is_open:
            broken = page[-1]
    return page


def _with_whole_charts(page: list[Block]) -> list[Block]:
    """Numbers and short labels that stand about in a chart are one block, not a paragraph each."""
    found: list[Block] = []
    for is_chart, group in groupby(page, lambda block: not block.is_table and bool(_OF_CHART.fullmatch(block.text))):
        run = list(group)
        if is_chart and len(run) >= _LEAST_OF_CHART:
            run = [Block("\n".join(block.text for block in run), run[0].size)]
        found += run
    return found


def _compounds(boxes: list[Box]) -> frozenset[str]:
    """Words that the page writes with a hyphen where no line ends."""
    return frozenset(word.casefold() for box in boxes if "-" in box.text for word in _COMPOUND.findall(box.text))


def _body_size(boxes: list[Box]) -> float:
    """The size that most characters have."""
    ordered = sorted(boxes, key=lambda box: box.size)
    passed = list(accumulate(len(box.text) for box in ordered))
    return ordered[bisect_left(passed, passed[-1] / 2)].size


def _goes_on(before: Block, block: Block) -> bool:
    """Its last line is full and ends inside a sentence, and the next begins inside one."""
    if not before.is_open or block.is_table or not block.text[0].islower() or before.text[-1] in ".:;!?":
        return False
    return _are_of_one_size(before, block)


def _are_of_one_size(one: Block, other: Block) -> bool:
    small, large = sorted((one.size, other.size))
    return large < 1.2 * small
