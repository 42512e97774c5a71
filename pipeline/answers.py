"""One answer into the database, and onto the page that asked for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, select, update

from pipeline.database import insert_for
from pipeline.words import search_terms, search_vector
from schemas.tables import Answer, CurrentAnswer, PageTask, TaskState, utc_now


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """What an engine said, and which engine and model it was; seconds are the engine's own."""

    engine: str
    model: str
    text: str
    finish_reason: str
    prompt_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    temperature: float = 0.0
    confidence: float | None = None
    details: dict[str, Any] = field(default_factory=dict)


def put_answer(connection: Connection, image_hash: str, prompt_version: str, answer: ReadAnswer) -> int:
    """Store an answer under its key and return its id; where the key has one already, that one stays."""
    insert = insert_for(connection)
    answer_id: int | None = connection.scalar(
        insert(Answer)
        .values(
            image_hash=image_hash,
            prompt_version=prompt_version,
            engine=answer.engine,
            model=answer.model,
            text=answer.text,
            finish_reason=answer.finish_reason,
            prompt_tokens=answer.prompt_tokens,
            output_tokens=answer.output_tokens,
            seconds=answer.seconds,
            temperature=answer.temperature,
            confidence=answer.confidence,
            details=answer.details,
        )
        .on_conflict_do_nothing()
        .returning(Answer.id)
    )
    if answer_id is None:
        key = (Answer.image_hash == image_hash, Answer.prompt_version == prompt_version, Answer.model == answer.model)
        return connection.execute(select(Answer.id).where(*key)).scalar_one()
    is_server = connection.dialect.name == "postgresql"
    words = search_vector(answer.text) if is_server else search_terms(answer.text)
    connection.execute(_ADD_VECTOR if is_server else _ADD_TERMS, {"id": answer_id, "terms": words})
    return answer_id


_ADD_TERMS = sa.text("INSERT INTO page_search (rowid, terms) VALUES (:id, :terms)")
_ADD_VECTOR = sa.text("INSERT INTO page_search (rowid, terms) VALUES (:id, CAST(:terms AS tsvector))")


def settle(connection: Connection, task_id: int, page_id: int, prompt: str, answer_id: int) -> None:
    """The task is done, and its page shows this answer for this prompt."""
    connection.execute(
        update(PageTask)
        .where(PageTask.id == task_id)
        .values(
            state=TaskState.DONE,
            owner=None,
            lease_until=None,
            answer_id=answer_id,
            cause=None,
            reason=None,
            finished_at=utc_now(),
        )
    )
    shown = insert_for(connection)(CurrentAnswer).values(page_id=page_id, prompt=prompt, answer_id=answer_id)
    connection.execute(
        shown.on_conflict_do_update(index_elements=["page_id", "prompt"], set_={"answer_id": shown.excluded.answer_id})
    )
