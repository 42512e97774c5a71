"""Batches: what a user asked for, the files that were seen for it, and the page tasks that follow.

Everything here may run twice: rows are found again by their natural keys (a batch by its key, a source by its path, a
document by its content, a task by page, prompt and model), so repeating a command resumes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
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


def record_files(db: Database, batch: OpenBatch, files: Sequence[SeenFile], seen_at: datetime | None = None) -> None:
    """Store what was seen, in one transaction, then the tasks of pages that are known already, in as many as it takes.

    Who dies in between has not seen all, and sees these files again; and a batch makes sure of its tasks at its end.
    A batch that has finished meanwhile goes on: another command that registers the same one came to its end first. One
    that was cancelled meanwhile sees nothing more, and one that is paused takes nothing from a batch that is running.
    """
    pages = _record(db, batch, files, seen_at or utc_now())
    for documents, first_page, last_page in _in_parts(pages):
        _ask(db, batch.id, documents, first_page, last_page)


@retried
def _record(db: Database, batch: OpenBatch, files: Sequence[SeenFile], moment: datetime) -> Sequence[sa.Row[int, int]]:
    """The documents of these files that have pages already, with the number of their pages."""
    with db.write() as connection:
        insert = insert_for(connection)
        state = connection.scalar(select(Batch.state).where(Batch.id == batch.id).with_for_update(key_share=True))
        if state == BatchState.CANCELLED:
            return []
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
        pages = select(Page.document_id, sa.func.max(Page.page_index) + 1).where(Page.document_id.in_(documents))
        return connection.execute(pages.group_by(Page.document_id).order_by(Page.document_id)).all()


@retried
def _ask(db: Database, batch_id: int, documents: Sequence[int], first_page: int, last_page: int) -> None:
    with db.write() as connection:
        locked = select(Batch.state).where(Batch.id == batch_id).with_for_update(key_share=True)
        if connection.scalar(locked) != BatchState.CANCELLED:
            ensure_tasks(connection, batch_id, documents, first_page, last_page)
            forget_outdated(connection, batch_id, documents)


_PAGES_A_TRANSACTION = 500  # a fraction of a second, even where the text of each becomes its answer
_LAST_PAGE = 2**31 - 1


def _in_parts(pages: Iterable[Sequence[int]]) -> Iterator[tuple[list[int], int, int]]:
    """Documents, given with their numbers of pages, as (documents, first page, last page) for a transaction each."""
    some: list[int] = []
    count = 0
    for document_id, num_pages in pages:
        if num_pages > _PAGES_A_TRANSACTION:
            for first in range(0, num_pages, _PAGES_A_TRANSACTION):
                yield [document_id], first, first + _PAGES_A_TRANSACTION - 1
            continue
        if count + num_pages > _PAGES_A_TRANSACTION:
            yield some, 0, _LAST_PAGE
            some, count = [], 0
        some.append(document_id)
        count += num_pages
    if some:
        yield some, 0, _LAST_PAGE


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
    connection: Connection,
    batch_id: int,
    documents: Sequence[int],
    first_page: int = 0,
    last_page: int = _LAST_PAGE,
    show: bool = True,
) -> None:
    """The batch's tasks for the pages of these documents: new ones made, waiting ones taken over, done ones shown.

    Without `show` the pages keep the answers that they show, and other running batches their tasks: the batch was asked
    for before. They keep them, too, where the batch is paused.
    """
    insert = insert_for(connection)
    batch = connection.execute(select(Batch.state, Batch.model, Batch.text_layer).where(Batch.id == batch_id)).one()
    versions = select(BatchPrompt.prompt_version).where(BatchPrompt.batch_id == batch_id)
    which = (Page.document_id.in_(documents), Page.page_index.between(first_page, last_page))
    asked = (*which, is_asked_about(batch_id))
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
    takes_all = show and batch.state == BatchState.RUNNING
    others = PageTask.batch_id != batch_id if takes_all else _is_left_behind()
    connection.execute(
        update(PageTask).where(own, PageTask.state == TaskState.PENDING, others).values(batch_id=batch_id, rung_at=None)
    )
    connection.execute(update(PageTask).where(own, _IS_DROPPED).values(**_WAITS_AGAIN, batch_id=batch_id))
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
    return batch_id.not_in(select(Batch.id).where(Batch.state == BatchState.RUNNING).correlate(None))


def _is_left_behind() -> sa.ColumnElement[bool]:
    """Whether a task waits for a batch that gives nothing out, or that was asked for again with another model."""
    asked_there = select(Batch.model).where(Batch.id == PageTask.batch_id).correlate(PageTask).scalar_subquery()
    return sa.or_(_waits_for_none(PageTask.batch_id), PageTask.model != asked_there)


_TEXTS_AT_ONCE = 200  # some megabytes, of pages full of text


def _settle_from_text_layer(connection: Connection, own: sa.ColumnElement[bool]) -> None:
    """Where a PDF page carries text and the user prefers it, that text is the answer to `ocr`.

    Memory holds the ids of all that wait, and some texts at a time.
    """
    waiting = (
        select(PageTask.id)
        .join(PromptVersion, PromptVersion.version == PageTask.prompt_version)
        .join(TextLayer, TextLayer.page_id == PageTask.page_id)
        .where(own, PageTask.state == TaskState.PENDING, PromptVersion.name == "ocr")
        .order_by(PageTask.id)
        .with_for_update(of=PageTask)
    )
    ids = connection.scalars(waiting).all()
    for start in range(0, len(ids), _TEXTS_AT_ONCE):
        _settle_some_from_text_layer(connection, ids[start : start + _TEXTS_AT_ONCE])


def _settle_some_from_text_layer(connection: Connection, task_ids: Sequence[int]) -> None:
    rows = connection.execute(
        select(
            PageTask.id, PageTask.page_id, PageTask.prompt_version, PromptVersion.name, Page.image_hash, TextLayer.text
        )
        .join(PromptVersion, PromptVersion.version == PageTask.prompt_version)
        .join(Page, Page.id == PageTask.page_id)
        .join(TextLayer, TextLayer.page_id == Page.id)
        .where(PageTask.id.in_(task_ids))
        .order_by(PageTask.id)
    )
    answers: list[tuple[AnswerKey, ReadAnswer]] = []
    read: list[tuple[int, int, str, AnswerKey]] = []
    for row in rows:
        if row.text.strip():
            # Equal pixels may carry unequal text, so the text is part of what answers.
            model = f"text-layer/{hashlib.sha256(row.text.encode()).hexdigest()[:16]}"
            answer = ReadAnswer(engine="text-layer", model=model, text=row.text, finish_reason="stop")
            key = AnswerKey(row.image_hash, row.prompt_version, model)
            answers.append((key, answer))
            read.append((row.id, row.page_id, row.name, key))
    ids = put_answers(connection, answers)
    settle(connection, [Settled(task_id, page_id, prompt, ids[key]) for task_id, page_id, prompt, key in read])


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


def finish_batch(db: Database, batch: OpenBatch) -> bool:
    """Close the batch where nothing of it waits any more; whether it is finished, by whomever.

    First makes sure of its tasks: a page stored while the batch was being registered may have missed it. And at the
    end of its notices: a document may have been done before the batch asked about it.

    The walks through its documents read, and write in short transactions of their own where there is something to
    write. The last one looks at all again, with the batch's row locked, and closes it: what was stored meanwhile makes
    it wait, and whoever opens anything again locks that row, and comes before that look or after the end.
    """
    with db.read(by_key=True) as connection:  # cheap looks first: the rest costs a walk through all that it asked
        own = (PageTask.batch_id == batch.id, PageTask.state.in_([TaskState.PENDING, TaskState.LEASED]))
        row = connection.execute(select(Batch.state, Batch.all_seen, Batch.notify).where(Batch.id == batch.id)).one()
        if row.state == BatchState.FINISHED:
            return True
        if row.state != BatchState.RUNNING or not row.all_seen:
            return False
        if connection.scalar(select(PageTask.id).where(*own).limit(1)) is not None:
            return False
    if _any(db, _open_documents(batch.id)):
        _take_documents_over(db, batch.id)
        return False
    if _any(db, _open_pages(batch.id)):
        _each_part(db, batch.id, _take_pages_over)
        if _any(db, _open_pages(batch.id)):
            return False
    if row.notify is not None:
        _each_part(db, batch.id, _note_ended)
    return _close(db, batch.id)


@retried
def _close(db: Database, batch_id: int) -> bool:
    with db.write() as connection:
        state = connection.scalar(
            select(Batch.state).where(Batch.id == batch_id, Batch.all_seen).with_for_update(key_share=True)
        )
        if state != BatchState.RUNNING:
            return state == BatchState.FINISHED
        for look in (_open_documents(batch_id), _open_pages(batch_id)):
            if connection.scalar(look.limit(1)) is not None:
                return False
        note_all_ended(connection, batch_id)
        finished = {"state": BatchState.FINISHED, "finished_at": server_now()}
        connection.execute(update(Batch).where(Batch.id == batch_id).values(finished))
        return True


@retried
def _any(db: Database, look: sa.Select[int]) -> bool:
    with db.read() as connection:
        return connection.scalar(look.limit(1)) is not None


def _documents(batch_id: int) -> sa.Select[int | None]:
    return select(BatchSource.document_id).where(BatchSource.batch_id == batch_id, BatchSource.document_id.is_not(None))


def _open_documents(batch_id: int) -> sa.Select[int]:
    is_open = Document.state.in_([DocumentState.PENDING, DocumentState.LEASED])
    return select(Document.id).where(Document.id.in_(_documents(batch_id)), is_open)


_IS_DROPPED = sa.and_(PageTask.state == TaskState.FAILED, PageTask.cause.in_([SUPERSEDED, CANCELLED]))


def _open_pages(batch_id: int) -> sa.Select[int]:
    """Documents of the pages that the batch asks about and that are not through: not asked yet, waiting, or dropped."""
    is_open = PageTask.state.in_([TaskState.PENDING, TaskState.LEASED])
    return _asked_pages(batch_id, _documents(batch_id)).where(sa.or_(_IS_MISSING, is_open, _IS_DROPPED))


_IS_MISSING = sa.and_(PageTask.id.is_(None), Page.image_hash.is_not(None))


def _asked_pages(batch_id: int, documents: sa.Select[int | None] | Sequence[int]) -> sa.Select[int]:
    """Document ids, one for each page and prompt that the batch asks, with the `PageTask` where there is one."""
    task = sa.and_(
        PageTask.page_id == Page.id,
        PageTask.prompt_version == BatchPrompt.prompt_version,
        PageTask.model == Batch.model,
    )
    return (
        select(Page.document_id)
        .join(Batch, Batch.id == batch_id)
        .join(BatchPrompt, BatchPrompt.batch_id == Batch.id)
        .outerjoin(PageTask, task)
        .where(Page.document_id.in_(documents), is_asked_about(batch_id))
    )


_SOURCES_AT_ONCE = 500


def _each_part(
    db: Database, batch_id: int, do: Callable[[Database, int, sa.ColumnElement[bool], Sequence[int]], None]
) -> None:
    """Call `do` with one part of the batch's sources after the other, as a condition and as their documents."""
    after = 0
    while True:
        with db.read() as connection:
            part = select(BatchSource.source_id, BatchSource.document_id).where(
                BatchSource.batch_id == batch_id, BatchSource.source_id > after
            )
            rows = connection.execute(part.order_by(BatchSource.source_id).limit(_SOURCES_AT_ONCE)).all()
        if not rows:
            return
        which = BatchSource.source_id.between(rows[0].source_id, rows[-1].source_id)
        do(db, batch_id, which, sorted({row.document_id for row in rows if row.document_id is not None}))
        after = rows[-1].source_id


@retried
def _take_documents_over(db: Database, batch_id: int) -> None:
    """One that went back to ingest waits for the batch that saw it first; where that is held, it waits for this one."""
    waits = (Document.state == DocumentState.PENDING, _waits_for_none(Document.batch_id))
    left = select(Document.id).where(Document.id.in_(_documents(batch_id)), *waits)
    with db.read() as connection:
        ids = connection.scalars(left.limit(_PAGES_A_TRANSACTION)).all()
    if not ids:
        return
    with db.write() as connection:
        if _is_running(connection, batch_id):
            taken = update(Document).where(Document.id.in_(ids), *waits)
            connection.execute(taken.values(batch_id=batch_id, rung_at=None))


def _take_pages_over(db: Database, batch_id: int, _: sa.ColumnElement[bool], documents: Sequence[int]) -> None:
    """The batch's tasks for pages of these documents that miss them, or whose tasks wait for no one."""
    is_left = sa.and_(PageTask.state == TaskState.PENDING, _is_left_behind())
    lacking = _asked_pages(batch_id, documents).where(sa.or_(_IS_MISSING, _IS_DROPPED, is_left))
    pages = lacking.add_columns(sa.func.max(Page.page_index) + 1).group_by(Page.document_id)
    with db.read() as connection:
        rows = connection.execute(pages.order_by(Page.document_id)).all()
    for some, first_page, last_page in _in_parts(rows):
        _ensure_some(db, batch_id, some, first_page, last_page)


@retried
def _ensure_some(db: Database, batch_id: int, documents: Sequence[int], first_page: int, last_page: int) -> None:
    with db.write() as connection:
        if _is_running(connection, batch_id):
            ensure_tasks(connection, batch_id, documents, first_page, last_page, show=False)


@retried
def _note_ended(db: Database, batch_id: int, which: sa.ColumnElement[bool], _: Sequence[int]) -> None:
    with db.write() as connection:
        note_all_ended(connection, batch_id, which)


def _is_running(connection: Connection, batch_id: int) -> bool:
    """Locked, so that it stays so: a batch that was paused or cancelled meanwhile takes nothing more."""
    running = select(Batch.id).where(Batch.id == batch_id, Batch.state == BatchState.RUNNING)
    return connection.scalar(running.with_for_update(key_share=True)) is not None
