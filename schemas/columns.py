"""Types of the tables' columns."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from schemas.text import storable


class StorableText(sa.types.TypeDecorator[str]):
    """A text column; whatever is written to it or compared with it is `storable`, wherever it came from."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return storable(value) if isinstance(value, str) else value


ByteOrderedText = StorableText().with_variant(StorableText(collation="C"), "postgresql")
"""Sorted by code points on PostgreSQL too, whatever its locale, as on SQLite: paths of one folder stand together."""
