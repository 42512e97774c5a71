"""The order in which a file gives its lines, where it can be the one in which they are read.

Who sets a page writes one story after the other: an infobox before the article beside it, a caption where it belongs, a
formula piece by piece. No white space tells as much. But others write row by row through all columns, or as it came.
So the order is held against the regions that white space makes (`columns`):

    a step goes on      within a region: down a little, or to the right; into one where none was before
    a step goes back    within a region: up and not to the right, or far; into one that was left before

A region in which few steps go back keeps the order, and what follows each other in it is read together until a step
leads up or out of it. Where many do, the region is read by where its lines stand; if that is most of the page, all of
it.

Tables come first. Whose rows are given one after the other, cell by cell, is one whatever stands around it, which white
space alone may take for a column with others beside it; so are level rows whose cells are given column by column.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from pipeline.layout.aligned import find_aligned
from pipeline.layout.columns import regions
from pipeline.layout.lines import Box
from pipeline.layout.prose import is_prose
from pipeline.layout.rows import Row, join, rows, united, with_cells_apart
from pipeline.layout.rulings import Ruling
from pipeline.layout.running_lines import set_apart
from pipeline.layout.wrapped_cells import with_whole_cells

_LEADERS = re.compile(r"[.…·_ ]{4,}")
_LABEL = re.compile(r"[:：]$|[.…·_ ]{4,}$")
_MOST_BACK = 0.25  # of a region's lines; of columns that are given row by row each second line, and more
_UP = 1.2  # line heights; the pieces of a formula step up by less
_FAR = 4.0
_MOST_STRAY = 0.2  # of a table's cells: other lines that are given between them
_LEAST_FIELDS = 2
_LEAST_ROWS, _LEAST_COLUMNS = 3, 3
_MOST_WORDS = 5.0  # a cell, on average; more is prose in columns
_ALIGNED = 0.1  # line heights
# `columns` tries fewer gutters where the file's order says more: a page of 100 lines tries all that it has.
_MOST_LOOKED_AT = 6_000


def regions_as_given(boxes: list[Box], height: float, ruled: Sequence[Ruling]) -> list[list[Box]]:
    """As `running_lines.set_apart` and `columns.regions`, where tables that are given row by row stay whole.

    Two columns may be anything: they are left to what stands around them.
    """
    given = sorted(_with_leaders(boxes), key=lambda box: box.number)
    of_page = with_cells_apart(_rows_as_given(given), _ALIGNED)
    cells: dict[int, list[Box]] = {}
    whole = {id(box): box for row in of_page for box in row}
    for start, end, table in find_aligned(of_page):
        members = [box for row in of_page[start:end] for box in row]
        if table.num_columns < _LEAST_COLUMNS or table.num_rows < _LEAST_ROWS:
            continue
        if sum(len(box.text.split()) for box in members) > _MOST_WORDS * len(members):
            continue
        if _has_prose(of_page[start:end], height):
            continue
        for box in members:
            del whole[id(box)]
        one = united(members, table.text, is_table=True)
        whole[id(one)], cells[id(one)] = one, members
    head, of_text, foot = set_apart(sorted(whole.values()), height)
    found = [part for part in (head, *regions(of_text, height, ruled, _MOST_LOOKED_AT), foot) if part]
    return [[cell for box in region for cell in cells.get(id(box), [box])] for region in found]


def _with_leaders(boxes: list[Box]) -> list[Box]:
    """The dots that lead from an entry to the number of its page are of the entry, whenever they are given."""
    if not any(_LEADERS.fullmatch(box.text) for box in boxes):
        return boxes
    whole: list[Box] = []
    for row in rows(boxes):
        for i, box in enumerate(row):
            if i and _LEADERS.fullmatch(box.text) and box.x0 - whole[-1].x1 < 2 * box.size:
                last = whole[-1]
                whole[-1] = replace(last, x1=box.x1, text=join(last.text, box.text))
            else:
                whole.append(box)
    return whole


def _has_prose(of_table: list[Row], height: float) -> bool:
    """Whether some column reads on from line to line."""
    width = max(map(len, of_table))
    return any(is_prose([row[i] for row in of_table if len(row) > i], height) for i in range(width))


def as_given(found: list[list[Box]], height: float) -> list[list[Row]] | None:
    """Regions in the order of their lines' numbers, each with its rows; None where that order is worth nothing.

    `found` as `columns.regions` has them, `height` that of the page's usual line.
    """
    of_regions = [rows(region) for region in found]
    region_of = {id(box): i for i, region in enumerate(found) for box in region}
    given = sorted((box for region in found for box in region), key=lambda box: box.number)
    into, within = _steps_back(given, region_of, len(found), height)
    holds = [
        # Once may be for a page's foot, which is given after all else.
        into[i] <= max(1.0, _MOST_BACK * len(region))
        and within[i] <= _MOST_BACK * len(region)
        and not _is_of_fields(of_regions[i])
        for i, region in enumerate(found)
    ]
    if 2 * sum(len(region) for region, is_held in zip(found, holds, strict=True) if is_held) < len(given):
        return None
    place = {id(box): i for i, box in enumerate(given)}
    parts: list[tuple[int, list[Row]]] = []
    stories: list[Box] = []
    for region, of_region, is_held in zip(found, of_regions, holds, strict=True):
        if is_held:
            stories += _with_tables(region, of_region, place, region_of, height)
        else:
            parts.append((min(box.number for box in region), of_region))
    story: list[Box] = []
    for box in sorted(stories, key=lambda box: box.number):
        if story and (region_of[id(box)] != region_of[id(story[-1])] or box.centre < story[-1].centre - _UP * height):
            parts.append((story[0].number, _rows_as_given(story)))
            story = []
        story.append(box)
    if story:
        parts.append((story[0].number, _rows_as_given(story)))
    return [part for _, part in sorted(parts, key=lambda part: part[0])]


def _steps_back(
    given: list[Box], region_of: dict[int, int], num_regions: int, height: float
) -> tuple[list[int], list[int]]:
    """How many lead into each region, and how many there are within it."""
    into, within = [0] * num_regions, [0] * num_regions
    seen: set[int] = set()
    last: Box | None = None
    for box in given:
        region = region_of[id(box)]
        if last is None or region != region_of[id(last)]:
            into[region] += region in seen
            seen.add(region)
        else:
            goes_up = box.centre < last.centre - _UP * height and box.x0 < last.x1 - 0.5 * height
            within[region] += goes_up or abs(box.centre - last.centre) > _FAR * height
        last = box
    return into, within


def _is_of_fields(of_region: list[Row]) -> bool:
    """A form's or a table of contents', whose labels may be given first and then what stands behind them."""
    several = [row for row in of_region if len(row) > 1]
    labels = sum(bool(_LABEL.search(row[0].text)) for row in several)
    return labels >= _LEAST_FIELDS and 2 * labels >= len(several)


def _with_tables(
    region: list[Box], of_region: list[Row], place: dict[int, int], region_of: dict[int, int], height: float
) -> list[Box]:
    """The region's boxes, those of a table as one, unless too many others are given between them, or a column of it is
    better read by itself."""
    boxes = {id(box): box for box in region}
    own = region_of[id(region[0])]
    of_region, lines = with_whole_cells(of_region, place)
    for start, end, table in find_aligned(of_region):
        members = [line for row in of_region[start:end] for box in row for line in lines.get(id(box), [box])]
        places = [place[id(box)] for box in members]
        has_strays = max(places) - min(places) + 1 > (1 + _MOST_STRAY) * len(members)
        if has_strays or _has_prose(of_region[start:end], height):
            continue
        for box in members:
            del boxes[id(box)]
        whole = united(members, table.text, is_table=True)
        boxes[id(whole)] = whole
        region_of[id(whole)] = own
    return list(boxes.values())


def _rows_as_given(story: list[Box]) -> list[Row]:
    """A row is what follows each other, stands level and not above one another."""
    found: list[Row] = []
    for box in story:
        if found and _stands_beside(found[-1], box):
            found[-1].append(box)
        else:
            found.append([box])
    return [sorted(row, key=lambda cell: (cell.x0, cell)) for row in found]


def _stands_beside(row: Row, box: Box) -> bool:
    if box.is_upright or any(cell.is_upright or cell.is_table for cell in row) or box.is_table:
        return False
    shared = min(box.y1, row[-1].y1) - max(box.y0, row[-1].y0)
    if shared < 0.5 * min(box.size, row[-1].size):
        return False
    return all(min(box.x1, cell.x1) - max(box.x0, cell.x0) < 0.5 * box.size for cell in row)
