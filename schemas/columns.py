"""Types of the tables' columns, and what fills them where nothing is given."""

from __future__ import annotations

import os
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from schemas.text import storable


class StorableText(sa.types.TypeDecorator[str]):
    """A text column; whatever is written to it or compared with it is `storable`, wherever it came from."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return storable(value) if isinstance(value, str) else value


ByteOrderedText = StorableText().with_variant(StorableText(collation="C"), "postgresql")
"""Sorted by code points on PostgreSQL too, whatever its locale, as on SQLite: paths of one folder stand together."""


class server_now(FunctionElement[datetime]):  # noqa: N801, as the functions of sa.func
    """The moment in which a row is written, by the database's clock; hosts' clocks differ, and moments are compared."""

    type = sa.DateTime(timezone=True)
    inherit_cache = True


@compiles(server_now, "postgresql")
def _on_postgresql(element: server_now, compiler: Any, **_: Any) -> str:
    return "clock_timestamp()"


@compiles(server_now, "sqlite")
def _on_sqlite(element: server_now, compiler: Any, **_: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"  # as SQLAlchemy writes a moment, which has microseconds


def uuid7() -> str:
    """A time-ordered UUID (RFC 9562, section 5.7): 48 bits of milliseconds, then random bits."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    return str(uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62))


def utc_now() -> datetime:
    return datetime.now(UTC)
