"""Batches: what a user asked for. A batch is found again by its key, so repeating a command resumes it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam, delete, select, update

from pipeline.database.dialect import insert_of
from pipeline.database.engine import Database
from pipeline.database.retry import retried
from pipeline.store.page_tasks import CANCELLED, WAITS_AGAIN, enqueue_again, superseded
from pipeline.store.wished_model import wished_model
from schemas.columns import server_now, uuid7
from schemas.prompts import Prompt
from schemas.states import BatchState, DocumentState, TaskState
from schemas.tables import Batch, BatchPages, BatchPrompt, Document, PageTask, PromptVersion

PATHS_KEY = "paths:"
"""How the key of a batch begins that is known by its paths, and named after them."""

QUESTION_KEY = "ask:"
"""How the key of a batch begins that somebody waits for at a terminal."""


EVALUATION_KEY = "eval:"
"""How the key of a batch begins that reads pages to see how well they are read."""


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """A batch by its row, its id for people and its name, in whatever state."""

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
    detail: str = "auto",
    blank_pages: str = "skip",
    pages: Sequence[tuple[int, int]] = (),
    priority: int = 0,
    notify: str | None = None,
    all_seen: bool = True,
    reopens: bool = True,
    command: Sequence[str] | None = None,
    max_cost: float | None = None,
    shows_answers: bool = True,
) -> OpenBatch:
    """Find the batch of this key again and set it running, or make it; what is asked now replaces what was asked.

    `pages` are ranges of page indexes, first and last, to ask about in each document; none given means all. `detail` is
    for documents that it is the first to see, or that are not drawn yet. `notify` (`TASK` or `TASK@QUEUE`) is sent for
    each document that is done. Without `all_seen` the batch does not finish before `mark_all_seen`. Without `reopens`
    one that was paused or cancelled stays so. `text_layer` and `blank_pages` are as the settings. `command`,
    `max_cost` and `shows_answers` as `Batch` has them.
    """
    with db.write() as connection:
        for prompt in prompts:
            version = {"version": prompt.version, "name": prompt.name, "text": prompt.text}
            connection.execute(_put_prompt(db.dialect), version | {"parameters": prompt.parameters})
        asked = {
            "engine": engine,
            "model": wished_model(model, text_layer, blank_pages),
            "text_layer": text_layer,
            "detail": detail,
            "all_pages": not pages,
            "all_seen": all_seen,
            "priority": priority,
            "notify": notify,
            "command": None if command is None else list(command),
            "max_cost": max_cost,
            "shows_answers": shows_answers,
            "state": BatchState.RUNNING,
            "finished_at": None,
        }
        before = connection.scalar(_state_before(), {"of": key})
        new = {"public_id": uuid7(), "key": key, "name": name, **asked}
        row = connection.execute(_put_batch(db.dialect, reopens), new).one()
        if before == BatchState.PAUSED and row.state == BatchState.RUNNING:
            enqueue_again(connection, row.id)
        versions = {prompt.version for prompt in prompts}
        own = {"batch": row.id, "wished": asked["model"], "versions": list(versions)}
        connection.execute(_supersede(), own)
        if row.state != BatchState.CANCELLED:
            for statement in _take_up():
                connection.execute(statement, own)
        for deleted in _forget_asked():
            connection.execute(deleted, {"batch": row.id})
        if versions:
            asks = [{"batch_id": row.id, "prompt_version": version} for version in versions]
            connection.execute(sa.insert(BatchPrompt), asks)
        for first, last in pages:
            connection.execute(sa.insert(BatchPages).values(batch_id=row.id, first_index=first, last_index=last))
        return OpenBatch(row.id, row.public_id, row.name)


# Each statement is made once for a process: to make one takes as long as to execute it.


@functools.cache
def _put_prompt(dialect: str) -> Any:
    return insert_of(dialect)(PromptVersion).on_conflict_do_nothing()


@functools.cache
def _state_before() -> sa.Select[str]:
    return select(Batch.state).where(Batch.key == bindparam("of")).with_for_update(key_share=True)


_ASKED = (
    *("engine", "model", "text_layer", "detail", "all_pages", "all_seen", "priority", "notify", "command", "max_cost"),
    *("shows_answers", "state", "finished_at"),
)


@functools.cache
def _put_batch(dialect: str, reopens: bool) -> Any:
    batch = insert_of(dialect)(Batch).values(started_at=server_now())
    again: dict[str, Any] = {field: batch.excluded[field] for field in _ASKED}
    if not reopens:
        is_held = Batch.state.in_([BatchState.PAUSED, BatchState.CANCELLED])
        again["state"] = sa.case((is_held, Batch.state), else_=batch.excluded.state)
        again["finished_at"] = sa.case((is_held, Batch.finished_at), else_=None)
    put = batch.on_conflict_do_update(index_elements=["key"], set_=again)
    return put.returning(Batch.id, Batch.public_id, Batch.name, Batch.state)


def _is_old() -> sa.ColumnElement[bool]:
    """Whether a task asks what its batch asks no more."""
    is_left_out = PageTask.prompt_version.not_in(bindparam("versions", expanding=True))
    return sa.or_(PageTask.model != bindparam("wished"), is_left_out)


@functools.cache
def _supersede() -> sa.Update:
    return superseded(PageTask.batch_id == bindparam("batch"), _is_old())


@functools.cache
def _take_up() -> tuple[sa.Update, sa.Update]:
    """What failed when the batch was cancelled waits again, where it is asked for still."""
    batch: sa.BindParameter[int] = bindparam("batch")
    documents = (Document.batch_id == batch, Document.state == DocumentState.FAILED, Document.cause == CANCELLED)
    tasks = (PageTask.batch_id == batch, PageTask.state == TaskState.FAILED, PageTask.cause == CANCELLED, ~_is_old())
    return update(Document).where(*documents).values(WAITS_AGAIN), update(PageTask).where(*tasks).values(WAITS_AGAIN)


@functools.cache
def _forget_asked() -> list[sa.Delete]:
    return [delete(table).where(table.batch_id == bindparam("batch")) for table in (BatchPrompt, BatchPages)]


def text_layer_of(db: Database, key: str) -> str | None:
    """What the batch of this key makes of a PDF's own text; None where there is no such batch."""
    with db.read() as connection:
        return connection.scalar(select(Batch.text_layer).where(Batch.key == key))


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
