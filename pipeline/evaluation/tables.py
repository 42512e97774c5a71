"""Tables of a text, Markdown's and HTML's, with their spans; where each cell stands; cells that are equal; and TEDS.

Cells: rows of truth and of reading are aligned, then the cells within two rows, so that as many cells as may be are
equal: F1 = 2 · equal / (cells of the truth + cells read). An empty cell counts as any other: one that vanishes shifts
the columns behind it.

TEDS (Zhong, ShafieiBavani and Jimeno Yepes 2020, "Image-based table recognition", arXiv:1911.10683): a table is a tree
of rows and cells, and its score is 1 − edit distance / nodes of the larger tree. To delete or insert a node costs 1; to
make one cell of another costs the edit distance of their texts over the longer one's length, or 1 where their spans
differ. Two tables with equal cells, one of which lost a column of four, have 1 − 4 / 16.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any, NamedTuple, TypeVar

from rapidfuzz.distance import Levenshtein

from pipeline.errors import UsageError
from pipeline.evaluation.measures import RULE, normal, plain_text

_BAR = re.compile(r"(?<!\\)\|")
_HTML = re.compile(r"<table\b.*?(?:</table>|\Z)", re.DOTALL | re.IGNORECASE)
_MOST_NODES = 1_000  # of a tree: the distance of two such takes a minute


class Cell(NamedTuple):
    text: str
    colspan: int = 1
    rowspan: int = 1


Table = list[list[Cell]]
Grid = list[list[str]]
Item = TypeVar("Item")


def tables_of(text: str) -> list[Table]:
    """In the order of the text, but HTML's first."""
    found = [table for match in _HTML.findall(text) for table in _html_tables(match)]
    return found + [table for kind, table in _parts(_HTML.sub("\n\n", text)) if kind == "table"]


def table_rows(text: str) -> Grid:
    """Rows of cells of all tables, HTML's first. A line with bars between texts is a row, too.

    A cell that spans several columns or rows stands in the first of them; the others are empty.
    """
    found = [row for match in _HTML.findall(text) for table in _html_tables(match) for row in Placed.of(table).rows()]
    for line in map(str.strip, _HTML.sub("", text).splitlines()):
        if _BAR.search(line) and not RULE.fullmatch(line) and len(cells := _markdown_row(line)) > 1:
            found.append([cell.text for cell in cells])
    return found


def cell_f1(true: Grid, read: Grid) -> float:
    one, other = ([[_cell(cell) for cell in row] for row in rows] for rows in (true, read))
    equal = _aligned(one, other, lambda a, b: _aligned(a, b, lambda c, d: float(c == d)))
    return 2 * equal / sum(len(row) for rows in (one, other) for row in rows)


def _cell(text: str) -> str:
    return normal(plain_text(text)).replace(" ", "").casefold()


def _aligned(a: Sequence[Item], b: Sequence[Item], worth: Callable[[Item, Item], float]) -> float:
    """The most that pairs in order can be worth; as a longest common subsequence, with weights."""
    best = [0.0] * (len(b) + 1)
    for one in a:
        before, best = best, [0.0] * (len(b) + 1)
        for i, other in enumerate(b):
            best[i + 1] = max(before[i + 1], best[i], before[i] + worth(one, other))
    return best[-1]


def without_tables(text: str) -> str:
    return "\n".join(line for kind, line in _parts(_HTML.sub("\n\n", text)) if kind == "line")


def _parts(text: str) -> Iterator[tuple[str, Any]]:
    """Lines, and runs of lines with bars: such a run is a table where a rule stands in it."""
    run: list[str] = []
    for line in [*text.splitlines(), ""]:
        if _BAR.search(line):
            run.append(line)
            continue
        if any(RULE.fullmatch(one.strip()) for one in run) and len(run) > 1:
            rows = [one.strip() for one in run if not RULE.fullmatch(one.strip())]
            yield "table", [_markdown_row(one) for one in rows]
        else:
            yield from (("line", one) for one in run)
        run = []
        yield "line", line


def _markdown_row(line: str) -> list[Cell]:
    return [Cell(cell.strip().replace("\\|", "|")) for cell in _BAR.split(line.removeprefix("|").removesuffix("|"))]


def _html_tables(html: str) -> list[Table]:
    parser = _Parser()
    parser.feed(html)
    parser.close()
    return [table for table in parser.tables if table]


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tables: list[Table] = []
        self._spans = (1, 1)
        self._text: list[str] | None = None

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self._end_cell()
            self.tables[-1].append([])
        elif tag in ("td", "th") and self.tables:
            self._end_cell()
            given = {name: int(value) for name, value in attributes if value and value.isdigit()}
            self._spans = (min(max(given.get("colspan", 1), 1), 100), min(max(given.get("rowspan", 1), 1), 1_000))
            self._text = []
        elif tag == "br" and self._text is not None:
            self._text.append(" ")

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "tr", "table"):
            self._end_cell()

    def close(self) -> None:
        """Also where the text ends within a cell."""
        super().close()
        self._end_cell()

    def _end_cell(self) -> None:
        if self._text is not None:
            if not self.tables[-1]:
                self.tables[-1].append([])
            self.tables[-1][-1].append(Cell(" ".join("".join(self._text).split()), *self._spans))
        self._text = None


@dataclass
class Placed:
    """A table's cells where they stand: each covers a box of places."""

    cells: list[tuple[int, int, int, int, str]] = field(default_factory=list)  # top, left, bottom, right, text

    @classmethod
    def of(cls, table: Table) -> Placed:
        placed, taken = cls(), set[tuple[int, int]]()
        for top, row in enumerate(table):
            left = 0
            for cell in row:
                while (top, left) in taken:
                    left += 1
                bottom, right = min(top + cell.rowspan, len(table)) - 1, left + cell.colspan - 1  # as browsers do
                taken |= {(y, x) for y in range(top, bottom + 1) for x in range(left, right + 1)}
                placed.cells.append((top, left, bottom, right, cell.text))
                left = right + 1
        return placed

    def rows(self) -> Grid:
        """Each to the last place that a cell covers in it."""
        found: Grid = []
        for top, left, bottom, right, text in self.cells:
            found += [[] for _ in range(bottom + 1 - len(found))]
            for row in found[top : bottom + 1]:
                row += [""] * (right + 1 - len(row))
            found[top][left] = text
        return found

    def beside(self, cell: tuple[int, int, int, int, str], side: str) -> list[str]:
        """Texts of the cells that touch it on a side (up, down, left, right), or that stand anywhere above it or left
        of it (top_heading, left_heading)."""
        top, left, bottom, right, _ = cell
        found = []
        for y, x, to_y, to_x, text in self.cells:
            over, level = x <= right and to_x >= left, y <= bottom and to_y >= top
            is_there = {
                "up": over and to_y == top - 1,
                "down": over and y == bottom + 1,
                "left": level and to_x == left - 1,
                "right": level and x == right + 1,
                "top_heading": over and to_y < top,
                "left_heading": level and to_x < left,
            }[side]
            if is_there:
                found.append(text)
        return found


def teds(true: Table, read: Table) -> float | None:
    """0 to 1; None where a table is too large to compare.

    Raises:
        UsageError: apted is not installed.
    """
    nodes = [sum(len(row) + 1 for row in table) for table in (true, read)]
    if max(nodes) > _MOST_NODES:
        return None
    try:
        from apted import APTED
    except ImportError as error:
        raise UsageError(
            "tables are compared by apted, which is not installed: pip install 'pagepack[eval]'"
        ) from error
    distance = APTED(_tree(true), _tree(read), _Costs()).compute_edit_distance()
    return max(0.0, 1.0 - float(distance) / max(*nodes, 1))


@dataclass
class _Node:
    cell: Cell | None  # None: the table, or a row
    tag: str
    children: list[_Node] = field(default_factory=list)


def _tree(table: Table) -> _Node:
    def cell(one: Cell) -> _Node:
        return _Node(one._replace(text=normal(plain_text(one.text))), "td")

    return _Node(None, "table", [_Node(None, "tr", [cell(one) for one in row]) for row in table])


class _Costs:
    """As apted asks for them."""

    valuecls = float

    def delete(self, node: _Node) -> float:
        return 1.0

    def insert(self, node: _Node) -> float:
        return 1.0

    def rename(self, node: _Node, other: _Node) -> float:
        if node.tag != other.tag:
            return 1.0
        if node.cell is None or other.cell is None:
            return 0.0
        if node.cell[1:] != other.cell[1:]:
            return 1.0
        return Levenshtein.normalized_distance(node.cell.text, other.cell.text)

    def children(self, node: _Node) -> Sequence[_Node]:
        return node.children


def matched(true: Sequence[Table], read: Sequence[Table]) -> list[float | None]:
    """The score of each true table with the one whose text is most like its own, of those that are left; 0 where none
    is left. Trees are compared for these pairs alone: two tables of 300 cells take seconds."""
    texts = [[_text_of(table) for table in tables] for tables in (true, read)]
    alike = [
        (Levenshtein.normalized_similarity(one, other), -i, -j)
        for i, one in enumerate(texts[0])
        for j, other in enumerate(texts[1])
    ]
    pairs: dict[int, int] = {}
    for _, i, j in sorted(alike, reverse=True):
        if -i not in pairs and -j not in pairs.values():
            pairs[-i] = -j
    return [teds(table, read[pairs[number]]) if number in pairs else 0.0 for number, table in enumerate(true)]


def _text_of(table: Table) -> str:
    return normal(plain_text("\n".join(cell.text for row in table for cell in row)))
