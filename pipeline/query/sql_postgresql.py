"""A user's own SQL on a PostgreSQL server: what `sql_sqlite` is for a SQLite file.

The statement becomes a cursor's query in a READ ONLY transaction, sent in the protocol that takes one statement at a
time: what is not a SELECT (or VALUES, TABLE, WITH without writing) is refused by the grammar, what writes by the
transaction. Where the role `pagepack_query` exists and may be taken, it sees the views and what the commands show. The
deadline is this side's: a statement can undo `statement_timeout`, and cannot undo a cancel.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.adapt import Loader
from psycopg.types.string import TextLoader

from pipeline.database.postgresql import connect_arguments, translated_words
from pipeline.errors import UsageError
from pipeline.query.sql_result import (
    HINT,
    MAX_STATEMENT_BYTES,
    SqlResult,
    Value,
    database_says,
    too_slow,
)
from pipeline.urls import server_name, server_url

QUERY_ROLE = "pagepack_query"
_MAY_TAKE_ROLE = """
SELECT pg_has_role(current_user, oid, CASE WHEN current_setting('server_version_num')::int < 160000
                                           THEN 'MEMBER' ELSE 'SET' END)
       AND has_table_privilege(oid, to_regclass('page_text'), 'SELECT')  -- roles are the cluster's, privileges are not
FROM pg_roles WHERE rolname = %s
"""


def run_on_server(url: str, statement: str, limit_seconds: float, rows_at_once: int) -> SqlResult:
    """As `run_sql`, which says what may be raised."""
    if len(statement.encode(errors="replace")) > MAX_STATEMENT_BYTES:
        raise UsageError(f"the statement is longer than {MAX_STATEMENT_BYTES:,} bytes; {HINT}")
    if "\0" in statement:
        raise UsageError(f"the statement holds a NUL character; {HINT}")
    server = _Server(url, limit_seconds)
    try:
        cursor = server.declare(statement)
    except BaseException:
        server.close()
        raise
    return SqlResult([column.name for column in cursor.description or ()], _rows(server, cursor, rows_at_once))


def _rows(
    server: _Server, cursor: psycopg.ServerCursor[Any], rows_at_once: int
) -> Generator[tuple[Value, ...], None, None]:
    try:
        while some := server.fetch(cursor, rows_at_once):
            for row in some:
                yield tuple(_value(value) for value in row)
    finally:
        server.close()


class _Server:
    """One connection for one statement, and the seconds that the server may work on it."""

    def __init__(self, url: str, limit_seconds: float) -> None:
        parsed = server_url(url)
        self._name = server_name(parsed)
        self._limit_seconds = limit_seconds
        self._left_seconds = limit_seconds
        self._is_over = False
        with self._errors_translated():
            self._connection = psycopg.connect(
                parsed.set(drivername="postgresql").render_as_string(hide_password=False), **connect_arguments(parsed)
            )
        self._connection.read_only = True
        self._connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        _register_loaders(self._connection)

    def declare(self, statement: str) -> psycopg.ServerCursor[Any]:
        with self._errors_translated():
            self._connection.execute("SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'")
            if self._connection.execute(_MAY_TAKE_ROLE, [QUERY_ROLE]).fetchone() == (True,):
                self._connection.execute(f"SET LOCAL ROLE {QUERY_ROLE}")
            cursor = self._connection.cursor(name="pagepack", scrollable=False)
            with self._deadline():
                cursor.execute(statement.encode())
            return cursor

    def fetch(self, cursor: psycopg.ServerCursor[Any], rows_at_once: int) -> list[Any]:
        with self._errors_translated(), self._deadline():
            return cursor.fetchmany(rows_at_once)

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        """The time between two fetches is a pager's, and does not count."""
        if self._left_seconds <= 0:
            self._is_over = True
            raise too_slow(self._limit_seconds)
        timer = threading.Timer(self._left_seconds, self._cancel)
        timer.daemon = True
        started = time.monotonic()
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self._left_seconds -= time.monotonic() - started

    def _cancel(self) -> None:
        self._is_over = True
        self._connection.cancel_safe(timeout=10)

    @contextmanager
    def _errors_translated(self) -> Iterator[None]:
        try:
            yield
        except (psycopg.Error, UnicodeError) as error:
            if self._is_over:
                raise too_slow(self._limit_seconds) from error
            code = getattr(error, "sqlstate", None)
            is_away = isinstance(error, psycopg.OperationalError) and code != "57014"
            ours = translated_words(self._name, code, error, is_away) if is_away else None
            if ours is not None:
                raise ours from error
            words = error.diag.message_primary if isinstance(error, psycopg.Error) else None
            raise database_says("PostgreSQL", str(words or error)) from error


class _Moment(Loader):
    """As SQLite stores it: UTC, microseconds, no zone."""

    def load(self, data: Any) -> str:
        whole, _, fraction = bytes(data).decode().removesuffix("+00").partition(".")
        return f"{whole}.{fraction:0<6}" if whole[:1].isdigit() and ":" in whole else whole


class _Number(Loader):
    """`numeric`: a whole number as one, another as a float."""

    def load(self, data: Any) -> int | float:
        number = Decimal(bytes(data).decode())
        return int(number) if number.is_finite() and number == number.to_integral_value() else float(number)


def _register_loaders(connection: psycopg.Connection[Any]) -> None:
    for name in ("date", "time", "timetz", "interval", "json", "jsonb", "uuid", "inet", "cidr"):
        connection.adapters.register_loader(name, TextLoader)  # as the server writes it: years that Python lacks, too
    for name in ("timestamp", "timestamptz"):
        connection.adapters.register_loader(name, _Moment)
    connection.adapters.register_loader("numeric", _Number)


def _value(value: Any) -> Value:
    """A truth is 1 or 0, as on SQLite; an array is JSON; what else there is, is its text."""
    if value is None or isinstance(value, str | bytes):
        return value
    if isinstance(value, int | float):
        return int(value) if isinstance(value, bool) else value
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
