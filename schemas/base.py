"""What all tables are built on: their base, the key that rows are numbered with, names of constraints.

Each table is in `tables`, `worker_tables` or `evaluation_tables`; who wants all of them imports the three.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, DateTime, Index, Integer, MetaData, text
from sqlalchemy.orm import DeclarativeBase

Key = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only in an INTEGER column


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: DateTime(timezone=True), dict[str, Any]: JSON, list[str]: JSON}  # noqa: RUF012


def one_of(column: str, states: type[StrEnum]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({', '.join(repr(str(state)) for state in states)})", name=column)


def partial_index(table: str, name: str, columns: tuple[str, ...], condition: str) -> Index:
    where = text(condition)
    return Index(f"ix_{table}_{name}", *columns, sqlite_where=where, postgresql_where=where)
