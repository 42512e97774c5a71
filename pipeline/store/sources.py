"""Files that were seen at a batch's paths, and the documents that they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import delete, select, update

from pipeline.database.engine import Database
from pipeline.database.retry import retried
from pipeline.errors import DocumentRejected
from pipeline.store import recording
from pipeline.store.batch_states import RUNS_AGAIN, reopen
from pipeline.store.batches import OpenBatch
from pipeline.store.forget_plan import is_below, parts
from pipeline.store.outbox import forget_outdated
from pipeline.store.page_tasks import ensure_tasks, in_parts
from schemas.columns import server_now, utc_now, uuid7
from schemas.states import BatchState, DocumentState
from schemas.tables import Batch, BatchSource, Document, Source

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
        state, detail = connection.execute(recording.asked(), {"batch": batch.id}).one()
        if state == BatchState.CANCELLED:
            return []
        if state == BatchState.FINISHED:
            connection.execute(update(Batch).where(Batch.id == batch.id).values(RUNS_AGAIN))
        taken = {file.content_hash: file for file in files if file.content_hash is not None}
        if taken:
            connection.execute(
                recording.put_documents(db.dialect),
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
        ids = dict(connection.execute(recording.ids_of_documents(), {"hashes": list(taken)}).all())
        connection.execute(
            recording.put_sources(db.dialect),
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
        connection.execute(recording.mark_seen(db.dialect), {"batch": batch.id, "paths": [file.path for file in files]})
        these = {"documents": list(ids.values()), "batch": batch.id}
        connection.execute(recording.take_over(state == BatchState.PAUSED), these)
        again = [one for statement in recording.wait_again() for one in connection.scalars(statement, these)]
        connection.execute(recording.draw_as_asked(), these | {"drawn": detail})
        tasks = connection.scalars(recording.read_again(), these).all()
        reopen(connection, again, tasks)
        return connection.execute(recording.stored_pages(), {"documents": these["documents"]}).all()


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
