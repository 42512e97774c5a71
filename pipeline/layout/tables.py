"""A table and how it is written: Markdown, or HTML where a cell spans several columns or rows."""

from __future__ import annotations

import html
from dataclasses import dataclass, field


@dataclass(slots=True)
class Cell:
    """At a row and a column, counted from 0, from which on it spans so many."""

    row: int
    column: int
    text: str
    num_rows: int = 1
    num_columns: int = 1


@dataclass(slots=True)
class Table:
    num_rows: int
    num_columns: int
    cells: list[Cell] = field(default_factory=list)
    """No two share a place; a place without one is empty."""

    @property
    def text(self) -> str:
        if any(cell.num_rows > 1 or cell.num_columns > 1 for cell in self.cells):
            return _html(self)
        return _markdown(self)


def _markdown(table: Table) -> str:
    grid = [[""] * table.num_columns for _ in range(table.num_rows)]
    for cell in table.cells:
        grid[cell.row][cell.column] = cell.text.replace("|", "\\|")
    # Markdown has no table without a head; where the first row is none, it is still the first to be read.
    lines = [f"| {' | '.join(row)} |" for row in grid]
    return "\n".join([lines[0], "|" + " --- |" * table.num_columns, *lines[1:]])


def _html(table: Table) -> str:
    taken = {
        (cell.row + i, cell.column + j)
        for cell in table.cells
        for i in range(cell.num_rows)
        for j in range(cell.num_columns)
    }
    starts = {(cell.row, cell.column): cell for cell in table.cells}
    lines = []
    for row in range(table.num_rows):
        line = ""
        for column in range(table.num_columns):
            cell = starts.get((row, column))
            if cell is None and (row, column) in taken:
                continue
            spans = ""
            if cell is not None and cell.num_rows > 1:
                spans += f' rowspan="{cell.num_rows}"'
            if cell is not None and cell.num_columns > 1:
                spans += f' colspan="{cell.num_columns}"'
            line += f"<td{spans}>{html.escape(cell.text, quote=False) if cell else ''}</td>"
        lines.append(f"<tr>{line}</tr>")
    return "\n".join(["<table>", *lines, "</table>"])
