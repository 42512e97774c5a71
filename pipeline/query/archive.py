"""What programs of others may call: an archive that is searched, read and asked in SQL, and not changed.

    from pipeline.query import open_archive

    with open_archive("pagepack-data") as archive:
        for hit in archive.search("tide*"):
            print(hit.source_path, hit.page_number, hit.snippet.text)

docs/sql.md shows more. Names and fields stay; what is added has a default.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from pipeline.database.looking import Looking
from pipeline.database.open_to_look import open_to_look
from pipeline.errors import UsageError, redacted
from pipeline.query.batch_status import find_batch
from pipeline.query.find_file import find_file
from pipeline.query.page_answer import PageAnswer, page_answer, page_answers
from pipeline.query.search import Hit, find
from pipeline.query.sql import run_sql
from pipeline.query.sql_result import SqlResult
from pipeline.settings import Settings, load_settings


class Archive:
    """Opened by `open_archive`. Each call reads by itself, also while a run writes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._db: Looking = open_to_look(settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of a server's connections; a file needs none."""
        if hasattr(self._db, "dispose"):
            self._db.dispose()

    def search(
        self,
        words: str,
        *,
        prompt: str | None = None,
        batch: str | None = None,
        folder: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        min_confidence: float | None = None,
        max_confidence: float | None = None,
        limit: int = 20,
    ) -> list[Hit]:
        """The best pages for a query as `pagepack search` takes it, with its filters (docs/search.md).

        Of a batch by its name or id; `since` and `until` (not included) are UTC moments at which a page was read.
        """
        return find(
            self._db,
            words,
            prompt=prompt,
            batch=None if batch is None else find_batch(self._db, batch),
            folder=folder,
            since=since,
            until=until,
            min_confidence=min_confidence,
            max_confidence=max_confidence,
            limit=limit,
        ).hits

    def page(self, file: str, page_number: int, prompt: str = "ocr") -> PageAnswer:
        """A page, from 1, of a file: its path, the end of its path, or its document's id."""
        return page_answer(self._db, find_file(self._db, file), page_number, prompt)

    def pages(self, file: str, prompt: str = "ocr", *, first: int = 1, most: int = 1_000) -> list[PageAnswer]:
        """So many pages of a file, from the page of a number on; those without an answer say why."""
        return page_answers(self._db, find_file(self._db, file), prompt, first, most)

    def sql(self, statement: str, *, limit_seconds: float = 60.0) -> SqlResult:
        """One SELECT from the views: `columns`, and `rows`, which are read while they are asked for."""
        return run_sql(self._settings, statement, limit_seconds=limit_seconds)


def open_archive(where: str | os.PathLike[str] | None = None) -> Archive:
    """A home folder, or the URL of a PostgreSQL database; without either, what pagepack's settings name.

    Raises:
        UsageError: there is no archive, or one of another version; this and all other errors of an archive are
            `pipeline.errors.PagepackError`.
    """
    if where is None:
        return Archive(load_settings())
    if "://" not in str(where):
        return Archive(Settings(home=Path(where)))
    try:
        return Archive(Settings(database_url=str(where)))
    except ValidationError as error:
        raise UsageError(f"{redacted(str(where))} is no URL of a database: {error.errors()[0]['msg']}") from None
