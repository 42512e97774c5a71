"""What forgetting some paths means: which sources and documents go, what stays, and whether it may be done now.

Content at two paths is one document. Forgetting one path takes that source alone; the document goes with its last one.
Documents that no path leads to are older contents of files that have changed since, and nobody wrote down which file's.
Those that were read for batches that hold no other file than those that go are taken for theirs, and go as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection, select

from pipeline.database.engine import Database
from pipeline.store.conditions import Leased, is_in, is_open
from pipeline.urls import IN_PATH
from schemas.states import BatchState, TaskState
from schemas.tables import Batch, BatchSource, Document, Page, PageTask, Source

ROWS_AT_ONCE = 500
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Goes:
    """A document that goes."""

    document_id: int
    kind: str
    content_hash: str
    num_pages: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What forgetting some paths means, as far as the database knows at one moment."""

    sources: dict[int, str]  # id → path
    documents: list[Goes]
    kept: dict[str, str]  # a path that goes → another one that has the same content, which stays
    num_older: int  # of the documents: older contents, which no path leads to
    num_older_kept: int  # those that may be another file's
    num_images: int
    in_use: str | None  # why it would be refused now
    ids: frozenset[int] = field(repr=False)  # of the documents


def find_sources(db: Database, paths: Iterable[str]) -> dict[str, dict[int, str]]:
    """For each path the sources there and, as it may be a folder or an archive, in it: id → path, in order."""
    with db.read() as connection:
        return {path: dict(_sources(connection, _is_at(path))) for path in paths}


def _is_at(path: str) -> sa.ColumnElement[bool]:
    return sa.or_(Source.path == path, is_below(path))


def is_below(path: str) -> sa.ColumnElement[bool]:
    """Whether a source lies in this folder, or in this container, at any depth."""
    folder = path if path.endswith("/") else f"{path}/"
    # The sign after the slash ends what begins with the folder; both databases compare paths by their bytes.
    below = [sa.and_(Source.path >= start, Source.path < f"{start[:-1]}0") for start in (folder, folder[:-1] + IN_PATH)]
    return sa.or_(*below)


def _sources(connection: Connection, *where: sa.ColumnElement[bool]) -> Iterator[tuple[int, str]]:
    for row in connection.execute(select(Source.id, Source.path).where(*where).order_by(Source.path)):
        yield row.id, row.path


def local_sources(db: Database) -> dict[int, tuple[str, str]]:
    """Sources on a disk: id → (path, location)."""
    local = select(Source.id, Source.path, Source.location).where(Source.path.startswith("/")).order_by(Source.path)
    with db.read() as connection:
        return {row.id: (row.path, row.location) for row in connection.execute(local)}


def plan(db: Database, sources: dict[int, str], all_older: bool = False) -> Plan:
    """What goes with these sources; with `all_older`, the older contents of whatever file too. Reads only."""
    with db.read() as connection:
        orphans = _orphans(connection)
        older = orphans if all_older else _read_for(connection, orphans, sources.keys())
        going, kept = list(older), dict[str, str]()
        candidates = sorted({one for ids in parts(list(sources)) for one in _contents(connection, ids)})
        for some in parts(candidates):
            for document_id, holders in holders_of(connection, some).items():
                if others := holders - sources.keys():
                    other = connection.scalar(select(Source.path).where(Source.id == min(others)))
                    kept |= {sources[mine]: str(other) for mine in holders & sources.keys()}
                else:
                    going.append(document_id)
        ids = frozenset(going)
        documents = [one for some in parts(sorted(ids)) for one in _documents(connection, some)]
        num_images = sum(len(images_of(connection, some, ids)) for some in parts(sorted(ids)))
        why_not = next(filter(None, (in_use(connection, some) for some in parts(list(sources)))), None)
        if why_not is None:
            why_not = next(filter(None, (in_hand(db, connection, some) for some in parts(sorted(ids)))), None)
    return Plan(sources, documents, kept, len(older), len(orphans) - len(older), num_images, why_not, ids)


def parts(all_of: Sequence[T], size: int = ROWS_AT_ONCE) -> Iterator[Sequence[T]]:
    for start in range(0, len(all_of), size):
        yield all_of[start : start + size]


def parts_by_pages(documents: Sequence[Goes]) -> Iterator[list[Goes]]:
    """So many documents at a time that a transaction takes a fraction of a second; a large one alone."""
    rest = iter(documents)
    some: list[Goes] = []
    for one in rest:
        if some and sum(other.num_pages for other in some) + one.num_pages > ROWS_AT_ONCE:
            yield some
            some = []
        some.append(one)
    if some:
        yield some


def _contents(connection: Connection, sources: Sequence[int]) -> set[int]:
    """The documents that lie at these sources, or lay there when a batch saw them."""
    now = select(Source.document_id).where(Source.id.in_(sources), Source.document_id.is_not(None))
    then = select(BatchSource.document_id).where(
        BatchSource.source_id.in_(sources), BatchSource.document_id.is_not(None)
    )
    return set(connection.scalars(sa.union(now, then)))


def holders_of(connection: Connection, documents: Sequence[int]) -> dict[int, set[int]]:
    """Document id → the sources where it lies, or lay when a batch saw them."""
    now = select(Source.document_id, Source.id).where(Source.document_id.in_(documents))
    then = select(BatchSource.document_id, BatchSource.source_id).where(BatchSource.document_id.in_(documents))
    found: dict[int, set[int]] = defaultdict(set)
    for document_id, source_id in connection.execute(sa.union(now, then)):
        found[int(document_id or 0)].add(source_id)
    return found


def _orphans(connection: Connection) -> Sequence[int]:
    now = select(Source.id).where(Source.document_id == Document.id).exists()
    then = select(BatchSource.source_id).where(BatchSource.document_id == Document.id).exists()
    open_tasks = (
        select(PageTask.id)
        .join(Page, Page.id == PageTask.page_id)
        .where(Page.document_id == Document.id, is_open(PageTask))
    )
    idle = (~is_open(Document), ~open_tasks.correlate(Document).exists())
    return connection.scalars(select(Document.id).where(~now, ~then, *idle)).all()


def _read_for(connection: Connection, documents: Sequence[int], sources: AbstractSet[int]) -> Sequence[int]:
    """Those that were read for batches that hold some of these sources, and no other."""
    batches: dict[int, set[int]] = {document_id: set() for document_id in documents}
    for some in parts(documents):
        waited = select(Document.id, Document.batch_id).where(Document.id.in_(some))
        read = select(Page.document_id, PageTask.batch_id).join(PageTask, PageTask.page_id == Page.id)
        for document_id, batch_id in connection.execute(sa.union(waited, read.where(Page.document_id.in_(some)))):
            batches[document_id].add(batch_id)
    held = {batch_id: set[int]() for found in batches.values() for batch_id in found}
    for batch_id, holds in held.items():
        holds.update(connection.scalars(select(BatchSource.source_id).where(BatchSource.batch_id == batch_id)))
    goes = {batch_id for batch_id, holds in held.items() if holds and holds <= sources}
    return [document_id for document_id, found in batches.items() if found <= goes]


def _documents(connection: Connection, documents: Sequence[int]) -> list[Goes]:
    pages = select(sa.func.count(Page.id)).where(Page.document_id == Document.id).scalar_subquery().label("num_pages")
    rows = select(Document.id, Document.kind, Document.content_hash, pages).where(Document.id.in_(documents))
    return [
        Goes(row.id, row.kind, row.content_hash, row.num_pages)
        for row in connection.execute(rows.order_by(Document.id))
    ]


def planned_images(db: Database, plan: Plan) -> Iterator[str]:
    """The hashes of the images that go."""
    for some in parts(sorted(plan.ids)):
        with db.read() as connection:
            hashes = images_of(connection, some, plan.ids)
        yield from hashes


def images_of(connection: Connection, documents: Collection[int], going: frozenset[int]) -> list[str]:
    """The hashes of images in the store that these documents show, and no other but those that go.

    An image that several of those show belongs to the first.
    """
    own = select(Page.image_hash).where(Page.document_id.in_(documents), Page.image_hash.is_not(None))
    kept = (Page.image_hash.is_not(None), Page.image_freed_at.is_(None))
    shown = select(Page.image_hash, Page.document_id).where(Page.image_hash.in_(own), *kept).distinct()
    by: dict[str, set[int]] = defaultdict(set)
    for image_hash, document_id in connection.execute(shown):
        by[str(image_hash)].add(document_id)
    return [image_hash for image_hash, shows in by.items() if shows <= going and min(shows) in documents]


def in_use(connection: Connection, sources: Sequence[int]) -> str | None:
    running = (
        select(Batch.public_id, Batch.name, Source.path)
        .join(BatchSource, BatchSource.batch_id == Batch.id)
        .join(Source, Source.id == BatchSource.source_id)
        .where(Batch.state == BatchState.RUNNING, Source.id.in_(sources))
    )
    row = connection.execute(running.order_by(Batch.id, Source.path).limit(1)).one_or_none()
    if row is None:
        return None
    return (
        f"batch {row.name} ({row.public_id}) is running and holds {row.path}; wait until it is finished, or stop it: "
        f"`pagepack cancel {row.public_id}`, or `pagepack pause {row.public_id}` to go on with the rest of it later"
    )


def in_hand(db: Database, connection: Connection, documents: Sequence[int]) -> str | None:
    """A lease that is over is nobody's: its worker is gone, and what it writes later is fenced off."""

    def is_held(table: Leased) -> sa.ColumnElement[bool]:
        return sa.and_(is_in(table, TaskState.LEASED), table.lease_until >= db.clock())

    drawn = select(Document.id).where(Document.id.in_(documents), is_held(Document))
    read = select(Page.document_id).join(PageTask, PageTask.page_id == Page.id)
    read = read.where(Page.document_id.in_(documents), is_held(PageTask))
    held = connection.scalar(sa.union_all(drawn, read).limit(1))
    if held is None:
        return None
    path = connection.scalar(select(sa.func.min(Source.path)).where(Source.document_id == held))
    return f"a worker has pages of {path} in hand; try again when they are read, or in a minute if it was killed"
