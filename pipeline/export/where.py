"""`--where`: a condition of the user's own SQL on the columns of `page_text`.

It is asked as `pagepack sql` asks, which reads only, and of some hundred files at a time: so neither the archive's size
nor how many pages fit costs any memory, and no transaction of ours stands in a run's way for long.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any, TypeVar

from pipeline.errors import UsageError
from pipeline.export.rows import ExportedSource
from pipeline.query.sql import run_sql
from pipeline.query.sql_result import TooSlow
from pipeline.settings import Settings
from schemas.view_parts import literal

T = TypeVar("T")
Kept = Set[tuple[int, str]]
"""Page numbers with a prompt; of one source."""

_SOURCES, _PAGES, _BYTES = 200, 5_000, 60_000  # at once; the last of the statement, which may have 100,000
LIMIT_SECONDS = 600.0
"""Of the database's time for one statement, and so for some hundred files, unless people say otherwise."""


class Where:
    """Which pages fit a condition."""

    def __init__(self, settings: Settings, condition: str, seconds: float | None = None) -> None:
        """Raises UsageError: the database does not take it, or it does not read only."""
        self._settings, self._condition = settings, condition
        self._seconds = LIMIT_SECONDS if seconds is None else seconds
        if not condition.strip():
            raise UsageError("--where is empty; is a shell variable unset?")
        if len(condition.encode(errors="replace")) > 100_000 - _BYTES - 1_000:
            raise UsageError("--where is longer than 39,000 bytes; make a view of it, or a table of what it shall find")
        try:
            list(self._ask("1 = 0"))
        except TooSlow:
            raise
        except UsageError as error:
            raise UsageError(f"--where takes a condition on the columns of page_text; {error}") from error

    def chosen(self, sources: Iterable[ExportedSource]) -> Iterator[tuple[ExportedSource, Kept]]:
        """Sources of which a page fits, with those pages."""
        for some in some_at_once(sources, lambda source: source):
            kept: dict[tuple[str, str], set[tuple[int, str]]] = {}
            paths = ", ".join(literal(source.source_path) for source in some if source.document_id)
            for path, document_id, page_number, prompt in self._ask(f"source_path IN ({paths})") if paths else ():
                kept.setdefault((path, document_id), set()).add((int(page_number), sys.intern(prompt)))
            for source in some:
                if pages := kept.get((source.source_path, source.document_id or "")):
                    yield source, pages

    def _ask(self, among: str) -> Iterator[tuple[Any, ...]]:
        # Of these files alone, whatever the condition is; it stands on a line of its own, where a comment in it ends.
        some = f"(SELECT * FROM page_text WHERE {among}) page_text"
        statement = f"SELECT source_path, document_id, page_number, prompt FROM {some} WHERE (\n{self._condition}\n)"
        try:
            yield from run_sql(self._settings, statement, limit_seconds=self._seconds).rows
        except TooSlow as error:
            raise stopped("--where", self._seconds) from error


def stopped(what: str, seconds: float) -> TooSlow:
    return TooSlow(
        f"{what} was stopped after {seconds:g} seconds on some hundred files; make it simpler, or allow more --seconds"
    )


def some_at_once(sources: Iterable[T], source_of: Callable[[T], ExportedSource]) -> Iterator[list[T]]:
    """So many that a statement may name them all, and that their pages may be held together."""
    found: list[T] = []
    pages = size = 0
    for one in sources:
        source = source_of(one)
        more_pages, more_bytes = source.page_count or 0, len(source.source_path.encode()) + 4
        if found and (len(found) == _SOURCES or pages + more_pages > _PAGES or size + more_bytes > _BYTES):
            yield found
            found, pages, size = [], 0, 0
        found.append(one)
        pages, size = pages + more_pages, size + more_bytes
    if found:
        yield found
