"""Files that were seen at a batch's paths, and the documents that they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import delete, select, update

from pipeline.database.dialect import insert_for
from pipeline.database.engine import Database
from pipeline.database.retry import retried
from pipeline.errors import DocumentRejected
from pipeline.store.batch_states import RUNS_AGAIN, reopen
from pipeline.store.batches import OpenBatch
from pipeline.store.conditions import is_batch_running
from pipeline.store.forget_plan import is_below, parts
from pipeline.store.outbox import forget_outdated
from pipeline.store.page_tasks import CANCELLED, WAITS_AGAIN, ensure_tasks, in_parts
from schemas.columns import server_now, utc_now, uuid7
from schemas.states import BatchState, DocumentState, TaskState
from schemas.tables import Batch, BatchSource, Document, Page, PageTask, Source

OF_THE_PATH = ("missing", "unreadable", "changed", "empty", "special", "symlink")
"""Causes that are a path's own; the others are the content's, and the same content fails the same way again."""

UNSUPPORTED = "unsupported"
"""Cause of a file of a kind that is not read: nothing is wrong with it, so it alone makes no exit code of a failure."""


@dataclass(frozen=True, slots=True)
class SeenFile:
    """A file at the submitted paths: either what it is, or why it is not taken in."""

    path: str  # for people: valid UTF-8
    location: str  # for opening: a URL
    size_bytes: int
    modified_ns: int
    kind: str | None = None
    content_hash: str | None = None
    rejection: DocumentRejected | None = None
    has_pages: bool = True  # else it only holds other files, and there is nothing to wait for
    members_mark: str | None = None  # of a container whose members were all told: `members.mark`

    def is_unsupported(self) -> bool:
        return self.rejection is not None and self.rejection.cause == UNSUPPORTED


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What a file was when it was taken in: while size and time are the same, it needs no second hash."""

    size_bytes: int
    modified_ns: int
    kind: str
    content_hash: str
    location: str | None  # None where no worker has opened it yet

    def is_unchanged(self, size_bytes: int, modified_ns: int) -> bool:
        return (self.size_bytes, self.modified_ns) == (size_bytes, modified_ns)


def known_files(db: Database, paths: Sequence[str]) -> dict[str, KnownFile]:
    """Those of the paths that were taken in before."""
    with db.read() as connection:
        rows = connection.execute(
            select(
                Source.path,
                Source.size_bytes,
                Source.modified_ns,
                Document.kind,
                Document.content_hash,
                sa.case((Document.state == DocumentState.READY, Source.location)).label("location"),
            )
            .join(Document, Document.id == Source.document_id)
            .where(Source.path.in_(paths))
        )
        return {path: KnownFile(*known) for path, *known in rows}


def record_files(db: Database, batch: OpenBatch, files: Sequence[SeenFile], seen_at: datetime | None = None) -> None:
    """Store what was seen, in one transaction, then the tasks of pages that are known already, in as many as it takes.

    Who dies in between has not seen all, and sees these files again; and a batch makes sure of its tasks at its end.
    A batch that has finished meanwhile goes on: another command that registers the same one came to its end first. One
    that was cancelled meanwhile sees nothing more, and one that is paused takes nothing from a batch that is running.
    """
    pages = _record(db, batch, files, seen_at or utc_now())
    for documents, first_page, last_page in in_parts(pages):
        _ask(db, batch.id, documents, first_page, last_page)


@retried
def _record(db: Database, batch: OpenBatch, files: Sequence[SeenFile], moment: datetime) -> Sequence[sa.Row[int, int]]:
    """The documents of these files that have pages already, with the number of their pages."""
    with db.write() as connection:
        insert = insert_for(connection)
        asked = select(Batch.state, Batch.detail).where(Batch.id == batch.id).with_for_update(key_share=True)
        state, detail = connection.execute(asked).one()
        if state == BatchState.CANCELLED:
            return []
        if state == BatchState.FINISHED:
            connection.execute(update(Batch).where(Batch.id == batch.id).values(RUNS_AGAIN))
        taken = {file.content_hash: file for file in files if file.content_hash is not None}
        if taken:
            connection.execute(
                insert(Document).on_conflict_do_nothing(),
                [
                    {
                        "public_id": uuid7(),
                        "content_hash": content_hash,
                        "kind": file.kind,
                        "size_bytes": file.size_bytes,
                        "batch_id": batch.id,
                        "detail": detail,
                        "state": DocumentState.PENDING if file.has_pages else DocumentState.READY,
                        "page_count": None if file.has_pages else 0,
                    }
                    for content_hash, file in sorted(taken.items())  # as every other submitter: none waits for ever
                ],
            )
        ids = dict(
            connection.execute(select(Document.content_hash, Document.id).where(Document.content_hash.in_(taken))).all()
        )
        source = insert(Source)
        fields = ("location", "document_id", "size_bytes", "modified_ns", "cause", "reason", "seen_at", "members_mark")
        connection.execute(
            source.on_conflict_do_update(
                index_elements=["path"],
                set_={field: source.excluded[field] for field in fields} | {"gone_at": None},
            ),
            [
                {
                    "path": file.path,
                    "location": file.location,
                    "document_id": ids.get(file.content_hash) if file.content_hash else None,
                    "size_bytes": file.size_bytes,
                    "modified_ns": file.modified_ns,
                    "cause": file.rejection.cause if file.rejection else None,
                    "reason": str(file.rejection) if file.rejection else None,
                    "seen_at": moment,
                    "members_mark": file.members_mark,
                }
                for file in sorted(files, key=lambda file: file.path)
            ],
        )
        as_seen = {
            **{field: getattr(Source, field) for field in ("document_id", "size_bytes", "cause", "reason", "seen_at")},
            "modified_ns": sa.case((Source.location.startswith("file:"), Source.modified_ns)),
        }
        seen = insert(BatchSource).from_select(
            ["batch_id", "source_id", *as_seen],
            select(sa.literal(batch.id), Source.id, *as_seen.values()).where(
                Source.path.in_([file.path for file in files])
            ),
        )
        fresh = {field: seen.excluded[field] for field in as_seen}
        last = sa.case((BatchSource.seen_at > fresh["seen_at"], BatchSource.seen_at), else_=fresh["seen_at"])
        # Walks may overlap: a later one that has met this file shall not find it marked as before its time, and gone.
        connection.execute(
            seen.on_conflict_do_update(index_elements=["batch_id", "source_id"], set_=fresh | {"seen_at": last})
        )
        documents = list(ids.values())
        is_free = ~is_batch_running(Document) if state == BatchState.PAUSED else sa.true()
        connection.execute(
            update(Document)
            .where(Document.id.in_(documents), Document.state == DocumentState.PENDING, is_free)
            .values(batch_id=batch.id)
        )
        # What was wrong with a path then (gone, changed, no permission) says nothing of the content that lies here now.
        # Nor does it say anything that another batch, which waited for it, was cancelled.
        again: list[int] = []
        for state, causes in ((DocumentState.REJECTED, OF_THE_PATH), (DocumentState.FAILED, (CANCELLED,))):
            ended = (Document.id.in_(documents), Document.state == state, Document.cause.in_(causes))
            waits = update(Document).where(*ended).values(**WAITS_AGAIN, batch_id=batch.id)
            again += connection.scalars(waits.returning(Document.id))
        is_drawn = sa.exists().where(Page.document_id == Document.id)  # then all of it is drawn alike, and again
        waiting = (Document.id.in_(documents), Document.batch_id == batch.id, Document.state == DocumentState.PENDING)
        connection.execute(update(Document).where(*waiting, ~is_drawn).values(detail=detail))
        undrawn = select(Page.id).where(Page.document_id.in_(documents), Page.image_freed_at.is_not(None))
        of_path = (PageTask.state == TaskState.FAILED, PageTask.cause.in_(OF_THE_PATH), PageTask.page_id.in_(undrawn))
        tasks = update(PageTask).where(PageTask.batch_id == batch.id, *of_path)
        tasks = tasks.values(**WAITS_AGAIN, next_attempt_at=0.0)
        reopen(connection, again, connection.scalars(tasks.returning(PageTask.id)).all())
        pages = select(Page.document_id, sa.func.max(Page.page_index) + 1).where(Page.document_id.in_(documents))
        return connection.execute(pages.group_by(Page.document_id).order_by(Page.document_id)).all()


@retried
def _ask(db: Database, batch_id: int, documents: Sequence[int], first_page: int, last_page: int) -> None:
    with db.write() as connection:
        locked = select(Batch.state).where(Batch.id == batch_id).with_for_update(key_share=True)
        if connection.scalar(locked) != BatchState.CANCELLED:
            ensure_tasks(connection, batch_id, documents, first_page, last_page)
            forget_outdated(connection, batch_id, documents)


def begin_walk(db: Database, batch: OpenBatch) -> datetime:
    """The moment that all files which this walk meets are marked with: later than every walk before.

    By the database's clock, for hosts' clocks differ; and a clock that was set back begins no earlier.
    """
    with db.read() as connection:
        now = datetime.fromtimestamp(db.now(connection), UTC)
        last = connection.scalar(select(sa.func.max(BatchSource.seen_at)).where(BatchSource.batch_id == batch.id))
    if last is None:
        return now
    return max(now, (last if last.tzinfo else last.replace(tzinfo=UTC)) + timedelta(milliseconds=1))


@retried
def forget_unseen(db: Database, batch: OpenBatch, since: datetime) -> None:
    """Take files out of the batch that the walk which began at `since` did not meet: they are not meant any more.

    A file that is gone and was taken in stays: what was read of it is the batch's.
    """
    was_taken_in = select(Source.id).join(Document, Document.id == BatchSource.document_id)
    was_taken_in = was_taken_in.where(Document.state == DocumentState.READY, Document.page_count > 0)
    is_kept = was_taken_in.where(Source.id == BatchSource.source_id, Source.gone_at.is_not(None)).exists()
    with db.write() as connection:
        unseen = (BatchSource.batch_id == batch.id, BatchSource.seen_at < since)
        connection.execute(delete(BatchSource).where(*unseen, ~is_kept))


@dataclass(frozen=True, slots=True)
class MissedFile:
    """A source on a disk that a walk did not meet."""

    path: str
    location: str
    is_taken_in: bool


def missed_files(db: Database, folder: str, since: datetime, batch: OpenBatch | None) -> dict[int, MissedFile]:
    """Below a folder, those that the walk which began at `since` did not meet and that are not known to be gone, a
    container before its members: id → file. Of a batch, those that it has seen."""
    missed = select(Source.id, Source.path, Source.location, Source.document_id.is_not(None).label("is_taken_in"))
    missed = missed.where(is_below(folder), Source.seen_at < since, Source.gone_at.is_(None)).order_by(Source.path)
    if batch is not None:
        missed = missed.join(BatchSource, BatchSource.source_id == Source.id).where(BatchSource.batch_id == batch.id)
    with db.read() as connection:
        return {row.id: MissedFile(row.path, row.location, row.is_taken_in) for row in connection.execute(missed)}


def are_whole(db: Database, paths: Sequence[str], since: datetime) -> set[str]:
    """Those of these containers that the walk met, and whose members it met, each one.

    Of a PDF it met what is attached only where it was asked to: then the PDF has a mark.
    """
    was_opened = sa.or_(Document.kind != "pdf", Source.members_mark.is_not(None))
    met = select(Source.path).join(Document, Document.id == Source.document_id)
    met = met.where(Source.seen_at >= since, Source.cause.is_(None), was_opened)
    with db.read() as connection:
        return {path for some in parts(paths) for path in connection.scalars(met.where(Source.path.in_(some)))}


@retried
def mark_gone(db: Database, sources: Sequence[int], since: datetime) -> None:
    """These are gone from their paths, unless somebody met them since."""
    with db.write() as connection:
        for some in parts(sources):
            missed = (Source.id.in_(some), Source.seen_at < since, Source.gone_at.is_(None))
            connection.execute(update(Source).where(*missed).values(gone_at=server_now()))


@retried
def forget_files(db: Database, batch: OpenBatch, paths: Sequence[str]) -> None:
    """Take files out of the batch, where they are in it."""
    with db.write() as connection:
        sources = select(Source.id).where(Source.path.in_(paths))
        of_batch = (BatchSource.batch_id == batch.id, BatchSource.source_id.in_(sources))
        connection.execute(delete(BatchSource).where(*of_batch))
