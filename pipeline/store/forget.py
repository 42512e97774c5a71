"""`pagepack forget` and `prune`: every row of some paths, and of what lies at no other path, leaves the database.

Content at two paths is one document. Forgetting one path takes that source alone; the document goes with its last one.
So do answers: one goes when no task and no page names it any more. Documents that no path leads to are older contents
of files that have changed since; nobody can tell any more which file's, so they go as well.

    plan ──► for some documents at a time: their images, then their rows ──► the sources ──► empty batches' names

A source is the last to go, so that a call that died on its way is finished by the next one with the same paths. Nothing
is taken from a batch that is running, nor from a worker's hands: those would store again what was just forgotten.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection, delete, select, update

from pipeline.database.engine import Database
from pipeline.database.remains import mark_remains
from pipeline.database.retry import retried
from pipeline.errors import UsageError
from pipeline.store.batches import PATHS_KEY, QUESTION_KEY
from pipeline.store.conditions import Leased, is_in, is_open
from schemas.tables import (
    Answer,
    Batch,
    BatchSource,
    BatchState,
    CurrentAnswer,
    Document,
    Notice,
    Page,
    PageTask,
    Source,
    TaskAttempt,
    TaskState,
    TextLayer,
)

FORGOTTEN = "forgotten"
"""The name of a batch of which nothing is left."""

_ROWS_AT_ONCE = 500
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Goes:
    """A document that goes; `copies` are the locations that its sources name."""

    document_id: int
    kind: str
    content_hash: str
    num_pages: int
    copies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What forgetting some paths means, as far as the database knows at one moment."""

    sources: dict[int, str]  # id → path
    documents: list[Goes]
    kept: dict[str, str]  # a path that goes → another one that has the same content, which stays
    num_images: int
    in_use: str | None  # why it would be refused now
    ids: frozenset[int] = field(repr=False)  # of the documents


def find_sources(db: Database, paths: Iterable[str]) -> dict[str, dict[int, str]]:
    """For each path the sources there and, as it may be a folder, below it: id → path, in the order of the paths."""
    with db.read() as connection:
        return {path: dict(_sources(connection, _is_at(path))) for path in paths}


def _is_at(path: str) -> sa.ColumnElement[bool]:
    folder = path if path.endswith("/") else f"{path}/"
    # The sign after the slash ends what begins with the folder; both databases compare paths by their bytes.
    return sa.or_(Source.path == path, sa.and_(Source.path >= folder, Source.path < f"{folder[:-1]}0"))


def _sources(connection: Connection, *where: sa.ColumnElement[bool]) -> Iterator[tuple[int, str]]:
    for row in connection.execute(select(Source.id, Source.path).where(*where).order_by(Source.path)):
        yield row.id, row.path


def local_sources(db: Database) -> dict[int, tuple[str, str]]:
    """Sources on a disk: id → (path, location)."""
    local = select(Source.id, Source.path, Source.location).where(Source.path.startswith("/")).order_by(Source.path)
    with db.read() as connection:
        return {row.id: (row.path, row.location) for row in connection.execute(local)}


def plan(db: Database, sources: dict[int, str]) -> Plan:
    """What goes with these sources. Reads only."""
    with db.read() as connection:
        going, kept = list[int](_orphans(connection)), dict[str, str]()
        candidates = sorted({one for ids in parts(list(sources)) for one in _contents(connection, ids)})
        for some in parts(candidates):
            for document_id, holders in _holders(connection, some).items():
                if others := holders - sources.keys():
                    other = connection.scalar(select(Source.path).where(Source.id == min(others)))
                    kept |= {sources[mine]: str(other) for mine in holders & sources.keys()}
                else:
                    going.append(document_id)
        ids = frozenset(going)
        documents = [one for some in parts(sorted(ids)) for one in _documents(connection, some)]
        num_images = sum(len(_images(connection, some, ids)) for some in parts(sorted(ids)))
        in_use = next(filter(None, (_in_use(db, connection, some) for some in parts(list(sources)))), None)
        if in_use is None:
            in_use = next(filter(None, (_in_hand(db, connection, some) for some in parts(sorted(ids)))), None)
    return Plan(sources, documents, kept, num_images, in_use, ids)


def parts(all_of: Sequence[T], size: int = _ROWS_AT_ONCE) -> Iterator[Sequence[T]]:
    for start in range(0, len(all_of), size):
        yield all_of[start : start + size]


def parts_by_pages(documents: Sequence[Goes]) -> Iterator[list[Goes]]:
    """So many documents at a time that a transaction takes a fraction of a second; a large one alone."""
    rest = iter(documents)
    some: list[Goes] = []
    for one in rest:
        if some and sum(other.num_pages for other in some) + one.num_pages > _ROWS_AT_ONCE:
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


def _holders(connection: Connection, documents: Sequence[int]) -> dict[int, set[int]]:
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


def _documents(connection: Connection, documents: Sequence[int]) -> list[Goes]:
    places = defaultdict(list)
    for row in connection.execute(select(Source.document_id, Source.location).where(Source.document_id.in_(documents))):
        places[row.document_id].append(row.location)
    pages = select(sa.func.count(Page.id)).where(Page.document_id == Document.id).scalar_subquery().label("num_pages")
    rows = select(Document.id, Document.kind, Document.content_hash, pages).where(Document.id.in_(documents))
    return [
        Goes(row.id, row.kind, row.content_hash, row.num_pages, tuple(places[row.id]))
        for row in connection.execute(rows.order_by(Document.id))
    ]


def images(db: Database, plan: Plan, documents: Collection[int]) -> list[str]:
    """The images in the store that no page shows but those of documents that go: the hashes for these documents."""
    with db.read() as connection:
        return _images(connection, documents, plan.ids)


def _images(connection: Connection, documents: Collection[int], going: frozenset[int]) -> list[str]:
    """An image that several of them show belongs to the first."""
    own = select(Page.image_hash).where(Page.document_id.in_(documents), Page.image_hash.is_not(None))
    kept = (Page.image_hash.is_not(None), Page.image_freed_at.is_(None))
    shown = select(Page.image_hash, Page.document_id).where(Page.image_hash.in_(own), *kept).distinct()
    by: dict[str, set[int]] = defaultdict(set)
    for image_hash, document_id in connection.execute(shown):
        by[str(image_hash)].add(document_id)
    return [image_hash for image_hash, shows in by.items() if shows <= going and min(shows) in documents]


def _in_use(db: Database, connection: Connection, sources: Sequence[int]) -> str | None:
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


def _in_hand(db: Database, connection: Connection, documents: Sequence[int]) -> str | None:
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


def check_allowed(db: Database) -> None:
    """Raises UsageError where a server lets this user delete nothing."""
    if db.dialect == "postgresql":
        may = "SELECT has_table_privilege('answer_versions', 'DELETE')"
        with db.read() as connection:
            if not connection.exec_driver_sql(may).scalar():
                raise UsageError(
                    f"{db.name}: this user may not forget; log in as the tables' owner, or as a member of "
                    "pagepack_owner (`GRANT pagepack_owner TO …`)"
                )


@retried
def forget_documents(db: Database, plan: Plan, documents: Sequence[Goes]) -> None:
    """All rows of these documents, but for those of a path where one of them has come up since the plan was made.

    Raises:
        UsageError: a batch of theirs is running, or a worker has one in hand.
    """
    with db.write() as connection:
        _lock(connection)
        ids = [one.document_id for one in documents]
        holders = _holders(connection, ids)
        ids = [one for one in ids if holders.get(one, set()) <= plan.sources.keys()]
        mine = {source for one in ids for source in holders.get(one, ())}
        if why := _in_use(db, connection, sorted(mine)) or _in_hand(db, connection, ids):
            raise UsageError(why)
        pages = select(Page.id).where(Page.document_id.in_(ids))
        tasks = select(PageTask.id).where(PageTask.page_id.in_(pages))
        answers = _answers(connection, pages)
        for rows in (
            delete(TaskAttempt).where(TaskAttempt.task_id.in_(tasks)),
            delete(Notice).where(Notice.document_id.in_(ids)),
            delete(CurrentAnswer).where(CurrentAnswer.page_id.in_(pages)),
            delete(PageTask).where(PageTask.page_id.in_(pages)),
            delete(TextLayer).where(TextLayer.page_id.in_(pages)),
            delete(Page).where(Page.document_id.in_(ids)),
            update(BatchSource).where(BatchSource.document_id.in_(ids)).values(document_id=None),
            update(Source).where(Source.document_id.in_(ids)).values(document_id=None),
            delete(Document).where(Document.id.in_(ids)),
        ):
            connection.execute(rows)
        for some in parts(answers):
            _forget_answers(connection, some)
        mark_remains(connection)


def _lock(connection: Connection) -> None:
    """Nobody registers a file, or finds an answer to store again, between a look and a deletion; reading goes on.

    No transaction of ours writes answers and one of the other three, so that none waits for this one and this for it.
    SQLite has one writer anyway.
    """
    if connection.dialect.name == "postgresql":
        tables = ", ".join(table.__tablename__ for table in (Document, Source, BatchSource, Answer))
        connection.exec_driver_sql(f"LOCK TABLE {tables} IN SHARE ROW EXCLUSIVE MODE")


def _answers(connection: Connection, pages: sa.Select[int]) -> Sequence[int]:
    """What these pages say, and what was said of their images but is shown no more."""
    hashes = select(Page.image_hash).where(Page.id.in_(pages), Page.image_hash.is_not(None))
    return connection.scalars(
        sa.union(
            select(PageTask.answer_id).where(PageTask.page_id.in_(pages), PageTask.answer_id.is_not(None)),
            select(CurrentAnswer.answer_id).where(CurrentAnswer.page_id.in_(pages)),
            select(Answer.id).where(Answer.image_hash.in_(hashes)),
        )
    ).all()


_FORGET_WORDS = sa.text("DELETE FROM page_search WHERE rowid IN :ids").bindparams(sa.bindparam("ids", expanding=True))


def _forget_answers(connection: Connection, answers: Sequence[int]) -> None:
    """Those that nothing names any more.

    One to an image that waits to be read on another page stays: its reader may know of it already, and name it. That
    page looks the same, so nothing is kept that it does not show; but a text that a PDF carried is not in its image.
    """
    waits = (
        select(PageTask.id)
        .join(Page, Page.id == PageTask.page_id)
        .where(Page.image_hash == Answer.image_hash, is_open(PageTask))
    )
    is_text_layer = Answer.engine == "text-layer"
    unnamed = (
        ~select(PageTask.id).where(PageTask.answer_id == Answer.id).exists(),
        ~select(CurrentAnswer.page_id).where(CurrentAnswer.answer_id == Answer.id).exists(),
        sa.or_(is_text_layer, ~waits.correlate(Answer).exists()),
    )
    gone = connection.scalars(select(Answer.id).where(Answer.id.in_(answers), *unnamed)).all()
    if gone:
        connection.execute(_FORGET_WORDS, {"ids": gone})
        connection.execute(delete(Answer).where(Answer.id.in_(gone)))


@retried
def forget_sources(db: Database, sources: Sequence[int]) -> None:
    """The paths themselves. Raises as `forget_documents`."""
    with db.write() as connection:
        _lock(connection)
        if why := _in_use(db, connection, sources):
            raise UsageError(why)
        connection.execute(delete(BatchSource).where(BatchSource.source_id.in_(sources)))
        connection.execute(delete(Source).where(Source.id.in_(sources)))
        mark_remains(connection)


@retried
def forget_names(db: Database, batches: Collection[int]) -> None:
    """A batch that was named after its paths, and that holds no file any more, keeps its row alone.

    Its key goes as well, so that the same paths make a new one. The row stays: somebody may follow the batch.
    """
    held = select(BatchSource.source_id).where(BatchSource.batch_id == Batch.id)
    of_paths = sa.or_(*(Batch.key.startswith(kind, autoescape=True) for kind in (PATHS_KEY, QUESTION_KEY)))
    ended = (Batch.id.in_(batches), Batch.state.in_([BatchState.FINISHED, BatchState.CANCELLED]))
    with db.write() as connection:
        empty = update(Batch).where(*ended, of_paths, ~held.exists())
        connection.execute(empty.values(name=FORGOTTEN, key=sa.literal(f"{FORGOTTEN}:") + Batch.public_id))
        mark_remains(connection)


def batches_of(db: Database, sources: Sequence[int]) -> set[int]:
    """The batches that saw any of these."""
    with db.read() as connection:
        found = (
            connection.scalars(select(BatchSource.batch_id).where(BatchSource.source_id.in_(some)).distinct())
            for some in parts(sources)
        )
        return {batch_id for some in found for batch_id in some}
