"""Batches and how far they are, for people: exact counts, rates, failures by cause.

`status` looks at each page of the batch once, and at the latest attempts; a run that wants to know how far it is asks
`store/progress.py`, which is cheaper.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy import Connection, func, select

from pipeline.database.engine import Database
from pipeline.database.looking import Looking
from pipeline.errors import UsageError, did_you_mean
from pipeline.query.go_on import go_on_command
from pipeline.store.attendance import WorkedOnBy, worked_on_by
from pipeline.store.progress import Progress
from pipeline.store.progress import progress as count_progress
from schemas.tables import (
    Answer,
    Batch,
    BatchPrompt,
    BatchSource,
    BatchState,
    Document,
    DocumentState,
    PageTask,
    PromptVersion,
    Source,
    TaskAttempt,
    TaskState,
)
from schemas.views import summary_of_batch

_WINDOW_SECONDS = 60.0
_WINDOW_ATTEMPTS = 60_000  # as many of the latest attempts are looked at: a minute at 1,000 pages/s


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A batch without its counts; `id` is the key inside, `batch_id` what people see."""

    id: int
    batch_id: str
    name: str
    state: str
    engine: str
    model: str
    started_at: datetime  # UTC, and says so
    finished_at: datetime | None
    all_seen: bool  # false while its files are being registered, and after that was interrupted
    command: list[str] | None  # words of the `pagepack run` or `ask` that goes on with it


@dataclass(frozen=True, slots=True)
class Status:
    """A row of `batch_summary` and what makes it move."""

    batch: BatchRow
    files_seen: int
    files_done: int
    files_failed: int
    files_rejected: int
    pages_total: int
    pages_done: int
    pages_failed: int
    progress: Progress
    pages_per_second: float  # over the last minute; a page is read when every prompt is answered
    seconds_left: float | None  # None where nothing was read lately
    pages_per_second_overall: float  # pages done since the batch was first started, pauses included
    failures: dict[str, int]  # cause → rows in `failures`, most frequent first
    engines: dict[str, int]  # engine → pages and prompts that it answered
    prompts: list[str]  # names of what is asked about each page
    worked_on_by: WorkedOnBy
    interrupted: bool  # its `run` or `ask` is not there any more, and no workers that would go on with it
    command: str | None  # for a shell, to go on with it; None: workers do


def batch_rows(db: Database) -> list[BatchRow]:
    """All batches, the latest first."""
    with db.read() as connection:
        rows = [row._asdict() for row in connection.execute(_BATCHES)]
    for row in rows:
        row["batch_id"] = row.pop("public_id")
        row["started_at"] = _utc(row["started_at"])
        row["finished_at"] = _utc(row["finished_at"]) if row["finished_at"] else None
    return [BatchRow(**row) for row in rows]


def find_batch(db: Database, ref: str | None = None) -> BatchRow:
    """By id, by an unambiguous beginning of it, or by name; the latest where `ref` is None.

    Raises:
        UsageError: none or several fit; the message lists what there is.
    """
    batches = batch_rows(db)
    if not batches:
        raise UsageError(f"{db.name} has no batch yet; `pagepack run PATH` makes one")
    if ref is None:
        return batches[0]
    exact = [batch for batch in batches if batch.batch_id == ref.lower()]
    named = [batch for batch in batches if batch.name == ref]
    begun = [batch for batch in batches if ref and batch.batch_id.startswith(ref.lower())]
    fitting = exact or named or begun
    if len(fitting) == 1:
        return fitting[0]
    candidates = ", ".join(f"{batch.batch_id} ({batch.name})" for batch in (fitting or batches)[:5])
    if fitting:
        raise UsageError(f"{len(fitting)} batches answer to {ref!r}; name one by its id: {candidates}")
    near = did_you_mean(ref, {batch.name for batch in batches} | {batch.batch_id for batch in batches})
    raise UsageError(f"no batch has the id or name {ref!r}{near or ';'} the latest are {candidates}")


def asked_prompts(db: Database, batch_id: int) -> list[str]:
    """Names of the prompts that a batch asks, in their order."""
    asked = select(PromptVersion.name).join(BatchPrompt, BatchPrompt.prompt_version == PromptVersion.version)
    with db.read() as connection:
        return list(connection.scalars(asked.where(BatchPrompt.batch_id == batch_id).order_by(PromptVersion.name)))


def check_prompt(db: Looking, name: str) -> None:
    """Raises UsageError where no page was ever asked this; the message names the prompts that there are."""
    with db.looking() as look:
        known = look.values("SELECT DISTINCT name FROM prompt_versions ORDER BY name")
    if name not in known:
        near = did_you_mean(name, known) or ";"
        raise UsageError(f"no page was asked the prompt {name!r}{near} known are {', '.join(known) or 'none yet'}")


def paths_not_taken_in(db: Database, batch: BatchRow) -> set[str]:
    """Files without a document, which a repeated run looks at again: of a kind that is not read, gone, links…"""
    with db.read() as connection:
        seen = select(Source.path).join(BatchSource, BatchSource.source_id == Source.id)
        return set(connection.scalars(seen.where(BatchSource.batch_id == batch.id, BatchSource.document_id.is_(None))))


def who_works(db: Database, batch: BatchRow) -> WorkedOnBy:
    """Who works on a batch now."""
    return worked_on_by(db, batch.id, is_question=batch.command is not None and batch.command[1] == "ask")


def status(db: Database, batch: BatchRow) -> Status:
    """The batch's exact counts; costs a look at each of its pages."""
    now, prompts = count_progress(db, batch.id), asked_prompts(db, batch.id)
    who = who_works(db, batch)
    interrupted = batch.state == BatchState.RUNNING and batch.command is not None and who == WorkedOnBy.NOBODY
    with db.read() as connection:
        where = {"batch_id": batch.batch_id}
        row = connection.execute(sa.text(summary_of_batch()), {"id": batch.id}).one()
        failures = connection.execute(
            sa.text("SELECT cause, count(*) FROM failures WHERE batch_id = :batch_id GROUP BY 1 ORDER BY 2 DESC, 1"),
            where,
        )
        engines = connection.execute(
            select(Answer.engine, func.count())
            .join(PageTask, PageTask.answer_id == Answer.id)
            .where(PageTask.batch_id == batch.id, PageTask.state == TaskState.DONE)
            .group_by(Answer.engine)
            .order_by(Answer.engine)
        )
        end = batch.finished_at or datetime.fromtimestamp(db.now(connection), UTC)
        seconds = max((end - batch.started_at).total_seconds(), 1.0)
        rate = 0.0 if interrupted else _recent_rate(db, connection, batch.id)
        return Status(
            batch=batch,
            files_seen=row.files_seen,
            files_done=row.files_done,
            files_failed=row.files_failed,
            files_rejected=row.files_rejected,
            pages_total=row.pages_total,
            pages_done=row.pages_done,
            pages_failed=row.pages_failed,
            progress=now,
            pages_per_second=rate / max(len(prompts), 1),
            seconds_left=_seconds_left(connection, batch.id, now, rate),
            pages_per_second_overall=row.pages_done / seconds,
            failures=dict(failures.all()),
            engines=dict(engines.all()),
            prompts=prompts,
            worked_on_by=who,
            interrupted=interrupted,
            command=go_on_command(db, batch.command) if batch.command is not None else None,
        )


def pages_done_within(db: Database, batch_id: int, seconds: float) -> int:
    """Pages of which the last seconds brought an answer; those that were answered before are not among them."""
    with db.read() as connection:
        since = datetime.fromtimestamp(db.now(connection) - seconds, UTC)
        done = (PageTask.batch_id == batch_id, PageTask.state == TaskState.DONE, PageTask.finished_at >= since)
        return int(connection.execute(select(func.count(PageTask.page_id.distinct())).where(*done)).scalar_one())


_BATCHES = select(
    Batch.id,
    Batch.public_id,
    Batch.name,
    Batch.state,
    Batch.engine,
    Batch.model,
    Batch.started_at,
    Batch.finished_at,
    Batch.all_seen,
    Batch.command,
).order_by(Batch.id.desc())


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # SQLite gives UTC without saying so


def _seconds_left(connection: Connection, batch_id: int, now: Progress, rate: float) -> float | None:
    """Documents not opened yet count as average ones."""
    documents = dict(
        connection.execute(
            select(Document.state, func.count()).where(Document.batch_id == batch_id).group_by(Document.state)
        ).all()
    )
    waiting = documents.get(DocumentState.PENDING, 0) + documents.get(DocumentState.LEASED, 0)
    opened = max(documents.get(DocumentState.READY, 0), 1)
    expected = now.tasks_pending + now.tasks_leased + waiting * max(now.tasks_total / opened, 1.0)
    return 0.0 if expected == 0 else expected / rate if rate > 0 else None


def _recent_rate(db: Database, connection: Connection, batch_id: int) -> float:
    """Answers a second since the oldest attempt of the last minute, so that a run resumed just now is not diluted."""
    now = datetime.fromtimestamp(db.now(connection), UTC)
    since = datetime.fromtimestamp(now.timestamp() - _WINDOW_SECONDS, UTC)
    latest = select(func.max(TaskAttempt.id) - _WINDOW_ATTEMPTS).scalar_subquery()
    count, oldest = connection.execute(
        select(func.count(), func.min(TaskAttempt.ended_at))
        .join(PageTask, PageTask.id == TaskAttempt.task_id)
        .where(
            TaskAttempt.id > latest,
            TaskAttempt.ended_at >= since,
            TaskAttempt.error.is_(None),
            PageTask.batch_id == batch_id,
        )
    ).one()
    return count / max((now - _utc(oldest)).total_seconds(), 1.0) if count else 0.0
