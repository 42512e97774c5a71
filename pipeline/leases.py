"""Leases: who works on which row, and what becomes of a row whose worker died.

Documents (ingest) and page tasks (read) share the columns and so the rules:

    pending ──claim──► leased ──(store.py)──► done, failed, ready, rejected
       ▲                  │
       └──given back──────┘   by the worker itself, by whoever watched it die, or by the sweep after `lease_until`

A claim raises the row's `token`; every later write names it and changes nothing where the token or the state has moved
on, so a worker that was frozen past its lease cannot write over its successor. `owner` is one incarnation of a worker,
not its name: a restarted worker is a stranger to the leases of the dead one.

Each function is one transaction that may be repeated. Rows are locked in the order of their ids, so that no two wait
for each other; who only looks for work skips rows that somebody holds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm
from sqlalchemy import Connection, bindparam, select, update

from pipeline.batches import TEXT_LAYER
from pipeline.database.boottime import boottime
from pipeline.database.dialect import clock, is_given
from pipeline.database.engine import Database
from pipeline.database.retry import retried
from pipeline.notices import note_ended
from pipeline.redraw import drawn_before, fail_undrawn
from pipeline.settings import Settings
from schemas.prompts import Prompt
from schemas.tables import (
    Answer,
    Batch,
    BatchState,
    Document,
    Page,
    PageTask,
    PromptVersion,
    Source,
    TaskAttempt,
    utc_now,
)

Leased = type[Document] | type[PageTask]

GONE_SECONDS = 10.0  # before a page or document is tried again whose storage did not answer
_LATELY = 10_000  # attempts: of a fleet's last half minute
ANY_MODEL = ("", TEXT_LAYER)  # of tasks whose batch named none


@dataclass(frozen=True, slots=True)
class Limits:
    """What the sweep and the workers need to know: seconds and counts, from Settings."""

    lease_seconds: float
    max_attempts: int
    max_crashes: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        return cls(settings.lease_seconds, settings.max_attempts, settings.max_crashes)


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
    """A page and those of its prompts that this worker now holds.

    `answered` is task id → id of an answer that the model gave to the same image and prompt before, on whatever page.
    """

    page_id: int
    document_id: int
    page_index: int
    image_hash: str
    tasks: list[TaskClaim]
    document_public_id: str = ""  # these three for those who watch
    batch_public_id: str = ""
    waited_seconds: float | None = None  # since its bell was rung
    answered: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Claimed:
    """What `claim_pages` got, by page id; of `suspects` it took nothing."""

    pages: dict[int, PageClaim]
    suspects: set[int]


def is_in(table: Leased, state: str) -> sa.ColumnElement[bool]:
    """`state = '…'` as the partial indexes say it: of a parameter no planner knows that it fits their condition."""
    return table.state == sa.literal_column(f"'{state}'")


def is_wanted(table: Leased) -> sa.ColumnElement[bool]:
    """Whether the batch that a row waits for is running: nothing is given out of one that is paused."""
    return table.batch_id.in_(select(Batch.id).where(Batch.state == BatchState.RUNNING))


@retried
def claim_document(db: Database, document_id: int, owner: str, lease_seconds: float) -> DocumentClaim | None:
    """Lease a waiting document; None where it does not wait (any more)."""
    with db.write() as connection:
        row = connection.execute(
            update(Document)
            .where(Document.id == document_id, is_in(Document, "pending"), is_wanted(Document))
            .where(Document.next_attempt_at <= db.clock())
            .values(_leased(db.dialect, Document, owner, lease_seconds))
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
        is_drawn = Page.image_freed_at.is_(None)  # or could not be; one that was freed or lost is drawn again
        stored = select(Page.page_index).where(Page.document_id == document_id, is_drawn).order_by(Page.page_index)
        first_page = 0
        if row.page_count is not None:  # else it is new: all of it
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
    """Lease all waiting prompts of a page, a suspect too; None where nothing waits."""
    return claim_pages(db, [page_id], owner, models, lease_seconds, alone={page_id}).pages.get(page_id)


@retried
def claim_pages(
    db: Database,
    page_ids: Collection[int],
    owner: str,
    models: Sequence[str],
    lease_seconds: float,
    *,
    alone: Collection[int] = (),
    answers_of: str | None = None,
    supports: Callable[[Prompt], bool] = lambda prompt: True,
) -> Claimed:
    """Lease all waiting prompts of these pages that one of `models` shall read.

    A page that was in flight when a worker died is a suspect, and is only taken where it is in `alone`: whoever asks
    reads it then without company. `answers_of` is the model whose answers are looked for. A prompt that any model may
    answer is left to others where this worker does not `support` it, and not rung for again for as long as a lease.
    """
    with db.write() as connection:
        asked = {"page_ids": list(page_ids), "models": list(models), "answers_of": answers_of}
        rows = connection.execute(_waiting_tasks(db.dialect), asked).all()
        prompts = _prompts(connection, {row.prompt_version for row in rows})
        left = [row.id for row in rows if row.model in ANY_MODEL and not supports(prompts[row.prompt_version])]
        if left:
            later = update(PageTask).where(PageTask.id.in_(left))
            connection.execute(later.values(rung_at=None, next_attempt_at=db.clock() + lease_seconds))
            rows = [row for row in rows if row.id not in left]
        suspects = {row.page_id for row in rows if row.crashes > 0} - set(alone)
        rows = [row for row in rows if row.page_id not in suspects]
        if not rows:
            return Claimed({}, suspects)
        lease = {"task_ids": [row.id for row in rows], "by": owner, "seconds": lease_seconds}
        connection.execute(_lease_tasks(db.dialect), lease)
    pages: dict[int, PageClaim] = {}
    for row in rows:
        new = PageClaim(
            row.page_id,
            row.document_id,
            row.page_index,
            row.image_hash,
            [],
            document_public_id=row.public_id,
            batch_public_id=row.batch_public_id,
            waited_seconds=None if row.waited_seconds is None else max(0.0, row.waited_seconds),
        )
        claim = pages.setdefault(row.page_id, new)
        claim.tasks.append(TaskClaim(row.id, row.token + 1, prompts[row.prompt_version], row.attempts))
        if row.answer_id is not None:
            claim.answered[row.id] = row.answer_id
    return Claimed(pages, suspects)


@functools.cache  # to make one takes as long as to execute it
def _waiting_tasks(dialect: str) -> sa.Select[*tuple[Any, ...]]:
    return (
        select(
            PageTask.id,
            PageTask.page_id,
            PageTask.token,
            PageTask.prompt_version,
            PageTask.model,
            PageTask.crashes,
            Page.document_id,
            Page.page_index,
            Page.image_hash,
            Document.public_id,
            Batch.public_id.label("batch_public_id"),
            PageTask.attempts,
            (clock(dialect) - PageTask.rung_at).label("waited_seconds"),
            Answer.id.label("answer_id"),
        )
        .join(Page, Page.id == PageTask.page_id)
        .join(Document, Document.id == Page.document_id)
        .join(Batch, Batch.id == PageTask.batch_id)
        .outerjoin(
            Answer,
            sa.and_(
                Answer.image_hash == Page.image_hash,
                Answer.prompt_version == PageTask.prompt_version,
                Answer.model == bindparam("answers_of"),
            ),
        )
        .where(
            is_given(dialect, PageTask.page_id, "page_ids"),
            is_in(PageTask, "pending"),
            Batch.state == BatchState.RUNNING,
        )
        .where(is_given(dialect, PageTask.model, "models"), PageTask.next_attempt_at <= clock(dialect))
        .order_by(PageTask.id)
        .with_for_update(of=PageTask)
    )


@functools.cache
def _lease_tasks(dialect: str) -> sa.Update:
    leased = _leased(dialect, PageTask, bindparam("by"), bindparam("seconds"))
    return update(PageTask).where(is_given(dialect, PageTask.id, "task_ids")).values(leased)


@retried
def renew_document(db: Database, claim: DocumentClaim, lease_seconds: float) -> None:
    """The heartbeat of an ingest worker, for the document that it has in hand."""
    held = (Document.id == claim.document_id, Document.token == claim.token, is_in(Document, "leased"))
    with db.write() as connection:
        connection.execute(update(Document).where(*held).values(lease_until=db.clock() + lease_seconds))


def holds_document(db: Database, claim: DocumentClaim) -> bool:
    """False where the claim was lost: the batch was cancelled, or the lease ran out."""
    mine = (Document.id == claim.document_id, Document.token == claim.token, is_in(Document, "leased"))
    with db.read(by_key=True) as connection:
        return connection.scalar(select(Document.id).where(*mine)) is not None


@retried
def renew_tasks(db: Database, owner: str, held: Collection[int], lease_seconds: float) -> dict[int, int]:
    """The heartbeat of a read worker: one statement for the page tasks that it has in hand, and for no others.

    A lease that is in the database but in nobody's hand must run out. Returns task id → token of those still held;
    what is missing was taken away and shall be dropped.
    """
    ours = (PageTask.owner == owner, is_in(PageTask, "leased"), PageTask.id.in_(held))
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
            looks = [select(table.id).where(is_in(table, "leased"), is_over(table)) for table in (Document, PageTask)]
            if not any(connection.scalar(look.limit(1)) for look in looks):
                return 0
    with db.write() as connection:
        return _return_leases(
            connection, is_over, "lease expired", True, limits, skip_locked=True, is_sound=was_not_kept
        )


def holds_pages(db: Database, owner: str) -> bool:
    """Whether a worker has pages in hand."""
    with db.read() as connection:
        held = select(PageTask.id).where(is_in(PageTask, "leased"), PageTask.owner == owner)
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
        held = select(table.id, table.token, table.owner, table.crashes).where(is_in(table, "leased"), which(table))
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
            "rung_at": None,
            "crashes": table.crashes + int(crashed),
        }
        if due is not None:
            freed["next_attempt_at"] = due
        at_row = update(table).where(table.id == bindparam("row")).values(freed)
        if waiting:
            connection.execute(at_row.values(state="pending"), waiting)
        if failed:
            whys = {row.id: _crash_reason(row.crashes + 1) for row in failed}
            gone = [{"row": row_id, "why": why} for row_id, why in whys.items() if row_id not in drawn]
            if gone:
                ended = {"state": "failed", "cause": "crash", "finished_at": utc_now()}
                connection.execute(at_row.values(**ended, reason=bindparam("why")), gone)
            for document_id in sorted(drawn):
                fail_undrawn(connection, document_id, "crash", whys[document_id])
                connection.execute(at_row.values(state="ready", crashes=0, finished_at=utc_now()), {"row": document_id})
        if table is PageTask:
            attempts = [{"task_id": row.id, "token": row.token, "worker": row.owner, "error": reason} for row in rows]
            connection.execute(sa.insert(TaskAttempt), attempts)
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


def locked_ids(table: Leased, *where: sa.ColumnElement[bool]) -> sa.Select[tuple[int]]:
    """The ids of rows, locked in their order before the statement around it writes."""
    locked = select(table.id).where(*where).order_by(table.id).with_for_update().cte("locked")
    return select(locked.c.id)


def _leased(dialect: str, table: Leased, owner: Any, lease_seconds: Any) -> dict[str, Any]:
    return {
        "state": "leased",
        "owner": owner,
        "token": table.token + 1,
        "lease_until": clock(dialect) + lease_seconds,
    }


_known_prompts: dict[str, Prompt] = {}  # a version is the hash of all that it says, so it never changes


def _prompts(connection: Connection, versions: set[str]) -> dict[str, Prompt]:
    if missing := versions - _known_prompts.keys():
        found = select(PromptVersion.__table__).where(PromptVersion.version.in_(missing))
        for row in connection.execute(found):
            parameters = {**row.parameters, "stop": tuple(row.parameters["stop"])}
            _known_prompts[row.version] = Prompt(row.name, row.text, **parameters)
    return {version: _known_prompts[version] for version in versions}
