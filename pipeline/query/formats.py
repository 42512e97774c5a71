"""Rows of a query as a table for people, CSV for spreadsheets or JSON for programs.

Texts come from strangers' documents: what could drive a terminal is spelled out wherever a terminal is written to.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

from pipeline.query.sql_result import Value

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_TABLE_ROWS = 1_000  # a table is laid out in memory; more rows than people read go to csv or json


def write_table(stream: TextIO, columns: Sequence[str], rows: Iterable[Sequence[Value]]) -> int:
    """For people: at most 1,000 rows, NULL dimmed, control characters spelled out. Returns the rows written.

    Wide cells are wrapped at words. Where columns would come out too narrow for that, each row is a block of its own,
    with a line for each column.
    """
    from rich.console import Console

    shown: list[list[Text]] = []
    is_cut = False
    for row in rows:
        if len(shown) == _TABLE_ROWS:
            is_cut = True
            break
        shown.append([_cell(value) for value in row])
    console = Console(file=stream, width=None if stream.isatty() else 200, highlight=False)
    names = [visible(column) for column in columns]
    least = [_least_width(name, [cells[at].plain for cells in shown]) for at, name in enumerate(names)]
    if sum(least) + _GAP * (len(least) - 1) <= console.width:
        console.print(_table(names, least, shown))
    else:
        for number, cells in enumerate(shown, 1):
            console.print(*_block(number, names, cells), sep="\n")
    if is_cut:
        console.print(f"… the first {_TABLE_ROWS:,} rows; --format csv or json gives all", style="dim")
    return len(shown)


_NARROWEST, _LONGEST_WORD = 16, 40  # characters: of a column of long cells; longer words are broken, as paths are
_GAP = 3


def _least_width(name: str, cells: Sequence[str]) -> int:
    """Of a column that still can be read: whole words, such as ids, and no sentence of one word a line."""
    from rich.cells import cell_len

    widest, longest = cell_len(name), 0
    for text in cells:
        widest = max(widest, *map(cell_len, text.expandtabs(8).split("\n")))
        longest = max(longest, *map(cell_len, text.split()), 0)
    return min(widest, max(_NARROWEST, cell_len(name), min(longest, _LONGEST_WORD)))


def _table(names: Sequence[str], least: Sequence[int], rows: Sequence[Sequence[Text]]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name, width in zip(names, least, strict=True):
        table.add_column(Text(name), overflow="fold", min_width=width)
    for row in rows:
        table.add_row(*row)
    return table


def _block(number: int, names: Sequence[str], row: Sequence[Text]) -> tuple[Text, Table]:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    grid.add_column(no_wrap=True, overflow="ellipsis", style="bold", max_width=30)
    grid.add_column(overflow="fold")
    for name, value in zip(names, row, strict=True):
        grid.add_row(Text(name), value)
    return Text(f"── row {number:,} ──", style="dim"), grid


def write_csv(stream: TextIO, columns: Sequence[str], rows: Iterable[Sequence[Value]]) -> int:
    """RFC 4180: CRLF, quotes doubled. NULL is nothing between the commas, an empty text is `""`."""
    is_terminal = stream.isatty()

    def cell(value: Value) -> str:
        text = _plain(value) if value is not None else ""
        text = visible(text) if is_terminal else text
        return f'"{text.replace(chr(34), chr(34) * 2)}"' if value == "" or any(c in text for c in ',"\r\n') else text

    stream.write(",".join(cell(column) for column in columns) + "\r\n")
    count = 0
    for row in rows:
        line = ",".join(cell(value) for value in row)
        stream.write((line or '""' if len(columns) == 1 and row[0] is not None else line) + "\r\n")
        count += 1
    return count


def write_json(stream: TextIO, columns: Sequence[str], rows: Iterable[Sequence[Value]]) -> int:
    """A list of objects, one on each line; a column's name that comes twice gets a number."""
    names: list[str] = []
    for column in columns:
        number = 2
        name = column
        while name in names:
            name, number = f"{column}_{number}", number + 1
        names.append(name)
    count = 0
    stream.write("[")
    for row in rows:
        values = {name: _plain(v) if isinstance(v, bytes) else _finite(v) for name, v in zip(names, row, strict=True)}
        line = json.dumps(values, ensure_ascii=False)
        stream.write(("," if count else "") + "\n" + "".join(c if c >= " " and _is_safe(c) else _u(c) for c in line))
        count += 1
    stream.write("\n]\n" if count else "]\n")
    return count


def visible(text: str) -> str:
    """Untrusted text for a terminal: control characters and those that turn writing around are spelled out."""
    return "".join(c if c in "\n\t" or _is_safe(c) else f"\\x{ord(c):02x}" if c < "\u0100" else _u(c) for c in text)


def _is_safe(character: str) -> bool:
    if " " <= character <= "~":
        return True
    return unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp") and not (
        "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"
    )


def _u(character: str) -> str:
    return f"\\u{ord(character):04x}"


def _cell(value: Value) -> Text:
    from rich.text import Text

    if value is None:
        return Text("NULL", style="dim italic")
    return Text(visible(_plain(value)))


def _plain(value: Value) -> str:
    return f"x'{value.hex()}'" if isinstance(value, bytes) else str(value)


def _finite(value: Value) -> Value:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
