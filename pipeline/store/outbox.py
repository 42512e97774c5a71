"""The outbox: who asked to be told gets a row for each document that is done, in the transaction in which it is.

`delivery/outbox_relay.py` sends the rows. The batch's end adds a row where one is missing (a document that was done
before it was asked about).
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, bindparam, delete, select, update

from pipeline.database.dialect import insert_for, insert_of, is_given
from pipeline.database.engine import Database
from pipeline.database.retry import retried
from pipeline.store.conditions import is_asked_about, is_open
from schemas.columns import server_now, utc_now
from schemas.states import BatchState
from schemas.tables import Batch, BatchPrompt, BatchSource, Document, Notice, Page, PageTask
from schemas.worker_tables import BrokerMark


@dataclass(frozen=True, slots=True)
class UnsentNotice:
    """`notify` is `TASK` or `TASK@QUEUE`, as it was given; the two ids are those that people see."""

    id: int
    notify: str
    batch_id: str
    document_id: str


_TOLD = (BatchState.RUNNING, BatchState.PAUSED)  # of a paused one end the pages that were in hand


def note_ended(connection: Connection, documents: Collection[int]) -> None:
    """Add notices for those of these documents that are done, after some of their tasks ended in this transaction."""
    ended = _told_documents(connection.dialect.name)
    if ids := connection.scalars(ended, {"documents": list(documents)}).all():
        connection.execute(_add_ended(connection.dialect.name), {"documents": ids, "now": utc_now()})


@functools.cache
def _told_documents(dialect: str) -> sa.Select[int]:
    asked = (
        select(BatchSource.document_id)
        .join(Batch, Batch.id == BatchSource.batch_id)
        .where(Batch.state.in_(_TOLD), Batch.notify.is_not(None))
        .where(is_given(dialect, BatchSource.document_id, "documents"))
    )
    # Locked, so that of two workers that end a document's last two pages at once, the later one sees both ended.
    return select(Document.id).where(Document.id.in_(asked)).order_by(Document.id).with_for_update()


def note_all_ended(connection: Connection, batch_id: int, sources: tuple[int, int] | None = None) -> None:
    """Add the notices of a batch that are missing, of all its documents or of those of some sources: first and last
    id."""
    part = {} if sources is None else {"first": sources[0], "last": sources[1]}
    missing = _add_missing(connection.dialect.name, is_part=sources is not None)
    connection.execute(missing, part | {"batch": batch_id, "now": utc_now()})


@functools.cache
def _add_ended(dialect: str) -> Any:
    is_one = BatchSource.document_id.in_(bindparam("documents", expanding=True))
    return _notices(dialect, is_one, Batch.state.in_(_TOLD))


@functools.cache
def _add_missing(dialect: str, is_part: bool) -> Any:
    noted = select(Notice.id).where(Notice.batch_id == Batch.id, Notice.document_id == Document.id)
    of = [BatchSource.source_id.between(bindparam("first"), bindparam("last"))] if is_part else []
    return _notices(dialect, Batch.id == bindparam("batch"), ~noted.correlate(Batch, Document).exists(), *of)


def _notices(dialect: str, *of: sa.ColumnElement[bool]) -> Any:
    waits = (
        select(PageTask.id)
        .join(Page, Page.id == PageTask.page_id)
        .join(BatchPrompt, BatchPrompt.prompt_version == PageTask.prompt_version)
        .where(Page.document_id == Document.id, BatchPrompt.batch_id == Batch.id, PageTask.model == Batch.model)
        .where(is_asked_about(), is_open(PageTask))
        .correlate(Document, Batch)
        .exists()
    )
    rows = (
        select(Batch.id, Document.id, bindparam("now", type_=sa.DateTime(timezone=True)))
        .join(BatchSource, BatchSource.batch_id == Batch.id)
        .join(Document, Document.id == BatchSource.document_id)
        .where(Batch.notify.is_not(None), *of)
        .where(~is_open(Document), ~waits)
        .distinct()
    )
    notices = insert_of(dialect)(Notice).from_select(["batch_id", "document_id", "created_at"], rows)
    return notices.on_conflict_do_nothing()


def forget_notices(connection: Connection, documents: Collection[int], batches: Collection[int]) -> None:
    """These batches try these documents again, and whoever asked is told again."""
    connection.execute(delete(Notice).where(Notice.document_id.in_(documents), Notice.batch_id.in_(batches)))


def forget_outdated(connection: Connection, batch_id: int, documents: Collection[int]) -> None:
    """Those of these documents that the batch asks about anew, with another prompt perhaps, will be told of again."""
    connection.execute(_outdated(), {"batch": batch_id, "documents": documents})


@functools.cache
def _outdated() -> sa.Delete:
    waits = (
        select(PageTask.id)
        .join(Page, Page.id == PageTask.page_id)
        .where(Page.document_id == Notice.document_id, PageTask.batch_id == bindparam("batch"), is_open(PageTask))
        .correlate(Notice)
        .exists()
    )
    documents = Notice.document_id.in_(bindparam("documents", expanding=True))
    return delete(Notice).where(Notice.batch_id == bindparam("batch"), documents, waits)


def take_notices(db: Database, limit: int, without: Collection[str] = ()) -> list[UnsentNotice]:
    """The oldest that are not sent yet, but for some targets.

    Taking one does not mark it: `mark_notices_sent` after it was sent.
    """
    unsent = (
        select(Notice.id, Batch.notify, Batch.public_id.label("batch_id"), Document.public_id.label("document_id"))
        .join(Batch, Batch.id == Notice.batch_id)
        .join(Document, Document.id == Notice.document_id)
        .where(Notice.sent_at.is_(None), Batch.notify.is_not(None), Batch.notify.not_in(without))
        .order_by(Notice.id)
        .limit(limit)
    )
    with db.read() as connection:
        return [
            UnsentNotice(row.id, str(row.notify), row.batch_id, row.document_id) for row in connection.execute(unsent)
        ]


@retried
def mark_notices_sent(db: Database, ids: Collection[int]) -> None:
    """By the database's clock, for leaders' clocks differ, and the order tells which have left their queue."""
    at_once = select(server_now()).scalar_subquery()  # one moment for all: among themselves they go by their ids
    with db.write() as connection:
        connection.execute(update(Notice).where(Notice.id.in_(ids), Notice.sent_at.is_(None)).values(sent_at=at_once))


_LIES = (Notice.sent_at.is_not(None), Notice.taken_at.is_(None))


def lying_notices(db: Database) -> list[tuple[int, str]]:
    """Id and target of the notices that were sent and may lie in their queues still, in the order of sending."""
    lying = select(Notice.id, Batch.notify).join(Batch, Batch.id == Notice.batch_id)
    with db.read() as connection:
        rows = connection.execute(lying.where(*_LIES, Batch.notify.is_not(None)).order_by(Notice.sent_at, Notice.id))
        return [(row.id, str(row.notify)) for row in rows]


@retried
def mark_notices_taken(db: Database, ids: Sequence[int]) -> None:
    """They have left their queue."""
    with db.write() as connection:
        for first in range(0, len(ids), 1_000):
            taken = update(Notice).where(*_LIES, Notice.id.in_(ids[first : first + 1_000]))
            connection.execute(taken.values(taken_at=utc_now()))


@retried
def forget_sent(db: Database) -> int:
    """The broker lost what lay in its queues: those notices are sent again. Returns how many."""
    with db.write() as connection:
        return connection.execute(update(Notice).where(*_LIES).values(sent_at=None)).rowcount


def marked_queue(db: Database) -> str | None:
    """The queue that holds the broker's mark; None where none was put yet."""
    with db.read() as connection:
        return connection.scalar(select(BrokerMark.queue))


@retried
def move_mark(db: Database, before: str | None, queue: str) -> bool:
    """Say which queue holds the mark from now on; False where another process has moved it meanwhile."""
    with db.write() as connection:
        if before is None:
            put = insert_for(connection)(BrokerMark).values(id=1, queue=queue).on_conflict_do_nothing()
            return connection.execute(put.returning(BrokerMark.id)).one_or_none() is not None
        moved = update(BrokerMark).where(BrokerMark.queue == before).values(queue=queue)
        return connection.execute(moved).rowcount == 1
