"""Page tasks: one row for each page, prompt and model that a batch asks about.

They are made when pages are stored or a batch is opened, handed over when another batch wants them too, and settled
without reading where an answer or a text layer serves, or where the page is blank.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, bindparam, select, update

from pipeline.database.dialect import insert_of
from pipeline.store.answers import AnswerKey, ReadAnswer, Settled, put_answers, settle, show_latest
from pipeline.store.conditions import is_asked_by, is_batch_running
from pipeline.store.layer_text import lines_of, text_of
from pipeline.store.wished_model import reads_blank_pages
from schemas import blank_pages
from schemas.columns import server_now
from schemas.states import BatchState, TaskState
from schemas.tables import Batch, BatchPrompt, CurrentAnswer, Document, Page, PageTask, PromptVersion, TextLayer
from schemas.text_layers import Verdict

SUPERSEDED = "superseded"
"""Cause of a task that waited when its batch was asked for again with another model or prompt."""

CANCELLED = "cancelled"
"""Cause of what was not done when its batch was cancelled; asked for again, it waits again."""

CANCELLED_REASON = "the batch was cancelled"


def superseded(*which: sa.ColumnElement[bool]) -> sa.Update:
    """Nobody asks for these waiting tasks any more."""
    ended = {"state": TaskState.FAILED, "cause": SUPERSEDED, "reason": "asked otherwise", "enqueued_at": None}
    waiting = update(PageTask).where(PageTask.state == TaskState.PENDING, *which)
    return waiting.values(**ended, finished_at=server_now())


PAGES_A_TRANSACTION = 100  # a fraction of a second, even where the text of each is put in order to be its answer
_LAST_PAGE = 2**31 - 1


def in_parts(pages: Iterable[Sequence[int]]) -> Iterator[tuple[list[int], int, int]]:
    """Documents, given with their numbers of pages, as (documents, first page, last page) for a transaction each."""
    some: list[int] = []
    count = 0
    for document_id, num_pages in pages:
        if num_pages > PAGES_A_TRANSACTION:
            for first in range(0, num_pages, PAGES_A_TRANSACTION):
                yield [document_id], first, first + PAGES_A_TRANSACTION - 1
            continue
        if count + num_pages > PAGES_A_TRANSACTION:
            yield some, 0, _LAST_PAGE
            some, count = [], 0
        some.append(document_id)
        count += num_pages
    if some:
        yield some, 0, _LAST_PAGE


WAITS_AGAIN = {"state": TaskState.PENDING, "cause": None, "reason": None, "enqueued_at": None, "finished_at": None}


def ensure_tasks(
    connection: Connection,
    batch_id: int,
    documents: Sequence[int],
    first_page: int = 0,
    last_page: int = _LAST_PAGE,
    show: bool = True,
    own_texts: Mapping[int, str] | None = None,
) -> None:
    """The batch's tasks for the pages of these documents: new ones made, waiting ones taken over, done ones shown.

    `own_texts`: the texts of some pages' layers, by the id of the page, where they were put in order beforehand.

    Without `show` the pages keep the answers that they show, and other running batches their tasks: the batch was asked
    for before, or it is an evaluation. They keep them, too, where the batch is paused.
    """
    batch = connection.execute(_asking(), {"batch": batch_id}).one()
    show = show and batch.shows_answers
    own = {"documents": documents, "first_page": first_page, "last_page": last_page, "batch": batch_id}
    own["wished"] = batch.model
    connection.execute(_make_tasks(connection.dialect.name), own)
    connection.execute(_take_over(takes_all=show and batch.state == BatchState.RUNNING), own)
    connection.execute(_take_up(), own)
    if batch.text_layer in ("auto", "prefer", "always"):
        carrying = connection.scalars(_carrying_text(only_sound=batch.text_layer != "always"), own).all()
        _settle_from_text_layer(connection, own_texts or {}, carrying)
    if not reads_blank_pages(batch.model):
        _settle_blank_pages(connection, batch.shows_answers, connection.execute(_blank_pages(), own).all())
    if show:
        connection.execute(_show_done(connection.dialect.name), own)


# Each statement is made once for a process: to make one takes as long as to execute it.


@functools.cache
def _asking() -> sa.Select[str, str, str, bool]:
    asking = select(Batch.state, Batch.model, Batch.text_layer, Batch.shows_answers)
    return asking.where(Batch.id == bindparam("batch"))


def _of_these_pages() -> tuple[sa.ColumnElement[bool], ...]:
    between = Page.page_index.between(bindparam("first_page"), bindparam("last_page"))
    return Page.document_id.in_(bindparam("documents", expanding=True)), between, is_asked_by(bindparam("batch"))


def _own() -> sa.ColumnElement[bool]:
    """Whether a task is for one of the pages and asks what the batch asks."""
    pages = select(Page.id).where(*_of_these_pages())
    versions = select(BatchPrompt.prompt_version).where(BatchPrompt.batch_id == bindparam("batch"))
    wished = PageTask.model == bindparam("wished")
    return sa.and_(PageTask.page_id.in_(pages), wished, PageTask.prompt_version.in_(versions))


_NUMBERS = ("token", "attempts", "crashes", "next_attempt_at")
_OF_A_NEW_TASK = ("page_id", "prompt_version", "model", "batch_id", *_NUMBERS, "state")


def _wanted(*more: sa.ColumnElement[Any]) -> sa.Select[*tuple[Any, ...]]:
    """Rows of new tasks, for all pages that are asked about and have an image."""
    zeros = (sa.literal(0) for _ in _NUMBERS)
    wished, batch = bindparam("wished", type_=PageTask.model.type), bindparam("batch", type_=PageTask.batch_id.type)
    return (
        select(Page.id, BatchPrompt.prompt_version, wished, batch, *zeros, *more)
        .join(BatchPrompt, BatchPrompt.batch_id == bindparam("batch"))
        .where(*_of_these_pages(), Page.image_hash.is_not(None))
        .order_by(Page.document_id, Page.page_index)
    )


@functools.cache
def _make_tasks(dialect: str) -> Any:
    wanted = _wanted(sa.literal(str(TaskState.PENDING)))
    return insert_of(dialect)(PageTask).from_select(_OF_A_NEW_TASK, wanted).on_conflict_do_nothing()


@functools.cache
def _take_over(takes_all: bool) -> sa.Update:
    others = PageTask.batch_id != bindparam("batch") if takes_all else is_left_behind()
    waiting = update(PageTask).where(_own(), PageTask.state == TaskState.PENDING, others)
    return waiting.values(batch_id=bindparam("batch"), enqueued_at=None)


@functools.cache
def _take_up() -> sa.Update:
    return update(PageTask).where(_own(), IS_DROPPED).values(**WAITS_AGAIN, batch_id=bindparam("batch"))


@functools.cache
def _show_done(dialect: str) -> Any:
    done = (
        select(PageTask.page_id, PromptVersion.name, PageTask.answer_id)
        .join(PromptVersion, PromptVersion.version == PageTask.prompt_version)
        .where(_own(), PageTask.state == TaskState.DONE)
    )
    return show_latest(insert_of(dialect)(CurrentAnswer).from_select(["page_id", "prompt", "answer_id"], done))


def fail_tasks(
    connection: Connection, batch_id: int, documents: Sequence[int], first_page: int, last_page: int = _LAST_PAGE
) -> None:
    """For a batch that was cancelled before it had tasks for these pages of documents that it saw.

    What no other batch asks about these pages has failed as all that the batch had not done; it may be taken up again.
    """
    model = connection.execute(select(Batch.model).where(Batch.id == batch_id)).scalar_one()
    pages = {"documents": documents, "first_page": first_page, "last_page": last_page}
    failed = pages | {"batch": batch_id, "wished": model}
    connection.execute(_make_failed(connection.dialect.name), failed)


@functools.cache
def _make_failed(dialect: str) -> Any:
    ended = (sa.literal(value) for value in (str(TaskState.FAILED), CANCELLED, CANCELLED_REASON))
    rows = _wanted(*ended, server_now())
    columns = [*_OF_A_NEW_TASK, "cause", "reason", "finished_at"]
    return insert_of(dialect)(PageTask).from_select(columns, rows).on_conflict_do_nothing()


def is_left_behind() -> sa.ColumnElement[bool]:
    """Whether a task waits for a batch that gives nothing out, or that was asked for again with another model."""
    asked_there = select(Batch.model).where(Batch.id == PageTask.batch_id).correlate(PageTask).scalar_subquery()
    return sa.or_(~is_batch_running(PageTask), PageTask.model != asked_there)


@functools.cache
def _blank_pages() -> sa.Select[*tuple[Any, ...]]:
    return (
        select(PageTask.id, PageTask.page_id, PageTask.prompt_version, PromptVersion.name, Page.image_hash)
        .join(PromptVersion, PromptVersion.version == PageTask.prompt_version)
        .join(Page, Page.id == PageTask.page_id)
        .where(_own(), PageTask.state == TaskState.PENDING, Page.is_blank.is_(True))
        .order_by(PageTask.id)
        .with_for_update(of=PageTask)
    )


def _settle_blank_pages(connection: Connection, shows: bool, tasks: Sequence[sa.Row[*tuple[Any, ...]]]) -> None:
    """Where nothing is on a page, nothing is the answer to every prompt."""
    nothing = ReadAnswer(blank_pages.ENGINE, blank_pages.MODEL, "", finish_reason=blank_pages.FINISH_REASON)
    keys = {
        (row.id, row.page_id, row.name): AnswerKey(row.image_hash, row.prompt_version, nothing.model) for row in tasks
    }
    ids = put_answers(connection, [(key, nothing) for key in keys.values()])
    settle(connection, [Settled(*of_task, ids[key], shows=shows) for of_task, key in keys.items()])


@functools.cache
def _carrying_text(only_sound: bool) -> sa.Select[int]:
    is_taken = [TextLayer.verdict == Verdict.SOUND] if only_sound else []
    return (
        select(PageTask.id)
        .join(PromptVersion, PromptVersion.version == PageTask.prompt_version)
        .join(TextLayer, TextLayer.page_id == PageTask.page_id)
        .where(_own(), *is_taken, PageTask.state == TaskState.PENDING, PromptVersion.name == "ocr")
        .order_by(PageTask.id)
        .with_for_update(of=PageTask)
    )


_TEXTS_AT_ONCE = 200  # some megabytes, of pages full of text


def _settle_from_text_layer(connection: Connection, own_texts: Mapping[int, str], task_ids: Sequence[int]) -> None:
    """Where a PDF page carries text that the batch takes, that text is the answer to `ocr`.

    Memory holds the ids of all that wait, and some texts at a time.
    """
    for start in range(0, len(task_ids), _TEXTS_AT_ONCE):
        _settle_some_from_text_layer(connection, own_texts, task_ids[start : start + _TEXTS_AT_ONCE])


@functools.cache
def _texts() -> sa.Select[*tuple[Any, ...]]:
    return (
        select(
            PageTask.id,
            PageTask.page_id,
            PageTask.prompt_version,
            PromptVersion.name,
            Page.image_hash,
            TextLayer.text,
            TextLayer.boxes,
        )
        .join(PromptVersion, PromptVersion.version == PageTask.prompt_version)
        .join(Page, Page.id == PageTask.page_id)
        .join(TextLayer, TextLayer.page_id == Page.id)
        .where(PageTask.id.in_(bindparam("tasks", expanding=True)))
        .order_by(PageTask.id)
    )


def _settle_some_from_text_layer(connection: Connection, own_texts: Mapping[int, str], task_ids: Sequence[int]) -> None:
    answers: list[tuple[AnswerKey, ReadAnswer]] = []
    read: list[tuple[int, int, str, AnswerKey]] = []
    for row in connection.execute(_texts(), {"tasks": task_ids}):
        if row.text.strip():
            # Equal pixels may carry unequal text, so the text is part of what answers.
            text = own_texts.get(row.page_id) or text_of(row.text, row.boxes)
            model = f"text-layer/{hashlib.sha256(text.encode()).hexdigest()[:16]}"
            details = {"lines": lines_of(row.text, row.boxes)}
            answer = ReadAnswer("text-layer", model, text, finish_reason="stop", details=details)
            key = AnswerKey(row.image_hash, row.prompt_version, model)
            answers.append((key, answer))
            read.append((row.id, row.page_id, row.name, key))
    ids = put_answers(connection, answers)
    settle(connection, [Settled(task_id, page_id, prompt, ids[key]) for task_id, page_id, prompt, key in read])


IS_DROPPED = sa.and_(PageTask.state == TaskState.FAILED, PageTask.cause.in_([SUPERSEDED, CANCELLED]))


def enqueue_again(connection: Connection, batch_id: int) -> None:
    """All that waits of a batch: messages that came while it was paused were for nothing."""
    for table in (Document, PageTask):
        enqueued = (table.batch_id == batch_id, table.state == TaskState.PENDING, table.enqueued_at.is_not(None))
        connection.execute(update(table).where(*enqueued).values(enqueued_at=None))
