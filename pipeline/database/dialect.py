"""What SQLite and PostgreSQL say differently, in statements that serve both."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite


@functools.cache
def clock(dialect: str) -> sa.ColumnElement[float]:
    """As `Database.clock`, for statements that are made once; asked anew each time that they are executed."""
    if dialect == "postgresql":
        return sa.cast(sa.func.extract("epoch", sa.func.statement_timestamp()), sa.Float)
    return sa.bindparam("clock", type_=sa.Float, callable_=time.time)


def is_given(dialect: str, column: sa.orm.InstrumentedAttribute[Any], name: str) -> sa.ColumnElement[bool]:
    """Whether a column's value is among those of a parameter, a list; on PostgreSQL of one text for any length."""
    if dialect == "postgresql":
        return column == sa.any_(sa.bindparam(name, type_=postgresql.ARRAY(column.type)))
    return column.in_(sa.bindparam(name, expanding=True))


def insert_of(dialect: str) -> Any:
    """The INSERT that knows ON CONFLICT; both databases spell it alike, SQLAlchemy keeps a class for each."""
    return postgresql.insert if dialect == "postgresql" else sqlite.insert


def insert_for(connection: Connection) -> Any:
    return insert_of(connection.dialect.name)


class GivenRows:
    """Rows that a statement of PostgreSQL is given as one array a column, executed with `rows.arrays(…)`.

    Its text is the same for any number of rows, and the server and we have a fraction of the work of one statement a
    row. `insert(table).from_select(rows.names, rows.select)` stores them in their order; an UPDATE has none.
    """

    def __init__(self, *columns: Any) -> None:
        self.names = [column.key for column in columns]
        types = [sa.String() if isinstance(column.type, sa.String) else column.type for column in columns]
        # Without the length: the cast to an array of VARCHAR(16) would cut a longer text, where a column refuses it.
        given = [
            sa.bindparam(f"all_{name}", type_=postgresql.ARRAY(of)) for name, of in zip(self.names, types, strict=True)
        ]
        named = [sa.column(name, of) for name, of in zip(self.names, types, strict=True)]
        self.table = sa.func.unnest(*given).table_valued(*named).render_derived(name="given")
        self.select = sa.select(*self.table.c)

    def arrays(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {f"all_{name}": [row[name] for row in rows] for name in self.names}
