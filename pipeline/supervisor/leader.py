"""Leadership: one process dispatches and sweeps for all, and another takes over when it falls silent.

Leadership is a row that its holder renews; whoever finds it run out takes it. Two holders at once, after a freeze, do
double work and no harm: dispatching and sweeping are guarded row by row.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import delete

from pipeline.database.dialect import insert_for
from pipeline.database.engine import Database
from schemas.worker_tables import Leader


def take_leadership(db: Database, name: str, owner: str, seconds: float) -> bool:
    """Take or renew leadership for some seconds; False where another process holds it."""
    with db.write() as connection:
        now = db.now(connection)
        taken = {"owner": owner, "held_until": now + seconds}
        statement = insert_for(connection)(Leader).values(name=name, **taken)
        free = sa.or_(Leader.owner == owner, Leader.held_until < now)
        return (
            connection.execute(
                statement.on_conflict_do_update(index_elements=["name"], set_=taken, where=free).returning(Leader.name)
            ).one_or_none()
            is not None
        )


def leave_leadership(db: Database, name: str, owner: str) -> None:
    """Let another take it at once."""
    with db.write() as connection:
        connection.execute(delete(Leader).where(Leader.name == name, Leader.owner == owner))
