"""How reading went over time: tries, answers, failures, pages in hand and confidence, by minute, hour or day.

Pages in hand are Little's law: the seconds that tries took, over the seconds of the bucket. It says how well a worker
packs, for one that reads a page after the other has one in hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.database.looking import Looking, as_moment

MOST_TRIES = 200_000
"""The latest ones are looked at, which takes a second."""

_STEPS = (timedelta(minutes=1), timedelta(minutes=10), timedelta(hours=1), timedelta(days=1), timedelta(days=30))
_MOST_BUCKETS = 72


@dataclass(frozen=True, slots=True)
class Bucket:
    """What ended within a step of time from `start` on, UTC."""

    start: datetime
    answers: int
    failures: int
    pages_in_hand: float
    confidence: float | None  # mean of the answers that have one
    output_tokens: int


@dataclass(frozen=True, slots=True)
class History:
    step: timedelta
    buckets: Sequence[Bucket]


def history(db: Looking, batch_id: int | None = None) -> History:
    """Of a batch, or of all; the latest tries alone, in at most 72 buckets, empty ones too."""
    of_batch = "" if batch_id is None else "AND coalesce(x.batch_id, t.batch_id) = :batch"
    given = {} if batch_id is None else {"batch": batch_id}
    seconds = _SECOND[db.dialect]
    tries = f"""FROM task_attempts x JOIN page_tasks t ON t.id = x.task_id
WHERE x.id > (SELECT coalesce(max(id), 0) - {MOST_TRIES} FROM task_attempts) {of_batch}"""
    with db.looking() as look:
        ((first, last),) = look.rows(f"SELECT min(x.ended_at), max(x.ended_at) {tries}", **given)
        if first is None:
            return History(_STEPS[0], [])
        begin, end = as_moment(first), as_moment(last)
        step = next((one for one in _STEPS if (end - begin) / one < _MOST_BUCKETS - 1), _STEPS[-1])
        width = int(step.total_seconds())
        joined = tries.replace("WHERE", "LEFT JOIN answer_versions a ON a.id = t.answer_id AND x.error IS NULL\nWHERE")
        rows = look.rows(
            f"""SELECT {seconds.format("x.ended_at")} / {width} AS bucket,
   sum(CASE WHEN x.error IS NULL THEN 1 ELSE 0 END) AS answers,
   sum(CASE WHEN x.error IS NULL THEN 0 ELSE 1 END) AS failures,
   sum({_TOOK[db.dialect]}) AS busy, avg(a.confidence) AS confidence, sum(coalesce(x.output_tokens, 0)) AS tokens
{joined} GROUP BY 1 ORDER BY 1""",
            **given,
        )
    found = {int(row.bucket): row for row in rows}
    numbers = range(min(found), max(found) + 1) if max(found) - min(found) < 10 * _MOST_BUCKETS else sorted(found)
    return History(step, [_bucket(number, width, found.get(number)) for number in numbers])


_SECOND = {
    "sqlite": "CAST(strftime('%s', {}) AS INTEGER)",
    "postgresql": "CAST(floor(extract(epoch FROM {})) AS BIGINT)",
}
_TOOK = {
    "sqlite": "coalesce((julianday(x.ended_at) - julianday(x.started_at)) * 86400.0, x.seconds, 0.0)",
    "postgresql": "coalesce(CAST(extract(epoch FROM x.ended_at - x.started_at) AS double precision), x.seconds, 0.0)",
}


def _bucket(number: int, width: int, row: Any) -> Bucket:
    start = datetime.fromtimestamp(number * width, UTC)
    if row is None:
        return Bucket(start, 0, 0, 0.0, None, 0)
    return Bucket(start, row.answers, row.failures, row.busy / width, row.confidence, int(row.tokens))
