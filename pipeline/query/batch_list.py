"""All batches with their counts, for `pagepack batches`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pipeline.database.looking import Looking, as_moment
from pipeline.query.batch_status import batch_rows, is_interrupted, who_works


@dataclass(frozen=True, slots=True)
class ListedBatch:
    """A row of `batch_summary`, and whether its run is gone; moments are UTC, and say so."""

    batch_id: str
    name: str
    state: str
    files_seen: int
    files_done: int
    files_failed: int
    files_rejected: int
    pages_total: int
    pages_done: int
    pages_failed: int
    started_at: datetime
    finished_at: datetime | None
    interrupted: bool


def list_batches(db: Looking) -> list[ListedBatch]:
    """The latest first; costs a look at each page of each batch."""
    columns = ", ".join(f"s.{name}" for name in ListedBatch.__slots__ if name != "interrupted")
    running = [batch for batch in batch_rows(db) if batch.state == "running"]
    interrupted = {batch.batch_id for batch in running if is_interrupted(batch, who_works(db, batch))}
    with db.looking() as look:
        rows = look.rows(
            f"SELECT {columns} FROM batch_summary s JOIN batches b ON b.public_id = s.batch_id ORDER BY b.id DESC"
        )
    return [
        ListedBatch(
            **row._asdict()
            | {
                "started_at": as_moment(row.started_at),
                "finished_at": None if row.finished_at is None else as_moment(row.finished_at),
                "interrupted": row.batch_id in interrupted,
            }
        )
        for row in rows
    ]
