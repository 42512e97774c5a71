"""Tables in a PDF's own text, written in Markdown: a text layer names no table, and lists one cell a line.

    Quarter          [117, 590, 185, 616]        | Quarter | Visitors | Costs, € |
    Visitors         [439, 590, 508, 616]        | --- | --- | --- |
    Costs, €         [763, 590, 836, 616]   →    | January | 4,180 |  |
    January          [117, 627, 257, 653]
    4,180            [461, 627, 508, 653]

Only what can hardly be anything else is taken: lines that follow each other from left to right at one height, three
such rows or more, three columns or more with white between them in every row, most places filled, few words a cell.
All else stays as the text layer has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

_LEAST_ROWS, _LEAST_COLUMNS = 3, 3
_MOST_COLUMNS = 100  # more is a drawing; each row is held against all of them
_LEAST_FILLED = 0.6  # of the places; less is labels strewn over a drawing
_MOST_WORDS = 5.0  # a cell, on average; more is prose in columns
_WHITE = 0.5  # heights of a line between two columns
_ROW_DISTANCE = 3.5  # heights of a line from one row to the next at most
_HEIGHTS = 1.8  # of a row's lines, the highest to the lowest at most: what is higher runs upwards


@dataclass(slots=True)
class _Cell:
    left: int
    top: int
    right: int
    bottom: int
    text: str

    @property
    def height(self) -> int:
        return self.bottom - self.top


@dataclass(slots=True)
class _Row:
    """Lines `first` to `end` - 1 of the text; those without marks are no cells."""

    first: int
    end: int
    cells: list[_Cell]


@dataclass(slots=True)
class _Columns:
    """Where the cells of a table stand; grows row by row, as long as no cell stands in two columns."""

    spans: list[tuple[int, int]] = field(default_factory=list)  # from left to right

    def take(self, row: _Row) -> bool:
        """False, and nothing changed, where the row does not fit."""
        if len(row.cells) > _MOST_COLUMNS:
            return False
        white = _WHITE * min(cell.height for cell in row.cells)
        spans = dict(enumerate(self.spans))
        taken: set[int] = set()
        for cell in row.cells:
            under = [index for index, (left, right) in spans.items() if cell.left < right and left < cell.right]
            if len(under) > 1 or taken.intersection(under):
                return False
            index = under[0] if under else len(spans)
            left, right = spans.get(index, (cell.left, cell.right))
            spans[index] = min(left, cell.left), max(right, cell.right)
            taken.add(index)
        ordered = sorted(spans.values())
        if any(after[0] - before[1] < white for before, after in pairwise(ordered)):
            return False
        self.spans = ordered
        return True

    def of(self, cell: _Cell) -> int:
        return next(
            index for index, (left, right) in enumerate(self.spans) if left <= cell.left and cell.right <= right
        )


def with_tables(text: str, boxes: Sequence[Sequence[int]]) -> str:
    """The text of a layer whose lines have these boxes, [left, top, right, bottom]; as it is without a box each."""
    lines = text.split("\n")[:-1]
    if len(lines) != len(boxes):
        return text
    rows = list(_rows(lines, boxes))
    written, at, index = [], 0, 0
    while index < len(rows):
        num_rows, columns, step = _table_from(rows, index)
        if num_rows:
            written += [*lines[at : rows[index].first], "", *_markdown(rows[index : index + num_rows], columns), ""]
            at = rows[index + num_rows - 1].end
        index += max(num_rows, step)
    return "\n".join([*written, *lines[at:], ""]) if written else text


def _rows(lines: Sequence[str], boxes: Sequence[Sequence[int]]) -> Iterator[_Row]:
    row: _Row | None = None
    for number, (line, box) in enumerate(zip(lines, boxes, strict=True)):
        left, top, right, bottom = box
        cell = _Cell(left, top, right, bottom, " ".join(line.split()))
        if not cell.text and row is not None:
            row.end = number + 1
        elif row is not None and _follows(row.cells, cell):
            row.cells.append(cell)
            row.end = number + 1
        elif cell.text:
            if row is not None:
                yield row
            row = _Row(number, number + 1, [cell])
    if row is not None:
        yield row


def _follows(cells: Sequence[_Cell], cell: _Cell) -> bool:
    """Does it stand in the row of those before it, to their right?"""
    last = cells[-1]
    low, high = sorted((last.height, cell.height))
    shared = min(last.bottom, cell.bottom) - max(last.top, cell.top)
    return low > 0 and high <= _HEIGHTS * low and shared > low / 2 and cell.left >= last.right


def _table_from(rows: Sequence[_Row], start: int) -> tuple[int, _Columns, int]:
    """How many rows make a table from this one on, or 0; and how far on the next look begins where there is none.

    A lone cell may stand between rows of several. Of a long run that makes no table, such as a list, not every row is
    tried as a beginning: each look goes to the end of the run, and a dense page has thousands of rows.
    """
    columns, num_rows = _Columns(), 0
    for index in range(start, len(rows)):
        row = rows[index]
        is_lone = len(row.cells) == 1
        if is_lone and (num_rows < 2 or len(rows[index - 1].cells) == 1):
            break
        if index > start and not _is_below(rows[index - 1], row):
            break
        before = columns.spans
        if not columns.take(row) or (is_lone and len(columns.spans) > len(before)):
            columns.spans = before
            break
        if not is_lone:
            num_rows = index - start + 1
    table = rows[start : start + num_rows]
    columns = _Columns()
    for row in table:  # without a lone cell at the end
        columns.take(row)
    cells = [cell for row in table for cell in row.cells]
    places = num_rows * len(columns.spans)
    is_table = (
        num_rows >= _LEAST_ROWS
        and len(columns.spans) >= _LEAST_COLUMNS
        and len(cells) >= _LEAST_FILLED * places
        and sum(len(cell.text.split()) for cell in cells) <= _MOST_WORDS * len(cells)
    )
    return (num_rows if is_table else 0), columns, max(1, num_rows // 8)


def _is_below(above: _Row, row: _Row) -> bool:
    height = max(cell.height for cell in above.cells)
    distance = row.cells[0].top - above.cells[0].top
    return height / 2 < distance <= _ROW_DISTANCE * height


def _markdown(table: Sequence[_Row], columns: _Columns) -> Iterator[str]:
    for number, row in enumerate(table):
        texts = [""] * len(columns.spans)
        for cell in row.cells:
            texts[columns.of(cell)] = cell.text.replace("|", "\\|")
        yield f"| {' | '.join(texts)} |"
        if number == 0:
            yield "|" + " --- |" * len(texts)
