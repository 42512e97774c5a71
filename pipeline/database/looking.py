"""Reading in plain SQL, which needs no SQLAlchemy: half of what a command costs that only looks at a SQLite file.

`Database.looking()` and `FileToLookAt.looking()` open one reading transaction each. Statements name their values `:so`;
rows are read by position or by name. What the two databases spell differently is for the statement to say.
"""

from __future__ import annotations

import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
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

    def __init__(self, run: Callable[[str, Mapping[str, Any]], Sequence[Any]]) -> None:
        self._run = run

    def rows(self, statement: str, **values: Any) -> Sequence[Any]:
        return self._run(statement, values)

    def values(self, statement: str, **values: Any) -> list[Any]:
        """The first column of all rows."""
        return [row[0] for row in self._run(statement, values)]

    def value(self, statement: str, **values: Any) -> Any:
        """The first column of the first row; None where there is none."""
        return next(iter(self.values(statement, **values)), None)


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
                yield Look(lambda statement, values: connection.execute(statement, values).fetchall())
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
