"""Cells of several lines, in a table that is given cell by cell: the order tells what no place does.

Inhibitor           Rate        given: Inhibitor, concentration, Rate, (mm/year), 0, 2.8163
concentration       (mm/year)
0                   2.8163      The second row goes on with the cells of the first, the third does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

from pipeline.layout.lines import Box
from pipeline.layout.rows import Row, join

_MOST_LINES = 4
_GAP = 0.5  # line heights between the lines of a cell at most


def with_whole_cells(found: list[Row], place: Mapping[int, int]) -> tuple[list[Row], dict[int, list[Box]]]:
    """(rows in which the lines of a cell are one box, as high as the first; the lines of each, by its id). `place` is
    that of each box in the order in which they are given, by its id."""
    whole: list[Row] = []
    lines: dict[int, list[Box]] = {}
    at = 0
    while at < len(found):
        most = _MOST_LINES if len(found[at]) > 1 else 1
        for count in range(min(most, len(found) - at), 0, -1):
            cells = _cells_of(found[at : at + count], place)
            if cells is not None:
                break
        else:
            cells, count = [[box] for box in found[at]], 1
        row = []
        for cell in cells:
            box = cell[0]
            if len(cell) > 1:
                text = box.text
                for line in cell[1:]:
                    text = join(text, line.text)
                x0, x1 = min(line.x0 for line in cell), max(line.x1 for line in cell)
                box = replace(box, x0=x0, x1=x1, text=text)
                lines[id(box)] = cell
            row.append(box)
        whole.append(row)
        at += count
    return whole, lines


def _cells_of(some: list[Row], place: Mapping[int, int]) -> list[list[Box]] | None:
    """The first row's cells with their lines, if the other rows hold nothing but lines of these, each given before the
    next cell begins. A row that goes on with every cell is one of its own."""
    first = some[0]
    cells = [[box] for box in first]
    for above, below in pairwise(some):
        size = min(above[0].size, below[0].size)
        if len(below) == len(first) or min(box.y0 for box in below) - max(box.y1 for box in above) > _GAP * size:
            return None
        for box in below:
            mine = [cell for cell in cells if place[id(cell[-1])] + 1 == place[id(box)]]
            if not mine or min(box.x1, mine[0][0].x1) <= max(box.x0, mine[0][0].x0):
                return None
            mine[0].append(box)
    is_by_cells = all(place[id(cell[-1])] + 1 == place[id(after[0])] for cell, after in pairwise(cells))
    return cells if is_by_cells else None
