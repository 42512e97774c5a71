"""A user's own SQL on SQLite: an authorizer allows reading alone, a clock ends what takes too long.

SQLite asks the authorizer before it compiles each part of a statement. Here it hears yes to SELECT, to reading a
column, to functions and to recursion, and no to everything else: writes, ATTACH (which `mode=ro` alone lets create
files), PRAGMA, extensions. A deadline counts the time that SQLite works, not the time that a pager waits.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from pipeline.database.sqlite_file import Unchanged, connect_readonly, file_error, is_immutable
from pipeline.errors import UsageError
from pipeline.query.sql_result import (
    HINT,
    MAX_STATEMENT_BYTES,
    SqlResult,
    Value,
    database_says,
    too_slow,
)

_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_FORBIDDEN_FUNCTIONS = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"}
_IO_ERROR = "SQLITE_IOERR"  # the machine's, and no fault of the statement
_STEPS_BETWEEN_LOOKS = 10_000  # virtual machine steps between two looks at the clock: about 0.1 ms


def run_on_file(path: Path, statement: str, limit_seconds: float, max_value_bytes: int, rows_at_once: int) -> SqlResult:
    """Run one SELECT on a SQLite file. Raises as `run_sql`."""
    if not path.is_file():
        raise UsageError(f"no database at {path.absolute()}; `pagepack run PATH` makes one, --home says where")
    unchanged = Unchanged(path) if is_immutable(path) else None
    try:
        connection = connect_readonly(path, 15.0, unchanged is not None)
    except sqlite3.Error as error:
        raise UsageError(f"cannot open {path}: {error}") from error
    clock = _Clock(limit_seconds)
    try:
        _fence(connection, clock, max_value_bytes)
        with clock:
            cursor = connection.execute(statement)
        if cursor.description is None:
            raise UsageError(f"this is no statement that reads; {HINT}")
    except BaseException as error:
        connection.close()
        raise _translated(error, clock, path) from error
    columns = [str(column[0]) for column in cursor.description]
    return SqlResult(columns, _rows(connection, cursor, clock, unchanged, path, rows_at_once))


class _Clock:
    """Counts the seconds inside `with` and tells SQLite when they are used up."""

    def __init__(self, limit_seconds: float) -> None:
        self.limit_seconds = limit_seconds
        self.spent_seconds = 0.0
        self.is_over = False
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.spent_seconds += time.monotonic() - self._started

    def look(self) -> int:
        """Non-zero interrupts the statement."""
        self.is_over = self.spent_seconds + time.monotonic() - self._started > self.limit_seconds
        return int(self.is_over)


def _fence(connection: sqlite3.Connection, clock: _Clock, max_value_bytes: int) -> None:
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, MAX_STATEMENT_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max_value_bytes)
    for table in _virtual_tables(connection):  # connecting one compiles a CREATE TABLE, which the authorizer denies
        connection.execute(f"SELECT 1 FROM {table} LIMIT 0")
    connection.set_authorizer(_authorize)
    connection.set_progress_handler(clock.look, _STEPS_BETWEEN_LOOKS)


def _virtual_tables(connection: sqlite3.Connection) -> list[str]:
    searched = connection.execute("SELECT name FROM sqlite_master WHERE name = 'page_search'").fetchall()
    return ["json_each('[]')", "json_tree('[]')", "pragma_table_info('sqlite_master')", *(name for (name,) in searched)]


def _authorize(action: int, first: str | None, second: str | None, *_: Any) -> int:
    """FTS5 itself asks for `data_version`; `table_info` tells people the columns."""
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_DENY if str(second).lower() in _FORBIDDEN_FUNCTIONS else sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_PRAGMA:
        is_reading = (first == "data_version" and second is None) or first == "table_info"
        return sqlite3.SQLITE_OK if is_reading else sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


def _rows(
    connection: sqlite3.Connection,
    cursor: sqlite3.Cursor,
    clock: _Clock,
    unchanged: Unchanged | None,
    path: Path,
    rows_at_once: int,
) -> Generator[tuple[Value, ...], None, None]:
    try:
        while True:
            with clock:
                some = cursor.fetchmany(rows_at_once)
            if not some:
                break
            yield from some
        if unchanged is not None:
            unchanged.check()
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise _translated(error, clock, path) from error
    finally:
        connection.close()


def _translated(error: BaseException, clock: _Clock, path: Path) -> BaseException:
    if clock.is_over:
        return too_slow(clock.limit_seconds)
    if isinstance(error, sqlite3.DatabaseError) and ("not a database" in str(error) or "malformed" in str(error)):
        return UsageError(f"{path} is not a whole SQLite database ({error}); restore it or choose another --home")
    name = str(getattr(error, "sqlite_errorname", ""))
    if isinstance(error, sqlite3.OperationalError) and name.startswith(_IO_ERROR):
        return file_error(str(path), error) or error
    if isinstance(error, sqlite3.Error | sqlite3.Warning | ValueError | UnicodeError | OverflowError | MemoryError):
        return database_says("SQLite", str(error))
    return error
