"""Answers and failures of page tasks into the database: what read workers store.

Each function is one transaction, guarded by the claim's token: where the lease was lost meanwhile, it changes nothing
and says so. Only after it returns may the message be acknowledged; a crash in between repeats a message whose rows are
done, which changes nothing either.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, select, update

from pipeline.database.dialect import is_given
from pipeline.database.engine import Database
from pipeline.database.retry import retried
from pipeline.errors import PagepackError, Unavailable
from pipeline.store.answers import (
    AnswerKey,
    ReadAnswer,
    ReusedAnswer,
    Settled,
    UnfitAnswer,
    add_attempts,
    put_answers,
    settle,
)
from pipeline.store.claims import PageClaim, TaskClaim
from pipeline.store.leases import Limits
from pipeline.store.outbox import note_ended
from schemas.columns import server_now
from schemas.states import TaskState
from schemas.tables import Batch, PageTask

_BACKOFF_SECONDS = 5.0  # first wait after a failure that may pass; doubles with each attempt

Outcome = ReadAnswer | ReusedAnswer | Exception


@retried
def complete_pages(
    db: Database, worker: str, pages: Sequence[tuple[PageClaim, Mapping[int, Outcome]]], limits: Limits
) -> set[int]:
    """Store what became of claimed pages' tasks, keyed by task id; those that were still ours. All in one transaction.

    An answer settles its task. A `PagepackError` that is not retryable fails it; any other error makes it wait and
    try again until `max_attempts`.
    """
    with db.write() as connection:
        held = held_tasks(connection, [claim for claim, _ in pages])
        ended = [
            _Ended(claim, task, outcomes[task.task_id])
            for claim, outcomes in pages
            for task in claim.tasks
            if task.task_id in outcomes and (task.task_id, task.token) in held
        ]
        read = [(one.key, one.outcome) for one in ended if isinstance(one.outcome, ReadAnswer)]
        ids = put_answers(connection, read)
        read_now = [one for one in ended if not isinstance(one.outcome, Exception)]
        settle(connection, [one.settled(ids, held[one.task.task_id, one.task.token]) for one in read_now])
        for one in ended:
            if isinstance(one.outcome, Exception):
                attempts = held[one.task.task_id, one.task.token].attempts + 1
                values = after_failure(db, attempts, one.outcome, limits) | {"attempts": attempts}
                connection.execute(update(PageTask).where(PageTask.id == one.task.task_id).values(values))
        tried = [
            one.attempt(worker, held[one.task.task_id, one.task.token])
            for one in ended
            if not isinstance(one.outcome, ReusedAnswer)
        ]
        if tried:
            add_attempts(connection, tried)
        note_ended(connection, {one.claim.document_id for one in ended})
        return {one.task.task_id for one in ended}


@dataclass(frozen=True, slots=True)
class _Ended:
    """A task that is still its claim's, and what became of it."""

    claim: PageClaim
    task: TaskClaim
    outcome: Outcome

    @property
    def key(self) -> AnswerKey:
        assert isinstance(self.outcome, ReadAnswer)
        return AnswerKey(self.claim.image_hash, self.task.prompt.version, self.outcome.model)

    def settled(self, ids: Mapping[AnswerKey, int], held: HeldTask) -> Settled:
        at = (self.task.task_id, self.claim.page_id, self.task.prompt.name)
        if isinstance(self.outcome, ReusedAnswer):
            return Settled(*at, self.outcome.answer_id, shows=held.shows_answers)
        return Settled(*at, ids[self.key], attempts=1, shows=held.shows_answers)

    def attempt(self, worker: str, held: HeldTask) -> dict[str, Any]:
        outcome = self.outcome
        unfit = outcome.answer if isinstance(outcome, UnfitAnswer) else None
        answer = outcome if isinstance(outcome, ReadAnswer) else unfit
        return {
            "task_id": self.task.task_id,
            "token": self.task.token,
            "worker": worker,
            **{field: getattr(answer, field, None) for field in (*_OF_AN_ATTEMPT, *_OF_ITS_DRAFT)},
            "text": unfit.text if unfit else None,
            "error": str(outcome) if isinstance(outcome, Exception) else None,
            "cost": cost_of(outcome),
            "batch_id": held.batch_id,
            "started_at": held.leased_at,
        }


def cost_of(outcome: Outcome) -> float | None:
    """What a server charged for an answer, or for one that was of no use."""
    return outcome.cost if isinstance(outcome, ReadAnswer | PagepackError) else None


_OF_AN_ATTEMPT = ("engine", "finish_reason", "temperature", "prompt_tokens", "output_tokens", "seconds")
_OF_ITS_DRAFT = ("drafted_tokens", "accepted_tokens")


class HeldTask(NamedTuple):
    """What a leased task says of itself: attempts so far, for whom it is read, since when, and whether to be shown."""

    attempts: int
    batch_id: int
    leased_at: datetime | None
    shows_answers: bool


@functools.cache
def _leased_tasks(dialect: str) -> sa.Select[*tuple[Any, ...]]:
    return (
        select(*_OF_A_TASK, Batch.shows_answers)
        .join(Batch, Batch.id == PageTask.batch_id)
        .where(is_given(dialect, PageTask.id, "task_ids"), PageTask.state == TaskState.LEASED)
        .order_by(PageTask.id)
        .with_for_update(of=PageTask)
    )


_OF_A_TASK = (PageTask.id, PageTask.token, PageTask.attempts, PageTask.batch_id, PageTask.leased_at)


def held_tasks(connection: Connection, claims: Sequence[PageClaim]) -> dict[tuple[int, int], HeldTask]:
    """The claims' tasks by (task id, token); a claim whose token is not there lost its lease."""
    ids = [task.task_id for claim in claims for task in claim.tasks]
    rows = connection.execute(_leased_tasks(connection.dialect.name), {"task_ids": ids})
    return {(row.id, row.token): HeldTask(row.attempts, row.batch_id, row.leased_at, row.shows_answers) for row in rows}


def is_final(error: Exception, attempts: int, limits: Limits) -> bool:
    """Whether a failure is for good: another try would fail again, or with this one there were `attempts` enough."""
    would_fail_again = isinstance(error, PagepackError) and not error.retryable
    return would_fail_again or attempts >= limits.max_attempts


def after_failure(db: Database, attempts: int, error: Exception, limits: Limits) -> dict[str, Any]:
    values: dict[str, Any] = {"owner": None, "lease_until": None, "enqueued_at": None}
    if is_final(error, attempts, limits):
        cause = error.cause if isinstance(error, PagepackError) else "engine"
        reason = str(error) or type(error).__name__
        return values | {"state": TaskState.FAILED, "cause": cause, "reason": reason, "finished_at": server_now()}
    wait = _BACKOFF_SECONDS * 2 ** (attempts - 1)
    if isinstance(error, Unavailable):
        wait = max(wait, error.retry_after_seconds)
    return values | {"state": TaskState.PENDING, "next_attempt_at": db.clock() + wait}
