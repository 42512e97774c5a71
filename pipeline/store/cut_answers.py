"""What an answer has beside itself: the tries that it needed, and the tokens with which one that was cut goes on.

`pagepack retry --cause length` opens the tasks of cut answers again, with the length that they may come to. Meanwhile
the page shows the text that there is. Whoever claims such a task goes on from the stored tokens, where the engine left
some, else reads the page anew. The longer answer stands beside the other: answers are not changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, delete, select

from schemas.tables import Answer, AnswerTry

LENGTH = "length"
"""The finish_reason of an answer that was cut at its longest length."""


def put_tries(connection: Connection, tries: Mapping[int, Sequence[Mapping[str, Any]]]) -> None:
    """The tries at new answers, by the answers' ids."""
    rows = [
        {"answer_id": answer_id, "number": number, **one}
        for answer_id, of_answer in tries.items()
        for number, one in enumerate(of_answer, 1)
    ]
    if rows:
        connection.execute(sa.insert(AnswerTry), rows)


def forget_tries(connection: Connection, answers: Collection[int]) -> None:
    """Of answers that go."""
    connection.execute(delete(AnswerTry).where(AnswerTry.answer_id.in_(answers)))


def written_so_far(connection: Connection, answers: Collection[int]) -> dict[int, tuple[list[int], float | None]]:
    """Of cut answers, by id: their tokens, and the engine's confidence in them."""
    rows = connection.execute(
        select(Answer.id, Answer.token_ids, Answer.confidence).where(
            Answer.id.in_(answers), Answer.finish_reason == LENGTH, Answer.token_ids.is_not(None)
        )
    )
    return {row.id: ([int(token) for token in row.token_ids.split()], row.confidence) for row in rows}


def shall_go_on(row: sa.Row[Any]) -> bool:
    """Whether the answer that there is was cut before the length that is asked for."""
    return row.max_tokens is not None and row.finish_reason == LENGTH and bool(row.output_tokens < row.max_tokens)
