"""A user's own SQL, which can read everything and change nothing, and its rows as a table, CSV or JSON.

SQLite asks an authorizer before it compiles each part of a statement; here it hears yes to SELECT, to reading a column,
to functions and to recursion, and no to everything else: writes, ATTACH (which `mode=ro` alone lets create files),
PRAGMA, extensions. A deadline counts the time that SQLite works, not the time that a pager waits.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.errors import UsageError
from pipeline.settings import Settings
from schemas.views import COLUMNS

_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_FORBIDDEN_FUNCTIONS = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"}
_MAX_STATEMENT_BYTES = 100_000
_MAX_VALUE_BYTES = 256 * 2**20  # one text or blob: document_text of 20,000 dense pages is under half of it
_STEPS_BETWEEN_LOOKS = 10_000  # virtual machine steps between two looks at the clock: about 0.1 ms
_ROWS_AT_ONCE = 200
_TABLE_ROWS = 1_000  # a table is laid out in memory; more rows than people read go to csv or json

Value = str | int | float | bytes | None


@dataclass
class SqlResult:
    """The columns' names and the rows, which are read while they are asked for.

    `is_truncated` turns true where `max_rows` cut the rows short. Closing `rows` closes the database.
    """

    columns: list[str]
    rows: Iterator[tuple[Value, ...]] = field(repr=False)
    is_truncated: bool = False


def run_sql(
    where: Settings | Path, statement: str, *, limit_seconds: float = 60.0, max_rows: int | None = None
) -> SqlResult:
    """Run one SELECT on the settings' database, or on the SQLite file at a path.

    Works while a run writes: readers of a WAL database wait for nobody. Where the folder cannot be written, SQLite
    can make no lock files; such a database is read as if nobody changes it, and if somebody does, the rows end with
    an error instead of being wrong.

    Raises:
        UsageError: not a statement that reads, SQLite's own complaint, or past `limit_seconds` (also from `rows`).
    """
    path = where if isinstance(where, Path) else _path(where)
    if not path.is_file():
        raise UsageError(f"no database at {path}; `pagepack run PATH` makes one, --home says where")
    unchanged = _Unchanged(path) if _needs_immutable(path) else None
    try:
        uri = f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' if unchanged else ''}"
        connection = sqlite3.connect(uri, uri=True, timeout=15.0, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise UsageError(f"cannot open {path}: {error}") from error
    clock = _Clock(limit_seconds)
    try:
        _fence(connection, clock)
        with clock:
            cursor = connection.execute(statement)
        if cursor.description is None:
            raise UsageError(f"this is no statement that reads; {_HINT}")
    except BaseException as error:
        connection.close()
        raise _translated(error, clock) from error
    columns = [str(column[0]) for column in cursor.description]
    result = SqlResult(columns, iter(()))
    result.rows = _rows(result, connection, cursor, clock, max_rows, unchanged)
    return result


def write_table(stream: TextIO, columns: Sequence[str], rows: Iterable[Sequence[Value]]) -> int:
    """For people: at most 1,000 rows, NULL dimmed, control characters spelled out. Returns the rows written."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(Text(visible(column)), overflow="fold")
    count, is_cut = 0, False
    for row in rows:
        if count == _TABLE_ROWS:
            is_cut = True
            break
        table.add_row(*(_cell(value) for value in row))
        count += 1
    console = Console(file=stream, width=None if stream.isatty() else 200, highlight=False)
    console.print(table)
    if is_cut:
        console.print(f"… the first {_TABLE_ROWS:,} rows; --format csv or json gives all", style="dim")
    return count


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


WRITERS = {"table": write_table, "csv": write_csv, "json": write_json}


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
    if value is None:
        return Text("NULL", style="dim italic")
    return Text(visible(_plain(value)))


def _plain(value: Value) -> str:
    return f"x'{value.hex()}'" if isinstance(value, bytes) else str(value)


def _finite(value: Value) -> Value:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


_HINT = (
    f"`pagepack sql` reads only: SELECT from the views {', '.join(COLUMNS)} (their columns: SELECT * FROM schema_doc)"
)


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


class _Unchanged:
    """Remembers a database file, to see later that nobody wrote into it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = self._look()

    def check(self) -> None:
        if self._look() != self._before:
            raise UsageError(f"{self._path} was written while it was read; run the query again")

    def _look(self) -> tuple[int, int, bool]:
        found = self._path.stat()
        wal = self._path.with_name(self._path.name + "-wal")
        return found.st_mtime_ns, found.st_size, wal.exists() and wal.stat().st_size > 0


def _path(settings: Settings) -> Path:
    if settings.database_url is not None:
        raise UsageError("PAGEPACK_DATABASE_URL: servers are not supported yet; unset it to use SQLite in --home")
    return settings.home / "pagepack.db"


def _needs_immutable(path: Path) -> bool:
    """SQLite reads a WAL database through two files beside it: they must be there, or the folder writable."""
    if os.access(path.parent, os.W_OK):
        return False
    beside = [path.with_name(path.name + ending) for ending in ("-wal", "-shm")]
    if all(os.access(file, os.R_OK) for file in beside):
        return False
    if beside[0].exists() and beside[0].stat().st_size > 0:
        raise UsageError(
            f"{path} holds pages in {beside[0].name} that only someone who may write to {path.parent} can read; "
            "run any pagepack command as its owner first, or copy the folder"
        )
    return True


def _fence(connection: sqlite3.Connection, clock: _Clock) -> None:
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, _MAX_STATEMENT_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
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
    result: SqlResult,
    connection: sqlite3.Connection,
    cursor: sqlite3.Cursor,
    clock: _Clock,
    max_rows: int | None,
    unchanged: _Unchanged | None,
) -> Iterator[tuple[Value, ...]]:
    count = 0
    try:
        while True:
            with clock:
                some = cursor.fetchmany(_ROWS_AT_ONCE)
            if not some:
                break
            for row in some:
                if count == max_rows:
                    result.is_truncated = True
                    return
                yield row
                count += 1
        if unchanged is not None:
            unchanged.check()
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise _translated(error, clock) from error
    finally:
        connection.close()


def _translated(error: BaseException, clock: _Clock) -> BaseException:
    if clock.is_over:
        return UsageError(
            f"the query was stopped after {clock.limit_seconds:g} seconds; "
            "narrow it with WHERE or LIMIT, or raise the limit"
        )
    if isinstance(error, sqlite3.Error | sqlite3.Warning | ValueError | UnicodeError | OverflowError | MemoryError):
        return UsageError(f"SQLite says: {error}; {_HINT}")
    return error
