"""A user's own SQL, which can read everything and change nothing.

`sql_sqlite` and `sql_postgresql` hold it to that, each with its database's own means.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UsageError
from pipeline.query.sql_result import MAX_VALUE_BYTES, ROWS_AT_ONCE, SqlResult
from pipeline.query.sql_sqlite import run_on_file
from pipeline.settings import Settings


def run_sql(
    where: Settings | Path,
    statement: str,
    *,
    limit_seconds: float = 60.0,
    max_value_bytes: int = MAX_VALUE_BYTES,
    rows_at_once: int = ROWS_AT_ONCE,
) -> SqlResult:
    """Run one SELECT on the settings' database, or on the SQLite file at a path.

    So many rows are in memory at once. A longer text is an error on SQLite; PostgreSQL has no limit below 1 GB.

    Works while a run writes: readers wait for nobody. Where the folder cannot be written, SQLite can make no lock
    files; such a database is read as if nobody changes it, and if somebody does, the rows end with an error instead
    of being wrong.

    Raises:
        UsageError: not a statement that reads, what the database says of it, past `limit_seconds` (also from `rows`).
        Unavailable: the server, or the disk of the file, does not answer (also from `rows`).
    """
    if isinstance(where, Settings) and where.database_url is not None:
        try:
            from pipeline.query.sql_postgresql import run_on_server
        except ImportError as error:
            from pipeline.database.postgresql import NO_DRIVER

            raise UsageError(NO_DRIVER) from error
        return run_on_server(where.database_url, statement, limit_seconds, rows_at_once)
    path = where if isinstance(where, Path) else where.home / "pagepack.db"
    return run_on_file(path, statement, limit_seconds, max_value_bytes, rows_at_once)
