"""Promotions: people choose which answers are current, and take it back.

A page shows the latest answer that was asked for. A promotion holds pages at other answers, whatever is read later,
until it is rolled back; then they show what they would show had it never been made: the answer of an earlier promotion
that stands, or else the latest. Each is one transaction. Nothing is indexed anew: search looks for words in all
answers, and shows the current ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, delete, insert, select, update

from pipeline.database.engine import Database
from pipeline.database.retry import retried
from pipeline.store.answer_sets import AnswerSet, ChosenPages
from schemas.columns import utc_now
from schemas.tables import PromotedAnswer, Promotion

_DOCUMENTS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Promoted:
    """What became of it: pages and prompts that it holds, and how many of them showed another answer before."""

    promotion_id: int
    held: int
    changed: int


@dataclass(frozen=True, slots=True)
class RolledBack:
    """The promotion, what it had made current, pages and prompts that it let go, and how many it holds still."""

    promotion_id: int
    answers: str
    released: int
    changed: int
    left: int


@retried
def promote(db: Database, answers: AnswerSet, chosen: ChosenPages) -> Promoted | None:
    """Make a set of answers current on all pages of a selection that have one; None where no page has."""
    documents = _documents(db, chosen)
    with db.write() as connection:
        described = {"answers": answers.name, "prompt": chosen.prompt, "path": chosen.path}
        batch = chosen.batch.value if chosen.batch else None
        made = insert(Promotion).values(batch_id=batch, **described).returning(Promotion.id)
        promotion_id = connection.scalar(made)
        assert promotion_id is not None
        held = 0
        for where in _parts(documents):
            conditions = [where, *([f"{answers.prompt_column} = :prompt"] if chosen.prompt is not None else [])]
            query, given = answers.select("answers", *conditions)
            statement = f"INSERT INTO promoted_answers (page_id, prompt, answer_id, promotion_id) {_ORDERED}"
            values = given | {"promotion": promotion_id, "prompt": chosen.prompt}
            held += _execute(connection, statement.format(query), values)
        if not held:
            connection.execute(delete(Promotion).where(Promotion.id == promotion_id))
            return None
        changed = connection.scalar(sa.text(_CHANGES), {"promotion": promotion_id})
        _execute(connection, _SHOW, {"promotion": promotion_id})
        return Promoted(promotion_id, held, changed or 0)


_ORDERED = "SELECT o.page_id, o.prompt, o.answer_id, :promotion FROM ({}) o ORDER BY o.page_id, o.prompt"
_CHANGES = """SELECT count(*) FROM promoted_answers h
LEFT JOIN current_answers c ON c.page_id = h.page_id AND c.prompt = h.prompt
WHERE h.promotion_id = :promotion AND (c.answer_id IS NULL OR c.answer_id <> h.answer_id)"""
_SHOW = """INSERT INTO current_answers (page_id, prompt, answer_id, promotion_id, latest_answer_id)
SELECT page_id, prompt, answer_id, promotion_id, answer_id FROM promoted_answers WHERE promotion_id = :promotion
ORDER BY page_id, prompt
ON CONFLICT (page_id, prompt) DO UPDATE SET
   latest_answer_id = CASE WHEN current_answers.promotion_id IS NULL THEN current_answers.answer_id
                           ELSE current_answers.latest_answer_id END,
   answer_id = excluded.answer_id, promotion_id = excluded.promotion_id"""


def standing(db: Database) -> Sequence[Any]:
    """Promotions that hold pages still, the latest first: id and answers."""
    with db.read() as connection:
        return connection.execute(_standing()).all()


def _standing() -> sa.Select[int, str]:
    holds = select(PromotedAnswer.page_id).where(PromotedAnswer.promotion_id == Promotion.id).exists()
    return select(Promotion.id, Promotion.answers).where(holds).order_by(Promotion.id.desc())


@retried
def roll_back(db: Database, chosen: ChosenPages, promotion_id: int | None = None) -> RolledBack | None:
    """Take a promotion back, the latest that holds a page of the selection where none is named; None where none does.

    Within the selection alone; a promotion that holds other pages still stands.
    """
    documents = _documents(db, chosen)
    with db.write() as connection:
        for row in connection.execute(_standing()).all():
            if promotion_id not in (None, row.id):
                continue
            released = 0
            for where in _parts(documents):
                pages = f"page_id IN (SELECT p.id FROM pages p WHERE {where})" if documents is not None else "1 = 1"
                pages += " AND prompt = :prompt" if chosen.prompt is not None else ""
                statement = f"DELETE FROM promoted_answers WHERE promotion_id = :promotion AND {pages}"
                released += _execute(connection, statement, {"promotion": row.id, "prompt": chosen.prompt})
            if not released:
                continue
            values = {"promotion": row.id}
            changed = connection.scalar(sa.text(_CHANGES_BACK), values)
            _execute(connection, _SHOW_BACK, values)
            count = select(sa.func.count()).where(PromotedAnswer.promotion_id == row.id)
            left = connection.scalar(count) or 0
            if not left:
                ended = update(Promotion).where(Promotion.id == row.id).values(rolled_back_at=utc_now())
                connection.execute(ended)
            return RolledBack(row.id, row.answers, released, changed or 0, left)
        return None


_STANDS = "FROM promoted_answers h WHERE h.page_id = current_answers.page_id AND h.prompt = current_answers.prompt"
_BEFORE = f"(SELECT h.answer_id {_STANDS} ORDER BY h.promotion_id DESC LIMIT 1)"
_IS_RELEASED = f"promotion_id = :promotion AND NOT EXISTS (SELECT 1 {_STANDS} AND h.promotion_id = :promotion)"
_CHANGES_BACK = f"""SELECT count(*) FROM current_answers
WHERE {_IS_RELEASED} AND answer_id <> coalesce({_BEFORE}, latest_answer_id)"""
_SHOW_BACK = f"""UPDATE current_answers SET
   answer_id = coalesce({_BEFORE}, latest_answer_id),
   latest_answer_id = CASE WHEN EXISTS (SELECT 1 {_STANDS}) THEN latest_answer_id END,
   promotion_id = (SELECT max(h.promotion_id) {_STANDS})
WHERE {_IS_RELEASED}"""


def _documents(db: Database, chosen: ChosenPages) -> Sequence[int] | None:
    """Before the transaction that writes: each path is held against a pattern, and SQLite has one writer at a time."""
    with db.looking() as look:
        return chosen.documents(look)


def _parts(documents: Sequence[int] | None) -> Iterator[str]:
    """Conditions on a page `p`, one for each statement."""
    if documents is None:
        yield "1 = 1"
        return
    for start in range(0, len(documents), _DOCUMENTS_AT_ONCE):
        yield f"p.document_id IN ({_numbers(documents[start : start + _DOCUMENTS_AT_ONCE])})"


def _numbers(ids: Iterable[int]) -> str:
    return ", ".join(map(str, ids))


def _execute(connection: Connection, statement: str, values: dict[str, Any]) -> int:
    named = {name: value for name, value in values.items() if f":{name}" in statement}
    return int(connection.execute(sa.text(statement), named).rowcount)
