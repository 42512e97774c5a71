"""What an export holds: every source, and every page under every prompt, with its answer or why it has none; and a row
for each file that was not taken in, in the forms that are tables.

One document is read at a time, in a transaction of its own: memory stays flat, and a run that writes is not held up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm
from sqlalchemy import func, select

from pipeline.database.engine import Database
from pipeline.database.looking import as_moment
from pipeline.errors import NothingToDo
from pipeline.query.batch_status import BatchRow
from pipeline.store.conditions import is_asked_about, is_asked_by
from schemas.states import DocumentState
from schemas.tables import (
    Answer,
    Batch,
    BatchPrompt,
    BatchSource,
    CurrentAnswer,
    Document,
    Page,
    PageTask,
    PromptVersion,
    Source,
)

NOT_DRAWN = "not all of its pages are drawn yet"
_SOURCES_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class ExportedSource:
    """A path, its document where it has one, and why there are no pages where it has none."""

    source_path: str
    document_id: str | None
    page_count: int | None
    cause: str | None
    reason: str | None
    key: int | None  # documents.id
    state: str | None  # of the document
    kind: str | None = None

    @property
    def waits(self) -> bool:
        """Some or all of its pages are not drawn yet, and have no rows."""
        return self.cause is None and self.state in (DocumentState.PENDING, DocumentState.LEASED)


@dataclass(frozen=True, slots=True)
class ExportedPage:
    """One page and prompt: a row of `page_text`, or a page without an answer, whose text is null and cause is not.

    Of a file that was not taken in, or not drawn to its end, there is one row more, without page number and prompt.
    """

    source_path: str
    document_id: str | None
    page_number: int | None
    prompt: str | None
    text: str | None
    engine: str | None
    model: str | None
    finish_reason: str | None
    prompt_tokens: int | None
    output_tokens: int | None
    seconds: float | None
    created_at: datetime | None
    cause: str | None  # `waiting` where it is not read yet
    reason: str | None
    state: str  # done, failed, waiting or rejected
    confidence: float | None = None  # 0 to 1, of the engine in its own reading


def first_and_last_path(db: Database, batch: BatchRow | None) -> tuple[str, str]:
    query = select(func.min(Source.path), func.max(Source.path))
    if batch is None:
        query = query.where(Source.gone_at.is_(None))
    else:
        query = query.join(BatchSource, BatchSource.source_id == Source.id).where(BatchSource.batch_id == batch.id)
    with db.read() as connection:
        first, last = connection.execute(query).one()
    if first is None:
        raise NothingToDo("there is no file to export; `pagepack run PATH` reads some")
    return first, last


def exported_sources(db: Database, batch: BatchRow | None) -> Iterator[ExportedSource]:
    """All sources that are there, by path; of a batch, each with what the batch saw there, whatever lies there now."""
    seen = Source if batch is None else BatchSource
    cause = func.coalesce(seen.cause, Document.cause)
    reason = func.coalesce(seen.reason, Document.reason)
    query = (
        select(
            Source.path,
            Document.public_id,
            Document.page_count,
            cause,
            reason,
            Document.id,
            Document.state,
            Document.kind,
        )
        .select_from(Source)
        .order_by(Source.path)
        .limit(_SOURCES_AT_ONCE)
    )
    if batch is None:
        query = query.where(Source.gone_at.is_(None))
    else:
        query = query.join(BatchSource, BatchSource.source_id == Source.id).where(BatchSource.batch_id == batch.id)
    query = query.outerjoin(Document, Document.id == seen.document_id)
    after: str | None = None
    while True:
        with db.read() as connection:
            rows = connection.execute(query if after is None else query.where(Source.path > after)).all()
        yield from (ExportedSource(*row) for row in rows)
        if len(rows) < _SOURCES_AT_ONCE:
            return
        after = rows[-1][0]


def exported_pages(
    db: Database,
    source: ExportedSource,
    batch: BatchRow | None,
    prompt: str | None,
    versions: Collection[str] | None = None,
) -> Iterator[ExportedPage]:
    """The pages of a source, prompt by prompt and in page order; of these versions of prompts, where they are given."""
    if source.key is None or source.document_id is None:
        return
    with db.read() as connection:
        for name in connection.scalars(_prompts(source.key, batch, prompt, versions)).all():
            rows = connection.execution_options(yield_per=200).execute(pages_query(source.key, name, batch, versions))
            for row in rows:
                values = dict(row._mapping)
                if values["text"] is None and values["cause"] is None:
                    values |= {"cause": "waiting", "reason": "not read yet"}
                if values["created_at"]:
                    values["created_at"] = as_moment(values["created_at"])
                state = "done" if values["cause"] is None else "failed"
                state = "waiting" if values["cause"] == "waiting" else state
                yield ExportedPage(source.source_path, source.document_id, prompt=name, state=state, **values)


def prompts_of(db: Database, source: ExportedSource, batch: BatchRow | None, prompt: str | None) -> list[str]:
    """Names of the prompts that a source was asked with, or of this one if it was."""
    if source.key is None:
        return []
    with db.read() as connection:
        return list(connection.scalars(_prompts(source.key, batch, prompt, None)))


@dataclass(frozen=True, slots=True)
class ReadBy:
    """What gave most of the pages of a document that are not blank, and how sure all were on average."""

    engine: str | None = None
    model: str | None = None
    confidence: float | None = None  # of the pages whose engine says one


def read_by(db: Database, source: ExportedSource, prompt: str, batch: BatchRow | None) -> ReadBy:
    """Of the pages that `exported_pages` gives."""
    if source.key is None:
        return ReadBy()
    pages = pages_query(source.key, prompt, batch, None).order_by(None).subquery()
    of_each = (
        select(pages.c.engine, pages.c.model, func.sum(pages.c.confidence), func.count(pages.c.confidence))
        .where(pages.c.engine.is_not(None))
        .group_by(pages.c.engine, pages.c.model)
        .order_by(pages.c.engine == "blank", func.count().desc(), func.min(pages.c.page_number))
    )
    with db.read() as connection:
        rows = connection.execute(of_each).all()
    if not rows:
        return ReadBy()
    engine, model, *_ = rows[0]
    total, count = (sum(row[column] or 0 for row in rows) for column in (2, 3))
    return ReadBy(engine, model, round(float(total) / count, 3) if count else None)


def not_taken_in(source: ExportedSource) -> ExportedPage | None:
    """The row of a file that was rejected, or failed as a whole; its cause is the file's. Also of one that waits."""
    if source.cause is None and not source.waits:
        return None
    state = "waiting" if source.waits else "failed" if source.state == DocumentState.FAILED else "rejected"
    nothing: dict[str, Any] = dict.fromkeys(field.name for field in fields(ExportedPage))
    told = {"source_path": source.source_path, "document_id": source.document_id, "state": state}
    why = (
        {"cause": "waiting", "reason": NOT_DRAWN} if source.waits else {"cause": source.cause, "reason": source.reason}
    )
    return ExportedPage(**nothing | told | why)


def _prompts(
    document_id: int, batch: BatchRow | None, prompt: str | None, versions: Collection[str] | None
) -> sa.Select[Any]:
    """Names of the prompts that a document was asked with by the batch; else by any, and of its current answers: those
    of a file that no batch sees any more, as an attachment left out again, are shown on."""
    asked = (
        select(PromptVersion.name)
        .join(BatchPrompt, BatchPrompt.prompt_version == PromptVersion.version)
        .join(BatchSource, BatchSource.batch_id == BatchPrompt.batch_id)
        .where(BatchSource.document_id == document_id)
    )
    shown = (
        select(CurrentAnswer.prompt)
        .join(Page, Page.id == CurrentAnswer.page_id)
        .join(Answer, Answer.id == CurrentAnswer.answer_id)
        .where(Page.document_id == document_id)
    )
    if batch is not None:
        asked = asked.where(BatchSource.batch_id == batch.id)
    if prompt is not None:
        asked, shown = asked.where(PromptVersion.name == prompt), shown.where(CurrentAnswer.prompt == prompt)
    if versions is not None:
        asked = asked.where(PromptVersion.version.in_(versions))
        shown = shown.where(Answer.prompt_version.in_(versions))
    names = (asked if batch is not None else asked.union(shown)).subquery()
    return select(names.c.name).distinct().order_by(names.c.name)


def _batches_that_ask(document_id: int, prompt: str, versions: Collection[str] | None) -> sa.Select[Any]:
    asking = (
        select(Batch.id)
        .join(BatchSource, BatchSource.batch_id == Batch.id)
        .join(BatchPrompt, BatchPrompt.batch_id == Batch.id)
        .join(PromptVersion, PromptVersion.version == BatchPrompt.prompt_version)
        .where(BatchSource.document_id == document_id, PromptVersion.name == prompt)
    )
    return asking if versions is None else asking.where(PromptVersion.version.in_(versions))


def pages_query(
    document_id: int, prompt: str, batch: BatchRow | None, versions: Collection[str] | None
) -> sa.Select[Any]:
    """Each page that was asked about, with its current answer, or why it has none: its own failure, or that of the
    latest task."""
    one = sa.orm.aliased(Answer)
    task = (
        select(func.max(PageTask.id))
        .join(PromptVersion, PromptVersion.version == PageTask.prompt_version)
        .where(PageTask.page_id == Page.id, PromptVersion.name == prompt)
        .correlate(Page)
    )
    if batch is None:
        batches = _batches_that_ask(document_id, prompt, versions).where(is_asked_about())
        asked = sa.or_(Answer.id.is_not(None), PageTask.id.is_not(None), batches.correlate(Page).exists())
    else:
        task = task.join(Batch, Batch.model == PageTask.model).where(Batch.id == batch.id)
        asked = is_asked_by(batch.id)
    shown: sa.ColumnElement[Any] = CurrentAnswer.answer_id.expression
    if versions is not None:  # the current answer where it is one to them, else the latest that is
        task = task.where(PromptVersion.version.in_(versions))
        of_them = select(one.id).where(one.id == CurrentAnswer.answer_id, one.prompt_version.in_(versions))
        shown = func.coalesce(of_them.scalar_subquery(), PageTask.answer_id)
    is_absent = Answer.id.is_(None)
    columns: list[Any] = [
        (Page.page_index + 1).label("page_number"),
        Answer.text,
        Answer.engine,
        Answer.model,
        Answer.finish_reason,
        Answer.prompt_tokens,
        Answer.output_tokens,
        Answer.seconds,
        Answer.created_at,
        Answer.confidence,
        sa.case((is_absent, func.coalesce(Page.cause, PageTask.cause))).label("cause"),
        sa.case((is_absent, func.coalesce(Page.reason, PageTask.reason))).label("reason"),
    ]
    return (
        select(*columns)
        .select_from(Page)
        .outerjoin(CurrentAnswer, (CurrentAnswer.page_id == Page.id) & (CurrentAnswer.prompt == prompt))
        .outerjoin(PageTask, PageTask.id == task.scalar_subquery())
        .outerjoin(Answer, Answer.id == shown)
        .where(Page.document_id == document_id, asked)
        .order_by(Page.page_index)
    )
