"""Who works on a batch. A `pagepack run` or `ask` works on its own, and says so in a row that it renews until it ends.

In a home the kernel knows better than the row: where nobody holds its lock, whoever wrote the row was killed.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from sqlalchemy import delete, select

from pipeline.database.dialect import insert_for
from pipeline.database.engine import Database
from pipeline.database.home import is_in_use
from pipeline.database.retry import retried
from schemas.tables import Leader, WorkerProcess

DISPATCH = "dispatch"
"""The row of the worker host that leads: it dispatches all running batches."""


class WorkedOnBy(StrEnum):
    RUN = "run"
    WORKERS = "workers"
    NOBODY = "nobody"


@retried
def attend(db: Database, batch_id: int, owner: str, seconds: float) -> None:
    """A run works on this batch, and says so again before these seconds are over."""
    with db.write() as connection:
        says = {"owner": owner, "held_until": db.now(connection) + seconds}
        row = insert_for(connection)(Leader).values(name=_name(batch_id), **says)
        connection.execute(row.on_conflict_do_update(index_elements=["name"], set_=says))


@retried
def leave(db: Database, batch_id: int, owner: str) -> None:
    """The run ends."""
    with db.write() as connection:
        connection.execute(delete(Leader).where(Leader.name == _name(batch_id), Leader.owner == owner))


@retried
def forget_the_dead(db: Database) -> None:
    """In a home, whose lock is ours: whoever worked there is dead. A question beside that goes on says so again."""
    with db.write() as connection:
        connection.execute(delete(Leader))
        connection.execute(delete(WorkerProcess))


def worked_on_by(db: Database, batch_id: int, is_question: bool = False) -> WorkedOnBy:
    """Who works on a batch now; a run in a home also answers questions that are asked there."""
    is_home = db.dialect == "sqlite"
    with db.read() as connection:
        names = connection.scalars(select(Leader.name).where(Leader.held_until > db.now(connection))).all()
    runs = [name for name in names if name == _name(batch_id) or (is_home and is_question and name != DISPATCH)]
    if not (runs or DISPATCH in names) or (is_home and not is_in_use(Path(db.name).parent)):
        return WorkedOnBy.NOBODY
    return WorkedOnBy.RUN if runs else WorkedOnBy.WORKERS


def _name(batch_id: int) -> str:
    return f"run {batch_id}"
