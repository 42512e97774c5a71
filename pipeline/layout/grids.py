"""Tables whose cells are drawn: rulings that cross make a grid, and each line of text stands in one of its cells.

┌─────┬───────────┐     upright rulings at 4 places, level ones at 4: 3 × 3 places. No ruling parts the two at
│     │   Costs   │     the top right: one cell over two columns.
│     ├─────┬─────┤
│     │ new │ old │     Often only the outer lines and the head are drawn, and many rows stand between two level
├─────┼─────┼─────┤     rulings. They are rows of their own where the lines of several cells stand level with each
│ Ink │  12 │  14 │     other and are more than the wrapped lines of one row: numbers, or four and more.
│ Pen │   3 │   1 │
└─────┴─────┴─────┘

What stands in columns between two upright rulings is parted there as if a ruling were. A level ruling that ends at a
cell which goes on, and whose lines are rows of others beside it, parts no rows.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from pipeline.layout.aligned import find_columns
from pipeline.layout.connected import connected
from pipeline.layout.lines import Box
from pipeline.layout.prose import is_prose
from pipeline.layout.rows import cells, joined, rows, united
from pipeline.layout.rulings import Ruling, Rulings
from pipeline.layout.tables import Cell, Table

_NUMBER = re.compile(r"[(\[]?[-+−–]?[\d.,'%€$£¥\s()/:–-]*\d[\d.,'%€$£¥\s)\]/:–-]*[a-zA-Z%]{0,3}\)?")
_LEAST_APART, _LEAST_SPACED, _LEAST_FILLED = 2, 3, 0.2


@dataclass(slots=True)
class _Grid:
    xs: list[float]
    ys: list[float]
    rulings: Rulings


def take_tables(boxes: list[Box], rulings: Rulings, height: float) -> list[Box]:
    """Boxes of which those in a ruled table are replaced by one, whose text is the table."""
    for grid in _grids(rulings, height):
        x0, x1, y0, y1 = grid.xs[0], grid.xs[-1], grid.ys[0], grid.ys[-1]
        inside = [box for box in boxes if x0 < (box.x0 + box.x1) / 2 < x1 and y0 < (box.y0 + box.y1) / 2 < y1]
        if len(grid.xs) == 2:
            boxes = _with_fields(boxes, inside, grid, height)
            continue
        table = _table(inside, _with_columns_apart(_with_whole_bands(grid, inside, height), inside, height), height)
        if table is not None:
            taken = set(map(id, inside))
            boxes = [box for box in boxes if id(box) not in taken]
            number = min(box.number for box in inside)
            boxes.append(Box(y0, x0, y1, x1, table.text, is_table=True, number=number))
    return sorted(boxes)


def _grids(rulings: Rulings, height: float) -> list[_Grid]:
    """Rulings that cross each other, as grids."""
    level, upright = rulings.level, rulings.upright
    reach = 0.6 * height
    links = (
        (i, len(level) + j)
        for i, y in enumerate(level)
        for j, x in enumerate(upright)
        if y.start - reach < x.at < y.end + reach and x.start - reach < y.at < x.end + reach
    )
    grids = []
    for group in connected(len(level) + len(upright), links):
        found = Rulings(
            [level[i] for i in group if i < len(level)],
            [upright[i - len(level)] for i in group if i >= len(level)],
        )
        if len(found.level) < 2 or not found.upright:
            continue
        top, bottom = found.level[0].at, found.level[-1].at
        left, right = min(one.start for one in found.level), max(one.end for one in found.level)
        # An upright that ends in mid-air is a stem or a shadow, no side of a cell.
        ends = [one.at for one in found.level]
        found.upright = [
            one
            for one in found.upright
            if (one.start < top + reach or _is_near(one.start, ends, reach))
            and (one.end > bottom - reach or _is_near(one.end, ends, reach))
        ]
        xs = _places([*(one.at for one in found.upright), left, right], height)
        ys = _places([one.at for one in found.level], height)
        if len(xs) >= 2 and len(ys) >= 2:
            grids.append(_Grid(xs, ys, found))
    return grids


def _with_fields(boxes: list[Box], inside: list[Box], grid: _Grid, height: float) -> list[Box]:
    """A form's field with its label in one box, others above or below it: a line of text each."""
    taken: set[int] = set()
    fields = []
    for top, bottom in pairwise(grid.ys):
        field = [box for box in inside if top < (box.y0 + box.y1) / 2 < bottom]
        if 2 <= len(field) <= 3 and bottom - top < 5 * height and not any(box.is_table for box in field):
            taken |= set(map(id, field))
            fields.append(united(field, joined(field)))
    return [box for box in boxes if id(box) not in taken] + fields


def _is_near(value: float, others: Sequence[float], reach: float) -> bool:
    return any(abs(value - other) < reach for other in others)


def _places(values: list[float], height: float) -> list[float]:
    """Less than half a line apart nothing stands between two: a double ruling is one."""
    places: list[float] = []
    for value in sorted(values):
        if not places or value - places[-1] > 0.5 * height:
            places.append(value)
    return places


def _table(boxes: list[Box], grid: _Grid, height: float) -> Table | None:
    """None: these are no cells, but a page's frame, a chart, or columns of prose with rulings between."""
    num_rows, num_columns = len(grid.ys) - 1, len(grid.xs) - 1
    cells_at = _merged(grid, height)
    found: dict[tuple[int, int], list[Box]] = {}
    for box in boxes:
        column = bisect_right(grid.xs, (box.x0 + box.x1) / 2) - 1
        row = bisect_right(grid.ys, (box.y0 + box.y1) / 2) - 1
        found.setdefault(cells_at[row, column], []).append(box)
    if len(found) < 4 or any(is_prose(inside, height) and len(inside) > 8 for inside in found.values()):
        return None
    if any(sum(len(cells(row)) > 1 for row in rows(inside)) > 1 for inside in found.values()):
        return None  # a frame around columns that no ruling parts: where they stand tells them apart
    spans: dict[tuple[int, int], tuple[int, int]] = {}
    for (row, column), (top, left) in cells_at.items():
        bottom, right = spans.get((top, left), (top, left))
        spans[top, left] = max(bottom, row), max(right, column)
    if sum(len(inside) for inside in found.values()) < 0.4 * len(spans) or len(found) < _LEAST_FILLED * len(spans):
        return None  # squares of a chart's or an empty form's paper
    table = Table(0, num_columns)
    starts, total = [], 0
    parts = [_rows_between(found, spans, row, height) for row in range(num_rows)]
    for part in parts:
        starts.append(total)
        total += max(1, len(part))
    starts.append(total)
    table.num_rows = total
    for (top, left), (bottom, right) in spans.items():
        inside = found.get((top, left), [])
        width = right - left + 1
        levels = parts[top] if top == bottom else []
        if len(levels) > 1 and _are_level(inside, levels, height):
            for i in range(len(levels)):
                of_level = [box for box in inside if _nearest(box.centre, levels) == i]
                table.cells.append(Cell(starts[top] + i, left, joined(of_level), 1, width))
        else:
            table.cells.append(Cell(starts[top], left, joined(inside), starts[bottom + 1] - starts[top], width))
    return _without_gaps(table, grid, height)


def _with_columns_apart(grid: _Grid, boxes: list[Box], height: float) -> _Grid:
    """Upright rulings where nothing but white parts columns, from row to row of the grid as far as none crosses it."""
    added: list[Ruling] = []
    for left, right in pairwise(grid.xs):
        inside = [box for box in boxes if left < (box.x0 + box.x1) / 2 < right]
        several = [row for row in rows(inside) if len(cells(row)) > 1]
        if len(several) < _LEAST_APART:
            continue
        for column, beside in pairwise(find_columns(several, height)):
            x = (column.x1 + beside.x0) / 2
            for top, bottom in pairwise(grid.ys):
                between = [box for box in inside if top < box.centre < bottom]
                if between and not any(box.x0 < x < box.x1 for box in between):
                    added.append(Ruling(x, top, bottom))
    rulings = Rulings(grid.rulings.level, sorted([*grid.rulings.upright, *added]))
    return _Grid(_places([*grid.xs, *(one.at for one in added)], height), grid.ys, rulings)


def _with_whole_bands(grid: _Grid, boxes: list[Box], height: float) -> _Grid:
    """Without level rulings that end at a column which goes on, where its lines are the rows of all."""
    sides = list(pairwise(grid.xs))
    open_at = {}
    for y in grid.ys[1:-1]:
        level = [one for one in grid.rulings.level if abs(one.at - y) <= 0.5 * height]
        open_at[y] = [side for side in sides if not any(one.start < sum(side) / 2 < one.end for one in level)]
    kept = grid.ys[:1]
    for bottom in [*(y for y, some in open_at.items() if not some), grid.ys[-1]]:
        inner = [y for y in grid.ys if kept[-1] < y < bottom]
        if inner:
            between = [box for box in boxes if kept[-1] < box.centre < bottom]
            columns = [
                [row[0] for row in rows([box for box in between if left < (box.x0 + box.x1) / 2 < right])]
                for left, right in sides
            ]
            longest = max(range(len(columns)), key=lambda i: len(columns[i]))
            if all(sides[longest] in open_at[y] for y in inner) and _levels(columns, height):
                inner = []
        kept += [*inner, bottom]
    return _Grid(grid.xs, kept, grid.rulings)


def _merged(grid: _Grid, height: float) -> dict[tuple[int, int], tuple[int, int]]:
    """Place → the top left place of its cell: those that no ruling parts are one, if they make a rectangle."""
    ys, xs = grid.ys, grid.xs
    places = [(row, column) for row in range(len(ys) - 1) for column in range(len(xs) - 1)]
    owner = {place: place for place in places}
    members_of = {place: [place] for place in places}
    upright_at, level_at = (
        [[line for line in ruled if abs(line.at - at) <= 0.5 * height] for at in ats]
        for ats, ruled in ((xs, grid.rulings.upright), (ys, grid.rulings.level))
    )

    def is_open(one: tuple[int, int], other: tuple[int, int]) -> bool:
        (row, column), (below, beside) = one, other
        if beside > column:
            middle, ruled = (ys[row] + ys[row + 1]) / 2, upright_at[beside]
        else:
            middle, ruled = (xs[column] + xs[column + 1]) / 2, level_at[below]
        return not any(line.start < middle < line.end for line in ruled)

    def can_be_one(members: list[tuple[int, int]]) -> bool:
        num_rows = len({row for row, _ in members})
        return len(members) == num_rows * len({column for _, column in members})

    for down, right in ((0, 1), (1, 0)):
        for row, column in places:
            other = (row + down, column + right)
            if other not in owner or owner[other] == owner[row, column] or not is_open((row, column), other):
                continue
            first, second = owner[row, column], owner[other]
            members = sorted(members_of[first] + members_of[second])
            edge = [(a, b) for a, b in _touching(members, down, right) if owner[a] != owner[b]]
            if can_be_one(members) and all(is_open(a, b) for a, b in edge):
                members_of[members[0]] = members
                for place in members:
                    owner[place] = members[0]
    return owner


def _touching(members: list[tuple[int, int]], down: int, right: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    known = set(members)
    return [((row, column), (row + down, column + right)) for row, column in members
            if (row + down, column + right) in known]  # fmt: skip


def _rows_between(
    found: dict[tuple[int, int], list[Box]], spans: dict[tuple[int, int], tuple[int, int]], row: int, height: float
) -> list[float]:
    """The middles of the rows that stand between two level rulings; none or one where it is one row."""
    inside = [[row_[0] for row_ in rows(boxes)] for (top, left), boxes in found.items()
              if top == row and spans[top, left][0] == row]  # fmt: skip
    return _levels(inside, height)


def _levels(columns: list[list[Box]], height: float) -> list[float]:
    """The middles of the rows that the lines of several columns make; none where each column is one cell."""
    several = [lines for lines in columns if len(lines) > 1]
    if len(several) < 2:
        return []
    longest = max(several, key=len)
    levels = [line.centre for line in longest]
    for lines in several:
        levels += [line.centre for line in lines if not _is_near(line.centre, levels, 0.5 * height)]
    levels.sort()
    alike = [lines for lines in several if _are_level(lines, levels, height)]
    are_numbers = any(all(_NUMBER.fullmatch(line.text) for line in lines) for lines in alike)
    is_long = sum(len(lines) >= 4 for lines in alike) >= 2
    is_spaced = len(longest) >= 4 and any(_are_spaced(lines, levels) for lines in alike if lines is not longest)
    return levels if len(alike) >= 2 and (are_numbers or is_long or is_spaced) else []


def _are_spaced(lines: list[Box], levels: list[float]) -> bool:
    """They leave out rows, as no lines of one cell do."""
    places = [_nearest(line.centre, levels) for line in lines]
    return len(lines) >= _LEAST_SPACED and 2 * sum(b - a > 1 for a, b in pairwise(places)) >= len(lines) - 1


def _are_level(boxes: list[Box], levels: list[float], height: float) -> bool:
    return all(abs(box.centre - levels[_nearest(box.centre, levels)]) < 0.35 * height for box in boxes)


def _nearest(value: float, levels: list[float]) -> int:
    return min(range(len(levels)), key=lambda i: abs(levels[i] - value))


def _without_gaps(table: Table, grid: _Grid, height: float) -> Table:
    """Without columns that are too narrow for a letter: the white between double rulings."""
    empty = {
        column
        for column, (left, right) in enumerate(pairwise(grid.xs))
        if right - left < 1.5 * height and not any(cell.text and cell.column <= column < cell.column + cell.num_columns
                                                    for cell in table.cells)
    }  # fmt: skip
    kept = []
    for cell in table.cells:
        covered = [c for c in range(cell.column, cell.column + cell.num_columns) if c not in empty]
        if covered:
            before = sum(1 for c in empty if c < covered[0])
            kept.append(replace(cell, column=covered[0] - before, num_columns=len(covered)))
    return Table(table.num_rows, table.num_columns - len(empty), kept)
