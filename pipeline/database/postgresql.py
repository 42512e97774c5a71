"""PostgreSQL, where several machines share the work: its URL, its connections, and its errors in our words.

No message holds the password: a server is named by `server_name`, never by its URL.
"""

from __future__ import annotations

import struct
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, OperationalError

from pipeline.database.boottime import boottime
from pipeline.errors import DiskFull, PagepackError, Unavailable, UsageError

NO_DRIVER = "PAGEPACK_DATABASE_URL names a PostgreSQL server: pip install 'pagepack[postgres]'"

_IDLE_SECONDS = 0.2

_CONNECT: dict[str, Any] = {
    "application_name": "pagepack",
    "connect_timeout": 10,
    # A server whose machine is gone says nothing: without these a worker would wait for it for two hours.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}

_OF_A_WORKER = "SET enable_seqscan = off; SET gin_pending_list_limit = '16MB'; SET work_mem = '32MB'"
"""By keys alone; and words wait in a list of 16 MB instead of 4 until they are put into their index, all at once.

To put them there takes each word's whole entry anew, however many pages are added to it.
"""

_AGAIN = ("40001", "40P01", "55P03", "57014", "57P", "53300", "08")
"""SQLSTATEs, or how they begin, that may pass: conflicts, a server that stops or starts, no connection left."""


def connect_arguments(url: sa.URL) -> dict[str, Any]:
    """What libpq gets beside the URL, which comes first where it says the same; but what is sent, is sent in UTF-8."""
    return {name: value for name, value in _CONNECT.items() if name not in url.query} | {"client_encoding": "utf8"}


def server_engine(url: sa.URL, *, by_key: bool = False) -> sa.Engine:
    """Connections are looked at before they are used, so that a restarted server costs a reconnect.

    `by_key` is for a process that finds all its rows by an index, and repeats what was lost. A session keeps the plan
    that it made for a foreign key's check: made while the other table was small, it reads that whole, and longer with
    every row, until autovacuum comes by (benchmarks/RESULTS.md, "Pipeline"). Connections that are used many times a
    second are not looked at each time.

    Raises:
        UsageError: psycopg is not installed.
    """
    try:
        _send_vectors()
        engine = sa.create_engine(
            url,
            connect_args=connect_arguments(url),
            pool_pre_ping=not by_key,
            max_overflow=-1,
            hide_parameters=True,
        )
    except ImportError as error:
        raise UsageError(NO_DRIVER) from error
    if by_key:
        _serve_a_worker(engine)
    return engine


class Vectors(list[bytes]):
    """`tsvector[]`, each as it is sent in binary form; text would take the server three times as long to read."""


def _send_vectors() -> None:
    from psycopg import adapters
    from psycopg.adapt import Dumper
    from psycopg.pq import Format

    known = adapters.types["tsvector"]

    class VectorsDumper(Dumper):
        format = Format.BINARY
        oid = known.array_oid

        def dump(self, obj: Vectors) -> bytes:
            has_nulls, dimensions, first = 0, 1, 1
            head = struct.pack(">iiIii", dimensions, has_nulls, known.oid, len(obj), first)
            return head + b"".join([len(vector).to_bytes(4) + vector for vector in obj])

    adapters.register_dumper(Vectors, VectorsDumper)


def _serve_a_worker(engine: sa.Engine) -> None:
    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: Any, record: Any) -> None:
        _on_checkin(connection, record)
        connection.execute(_OF_A_WORKER)
        connection.commit()

    @sa.event.listens_for(engine, "checkin")
    def _on_checkin(_: Any, record: Any) -> None:
        record.info["used_at"] = boottime()

    @sa.event.listens_for(engine, "checkout")
    def _on_checkout(connection: Any, record: Any, _: Any) -> None:
        if boottime() - record.info["used_at"] > _IDLE_SECONDS:
            try:
                engine.dialect.do_ping(connection)
            except engine.dialect.loaded_dbapi.Error as error:
                raise InvalidatePoolError from error  # SQLAlchemy connects anew


def translated(name: str, error: DBAPIError) -> PagepackError | None:
    """What a caller must do about an error of the server; None where it is a fault of this program.

    Connecting gives no SQLSTATE, so there the words are looked at.
    """
    return translated_words(
        name, getattr(error.orig, "sqlstate", None), error.orig, isinstance(error, OperationalError)
    )


def translated_words(name: str, code: str | None, error: Any, is_operational: bool) -> PagepackError | None:
    words = _one_line(str(error))
    if code is None:
        return _cannot_connect(name, words) if is_operational or "connection option" in words else None
    if code == "53100":
        return DiskFull(
            f"no room left on the disk of {name}; what was stored stays: free some and run the same command again"
        )
    if code == "25006":
        return Unavailable(f"{name} is read-only: a standby, or the servers are changing over; name the primary server")
    if code == "42501":
        return UsageError(f"{name}: {words}; `pagepack db roles` says what each role may do")
    if code in ("42P01", "42703", "3F000"):
        return UsageError(f"{name} lacks a part of this pagepack's schema ({words}); run `pagepack db upgrade`")
    if code.startswith("54"):
        return UsageError(f"{name}: {words}")
    if is_operational or code.startswith(_AGAIN):
        return Unavailable(f"{name} did not answer: {words}")
    return None


_WRONG = (
    "does not exist",
    "pg_hba.conf",
    "invalid ",
    "support SSL",
    "permitted to log in",
    "connection option",
    "certificate",
)
"""Words of a refusal that no waiting mends."""


def _cannot_connect(name: str, words: str) -> PagepackError:
    if "password authentication failed" in words or "no password supplied" in words:
        return UsageError(f"{name} refuses the password; look at user and password in PAGEPACK_DATABASE_URL")
    if any(part in words for part in _WRONG):
        return UsageError(f"cannot open {name}: {words}; look at PAGEPACK_DATABASE_URL")
    return Unavailable(f"{name} did not answer: {words}")


def _one_line(words: str) -> str:
    return " ".join(words.split())[:500]
