"""Members of a container as they were seen last: while it is as it was, it need not be opened for them again.

Its mark says by which rules they were told, and how many there were. Each of them was seen at the moment at which it
was: another walk over it, by other rules, moves some of them on, and leaves a mark of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import select

from pipeline.database.engine import Database
from pipeline.errors import DocumentRejected
from pipeline.store.sources import SeenFile
from pipeline.urls import IN_PATH
from schemas.tables import Document, Source

_ROWS_AT_ONCE = 500


def members_seen(db: Database, container: SeenFile, rules: str) -> Iterator[SeenFile] | None:
    """All that was told of it by these rules, also of containers in it; None where that is not known any more."""
    with db.read() as connection:
        asked = select(
            Source.members_mark, Source.size_bytes, Source.modified_ns, Source.seen_at, Document.content_hash
        )
        row = connection.execute(
            asked.join(Document, Document.id == Source.document_id).where(Source.path == container.path)
        ).one_or_none()
    if row is None or row.members_mark is None:
        return None
    known, _, count = row.members_mark.rpartition(":")
    is_as_it_was = (row.size_bytes, row.modified_ns, row.content_hash) == (
        container.size_bytes,
        container.modified_ns,
        container.content_hash,
    )
    if known != rules or not is_as_it_was:
        return None
    with db.read() as connection:
        found = connection.scalar(
            select(sa.func.count()).select_from(Source).where(*_is_in(container.path, row.seen_at))
        )
    return map(_seen, _below(db, container.path, row.seen_at)) if found == int(count) else None


def mark(rules: str, num_members: int) -> str:
    """What a container is recorded with, of which all members were told."""
    return f"{rules}:{num_members}"


def _is_in(path: str, seen_at: Any) -> tuple[sa.ColumnElement[bool], ...]:
    start = path + IN_PATH
    return Source.path > start, Source.path < f"{start[:-1]}0", Source.seen_at == seen_at


def _below(db: Database, path: str, seen_at: Any) -> Iterator[Any]:
    """Their rows, in the order of their paths: whoever records them anew meanwhile does so behind the reader."""
    query = (
        select(
            Source.path,
            Source.location,
            Source.size_bytes,
            Source.modified_ns,
            Source.cause,
            Source.reason,
            Document.kind,
            Document.content_hash,
            Document.page_count,
        )
        .outerjoin(Document, Document.id == Source.document_id)
        .where(*_is_in(path, seen_at))
        .order_by(Source.path)
        .limit(_ROWS_AT_ONCE)
    )
    after = ""
    while True:
        with db.read() as connection:
            rows = connection.execute(query.where(Source.path > after)).all()
        yield from rows
        if len(rows) < _ROWS_AT_ONCE:
            return
        after = rows[-1].path


def _seen(row: Any) -> SeenFile:
    rejection = None if row.cause is None else DocumentRejected(row.reason, cause=row.cause)
    return SeenFile(
        row.path,
        row.location,
        row.size_bytes,
        row.modified_ns,
        row.kind,
        row.content_hash,
        rejection,
        has_pages=row.page_count != 0,
    )
