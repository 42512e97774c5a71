"""Answers into the database, and onto the pages that asked for them; many at once, for a statement is a round trip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite

from pipeline.database.dialect import GivenRows
from pipeline.database.postgresql import Vectors
from pipeline.errors import PageFailed
from pipeline.store.cut_answers import put_tries
from pipeline.store.search_terms import search_row, search_vector
from schemas.columns import server_now, utc_now
from schemas.states import TaskState
from schemas.tables import Answer, CurrentAnswer, PageTask, TaskAttempt
from schemas.text import storable_json


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
    angle: float | None = None
    review_reason: str | None = None
    review_score: float | None = None
    lowest_confidence: float | None = None
    token_ids: Sequence[int] = ()  # of one that was cut at its longest length
    tries: Sequence[Mapping[str, Any]] = ()  # rows of `AnswerTry`, in order, where there were several
    cost: float | None = None
    drafted_tokens: int | None = None
    accepted_tokens: int | None = None


class UnfitAnswer(PageFailed):
    """An answer that is none to its prompt: cut off, or not as its JSON Schema says. It stays in the history."""

    def __init__(self, message: str, answer: ReadAnswer, *, cause: str) -> None:
        super().__init__(message, cause=cause)
        self.answer, self.cost = answer, answer.cost


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
    """A task that is done, and the answer that was asked for last for its page and prompt from now on."""

    task_id: int
    page_id: int
    prompt: str
    answer_id: int
    attempts: int = 0  # so many more
    shows: bool = True  # false: only where the page has no answer yet


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
            "details": storable_json(answer.details),
            "created_at": now,
            "angle": answer.angle,
            "review_reason": answer.review_reason,
            "review_score": answer.review_score,
            "lowest_confidence": answer.lowest_confidence,
            "cost": answer.cost,
            "drafted_tokens": answer.drafted_tokens,
            "accepted_tokens": answer.accepted_tokens,
            "token_ids": " ".join(map(str, answer.token_ids)) or None,
        }
        for key, answer in sorted(of_key.items(), key=lambda item: item[0])
    ]
    if connection.dialect.name == "postgresql":
        stored = connection.execute(_STORE, _ANSWERS.arrays(rows))
    else:
        stored = connection.execute(_STORE_ROWS, rows)
    ids = {AnswerKey(*row[1:]): row.id for row in stored}
    index_words(connection, [(answer_id, of_key[key].text) for key, answer_id in ids.items()])
    put_tries(connection, {answer_id: of_key[key].tries for key, answer_id in ids.items()})
    if missing := [tuple(key) for key in of_key if key not in ids]:
        found = select(Answer.id, *_KEY).where(sa.tuple_(*_KEY).in_(missing))
        ids |= {AnswerKey(*row[1:]): row.id for row in connection.execute(found)}
    return ids


_KEY = (Answer.image_hash, Answer.prompt_version, Answer.model)
_ANSWERS = GivenRows(*[column for column in Answer.__table__.columns if column is not Answer.__table__.c.id])
_STORE = (
    postgresql.insert(Answer)
    .from_select(_ANSWERS.names, _ANSWERS.select)
    .on_conflict_do_nothing()
    .returning(Answer.id, *_KEY)
)
_STORE_ROWS = sqlite.insert(Answer).on_conflict_do_nothing().returning(Answer.id, *_KEY)
_ADD_TERMS = sa.text("INSERT INTO page_search (rowid, terms, aside) VALUES (:id, :terms, :aside)")
_ADD_VECTORS = sa.text(
    "INSERT INTO page_search (rowid, terms) SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:vectors AS tsvector[]))"
)


def index_words(connection: Connection, texts: Sequence[tuple[int, str]]) -> None:
    """Into the index of words; these answers are not in it."""
    if not texts:
        return
    ids = [answer_id for answer_id, _ in texts]
    if connection.dialect.name == "postgresql":
        vectors = Vectors(search_vector(text) for _, text in texts)
        connection.execute(_ADD_VECTORS, {"ids": ids, "vectors": vectors})
    else:
        rows = [(answer_id, *search_row(text)) for answer_id, text in texts]
        connection.execute(_ADD_TERMS, [{"id": row[0], "terms": row[1], "aside": row[2]} for row in rows])


_DONE: dict[str, Any] = {
    "state": TaskState.DONE,
    "owner": None,
    "lease_until": None,
    "cause": None,
    "reason": None,
    "finished_at": server_now(),
}
_SETTLED = GivenRows(PageTask.id, PageTask.answer_id, PageTask.attempts)
_SETTLE_ALL = (
    update(PageTask)
    .where(PageTask.id == _SETTLED.table.c.id)
    .values(answer_id=_SETTLED.table.c.answer_id, attempts=PageTask.attempts + _SETTLED.table.c.attempts, **_DONE)
)
_SETTLE = (
    update(PageTask)
    .where(PageTask.id == bindparam("task_id"))
    .values(answer_id=bindparam("answer"), attempts=PageTask.attempts + bindparam("more"), **_DONE)
)
_SHOWN = GivenRows(CurrentAnswer.page_id, CurrentAnswer.prompt, CurrentAnswer.answer_id)


def show_latest(insert: Any) -> Any:
    """An INSERT of current answers that replaces those that pages show; where people promoted one, it stays."""
    is_held = CurrentAnswer.promotion_id.is_not(None)
    latest = insert.excluded.answer_id
    return insert.on_conflict_do_update(
        index_elements=["page_id", "prompt"],
        set_={
            "answer_id": sa.case((is_held, CurrentAnswer.answer_id), else_=latest),
            "latest_answer_id": sa.case((is_held, latest)),
        },
    )


_SHOW_ALL = show_latest(postgresql.insert(CurrentAnswer).from_select(_SHOWN.names, _SHOWN.select))
_SHOW = show_latest(sqlite.insert(CurrentAnswer))
_ADD_ALL = postgresql.insert(CurrentAnswer).from_select(_SHOWN.names, _SHOWN.select).on_conflict_do_nothing()
_ADD = sqlite.insert(CurrentAnswer).on_conflict_do_nothing()


def settle(connection: Connection, settled: Sequence[Settled]) -> None:
    """The tasks are done, and their pages show these answers, where people promoted no other. Whoever calls holds the
    tasks' rows."""
    if not settled:
        return
    shown, added = (_rows(settled, shows) for shows in (True, False))
    if connection.dialect.name == "postgresql":
        tasks = [{"id": one.task_id, "answer_id": one.answer_id, "attempts": one.attempts} for one in settled]
        connection.execute(_SETTLE_ALL, _SETTLED.arrays(tasks))
        for statement, rows in ((_SHOW_ALL, shown), (_ADD_ALL, added)):
            if rows:
                connection.execute(statement, _SHOWN.arrays(rows))
    else:
        done = [{"task_id": one.task_id, "answer": one.answer_id, "more": one.attempts} for one in settled]
        connection.execute(_SETTLE, done)
        for statement, rows in ((_SHOW, shown), (_ADD, added)):
            if rows:
                connection.execute(statement, rows)


def _rows(settled: Sequence[Settled], shows: bool) -> list[dict[str, Any]]:
    """Of `current_answers`, in the order of their keys; of two prompts of one name, the last."""
    of_page = {(one.page_id, one.prompt): one.answer_id for one in settled if one.shows == shows}
    return [
        {"page_id": page_id, "prompt": prompt, "answer_id": of_page[page_id, prompt]}
        for page_id, prompt in sorted(of_page)
    ]


def without_answer(task: Any, reason: str) -> dict[str, Any]:
    """An attempt's row, of a leased task that came back without one."""
    return {
        "task_id": task.id,
        "token": task.token,
        "worker": task.owner,
        "error": reason,
        "batch_id": task.batch_id,
        "started_at": task.leased_at,
    }


_ATTEMPTS = GivenRows(*[column for column in TaskAttempt.__table__.columns if column.key not in ("id", "ended_at")])
_ADD_ATTEMPTS = sa.insert(TaskAttempt).from_select(_ATTEMPTS.names, _ATTEMPTS.select)  # and its default: ended_at


def add_attempts(connection: Connection, attempts: Sequence[Mapping[str, Any]]) -> None:
    """Add to the history; each is a whole row of `TaskAttempt` but for its id and its end, which is now."""
    if connection.dialect.name == "postgresql":
        connection.execute(_ADD_ATTEMPTS, _ATTEMPTS.arrays(attempts))
    else:
        connection.execute(sa.insert(TaskAttempt), attempts)
