"""Reading in plain SQL, which needs no SQLAlchemy: half of what a command costs that only looks at a SQLite file.

`Database.looking()` and `FileToLookAt.looking()` open one reading transaction each. Statements name their values `:so`;
rows are read by position or by name. What the two databases spell differently is for the statement to say.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pipeline.database.sqlite_file import (
    BUSY_TIMEOUT_MS,
    Unchanged,
    connect_readonly,
    file_error,
    is_immutable,
)


class Look:
    """One reading transaction."""

    def __init__(self, dialect: str, run: Callable[[str, Mapping[str, Any]], Sequence[Any]]) -> None:
        self.dialect = dialect
        self._run = run

    def rows(self, statement: str, **values: Any) -> Sequence[Any]:
        return self._run(statement, values)

    def values(self, statement: str, **values: Any) -> list[Any]:
        """The first column of all rows."""
        return [row[0] for row in self._run(statement, values)]

    def value(self, statement: str, **values: Any) -> Any:
        """The first column of the first row; None where there is none."""
        return next(iter(self.values(statement, **values)), None)

    def now(self) -> float:
        """Seconds since the epoch, by the database's clock; as `Database.now`."""
        if self.dialect == "postgresql":
            return float(self.value("SELECT CAST(extract(epoch FROM statement_timestamp()) AS double precision)"))
        return time.time()

    def as_stored(self, moment: datetime) -> Any:
        """A UTC moment, to compare a column of moments with."""
        return moment if self.dialect == "postgresql" else f"{moment:%Y-%m-%d %H:%M:%S.%f}"


def as_moment(value: Any) -> datetime:
    """Of a column of moments, which on SQLite is text and on PostgreSQL in the session's zone; UTC, and says so."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def as_json(value: Any) -> Any:
    """Of a column of JSON, which on SQLite is text."""
    return json.loads(value) if isinstance(value, str) else value


class Looking(Protocol):
    """A `Database`, or a `FileToLookAt`."""

    @property
    def name(self) -> str: ...

    @property
    def dialect(self) -> str: ...

    def looking(self) -> AbstractContextManager[Look]: ...


class FileToLookAt:
    """A SQLite database that is only read."""

    dialect = "sqlite"

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._unchanged = Unchanged(path) if is_immutable(path) else None

    @contextmanager
    def looking(self) -> Iterator[Look]:
        try:
            connection = connect_readonly(self._path, BUSY_TIMEOUT_MS / 1000, self._unchanged is not None)
            connection.row_factory = _by_name
            try:
                connection.execute("BEGIN")
                yield Look("sqlite", lambda statement, values: connection.execute(statement, values).fetchall())
            finally:
                connection.close()
        except sqlite3.Error as error:
            ours = file_error(self.name, error)
            if ours is None:
                raise
            raise ours from error
        if self._unchanged is not None:
            self._unchanged.check()


def _by_name(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> Any:
    names = tuple(column[0] for column in cursor.description)
    if names not in _rows:
        _rows[names] = namedtuple("Row", names, rename=True)
    return _rows[names](*row)


_rows: dict[tuple[str, ...], Any] = {}
