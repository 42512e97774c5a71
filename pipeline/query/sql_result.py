"""What a user's own SQL gives back on either database, and how it is told what is not allowed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.errors import UsageError
from schemas.view_columns import COLUMNS

Value = str | int | float | bytes | None
MAX_STATEMENT_BYTES = 100_000
ROWS_AT_ONCE = 200


@dataclass
class SqlResult:
    """The columns' names and the rows, which are read while they are asked for. Closing `rows` closes the database."""

    columns: list[str]
    rows: Iterator[tuple[Value, ...]] = field(repr=False)


HINT = (
    f"`pagepack sql` reads only: SELECT from the views {', '.join(COLUMNS)} (their columns: SELECT * FROM schema_doc)"
)


def too_slow(limit_seconds: float) -> UsageError:
    return UsageError(
        f"the query was stopped after {limit_seconds:g} second{'' if limit_seconds == 1 else 's'}; "
        "narrow it with WHERE or LIMIT, or raise the limit"
    )
