"""Answers into the database, and onto the pages that asked for them; many at once, for a statement is a round trip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, bindparam, select, update

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


@dataclass(frozen=True, slots=True)
class ReusedAnswer:
    """An answer that was there before; nothing is read."""

    answer_id: int


class AnswerKey(NamedTuple):
    """What an answer is found by again."""

    image_hash: str
    prompt_version: str
    model: str


class Settled(NamedTuple):
    """A task that is done, and the answer that its page shows for its prompt from now on."""

    task_id: int
    page_id: int
    prompt: str
    answer_id: int
    attempts: int = 0  # so many more


def put_answers(connection: Connection, answers: Sequence[tuple[AnswerKey, ReadAnswer]]) -> dict[AnswerKey, int]:
    """Store answers under their keys and return their ids; where a key has one already, that one stays."""
    of_key = dict(reversed(answers))  # the first of a key stays
    if not of_key:
        return {}
    now = utc_now()
    rows = [  # in the keys' order: two workers that wait for each other's keys would wait for ever
        {
            **key._asdict(),
            "engine": answer.engine,
            "text": answer.text,
            "finish_reason": answer.finish_reason,
            "prompt_tokens": answer.prompt_tokens,
            "output_tokens": answer.output_tokens,
            "seconds": answer.seconds,
            "temperature": answer.temperature,
            "confidence": answer.confidence,
            "details": answer.details,
            "created_at": now,
        }
        for key, answer in sorted(of_key.items(), key=lambda item: item[0])
    ]
    stored = insert_for(connection)(Answer).on_conflict_do_nothing().returning(Answer.id, *_KEY)
    ids = {AnswerKey(*row[1:]): row.id for row in connection.execute(stored, rows)}
    _index_words(connection, [(answer_id, of_key[key].text) for key, answer_id in ids.items()])
    if missing := [tuple(key) for key in of_key if key not in ids]:
        found = select(Answer.id, *_KEY).where(sa.tuple_(*_KEY).in_(missing))
        ids |= {AnswerKey(*row[1:]): row.id for row in connection.execute(found)}
    return ids


_KEY = (Answer.image_hash, Answer.prompt_version, Answer.model)
_ADD_TERMS = sa.text("INSERT INTO page_search (rowid, terms) VALUES (:id, :terms)")
_ADD_VECTOR = sa.text("INSERT INTO page_search (rowid, terms) VALUES (:id, CAST(:terms AS tsvector))")


def _index_words(connection: Connection, texts: Sequence[tuple[int, str]]) -> None:
    if not texts:
        return
    is_server = connection.dialect.name == "postgresql"
    words = search_vector if is_server else search_terms
    add = _ADD_VECTOR if is_server else _ADD_TERMS
    connection.execute(add, [{"id": answer_id, "terms": words(text)} for answer_id, text in texts])


_SETTLE = (
    update(PageTask)
    .where(PageTask.id == bindparam("task_id"))
    .values(
        state=TaskState.DONE,
        owner=None,
        lease_until=None,
        answer_id=bindparam("answer"),
        attempts=PageTask.attempts + bindparam("more"),
        cause=None,
        reason=None,
        finished_at=bindparam("now"),
    )
)


def settle(connection: Connection, settled: Sequence[Settled]) -> None:
    """The tasks are done, and their pages show these answers. Whoever calls holds the tasks' rows."""
    if not settled:
        return
    now = utc_now()
    rows = [{"task_id": one.task_id, "answer": one.answer_id, "more": one.attempts, "now": now} for one in settled]
    connection.execute(_SETTLE, rows)
    shown = insert_for(connection)(CurrentAnswer)
    connection.execute(
        shown.on_conflict_do_update(index_elements=["page_id", "prompt"], set_={"answer_id": shown.excluded.answer_id}),
        sorted(
            ({"page_id": one.page_id, "prompt": one.prompt, "answer_id": one.answer_id} for one in settled),
            key=lambda row: (row["page_id"], row["prompt"]),
        ),
    )
