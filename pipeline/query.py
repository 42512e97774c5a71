"""Every read that is not a user's own SQL: batches and their progress, and full-text search.

What `progress` reads are counts over one covering index and the latest attempts, so that it may be asked every second
while millions of pages wait. `status` adds the exact summary, which looks at each page of the batch once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy import Connection, func, select

from pipeline.answers import storable
from pipeline.database import Database
from pipeline.errors import UsageError
from pipeline.snippets import Snippet, make_snippet
from pipeline.words import query_phrases
from schemas.tables import (
    Answer,
    Batch,
    BatchSource,
    CurrentAnswer,
    Document,
    DocumentState,
    Page,
    PageTask,
    Source,
    TaskAttempt,
    TaskState,
)

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
    started_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts of page tasks (a page under two prompts counts twice) and of documents that wait for their pages."""

    tasks_waiting: int
    tasks_reading: int
    tasks_done: int
    tasks_failed: int
    documents_waiting: int
    pages_per_second: float  # page tasks answered over the last minute
    seconds_left: float | None  # None where nothing was read lately; documents not opened yet count as average ones


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
    pages_per_second_overall: float  # pages done since the batch was first started, pauses included
    failures: dict[str, int]  # cause → rows in `failures`, most frequent first
    engines: dict[str, int]  # engine → pages and prompts that it answered


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
        return [BatchRow(*row) for row in connection.execute(_BATCHES)]


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


def progress(db: Database, batch: BatchRow) -> Progress:
    """What waits and how fast it goes; cheap enough for a progress bar."""
    with db.read() as connection:
        return _progress(db, connection, batch.id)


def status(db: Database, batch: BatchRow) -> Status:
    """The batch's exact counts; costs a look at each of its pages."""
    with db.read() as connection:
        where = {"batch_id": batch.batch_id}
        row = connection.execute(sa.text("SELECT * FROM batch_summary WHERE batch_id = :batch_id"), where).one()
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
        end = _utc(batch.finished_at) if batch.finished_at else datetime.fromtimestamp(db.now(connection), UTC)
        seconds = max((end - _utc(batch.started_at)).total_seconds(), 1.0)
        return Status(
            batch=batch,
            files_seen=row.files_seen,
            files_done=row.files_done,
            files_failed=row.files_failed,
            files_rejected=row.files_rejected,
            pages_total=row.pages_total,
            pages_done=row.pages_done,
            pages_failed=row.pages_failed,
            progress=_progress(db, connection, batch.id),
            pages_per_second_overall=row.pages_done / seconds,
            failures=dict(failures.all()),
            engines=dict(engines.all()),
        )


def search(
    db: Database, words: str, *, prompt: str | None = None, limit: int = 20, batch: BatchRow | None = None
) -> list[Hit]:
    """Pages whose current answer holds all the words, best first.

    Words in double quotes must stand together; a `*` at the end stands for any ending of the last word. All other
    signs are ignored, so any text is a safe query.

    Raises:
        UsageError: no word in the query, or more than 64.
    """
    words = storable(words)
    phrases = query_phrases(words)
    is_prefix = words.rstrip().endswith("*")
    if not phrases:
        raise UsageError(f"no word to search for in {words!r}; try `pagepack search invoice` or `pagepack search 年度`")
    if len(phrases) > _MAX_PHRASES:
        raise UsageError(f"{len(phrases)} words to search for, over the limit of {_MAX_PHRASES}; use fewer")
    with db.read() as connection:
        found = connection.execute(_ranked(db.dialect, phrases, is_prefix, prompt, batch).limit(limit)).all()
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
            snippet=make_snippet(texts[row.answer_id], phrases, is_prefix),
        )
        for row in found
    ]


_BATCHES = select(
    Batch.id, Batch.public_id, Batch.name, Batch.state, Batch.engine, Batch.model, Batch.started_at, Batch.finished_at
).order_by(Batch.id.desc())


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # SQLite gives UTC without saying so


def _progress(db: Database, connection: Connection, batch_id: int) -> Progress:
    tasks = dict(
        connection.execute(
            select(PageTask.state, func.count()).where(PageTask.batch_id == batch_id).group_by(PageTask.state)
        ).all()
    )
    documents = dict(
        connection.execute(
            select(Document.state, func.count()).where(Document.batch_id == batch_id).group_by(Document.state)
        ).all()
    )
    waiting = documents.get(DocumentState.PENDING, 0) + documents.get(DocumentState.LEASED, 0)
    open_tasks = tasks.get(TaskState.PENDING, 0) + tasks.get(TaskState.LEASED, 0)
    rate = _recent_rate(db, connection, batch_id)
    opened = max(documents.get(DocumentState.READY, 0), 1)
    expected = open_tasks + waiting * max(sum(tasks.values()) / opened, 1.0)
    return Progress(
        tasks_waiting=tasks.get(TaskState.PENDING, 0),
        tasks_reading=tasks.get(TaskState.LEASED, 0),
        tasks_done=tasks.get(TaskState.DONE, 0),
        tasks_failed=tasks.get(TaskState.FAILED, 0),
        documents_waiting=waiting,
        pages_per_second=rate,
        seconds_left=0.0 if expected == 0 else expected / rate if rate > 0 else None,
    )


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
    dialect: str, phrases: list[list[str]], is_prefix: bool, prompt: str | None, batch: BatchRow | None
) -> sa.Select[tuple[str, str, int, str, int, float]]:
    """Ranked hits without their texts, which a sort of many hits would drag along."""
    matches = (_matches_postgresql if dialect == "postgresql" else _matches_sqlite)(phrases, is_prefix)
    answer_id, score = sa.column("answer_id", sa.BigInteger), sa.column("score", sa.Float)
    found = matches.columns(answer_id, score).subquery("found")
    query = (
        select(Source.path, Document.public_id, Page.page_index, CurrentAnswer.prompt, found.c.answer_id, found.c.score)
        .select_from(found)
        .join(CurrentAnswer, CurrentAnswer.answer_id == found.c.answer_id)
        .join(Page, Page.id == CurrentAnswer.page_id)
        .join(Document, Document.id == Page.document_id)
        .join(Source, Source.document_id == Document.id)
        .order_by(found.c.score.desc(), Source.path, Page.page_index, CurrentAnswer.prompt)
    )
    if prompt is not None:
        query = query.where(CurrentAnswer.prompt == prompt)
    if batch is not None:
        query = query.join(BatchSource, BatchSource.source_id == Source.id).where(BatchSource.batch_id == batch.id)
    return query


def _matches_sqlite(phrases: list[list[str]], is_prefix: bool) -> sa.TextClause:
    """Terms hold letters and digits only, so none can close the quotes around its phrase."""
    match = " AND ".join(f'"{" ".join(terms)}"' for terms in phrases) + (" *" if is_prefix else "")
    statement = "SELECT rowid AS answer_id, -bm25(page_search) AS score FROM page_search WHERE page_search MATCH :match"
    return sa.text(statement).bindparams(match=match)


def _matches_postgresql(phrases: list[list[str]], is_prefix: bool) -> sa.TextClause:
    queries = [f"phraseto_tsquery('simple', :phrase_{index})" for index in range(len(phrases))]
    values = {f"phrase_{index}": " ".join(terms) for index, terms in enumerate(phrases)}
    if is_prefix:
        queries[-1] = f"to_tsquery('simple', :phrase_{len(phrases) - 1})"
        values[f"phrase_{len(phrases) - 1}"] = " <-> ".join(f"'{term}'" for term in phrases[-1]) + ":*"
    return sa.text(
        "SELECT page_search.rowid AS answer_id, ts_rank(terms, asked.query) AS score "
        f"FROM page_search, (SELECT {' && '.join(queries)} AS query) asked WHERE terms @@ asked.query"
    ).bindparams(**values)
