"""Batches: what a user asked for, the files that were seen for it, and the page tasks that follow.

Everything here may run twice: rows are found again by their natural keys (a batch by its key, a source by its path, a
document by its content, a task by page, prompt and model), so repeating a command resumes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, delete, select, update

from pipeline.answers import AnswerKey, ReadAnswer, Settled, put_answers, settle
from pipeline.database.dialect import insert_for
from pipeline.database.engine import Database
from pipeline.database.retry import retried
from pipeline.errors import DocumentRejected
from pipeline.notices import forget_notices, forget_outdated, note_all_ended
from schemas.columns import server_now
from schemas.prompts import Prompt
from schemas.tables import (
    Batch,
    BatchPages,
    BatchPrompt,
    BatchSource,
    BatchState,
    CurrentAnswer,
    Document,
    DocumentState,
    Page,
    PageTask,
    PromptVersion,
    Source,
    TaskState,
    TextLayer,
    utc_now,
    uuid7,
)

TEXT_LAYER = "+text-layer"
"""Ends the wished model of batches that take a PDF's own text where it has some; what is read is read by the model."""

OF_THE_PATH = ("missing", "unreadable", "changed", "empty", "special", "symlink")
"""Causes that are a path's own; the others are the content's, and the same content fails the same way again."""

SUPERSEDED = "superseded"
"""Cause of a task that waited when its batch was asked for again with another model or prompt."""

CANCELLED = "cancelled"
"""Cause of what was not done when its batch was cancelled; asked for again, it waits again."""


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


@dataclass(frozen=True, slots=True)
class OpenBatch:
    id: int
    public_id: str
    name: str


@retried
def open_batch(
    db: Database,
    *,
    key: str,
    name: str,
    prompts: Sequence[Prompt],
    engine: str,
    model: str,
    text_layer: str,
    pages: Sequence[tuple[int, int]] = (),
    priority: int = 0,
    notify: str | None = None,
    all_seen: bool = True,
    reopens: bool = True,
) -> OpenBatch:
    """Find the batch of this key again and set it running, or make it; what is asked now replaces what was asked.

    `pages` are ranges of page indexes, first and last, to ask about in each document; none given means all. `notify`
    (`TASK` or `TASK@QUEUE`) is sent for each document that is done. Without `all_seen` the batch does not finish before
    `mark_all_seen`. Without `reopens` one that was paused or cancelled stays so.
    """
    with db.write() as connection:
        insert = insert_for(connection)
        for prompt in prompts:
            parameters = {field: value for field, value in asdict(prompt).items() if field not in ("name", "text")}
            connection.execute(
                insert(PromptVersion)
                .values(version=prompt.version, name=prompt.name, text=prompt.text, parameters=parameters)
                .on_conflict_do_nothing()
            )
        asked = {
            "engine": engine,
            "model": model + (TEXT_LAYER if text_layer == "prefer" else ""),
            "text_layer": text_layer,
            "all_pages": not pages,
            "all_seen": all_seen,
            "priority": priority,
            "notify": notify,
            "state": BatchState.RUNNING,
            "finished_at": None,
        }
        again: dict[str, Any] = dict(asked)
        if not reopens:
            is_held = Batch.state.in_([BatchState.PAUSED, BatchState.CANCELLED])
            again["state"] = sa.case((is_held, Batch.state), else_=str(BatchState.RUNNING))
            again["finished_at"] = sa.case((is_held, Batch.finished_at), else_=None)
        row = connection.execute(
            insert(Batch)
            .values(public_id=uuid7(), key=key, name=name, started_at=server_now(), **asked)
            .on_conflict_do_update(index_elements=["key"], set_=again)
            .returning(Batch.id, Batch.public_id, Batch.name, Batch.state)
        ).one()
        versions = [prompt.version for prompt in prompts]
        is_old = sa.or_(PageTask.model != asked["model"], PageTask.prompt_version.not_in(versions))
        supersede(connection, PageTask.batch_id == row.id, is_old)
        if row.state != BatchState.CANCELLED:
            documents = (Document.batch_id == row.id, Document.state == "failed", Document.cause == CANCELLED)
            connection.execute(update(Document).where(*documents).values(_WAITS_AGAIN))
            tasks = (PageTask.batch_id == row.id, PageTask.state == "failed", PageTask.cause == CANCELLED, ~is_old)
            connection.execute(update(PageTask).where(*tasks).values(_WAITS_AGAIN))
        for table in (BatchPrompt, BatchPages):
            connection.execute(delete(table).where(table.batch_id == row.id))
        for version in {prompt.version for prompt in prompts}:
            connection.execute(insert(BatchPrompt).values(batch_id=row.id, prompt_version=version))
        for first, last in pages:
            connection.execute(insert(BatchPages).values(batch_id=row.id, first_index=first, last_index=last))
        return OpenBatch(row.id, row.public_id, row.name)


def supersede(connection: Connection, *which: sa.ColumnElement[bool]) -> None:
    """Nobody asks for these waiting tasks any more."""
    superseded = {"state": TaskState.FAILED, "cause": SUPERSEDED, "reason": "asked otherwise", "rung_at": None}
    waiting = update(PageTask).where(PageTask.state == TaskState.PENDING, *which)
    connection.execute(waiting.values(**superseded, finished_at=utc_now()))


def known_files(db: Database, paths: Sequence[str]) -> dict[str, tuple[int, int, str, str, str | None]]:
    """Path → (size, modified_ns, kind, content hash, location) of files taken in before: unchanged ones need no
    second hash. The location is None where no worker has opened it yet.
    """
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
        return {row.path: tuple(row)[1:] for row in rows}


@retried
def record_files(db: Database, batch: OpenBatch, files: Sequence[SeenFile], seen_at: datetime | None = None) -> None:
    """Store what was seen, in one transaction, with the tasks of pages that are known already.

    A batch that has finished meanwhile goes on: another command that registers the same one came to its end first. One
    that was cancelled meanwhile sees nothing more, and one that is paused takes nothing from a batch that is running.
    """
    moment = seen_at or utc_now()
    with db.write() as connection:
        insert = insert_for(connection)
        state = connection.scalar(select(Batch.state).where(Batch.id == batch.id).with_for_update(key_share=True))
        if state == BatchState.CANCELLED:
            return
        if state == BatchState.FINISHED:
            connection.execute(update(Batch).where(Batch.id == batch.id).values(_RUNS_AGAIN))
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
                    }
                    for content_hash, file in sorted(taken.items())  # as every other submitter: none waits for ever
                ],
            )
        ids = dict(
            connection.execute(select(Document.content_hash, Document.id).where(Document.content_hash.in_(taken))).all()
        )
        source = insert(Source)
        fields = ("location", "document_id", "size_bytes", "modified_ns", "cause", "reason", "seen_at")
        connection.execute(
            source.on_conflict_do_update(
                index_elements=["path"], set_={field: source.excluded[field] for field in fields}
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
                }
                for file in sorted(files, key=lambda file: file.path)
            ],
        )
        as_seen = ("document_id", "cause", "reason", "seen_at")
        seen = insert(BatchSource).from_select(
            ["batch_id", "source_id", *as_seen],
            select(sa.literal(batch.id), Source.id, *(getattr(Source, field) for field in as_seen)).where(
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
        is_free = _waits_for_none(Document.batch_id) if state == BatchState.PAUSED else sa.true()
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
            waits = update(Document).where(*ended).values(**_WAITS_AGAIN, batch_id=batch.id)
            again += connection.scalars(waits.returning(Document.id))
        undrawn = select(Page.id).where(Page.document_id.in_(documents), Page.image_freed_at.is_not(None))
        of_path = (PageTask.state == TaskState.FAILED, PageTask.cause.in_(OF_THE_PATH), PageTask.page_id.in_(undrawn))
        tasks = update(PageTask).where(PageTask.batch_id == batch.id, *of_path)
        tasks = tasks.values(**_WAITS_AGAIN, next_attempt_at=0.0)
        reopen(connection, again, connection.scalars(tasks.returning(PageTask.id)).all())
        ensure_tasks(connection, batch.id, documents)
        forget_outdated(connection, batch.id, documents)


_WAITS_AGAIN = {"state": "pending", "cause": None, "reason": None, "rung_at": None, "finished_at": None}


_RUNS_AGAIN = {"state": BatchState.RUNNING, "finished_at": None}


def reopen(connection: Connection, documents: Collection[int], task_ids: Collection[int]) -> None:
    """Documents that are drawn again, and tasks that are read again: whoever shares them is told of them again.

    None of those batches may say that it is finished while a file of it waits. One that shares a document, but asks for
    none of the tasks, has said its last.
    """
    if not documents and not task_ids:
        return
    ranges = select(BatchPages.batch_id).where(
        BatchPages.batch_id == Batch.id, Page.page_index.between(BatchPages.first_index, BatchPages.last_index)
    )
    asked = sa.and_(BatchPrompt.batch_id == Batch.id, BatchPrompt.prompt_version == PageTask.prompt_version)
    asking = (
        select(BatchSource.batch_id, BatchSource.document_id)
        .join(Page, Page.document_id == BatchSource.document_id)
        .join(PageTask, PageTask.page_id == Page.id)
        .join(Batch, sa.and_(Batch.id == BatchSource.batch_id, Batch.model == PageTask.model))
        .join(BatchPrompt, asked)
        .where(PageTask.id.in_(task_ids), sa.or_(Batch.all_pages, ranges.correlate(Batch, Page).exists()))
    )
    sharing = select(BatchSource.batch_id, BatchSource.document_id).where(BatchSource.document_id.in_(documents))
    rows = connection.execute(sa.union(asking, sharing)).all()
    batches = {row.batch_id for row in rows}
    # Locked whatever their states are: one that is about to finish has looked at its documents as they were.
    locked = select(Batch.id).where(Batch.id.in_(batches)).order_by(Batch.id)
    connection.execute(locked.with_for_update(key_share=True)).all()
    forget_notices(connection, {row.document_id for row in rows}, batches)
    finished = (Batch.id.in_(batches), Batch.state == BatchState.FINISHED)
    connection.execute(update(Batch).where(*finished).values(_RUNS_AGAIN))


def is_asked_about(batch_id: int) -> sa.ColumnElement[bool]:
    """Whether a batch asks about the `Page` of the enclosing statement: about all, or within its ranges."""
    ranges = select(BatchPages.batch_id).where(BatchPages.batch_id == batch_id)
    inside = ranges.where(Page.page_index.between(BatchPages.first_index, BatchPages.last_index))
    return sa.or_(~ranges.exists(), inside.correlate(Page).exists())


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
    """Take files out of the batch that the walk which began at `since` did not meet: they are gone from its paths."""
    with db.write() as connection:
        connection.execute(delete(BatchSource).where(BatchSource.batch_id == batch.id, BatchSource.seen_at < since))


def ensure_tasks(
    connection: Connection, batch_id: int, documents: Sequence[int], first_page: int = 0, show: bool = True
) -> None:
    """The batch's tasks for the pages of these documents: new ones made, waiting ones taken over, done ones shown.

    Without `show` the pages keep the answers that they show, and other running batches their tasks: the batch was asked
    for before. They keep them, too, where the batch is paused.
    """
    insert = insert_for(connection)
    batch = connection.execute(select(Batch.state, Batch.model, Batch.text_layer).where(Batch.id == batch_id)).one()
    versions = select(BatchPrompt.prompt_version).where(BatchPrompt.batch_id == batch_id)
    asked = (Page.document_id.in_(documents), Page.page_index >= first_page, is_asked_about(batch_id))
    pages = select(Page.id).where(*asked)
    own = sa.and_(PageTask.page_id.in_(pages), PageTask.model == batch.model, PageTask.prompt_version.in_(versions))
    wanted = (
        select(
            Page.id,
            BatchPrompt.prompt_version,
            sa.literal(batch.model),
            sa.literal(batch_id),
            sa.literal(str(TaskState.PENDING)),
            *(sa.literal(0) for _ in range(4)),
        )
        .join(BatchPrompt, BatchPrompt.batch_id == batch_id)
        .where(*asked, Page.image_hash.is_not(None))
        .order_by(Page.document_id, Page.page_index)
    )
    columns = ["page_id", "prompt_version", "model", "batch_id", "state", "token", "attempts", "crashes"]
    connection.execute(insert(PageTask).from_select([*columns, "next_attempt_at"], wanted).on_conflict_do_nothing())
    asked_there = select(Batch.model).where(Batch.id == PageTask.batch_id).scalar_subquery()
    is_dropped = sa.or_(_waits_for_none(PageTask.batch_id), PageTask.model != asked_there)
    takes_all = show and batch.state == BatchState.RUNNING
    others = PageTask.batch_id != batch_id if takes_all else is_dropped
    connection.execute(
        update(PageTask).where(own, PageTask.state == TaskState.PENDING, others).values(batch_id=batch_id, rung_at=None)
    )
    dropped = (PageTask.state == TaskState.FAILED, PageTask.cause.in_([SUPERSEDED, CANCELLED]))
    connection.execute(update(PageTask).where(own, *dropped).values(**_WAITS_AGAIN, batch_id=batch_id))
    if batch.text_layer == "prefer":
        _settle_from_text_layer(connection, own)
    if not show:
        return
    shown = insert(CurrentAnswer).from_select(
        ["page_id", "prompt", "answer_id"],
        select(PageTask.page_id, PromptVersion.name, PageTask.answer_id)
        .join(PromptVersion, PromptVersion.version == PageTask.prompt_version)
        .where(own, PageTask.state == TaskState.DONE),
    )
    connection.execute(
        shown.on_conflict_do_update(index_elements=["page_id", "prompt"], set_={"answer_id": shown.excluded.answer_id})
    )


def _waits_for_none(batch_id: sa.orm.InstrumentedAttribute[int]) -> sa.ColumnElement[bool]:
    """Whether the batch that a row waits for gives nothing out.

    Batches that share pages try to finish in turn: one that took what waits for another, which is rung for, would lose
    it to the next one before its own turn to ring.
    """
    return batch_id.not_in(select(Batch.id).where(Batch.state == BatchState.RUNNING))


_TEXTS_AT_ONCE = 1_000


def _settle_from_text_layer(connection: Connection, own: sa.ColumnElement[bool]) -> None:
    """Where a PDF page carries text and the user prefers it, that text is the answer to `ocr`."""
    rows = connection.execute(
        select(
            PageTask.id, PageTask.page_id, PageTask.prompt_version, PromptVersion.name, Page.image_hash, TextLayer.text
        )
        .join(PromptVersion, PromptVersion.version == PageTask.prompt_version)
        .join(Page, Page.id == PageTask.page_id)
        .join(TextLayer, TextLayer.page_id == Page.id)
        .where(own, PageTask.state == TaskState.PENDING, PromptVersion.name == "ocr")
        .order_by(PageTask.id)
        .with_for_update(of=PageTask)
    ).all()
    answers: list[tuple[AnswerKey, ReadAnswer]] = []
    settled: list[tuple[int, int, str, AnswerKey]] = []
    for row in rows:
        if row.text.strip():
            # Equal pixels may carry unequal text, so the text is part of what answers.
            model = f"text-layer/{hashlib.sha256(row.text.encode()).hexdigest()[:16]}"
            answer = ReadAnswer(engine="text-layer", model=model, text=row.text, finish_reason="stop")
            key = AnswerKey(row.image_hash, row.prompt_version, model)
            answers.append((key, answer))
            settled.append((row.id, row.page_id, row.name, key))
    for start in range(0, len(settled), _TEXTS_AT_ONCE):
        ids = put_answers(connection, answers[start : start + _TEXTS_AT_ONCE])
        some = settled[start : start + _TEXTS_AT_ONCE]
        settle(connection, [Settled(task_id, page_id, prompt, ids[key]) for task_id, page_id, prompt, key in some])


def running_batches(db: Database) -> list[tuple[OpenBatch, int]]:
    """Those that are neither paused nor ended, the oldest first, with their priorities."""
    with db.read() as connection:
        rows = connection.execute(
            select(Batch.id, Batch.public_id, Batch.name, Batch.priority)
            .where(Batch.state == BatchState.RUNNING)
            .order_by(Batch.id)
        )
        return [(OpenBatch(row.id, row.public_id, row.name), row.priority) for row in rows]


@retried
def mark_all_seen(db: Database, batch: OpenBatch) -> None:
    """The walk through the batch's paths is through: it may finish."""
    with db.write() as connection:
        connection.execute(update(Batch).where(Batch.id == batch.id).values(all_seen=True))


def finish_batches(db: Database) -> None:
    """Close every running batch of which nothing waits: a retried document may have reopened several."""
    for batch, _ in running_batches(db):
        finish_batch(db, batch)


@retried
def finish_batch(db: Database, batch: OpenBatch) -> bool:
    """Close the batch where nothing of it waits any more; False where something does.

    First makes sure of its tasks: a page stored while the batch was being registered may have missed it. And at the
    end of its notices: a document may have been done before the batch asked about it.
    """
    with db.read(
        by_key=True
    ) as connection:  # cheap looks first: the rest costs a walk through all documents of the batch
        seen = (Batch.id == batch.id, Batch.all_seen)
        own = (PageTask.batch_id == batch.id, PageTask.state.in_([TaskState.PENDING, TaskState.LEASED]))
        if connection.scalar(select(Batch.id).where(*seen)) is None:
            return False
        if connection.scalar(select(PageTask.id).where(*own).limit(1)) is not None:
            return False
    with db.write() as connection:
        running = (Batch.id == batch.id, Batch.state == BatchState.RUNNING)
        if connection.scalar(select(Batch.id).where(*running).with_for_update()) is None:
            return False  # paused or cancelled meanwhile
        documents = select(BatchSource.document_id).where(
            BatchSource.batch_id == batch.id, BatchSource.document_id.is_not(None)
        )
        ids = [document_id for document_id in connection.scalars(documents.distinct()) if document_id is not None]
        open_documents = select(Document.id).where(
            Document.id.in_(documents), Document.state.in_([DocumentState.PENDING, DocumentState.LEASED])
        )
        if connection.scalar(open_documents.limit(1)) is not None:
            # One that went back to ingest waits for the batch that saw it first; now it waits for this one.
            connection.execute(
                update(Document)
                .where(Document.id.in_(documents), Document.state == DocumentState.PENDING)
                .where(_waits_for_none(Document.batch_id))
                .values(batch_id=batch.id, rung_at=None)
            )
            return False
        for start in range(0, len(ids), 500):
            ensure_tasks(connection, batch.id, ids[start : start + 500], show=False)
        open_tasks = (
            select(PageTask.id)
            .join(Page, Page.id == PageTask.page_id)
            .join(Batch, (Batch.id == batch.id) & (Batch.model == PageTask.model))
            .join(
                BatchPrompt,
                (BatchPrompt.batch_id == batch.id) & (BatchPrompt.prompt_version == PageTask.prompt_version),
            )
            .where(Page.document_id.in_(documents), PageTask.state.in_([TaskState.PENDING, TaskState.LEASED]))
            .where(is_asked_about(batch.id))
        )
        if connection.scalar(open_tasks.limit(1)) is not None:
            return False
        note_all_ended(connection, batch.id)
        connection.execute(
            update(Batch)
            .where(Batch.id == batch.id, Batch.state == BatchState.RUNNING)
            .values(state=BatchState.FINISHED, finished_at=server_now())
        )
        return True
