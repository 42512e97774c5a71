"""Who works: the table of worker processes.

A worker says every few seconds that it is there, so that people see the fleet, and so that no more wake-up messages are
sent than its slots can use up. Leases do not hang on it: they have their own heartbeat.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from sqlalchemy import delete, select, update

from pipeline import __version__
from pipeline.database.dialect import insert_for
from pipeline.database.engine import Database
from schemas.columns import utc_now
from schemas.worker_tables import WorkerProcess

BEAT_SECONDS = 5.0


def enlist(
    db: Database,
    owner: str,
    role: str,
    slots: int,
    *,
    device: str | None = None,
    engine: str | None = None,
    model: str | None = None,
    prompts: Sequence[str] | None = None,
) -> None:
    """A worker is there, and takes `slots` pages or documents at once; a reader answers `prompts`, or any."""
    row: dict[str, object] = {
        "role": role,
        "host": socket.gethostname(),
        "device": device,
        "engine": engine,
        "model": model,
        "prompts": None if prompts is None else list(prompts),
        "version": __version__,
        "slots": slots,
        "started_at": utc_now(),
    }
    with db.write() as connection:
        row["seen_at"] = db.now(connection)
        enlisted = insert_for(connection)(WorkerProcess).values(owner=owner, **row)
        connection.execute(enlisted.on_conflict_do_update(index_elements=["owner"], set_=row))


def still_there(db: Database, owner: str) -> bool:
    """The worker's own heartbeat; False where it was taken for dead meanwhile, and must enlist again."""
    with db.write() as connection:
        mine = update(WorkerProcess).where(WorkerProcess.owner == owner)
        return bool(connection.execute(mine.values(seen_at=db.now(connection))).rowcount)


def is_enlisted(db: Database, owner: str) -> bool:
    """Whether a worker has said that it is there."""
    with db.read() as connection:
        return connection.scalar(select(WorkerProcess.owner).where(WorkerProcess.owner == owner)) is not None


def dismiss(db: Database, owner: str) -> None:
    """A worker, or with `owner` ending in `/` all incarnations below it, ended."""
    with db.write() as connection:
        connection.execute(delete(WorkerProcess).where(WorkerProcess.owner.startswith(owner, autoescape=True)))


def forget_silent(db: Database, seconds: float) -> None:
    """Rows of workers that died without a word."""
    with db.write() as connection:
        connection.execute(delete(WorkerProcess).where(WorkerProcess.seen_at < db.now(connection) - seconds))
