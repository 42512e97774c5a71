"""Tables without rulings: rows of cells that stand below each other in columns.

Of rows that hold several cells each, the strips that few cells cross part the columns. A cell that crosses one spans
both sides, unless it begins where its column does: then it is only longer than that. It is a table if there are three
such rows (two, if they have three cells each), at least half of its places are filled, and most columns are flush left,
flush right or centred. Scattered numbers of a chart are not, nor the items of a list, the fields of a form (a label
that ends in a colon), and a table of contents.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from pipeline.layout.lines import Box
from pipeline.layout.rows import Row, cells, joined
from pipeline.layout.tables import Cell, Table

# Line heights by which rows may reach into each other, as boxes of close rows do; the pieces of a formula do by more.
_OVERLAP = 0.45
_LEAST_OF_AXIS, _MOST_ROWS_OF_NAMES = 4, 4
_MARK = re.compile(r"[-−]?\d{1,6}(\.\d{1,6})?%?")
_LEADERS = re.compile(r"(\. ?|…|·|_){4,}")


@dataclass(slots=True)
class Column:
    x0: float
    x1: float


def find_aligned(found: list[Row]) -> list[tuple[int, int, Table]]:
    """(first row, row after the last, table) for each; the rows are those of a region, from its top."""
    tables = []
    start = 0
    while start < len(found):
        end = _end_of_run(found, start)
        if end - start > 2 and _is_no_row(found, start):
            start += 1
            continue
        if end - start >= 2 and (table := _table(found[start:end])) is not None:
            tables.append((start, end, table))
        start = max(end, start + 1)
    return tables


def _is_no_row(found: list[Row], start: int) -> bool:
    """A running head, away from what is below it; or a line with half of the next one's cells, as far away."""
    first, second = found[start], found[start + 1]
    few = not _is_of_cells(second) or 2 * len(cells(first)) <= len(cells(second))
    return few and _gap(found, start) > 1.5 * _size(first)


def _end_of_run(found: list[Row], start: int) -> int:
    """Rows of several cells that follow each other; between them single ones: a line within a cell, a heading."""
    if not _is_of_cells(found[start]):
        return start
    end = start + 1
    for i in range(start + 1, len(found)):
        above, row, last = found[i - 1], found[i], found[end - 1]
        size, gap = min(_size(above), _size(row)), _gap(found, i - 1)
        # What stands below a line of its own, as a table's source is, and not close, is no row of it.
        most = 1.2 if end < i and len(row) < 3 else 2 if min(len(last), len(row)) < 3 else 3.5
        if gap > most * size or any(box.is_table for box in row):
            break
        if median(box.y0 for box in row) - median(box.y1 for box in above) < -_OVERLAP * size:
            break  # of most cells: the box around a digit may be much too high
        if _is_of_cells(row):
            end = i + 1
        elif row[0].x0 < cells(last)[1].x0 - size and (i - end >= 2 or len(row[0].text) > 60):
            break
    return end


def _size(row: Row) -> float:
    return median(box.size for box in row)


def _gap(found: list[Row], i: int) -> float:
    """Between row `i` and the next."""
    return min(box.y0 for box in found[i + 1]) - max(box.y1 for box in found[i])


def _is_of_cells(row: Row) -> bool:
    return len(cells(row)) > 1 and not any(_LEADERS.search(box.text) or _is_of_axis(box.text) for box in row)


def _is_of_axis(text: str) -> bool:
    """Four numbers or more that rise, or fall, by equal steps: what stands along the axis of a chart."""
    marks = text.split()
    if len(marks) < _LEAST_OF_AXIS or not all(map(_MARK.fullmatch, marks)):
        return False
    numbers = [float(mark.rstrip("%").replace("−", "-")) for mark in marks]
    steps = [b - a for a, b in pairwise(numbers)]
    return steps[0] != 0 and max(steps) - min(steps) <= 0.01 * abs(steps[0])


def _table(run: list[Row]) -> Table | None:
    several = [row for row in run if _is_of_cells(row)]
    size = median(box.size for row in several for box in row)
    columns = find_columns(several, size)
    if len(columns) < 2 or len(several) < (3 if len(columns) == 2 else 2):
        return None
    table = Table(len(run), len(columns))
    for number, row in enumerate(run):
        placed: dict[tuple[int, int], list[Box]] = {}
        for box, place in zip(row, _places(row, columns, size), strict=True):
            placed.setdefault(place, []).append(box)
        covered = -1
        for (first, last), boxes in sorted(placed.items()):
            if first <= covered:
                return None  # one stands in a column and another over it: no table
            covered = last
            table.cells.append(Cell(number, first, joined(boxes), 1, last - first + 1))
    return table if _is_table(table, several, columns, size) else None


def find_columns(several: list[Row], size: float) -> list[Column]:
    """Where cells stand: between the strips that at most one cell in four crosses."""
    boxes = sorted((box for row in several for box in row), key=lambda box: box.x0)
    allowed = len(several) // 4
    edges = sorted([(box.x0, 1) for box in boxes] + [(box.x1, -1) for box in boxes])
    strips: list[tuple[float, float]] = []
    depth = 0
    for (x, step), (following, _) in pairwise(edges):
        depth += step
        if depth <= allowed:
            if strips and strips[-1][1] == x:
                strips[-1] = (strips[-1][0], following)
            else:
                strips.append((x, following))
    middles = [(a + b) / 2 for a, b in strips if b - a > 0.2 * size]
    row_of = {id(box): i for i, row in enumerate(several) for box in row}
    columns: list[Column] = []
    for left, right in pairwise([-float("inf"), *middles, float("inf")]):
        own = [box for box in boxes if box.x0 >= left and box.x1 <= right]
        if len({row_of[id(box)] for box in own}) >= 2:
            columns.append(Column(min(box.x0 for box in own), max(box.x1 for box in own)))
    return columns


def _places(row: Row, columns: list[Column], size: float) -> list[tuple[int, int]]:
    """First and last column of each box of a row, in order: the nearest that are still free.

    A head flush left above numbers flush right stands between two columns; that the one before has its own head
    already says which it belongs to. Two boxes share a column only where both lie over it: a broken line.
    """
    reach = [(columns[i].x0, columns[i].x1) for i in range(len(columns))]

    def away(box: Box, i: int) -> float:
        return max(0.0, box.x0 - reach[i][1], reach[i][0] - box.x1)

    def is_over(box: Box, i: int) -> bool:
        return min(box.x1, reach[i][1]) - max(box.x0, reach[i][0]) > 0.5 * min(size, box.width)

    # best[last column taken] = (cost, places so far)
    best: dict[int, tuple[float, list[tuple[int, int]]]] = {-1: (0.0, [])}
    for number, box in enumerate(row):
        over = [i for i in range(len(columns)) if is_over(box, i)]
        following: dict[int, tuple[float, list[tuple[int, int]]]] = {}
        for taken, (cost, places) in best.items():
            choices = [
                ((i, i), away(box, i) + 0.01 * abs(box.x0 - reach[i][0])) for i in range(taken + 1, len(columns))
            ]
            if len(over) > 1 and abs(box.x0 - reach[over[0]][0]) < size:
                over = over[:1]
            if len(over) > 1:
                choices = [((over[0], over[-1]), 0.0)] if over[0] > taken else [(one, 9 * size) for one, _ in choices]
            if number and taken in over and is_over(row[number - 1], taken):
                choices.append((places[-1], 0.0))
            if not choices:  # more boxes than columns
                choices.append((places[-1], 20 * size))
            for place, price in choices:
                if place[1] not in following or cost + price < following[place[1]][0]:
                    following[place[1]] = (cost + price, [*places, place])
        best = following
    return min(best.values(), key=lambda one: one[0])[1]


def _is_table(table: Table, several: list[Row], columns: list[Column], size: float) -> bool:
    width = len(columns)
    said = [cell.text for cell in table.cells if cell.text]
    if table.num_rows <= _MOST_ROWS_OF_NAMES and 2 * len(set(said)) <= len(said):
        return False  # the names and ends of the axes of many small charts
    several_rows = {i for i in range(table.num_rows) if sum(cell.row == i for cell in table.cells) > 1}
    if sum(cell.num_columns for cell in table.cells if cell.row in several_rows) < 0.5 * len(several_rows) * width:
        return False
    if columns[0].x1 - columns[0].x0 < 2 * size and width == 2:
        return False  # a list's numbers
    first = [cell.text for cell in table.cells if cell.column == 0]
    if width == 2 and sum(text.endswith((":", "：")) for text in first) > 0.3 * len(first):
        return False  # a form's fields
    if width == 2 and _are_page_numbers([cell.text for cell in table.cells if cell.column == 1]):
        return False
    if width == 2 and all(len(cell.text) > 40 for cell in table.cells if cell.column == 1):
        return False
    return sum(_is_aligned(column, several, size) for column in columns) >= 0.6 * width


def _are_page_numbers(texts: list[str]) -> bool:
    """Of a table of contents: they never fall."""
    return all(text.isdigit() for text in texts) and all(int(a) <= int(b) for a, b in pairwise(texts))


def _is_aligned(column: Column, several: list[Row], size: float) -> bool:
    own = [box for row in several for box in row if box.x0 >= column.x0 and box.x1 <= column.x1]

    def agree(values: list[float]) -> bool:
        middle = median(values)
        return sum(abs(value - middle) < 0.7 * size for value in values) >= 0.7 * len(values)

    return any(agree(values) for values in ([b.x0 for b in own], [b.x1 for b in own], [(b.x0 + b.x1) / 2 for b in own]))
