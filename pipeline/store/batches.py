"""Batches: what a user asked for. A batch is found again by its key, so repeating a command resumes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import delete, select, update

from pipeline.database.dialect import insert_for
from pipeline.database.engine import Database
from pipeline.database.retry import retried
from pipeline.store.page_tasks import CANCELLED, WAITS_AGAIN, enqueue_again, supersede
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
        insert = insert_for(connection)
        for prompt in prompts:
            connection.execute(
                insert(PromptVersion)
                .values(version=prompt.version, name=prompt.name, text=prompt.text, parameters=prompt.parameters)
                .on_conflict_do_nothing()
            )
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
        before = connection.scalar(select(Batch.state).where(Batch.key == key).with_for_update(key_share=True))
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
        if before == BatchState.PAUSED and row.state == BatchState.RUNNING:
            enqueue_again(connection, row.id)
        versions = [prompt.version for prompt in prompts]
        is_old = sa.or_(PageTask.model != asked["model"], PageTask.prompt_version.not_in(versions))
        supersede(connection, PageTask.batch_id == row.id, is_old)
        if row.state != BatchState.CANCELLED:
            documents = (
                Document.batch_id == row.id,
                Document.state == DocumentState.FAILED,
                Document.cause == CANCELLED,
            )
            connection.execute(update(Document).where(*documents).values(WAITS_AGAIN))
            tasks = (
                PageTask.batch_id == row.id,
                PageTask.state == TaskState.FAILED,
                PageTask.cause == CANCELLED,
                ~is_old,
            )
            connection.execute(update(PageTask).where(*tasks).values(WAITS_AGAIN))
        for table in (BatchPrompt, BatchPages):
            connection.execute(delete(table).where(table.batch_id == row.id))
        for version in {prompt.version for prompt in prompts}:
            connection.execute(insert(BatchPrompt).values(batch_id=row.id, prompt_version=version))
        for first, last in pages:
            connection.execute(insert(BatchPages).values(batch_id=row.id, first_index=first, last_index=last))
        return OpenBatch(row.id, row.public_id, row.name)


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
