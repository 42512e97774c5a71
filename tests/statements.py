"""Statements are compiled once for a test process, not once for each of its thousand engines.

SQLAlchemy keeps what it compiled for an engine, by the engine's own dialect object. Here the dialect's class and the
server's version stand for it, on which alone the words depend.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import sqlalchemy as sa
from sqlalchemy.util import LRUCache


class _Compiled(LRUCache[Any, Any]):
    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(_for_all_engines(key), default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(_for_all_engines(key), value)


def _for_all_engines(key: Any) -> Any:
    dialect, *rest = key
    return (type(dialect), dialect.server_version_info, *rest)


def compile_once() -> None:
    """All engines that are made from now on share one cache."""
    compiled, create_engine = _Compiled(2_000), sa.create_engine

    @wraps(create_engine)
    def create_and_share(*words: Any, **options: Any) -> sa.Engine:
        engine = create_engine(*words, **options)
        engine.update_execution_options(compiled_cache=compiled)
        return engine

    sa.create_engine = create_and_share
