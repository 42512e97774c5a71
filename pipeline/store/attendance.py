"""Who works on a batch. A `pagepack run` or `ask` works on its own, and says so in a row that it renews until it ends.

In a home the kernel knows better than the row: where nobody holds its lock, whoever wrote the row was killed.
"""

from __future__ import annotations

from sqlalchemy import delete

from pipeline.database.dialect import insert_for
from pipeline.database.engine import Database
from pipeline.database.retry import retried
from pipeline.store.worked_on_by import run_name
from schemas.worker_tables import Leader, WorkerProcess


@retried
def attend(db: Database, batch_id: int, owner: str, seconds: float) -> None:
    """A run works on this batch, and says so again before these seconds are over."""
    with db.write() as connection:
        says = {"owner": owner, "held_until": db.now(connection) + seconds}
        row = insert_for(connection)(Leader).values(name=run_name(batch_id), **says)
        connection.execute(row.on_conflict_do_update(index_elements=["name"], set_=says))


@retried
def leave(db: Database, batch_id: int, owner: str) -> None:
    """The run ends."""
    with db.write() as connection:
        connection.execute(delete(Leader).where(Leader.name == run_name(batch_id), Leader.owner == owner))


@retried
def forget_the_dead(db: Database) -> None:
    """In a home, whose lock is ours: whoever worked there is dead. A question beside that goes on says so again."""
    with db.write() as connection:
        connection.execute(delete(Leader))
        connection.execute(delete(WorkerProcess))
