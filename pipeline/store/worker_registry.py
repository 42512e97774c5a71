"""Who works: the table of worker processes.

A worker says every few seconds that it is there, so that people see the fleet, and so that no more wake-up messages are
sent than its slots can use up. Leases do not hang on it: they have their own heartbeat.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, select, update

from pipeline import __version__
from pipeline.database.dialect import insert_for
from pipeline.database.engine import Database
from pipeline.store.page_tasks import TEXT_LAYER
from schemas.columns import utc_now
from schemas.tables import WorkerProcess

BEAT_SECONDS = 5.0
SILENT_SECONDS = 30.0  # a worker that said nothing for so long is not counted on


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker as people see it; `silent_seconds` since it last said that it is there.

    Its role is `ingest`, `read`, or `run`: a reader that serves its own `pagepack run` alone.
    """

    owner: str
    role: str
    host: str
    device: str | None
    engine: str | None
    model: str | None
    version: str
    slots: int
    silent_seconds: float
    prompts: list[str] | None = None  # that it answers; None: any

    def is_reading(self) -> bool:
        return self.role in ("read", "run") and self.silent_seconds < SILENT_SECONDS

    def is_ingesting(self) -> bool:
        return self.role == "ingest" and self.silent_seconds < SILENT_SECONDS


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


def workers(db: Database) -> list[WorkerRow]:
    """All that are known, by role and host."""
    with db.read() as connection:
        now = db.now(connection)
        rows = connection.execute(
            select(WorkerProcess.__table__).order_by(
                WorkerProcess.role, WorkerProcess.host, WorkerProcess.device, WorkerProcess.owner
            )
        )
        return [
            WorkerRow(
                row.owner, row.role, row.host, row.device, row.engine, row.model, row.version, row.slots,
                silent_seconds=max(0.0, now - row.seen_at), prompts=row.prompts,
            )
            for row in rows
        ]  # fmt: skip


def why_nobody_reads(there: Sequence[WorkerRow], engine: str, model: str, prompts: Collection[str]) -> str | None:
    """Why pages of a batch would wait for ever beside these workers, and the way out; None where they are read.

    Args:
        engine, model: what the batch asked for; model "" where any may read.
        prompts: the names of what it asks.
    """
    readers = [worker for worker in there if worker.is_reading()]
    if not readers:
        return "no worker is ready to read; where none is starting, start one: `pagepack worker`"
    if model := model.removesuffix(TEXT_LAYER):
        readers = [worker for worker in readers if worker.model == model]
        if not readers:
            return (
                f"no worker reads with what the batch asked for: {engine} ({model}); start a worker with that model, "
                "or submit for another"
            )
    missing = [
        name for name in prompts if all(worker.prompts is not None and name not in worker.prompts for worker in readers)
    ]
    if missing:
        return (
            f"no worker answers the prompt {', '.join(missing)}; start one that does: "
            "`pagepack worker --engine pixtral --model DIR`"
        )
    return None
