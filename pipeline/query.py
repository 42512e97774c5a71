"""Every read that is not a user's own SQL: batches and their progress, and full-text search.

`status` looks at each page of the batch once, and at the latest attempts; a run that wants to know how far it is asks
`progress.py`, which is cheaper.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy import Connection, func, select

from pipeline.database.engine import Database
from pipeline.errors import UsageError
from pipeline.progress import Progress
from pipeline.progress import progress as count_progress
from pipeline.snippets import Snippet, make_snippet
from pipeline.words import Phrase, query_phrases
from schemas.tables import (
    Answer,
    Batch,
    BatchPrompt,
    BatchSource,
    CurrentAnswer,
    Document,
    DocumentState,
    Page,
    PageTask,
    PromptVersion,
    Source,
    TaskAttempt,
    TaskState,
)
from schemas.text import storable
from schemas.views import summary_of_batch

_WINDOW_SECONDS = 60.0
_WINDOW_ATTEMPTS = 60_000  # as many of the latest attempts are looked at: a minute at 1,000 pages/s
_MAX_PHRASES = 64  # FTS5's parser has an end; nobody types more


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
    pages_per_second: float  # page tasks answered over the last minute
    seconds_left: float | None  # None where nothing was read lately
    pages_per_second_overall: float  # pages done since the batch was first started, pauses included
    failures: dict[str, int]  # cause → rows in `failures`, most frequent first
    engines: dict[str, int]  # engine → pages and prompts that it answered
    prompts: list[str]  # names of what is asked about each page


@dataclass(frozen=True, slots=True)
class Hit:
    """A page that holds all the words; `score` grows with relevance and compares within one search only."""

    source_path: str
    document_id: str
    page_number: int
    prompt: str
    score: float
    snippet: Snippet


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
    raise UsageError(f"no batch has the id or name {ref!r}; the latest are {candidates}")


def batch_state(db: Database, batch_id: int) -> str:
    """One of BatchState."""
    with db.read() as connection:
        return connection.execute(select(Batch.state).where(Batch.id == batch_id)).scalar_one()


def asked_prompts(db: Database, batch_id: int) -> list[str]:
    """Names of the prompts that a batch asks, in their order."""
    asked = select(PromptVersion.name).join(BatchPrompt, BatchPrompt.prompt_version == PromptVersion.version)
    with db.read() as connection:
        return list(connection.scalars(asked.where(BatchPrompt.batch_id == batch_id).order_by(PromptVersion.name)))


def check_prompt(db: Database, name: str) -> None:
    """Raises UsageError where no page was ever asked this; the message names the prompts that there are."""
    with db.read() as connection:
        known = connection.scalars(select(PromptVersion.name).distinct().order_by(PromptVersion.name)).all()
    if name not in known:
        raise UsageError(f"no page was asked the prompt {name!r}; known are {', '.join(known) or 'none yet'}")


def paths_not_taken_in(db: Database, batch: BatchRow) -> set[str]:
    """Files without a document, which a repeated run looks at again: of a kind that is not read, gone, links…"""
    with db.read() as connection:
        seen = select(Source.path).join(BatchSource, BatchSource.source_id == Source.id)
        return set(connection.scalars(seen.where(BatchSource.batch_id == batch.id, BatchSource.document_id.is_(None))))


def status(db: Database, batch: BatchRow) -> Status:
    """The batch's exact counts; costs a look at each of its pages."""
    now = count_progress(db, batch.id)
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
        rate = _recent_rate(db, connection, batch.id)
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
            pages_per_second=rate,
            seconds_left=_seconds_left(connection, batch.id, now, rate),
            pages_per_second_overall=row.pages_done / seconds,
            failures=dict(failures.all()),
            engines=dict(engines.all()),
            prompts=asked_prompts(db, batch.id),
        )


def search(
    db: Database, words: str, *, prompt: str | None = None, limit: int = 20, batch: BatchRow | None = None
) -> list[Hit]:
    """Pages whose current answer holds all the words, best first; of a batch, in the files as it saw them.

    Words in double quotes must stand together; a `*` after a word, or after the quotes, stands for any ending. All
    other signs are ignored, so any text is a safe query.

    Raises:
        UsageError: no word in the query, or more than 64; a prompt that no page was asked.
    """
    words = storable(words)
    phrases = query_phrases(words)
    if not phrases:
        raise UsageError(f"no word to search for in {words!r}; try `pagepack search invoice` or `pagepack search 年度`")
    if len(phrases) > _MAX_PHRASES:
        raise UsageError(f"{len(phrases)} words to search for, over the limit of {_MAX_PHRASES}; use fewer")
    if prompt is not None:
        check_prompt(db, prompt)
    with db.read() as connection:
        found = connection.execute(_ranked(db.dialect, phrases, prompt, batch).limit(limit)).all()
        texts = dict(
            connection.execute(
                select(Answer.id, Answer.text).where(Answer.id.in_({row.answer_id for row in found}))
            ).all()
        )
    return [
        Hit(
            source_path=row.path,
            document_id=row.public_id,
            page_number=row.page_index + 1,
            prompt=row.prompt,
            score=row.score,
            snippet=make_snippet(texts[row.answer_id], phrases),
        )
        for row in found
    ]


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


def _ranked(
    dialect: str, phrases: list[Phrase], prompt: str | None, batch: BatchRow | None
) -> sa.Select[tuple[str, str, int, str, int, float]]:
    """Ranked hits without their texts, which a sort of many hits would drag along."""
    matches = (_matches_postgresql if dialect == "postgresql" else _matches_sqlite)(phrases)
    answer_id, score = sa.column("answer_id", sa.BigInteger), sa.column("score", sa.Float)
    found = matches.columns(answer_id, score).subquery("found")
    query = (
        select(Source.path, Document.public_id, Page.page_index, CurrentAnswer.prompt, found.c.answer_id, found.c.score)
        .select_from(found)
        .join(CurrentAnswer, CurrentAnswer.answer_id == found.c.answer_id)
        .join(Page, Page.id == CurrentAnswer.page_id)
        .join(Document, Document.id == Page.document_id)
        .order_by(found.c.score.desc(), Source.path, Page.page_index, CurrentAnswer.prompt)
    )
    if prompt is not None:
        query = query.where(CurrentAnswer.prompt == prompt)
    if batch is None:
        return query.join(Source, Source.document_id == Document.id)
    seen = query.join(BatchSource, BatchSource.document_id == Document.id).where(BatchSource.batch_id == batch.id)
    return seen.join(Source, Source.id == BatchSource.source_id)  # what lies there now may be another document


def _matches_sqlite(phrases: list[Phrase]) -> sa.TextClause:
    """Terms hold letters and digits only, so none can close the quotes around its phrase."""
    match = " AND ".join(f'"{" ".join(terms)}"' + (" *" if is_prefix else "") for terms, is_prefix in phrases)
    statement = "SELECT rowid AS answer_id, -bm25(page_search) AS score FROM page_search WHERE page_search MATCH :match"
    return sa.text(statement).bindparams(match=match)


def _matches_postgresql(phrases: list[Phrase]) -> sa.TextClause:
    """Built here and not by the server's parser, which would break words in other places than ours."""
    wanted = [" <-> ".join(f"'{term}'" for term in terms) + (":*" if is_prefix else "") for terms, is_prefix in phrases]
    return sa.text(
        "SELECT page_search.rowid AS answer_id, ts_rank(terms, CAST(:wanted AS tsquery)) AS score "
        "FROM page_search WHERE terms @@ CAST(:wanted AS tsquery)"
    ).bindparams(wanted=" & ".join(f"({phrase})" for phrase in wanted))
