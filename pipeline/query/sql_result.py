"""What a user's own SQL gives back on either database, and how it is told what is not allowed."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass, field

from pipeline.errors import UsageError, did_you_mean
from schemas.view_columns import COLUMNS

Value = str | int | float | bytes | None
MAX_STATEMENT_BYTES = 100_000
ROWS_AT_ONCE = 200
MAX_VALUE_BYTES = 256 * 2**20  # one text or blob: document_text of 20,000 dense pages is under half of it


@dataclass
class SqlResult:
    """The columns' names and the rows, which are read while they are asked for. Closing `rows` closes the database."""

    columns: list[str]
    rows: Generator[tuple[Value, ...], None, None] = field(repr=False)


HINT = (
    f"`pagepack sql` reads only: SELECT from the views {', '.join(COLUMNS)} (their columns: SELECT * FROM schema_doc)"
)


_UNKNOWN = (  # as SQLite and PostgreSQL say it; the name may stand behind its table's
    (re.compile(r"no such table: (?:\w+\.)?(\w+)|relation \"(?:\w+\.)?(\w+)\" does not exist"), COLUMNS),
    (
        re.compile(r"no such column: (?:\w+\.)*(\w+)|column \"?(?:\w+\.)*(\w+)\"? does not exist"),
        sorted({name for view in COLUMNS.values() for name in view}),
    ),
)


def database_says(database: str, words: str) -> UsageError:
    """What a database says of a statement; beside a view or column that it does not know stands the nearest one, or
    which views have the column."""
    near = ""
    for pattern, known in _UNKNOWN:
        if found := pattern.search(words):
            name = found[1] or found[2]
            near = did_you_mean(name, known)
            if known is not COLUMNS and name in known:
                having = [view for view, columns in COLUMNS.items() if name in columns]
                near = f"; {', '.join(having)} {'have' if having[1:] else 'has'} it;"
    return UsageError(f"{database} says: {words}{near}{'' if near else ';'} {HINT}")


class TooSlow(UsageError):
    """A statement ran past its limit."""


def too_slow(limit_seconds: float) -> TooSlow:
    return TooSlow(
        f"the query was stopped after {limit_seconds:g} second{'' if limit_seconds == 1 else 's'}; "
        "narrow it with WHERE or LIMIT, or raise the limit"
    )
