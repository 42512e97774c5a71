"""The first rows of a user's own SQL, as many as a program can take at once: for servers, whose memory is shared."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pipeline.query.sql import run_sql
from pipeline.query.sql_result import Value
from pipeline.settings import Settings

_MAX_VALUE_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class SomeRows:
    """Values as JSON has them: bytes are written as `x'00ff'`, and so is a number that is none, as `inf`."""

    columns: list[str]
    rows: list[list[str | int | float | None]]
    cut: str | None  # what is left out, in words; None: these are all rows, and whole


def some_rows(
    where: Settings | Path,
    statement: str,
    *,
    max_rows: int,
    max_characters: int,
    max_cell: int = 20_000,
    limit_seconds: float = 20.0,
) -> SomeRows:
    """The first rows of one SELECT, until there are `max_rows` of them or they come to `max_characters`.

    A text over `max_cell` characters is cut. Raises as `run_sql`.
    """
    result = run_sql(where, statement, limit_seconds=limit_seconds, max_value_bytes=_MAX_VALUE_BYTES, rows_at_once=8)
    rows: list[list[str | int | float | None]] = []
    left, cut_cells, why = max_characters, 0, ""
    with closing(result.rows):
        for row in result.rows:
            if len(rows) == max_rows:
                why = f"these are the first {max_rows:,} rows"
                break
            cut_cells += sum(isinstance(value, str | bytes) and len(value) > max_cell for value in row)
            cells = [_plain(value, max_cell) for value in row]
            left -= sum(len(cell) if isinstance(cell, str) else 20 for cell in cells)
            if left < 0 and rows:
                why = (
                    f"these are the first {len(rows):,} rows, for more than {max_characters:,} characters are not given"
                )
                break
            rows.append(cells)
    reasons = [why] if why else []
    if cut_cells:
        reasons.append(f"{cut_cells:,} values are cut at {max_cell:,} characters")
    cut = "; ".join(reasons)
    return SomeRows(
        result.columns, rows, f"{cut}; narrow it with WHERE, LIMIT and OFFSET, or substr()" if cut else None
    )


def _plain(value: Value, most: int) -> str | int | float | None:
    if isinstance(value, bytes):
        return f"x'{value[:most].hex()}'{'…' if len(value) > most else ''}"
    if isinstance(value, str):
        return value if len(value) <= most else f"{value[:most]}…"
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
