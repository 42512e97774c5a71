"""Leases: who works on which row, and what becomes of a row whose worker died.

Documents (ingest) and page tasks (read) share the columns and so the rules:

    pending ──claim──► leased ──(results, pages)──► done, failed, ready, rejected
       ▲                  │
       └──given back──────┘   by the worker itself, by whoever watched it die, or by the sweep after `lease_until`

A claim raises the row's `token`; every later write names it and changes nothing where the token or the state has moved
on, so a worker that was frozen past its lease cannot write over its successor. `owner` is one incarnation of a worker,
not its name: a restarted worker is a stranger to the leases of the dead one.

Each function is one transaction that may be repeated. Rows are locked in the order of their ids, so that no two wait
for each other; who only looks for work skips rows that somebody holds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm
from sqlalchemy import Connection, bindparam, select, update

from pipeline.database.boottime import boottime
from pipeline.database.engine import Database
from pipeline.database.retry import retried
from pipeline.settings import Settings
from pipeline.store.answers import without_answer
from pipeline.store.claims import DocumentClaim, PageClaim, is_held
from pipeline.store.conditions import Leased, is_in, locked_ids
from pipeline.store.outbox import note_ended
from pipeline.store.redraw import drawn_before, fail_undrawn
from schemas.columns import server_now
from schemas.states import DocumentState, TaskState
from schemas.tables import Document, Page, PageTask, TaskAttempt

GONE_SECONDS = 10.0  # before a page or document is tried again whose storage did not answer
_LATELY = 10_000  # attempts: of a fleet's last half minute


@dataclass(frozen=True, slots=True)
class Limits:
    """What the sweep and the workers need to know: seconds and counts, from Settings."""

    lease_seconds: float
    max_attempts: int
    max_crashes: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        return cls(settings.lease_seconds, settings.max_attempts, settings.max_crashes)


@retried
def renew_document(db: Database, claim: DocumentClaim, lease_seconds: float) -> None:
    """The heartbeat of an ingest worker, for the document that it has in hand."""
    with db.write() as connection:
        renewed = update(Document).where(is_held()).values(lease_until=db.clock() + lease_seconds)
        connection.execute(renewed, claim.held)


def holds_document(db: Database, claim: DocumentClaim) -> bool:
    """False where the claim was lost: the batch was cancelled, or the lease ran out."""
    with db.read(by_key=True) as connection:
        return connection.scalar(select(Document.id).where(is_held()), claim.held) is not None


@retried
def renew_tasks(db: Database, owner: str, held: Collection[int], lease_seconds: float) -> dict[int, int]:
    """The heartbeat of a read worker: one statement for the page tasks that it has in hand, and for no others.

    A lease that is in the database but in nobody's hand must run out. Returns task id → token of those still held;
    what is missing was taken away and shall be dropped.
    """
    ours = (PageTask.owner == owner, is_in(PageTask, TaskState.LEASED), PageTask.id.in_(held))
    with db.write() as connection:
        rows = connection.execute(
            update(PageTask)
            .where(PageTask.id.in_(locked_ids(PageTask, *ours)))
            .values(lease_until=db.clock() + lease_seconds)
            .returning(PageTask.id, PageTask.token)
        )
        return {row.id: row.token for row in rows}


@retried
def give_back(db: Database, owner: str, *, reason: str, crashed: bool, limits: Limits) -> int:
    """All leases of a worker (with `owner` ending in `/`, of its processes; with "", of all) back to waiting.

    With `crashed` each row's crash count rises, and a row past `max_crashes` fails: it may be what kills workers.
    """

    def is_owners(table: Leased) -> sa.ColumnElement[bool]:
        if owner and not owner.endswith("/"):
            return table.owner == owner
        return table.owner.startswith(owner, autoescape=True)

    with db.write() as connection:
        return _return_leases(connection, is_owners, reason, crashed, limits)


@retried
def give_back_unheld(db: Database, owner: str, held: Collection[int]) -> int:
    """Page tasks that are leased to a worker that does not know of it: the answer to its claim was lost."""

    def is_unheld(table: Leased) -> sa.ColumnElement[bool]:
        if table is Document:
            return sa.false()
        return sa.and_(table.owner == owner, table.id.not_in(held))

    with db.write() as connection:
        return _return_leases(connection, is_unheld, "the claim's answer was lost", False, None)


@retried
def expire(db: Database, limits: Limits, awake_at: float | None = None) -> int:
    """The sweep: leases past their time back to waiting, as after a crash.

    None where this process was kept from it for long since `awake_at` (of `boottime`; now, if None), by another's write
    lock or a suspended machine: then nobody here could renew, and those who live are about to.
    """

    def is_over(table: Leased) -> sa.ColumnElement[bool]:
        return table.lease_until < db.clock()

    began = boottime() if awake_at is None else awake_at

    def was_not_kept() -> bool:
        return boottime() - began <= limits.lease_seconds / 4

    if db.dialect == "sqlite":  # most sweeps find nothing: ask before taking the one write lock
        with db.read() as connection:
            looks = [
                select(table.id).where(is_in(table, TaskState.LEASED), is_over(table)) for table in (Document, PageTask)
            ]
            if not any(connection.scalar(look.limit(1)) for look in looks):
                return 0
    with db.write() as connection:
        return _return_leases(
            connection, is_over, "lease expired", True, limits, skip_locked=True, is_sound=was_not_kept
        )


def holds_pages(db: Database, owner: str) -> bool:
    """Whether a worker has pages in hand."""
    with db.read() as connection:
        held = select(PageTask.id).where(is_in(PageTask, TaskState.LEASED), PageTask.owner == owner)
        return connection.scalar(held.limit(1)) is not None


def has_answered(db: Database, owner: str) -> bool:
    """Whether a worker stored an answer, lately: the table grows with each page, and only its end is looked at."""
    last = select(sa.func.coalesce(sa.func.max(TaskAttempt.id), 0)).scalar_subquery()
    stored = (TaskAttempt.id > last - _LATELY, TaskAttempt.worker == owner, TaskAttempt.error.is_(None))
    with db.read() as connection:
        return connection.scalar(select(TaskAttempt.id).where(*stored).limit(1)) is not None


@retried
def return_claim(db: Database, claim: DocumentClaim | PageClaim, reason: str, wait_seconds: float = 0.0) -> int:
    """The worker gives a document or page back itself (it stops): no attempt and no crash is counted.

    Nobody takes it again for `wait_seconds`. Returns how many leases there were to give back: none where they were
    lost meanwhile.
    """
    claimed: Leased
    if isinstance(claim, DocumentClaim):
        claimed, tokens = Document, {claim.document_id: claim.token}
    else:
        claimed, tokens = PageTask, {task.task_id: task.token for task in claim.tasks}

    def is_claimed(table: Leased) -> sa.ColumnElement[bool]:
        return table.id.in_(tokens) if table is claimed else sa.false()

    with db.write() as connection:
        due = db.clock() + wait_seconds if wait_seconds else None
        return _return_leases(connection, is_claimed, reason, False, None, tokens=tokens, due=due)


def _return_leases(
    connection: Connection,
    which: Callable[[Leased], sa.ColumnElement[bool]],
    reason: str,
    crashed: bool,
    limits: Limits | None,
    tokens: dict[int, int] | None = None,
    skip_locked: bool = False,
    due: sa.ColumnElement[float] | None = None,
    is_sound: Callable[[], bool] = lambda: True,
) -> int:
    """`is_sound` is asked after each look: only then is it known how late the clock was that the look went by."""
    returned = 0
    for table in (Document, PageTask):
        began = [PageTask.leased_at] if table is PageTask else []
        held = select(table.id, table.token, table.owner, table.crashes, table.batch_id, *began).where(
            is_in(table, TaskState.LEASED), which(table)
        )
        rows = connection.execute(held.order_by(table.id).with_for_update(skip_locked=skip_locked)).all()
        rows = [row for row in rows if tokens is None or tokens[row.id] == row.token]
        if not rows or not is_sound():
            continue
        returned += len(rows)
        most = limits.max_crashes if crashed and limits is not None else None
        failed = [row for row in rows if most is not None and row.crashes + 1 >= most]
        waiting = [{"row": row.id} for row in rows if row not in failed]
        drawn = drawn_before(connection, [row.id for row in failed]) if failed and table is Document else set()
        freed: dict[str, Any] = {
            "owner": None,
            "lease_until": None,
            "enqueued_at": None,
            "crashes": table.crashes + int(crashed),
        }
        if due is not None:
            freed["next_attempt_at"] = due
        at_row = update(table).where(table.id == bindparam("row")).values(freed)
        if waiting:
            connection.execute(at_row.values(state=TaskState.PENDING), waiting)
        if failed:
            whys = {row.id: _crash_reason(row.crashes + 1) for row in failed}
            gone = [{"row": row_id, "why": why} for row_id, why in whys.items() if row_id not in drawn]
            if gone:
                ended = {"state": TaskState.FAILED, "cause": "crash", "finished_at": server_now()}
                connection.execute(at_row.values(**ended, reason=bindparam("why")), gone)
            for document_id in sorted(drawn):
                fail_undrawn(connection, document_id, "crash", whys[document_id])
                connection.execute(
                    at_row.values(state=DocumentState.READY, crashes=0, finished_at=server_now()), {"row": document_id}
                )
        if table is PageTask:
            connection.execute(sa.insert(TaskAttempt), [without_answer(row, reason) for row in rows])
        if failed:
            note_ended(connection, _documents(connection, table, [row.id for row in failed]))
    return returned


def _crash_reason(crashes: int) -> str:
    return f"its worker died {crashes} times while it was in flight; look into the worker's log, then `pagepack retry`"


def _documents(connection: Connection, table: Leased, ids: list[int]) -> Sequence[int]:
    if table is Document:
        return ids
    of_tasks = select(Page.document_id).join(PageTask, PageTask.page_id == Page.id).where(PageTask.id.in_(ids))
    return connection.scalars(of_tasks.distinct()).all()
