"""Leases: who works on which row, and what becomes of a row whose worker died.

Documents (ingest) and page tasks (read) share the columns and so the rules:

    pending ──claim──► leased ──(store.py)──► done, failed, ready, rejected
       ▲                  │
       └──given back──────┘   by the worker itself, by whoever watched it die, or by the sweep after `lease_until`

A claim raises the row's `token`; every later write names it and changes nothing where the token or the state has moved
on, so a worker that was frozen past its lease cannot write over its successor. `owner` is one incarnation of a worker,
not its name: a restarted worker is a stranger to the leases of the dead one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm
from sqlalchemy import Connection, select, update

from pipeline.database import Database
from schemas.prompts import Prompt
from schemas.tables import (
    Answer,
    Batch,
    Document,
    DocumentState,
    Page,
    PageTask,
    PromptVersion,
    Source,
    TaskAttempt,
    TaskState,
    utc_now,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the sweep and the workers need to know: seconds and counts, from Settings."""

    lease_seconds: float
    max_attempts: int
    max_crashes: int


@dataclass(frozen=True, slots=True)
class DocumentClaim:
    """A document to rasterize: `first_page` is the first page index that is not stored yet."""

    document_id: int
    token: int
    kind: str
    content_hash: str
    batch_id: int  # for whom it waited
    locations: list[str]
    first_page: int
    public_id: str = ""  # these three for those who watch
    batch_public_id: str = ""
    attempts: int = 0  # that failed before this one


@dataclass(frozen=True, slots=True)
class TaskClaim:
    """One prompt of a claimed page."""

    task_id: int
    token: int
    prompt: Prompt
    attempts: int = 0  # that failed before this one


@dataclass(frozen=True, slots=True)
class PageClaim:
    """A page and those of its prompts that this worker now holds."""

    page_id: int
    document_id: int
    page_index: int
    image_hash: str
    tasks: list[TaskClaim]
    document_public_id: str = ""  # these three for those who watch
    batch_public_id: str = ""
    waited_seconds: float | None = None  # since its bell was rung


def claim_document(db: Database, document_id: int, owner: str, lease_seconds: float) -> DocumentClaim | None:
    """Lease a waiting document; None where it does not wait (any more)."""
    with db.write() as connection:
        now = db.now(connection)
        row = connection.execute(
            update(Document)
            .where(Document.id == document_id, Document.state == DocumentState.PENDING, Document.next_attempt_at <= now)
            .values(_leased(Document, owner, now + lease_seconds))
            .returning(
                Document.token,
                Document.kind,
                Document.content_hash,
                Document.page_count,
                Document.batch_id,
                Document.public_id,
                Document.attempts,
            )
        ).one_or_none()
        if row is None:
            return None
        locations = connection.scalars(select(Source.location).where(Source.document_id == document_id)).all()
        stored = select(Page.page_index).where(Page.document_id == document_id).order_by(Page.page_index)
        first_page = 0
        if row.page_count is not None:  # else it is new, or its images were lost: all of it
            for first_page, index in enumerate([*connection.scalars(stored), -1]):
                if index != first_page:
                    break
        return DocumentClaim(
            document_id,
            row.token,
            row.kind,
            row.content_hash,
            row.batch_id,
            list(locations),
            first_page,
            row.public_id,
            connection.scalar(select(Batch.public_id).where(Batch.id == row.batch_id)) or "",
            row.attempts,
        )


def claim_page(db: Database, page_id: int, owner: str, models: Sequence[str], lease_seconds: float) -> PageClaim | None:
    """Lease all waiting prompts of a page that one of `models` shall read; None where nothing waits."""
    with db.write() as connection:
        now = db.now(connection)
        rows = connection.execute(
            update(PageTask)
            .where(
                PageTask.page_id == page_id,
                PageTask.state == TaskState.PENDING,
                PageTask.model.in_(models),
                PageTask.next_attempt_at <= now,
            )
            .values(_leased(PageTask, owner, now + lease_seconds))
            .returning(
                PageTask.id,
                PageTask.token,
                PageTask.prompt_version,
                PageTask.attempts,
                PageTask.batch_id,
                PageTask.rung_at,
            )
        ).all()
        if not rows:
            return None
        page = connection.execute(
            select(Page.document_id, Page.page_index, Page.image_hash, Document.public_id)
            .join(Document, Document.id == Page.document_id)
            .add_columns(Batch.public_id.label("batch_public_id"))
            .join(Batch, Batch.id == rows[0].batch_id)
            .where(Page.id == page_id)
        ).one()
        prompts = _prompts(connection, [row.prompt_version for row in rows])
        tasks = [TaskClaim(row.id, row.token, prompts[row.prompt_version], row.attempts) for row in sorted(rows)]
        rung_at = rows[0].rung_at
        return PageClaim(
            page_id,
            page.document_id,
            page.page_index,
            page.image_hash,
            tasks,
            page.public_id,
            page.batch_public_id,
            None if rung_at is None else max(0.0, now - rung_at),
        )


def answered_before(db: Database, claim: PageClaim, model: str) -> dict[int, int]:
    """Task id → id of an answer that this model gave to the same image and prompt, on whatever page."""
    versions = {task.prompt.version: task.task_id for task in claim.tasks}
    with db.read() as connection:
        rows = connection.execute(
            select(Answer.id, Answer.prompt_version).where(
                Answer.image_hash == claim.image_hash, Answer.model == model, Answer.prompt_version.in_(versions)
            )
        )
        return {versions[row.prompt_version]: row.id for row in rows}


def renew_document(db: Database, claim: DocumentClaim, lease_seconds: float) -> None:
    """The heartbeat of an ingest worker, for the document that it has in hand."""
    held = (Document.id == claim.document_id, Document.token == claim.token, Document.state == DocumentState.LEASED)
    with db.write() as connection:
        connection.execute(update(Document).where(*held).values(lease_until=db.now(connection) + lease_seconds))


def renew_tasks(db: Database, owner: str, held: Collection[int], lease_seconds: float) -> dict[int, int]:
    """The heartbeat of a read worker: one statement for the page tasks that it has in hand, and for no others.

    A lease that is in the database but in nobody's hand must run out. Returns task id → token of those still held;
    what is missing was taken away and shall be dropped.
    """
    with db.write() as connection:
        rows = connection.execute(
            update(PageTask)
            .where(PageTask.owner == owner, PageTask.state == TaskState.LEASED, PageTask.id.in_(held))
            .values(lease_until=db.now(connection) + lease_seconds)
            .returning(PageTask.id, PageTask.token)
        )
        return {row.id: row.token for row in rows}


def is_suspect(db: Database, page_id: int) -> bool:
    """Whether a waiting page was in flight when a worker died: it shall be read alone."""
    with db.read() as connection:
        waiting = (PageTask.page_id == page_id, PageTask.state == TaskState.PENDING, PageTask.crashes > 0)
        return connection.scalar(select(PageTask.id).where(*waiting).limit(1)) is not None


def give_back(db: Database, owner: str, *, reason: str, crashed: bool, limits: Limits) -> int:
    """All leases of a worker (with `owner` ending in `/`, of its processes; with "", of all) back to waiting.

    With `crashed` each row's crash count rises, and a row past `max_crashes` fails: it may be what kills workers.
    """

    def is_owners(table: type[Document] | type[PageTask]) -> sa.ColumnElement[bool]:
        if owner and not owner.endswith("/"):
            return table.owner == owner
        return table.owner.startswith(owner, autoescape=True)

    with db.write() as connection:
        return _return_leases(connection, is_owners, reason, crashed, limits)


def expire(db: Database, limits: Limits) -> int:
    """The sweep: leases past their time back to waiting, as after a crash."""
    with db.read() as connection:  # most sweeps find nothing: ask before taking the one write lock
        now = db.now(connection)
        if not any(
            connection.scalar(select(table.id).where(table.state == "leased", table.lease_until < now).limit(1))
            for table in (Document, PageTask)
        ):
            return 0
    with db.write() as connection:
        now = db.now(connection)
        return _return_leases(connection, lambda table: table.lease_until < now, "lease expired", True, limits)


def take_due_documents(db: Database, batch_id: int, *, limit: int) -> list[int]:
    """Ids of documents to ring for, marked as rung; never more than `limit` rung or leased at a time."""
    with db.read() as connection:
        busy = connection.scalar(
            select(sa.func.count())
            .select_from(Document)
            .where(
                Document.batch_id == batch_id,
                sa.or_(
                    Document.state == DocumentState.LEASED,
                    sa.and_(Document.state == DocumentState.PENDING, Document.rung_at > db.now(connection) - 30),
                ),
            )
        )
    return _take_due(db, Document, Document.id, batch_id, limit - (busy or 0), lost_after=30.0)


def take_due_pages(db: Database, batch_id: int, *, limit: int, lost_after: float | None) -> list[int]:
    """Ids of pages to ring for, marked as rung: never rung for, or `lost_after` seconds ago."""
    return sorted(set(_take_due(db, PageTask, PageTask.page_id, batch_id, limit, lost_after)))


def _take_due(
    db: Database,
    table: type[Document] | type[PageTask],
    column: sa.orm.InstrumentedAttribute[int],
    batch_id: int,
    limit: int,
    lost_after: float | None,
) -> list[int]:
    if limit <= 0:
        return []

    def due(now: float) -> sa.Select[int]:
        silent: sa.ColumnElement[bool] = table.rung_at.is_(None)
        if lost_after is not None:
            silent = sa.or_(silent, table.rung_at < now - lost_after)
        return (
            select(table.id)
            .where(table.batch_id == batch_id, table.state == "pending", table.next_attempt_at <= now, silent)
            .order_by(table.id)
            .limit(limit)
        )

    with db.read() as connection:  # mostly there is nothing: ask before taking the one write lock
        if connection.scalar(due(db.now(connection)).limit(1)) is None:
            return []
    with db.write() as connection:
        now = db.now(connection)
        rows = connection.scalars(update(table).where(table.id.in_(due(now))).values(rung_at=now).returning(column))
        return list(rows)


def bells_out(db: Database, batch_id: int) -> int:
    """Page tasks of a batch that were rung for and are not read yet."""
    mine = PageTask.batch_id == batch_id
    rung = select(sa.func.count()).where(mine, PageTask.state == TaskState.PENDING, PageTask.rung_at.is_not(None))
    held = select(sa.func.count()).where(mine, PageTask.state == TaskState.LEASED)
    with db.read() as connection:
        return (connection.scalar(rung) or 0) + (connection.scalar(held) or 0)


def holds_pages(db: Database, owner: str) -> bool:
    """Whether a worker has pages in hand."""
    with db.read() as connection:
        held = select(PageTask.id).where(PageTask.state == TaskState.LEASED, PageTask.owner == owner)
        return connection.scalar(held.limit(1)) is not None


def forget_bells(db: Database) -> None:
    """The broker is new and empty: whatever waits shall be rung for again."""
    with db.write() as connection:
        for table in (Document, PageTask):
            connection.execute(
                update(table).where(table.state == "pending", table.rung_at.is_not(None)).values(rung_at=None)
            )


def return_claim(db: Database, claim: DocumentClaim | PageClaim, reason: str) -> int:
    """The worker gives a document or page back itself (it stops): no attempt and no crash is counted.

    Returns how many leases there were to give back: none where they were lost meanwhile.
    """
    table: type[Document] | type[PageTask]
    if isinstance(claim, DocumentClaim):
        table, tokens = Document, {claim.document_id: claim.token}
    else:
        table, tokens = PageTask, {task.task_id: task.token for task in claim.tasks}

    def is_claimed(other: type[Document] | type[PageTask]) -> sa.ColumnElement[bool]:
        return other.id.in_(tokens) if other is table else sa.false()

    with db.write() as connection:
        return _return_leases(connection, is_claimed, reason, False, None, tokens=tokens)


def _return_leases(
    connection: Connection,
    which: Any,
    reason: str,
    crashed: bool,
    limits: Limits | None,
    tokens: dict[int, int] | None = None,
) -> int:
    returned = 0
    for table in (Document, PageTask):
        rows = connection.execute(
            select(table.id, table.token, table.owner, table.crashes)
            .where(table.state == "leased", which(table))
            .with_for_update()
        ).all()
        for row in rows:
            if tokens is not None and tokens[row.id] != row.token:
                continue
            values: dict[str, Any] = {
                "state": "pending",
                "owner": None,
                "lease_until": None,
                "rung_at": None,
                "crashes": row.crashes + crashed,
            }
            if crashed and limits is not None and row.crashes + 1 >= limits.max_crashes:
                values |= {
                    "state": "failed",
                    "cause": "crash",
                    "reason": f"its worker died {row.crashes + 1} times while it was in flight; "
                    "look into the worker's log, then `pagepack retry`",
                    "finished_at": utc_now(),
                }
            connection.execute(update(table).where(table.id == row.id).values(values))
            if table is PageTask:
                connection.execute(
                    sa.insert(TaskAttempt).values(task_id=row.id, token=row.token, worker=row.owner, error=reason)
                )
            returned += 1
    return returned


def _leased(table: type[Document] | type[PageTask], owner: str, until: float) -> dict[str, Any]:
    return {"state": "leased", "owner": owner, "token": table.token + 1, "lease_until": until}


def _prompts(connection: Connection, versions: list[str]) -> dict[str, Prompt]:
    rows = connection.execute(select(PromptVersion.__table__).where(PromptVersion.version.in_(versions)))
    return {
        row.version: Prompt(row.name, row.text, **{**row.parameters, "stop": tuple(row.parameters["stop"])})
        for row in rows
    }
