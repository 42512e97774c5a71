"""What batches have cost, and what they may cost."""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import select

from pipeline.database.engine import Database
from schemas.tables import Batch, TaskAttempt


class Spent(NamedTuple):
    """All attempts at pages for a batch together, and the most that its command allows; None: no limit."""

    cost: float
    most: float | None


def spent(db: Database, batch_public_id: str) -> Spent:
    """By the batch's id for people."""
    batch = select(Batch.id, Batch.max_cost).where(Batch.public_id == batch_public_id)
    with db.read(by_key=True) as connection:
        row = connection.execute(batch).one_or_none()
        if row is None or row.max_cost is None:
            return Spent(0.0, None)
        return Spent(connection.scalar(_costs_of(row.id)) or 0.0, row.max_cost)


def cost_of_batch(db: Database, batch_id: int) -> float | None:
    """None where no attempt had a cost."""
    with db.read() as connection:
        cost: float | None = connection.scalar(_costs_of(batch_id))
        return cost


def _costs_of(batch_id: int) -> sa.Select[Any]:
    costs = select(sa.func.sum(TaskAttempt.cost))
    return costs.where(TaskAttempt.batch_id == batch_id, TaskAttempt.cost.is_not(None))
