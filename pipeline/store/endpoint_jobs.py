"""Jobs of a batch API that pages were put into: written down before they are made, so that none is paid for twice.

    begin ──► (the server makes the job) ──► made ──► its pages are answered, and stored as any answer is
      │  its maker says now and then that it is being made: who has one of its pages waits
      └── died here, and says no more: the job is looked for by its key

A page that is asked for again while its job is known waits for that job. What a job did not answer is dropped, and may
be put into another. Old jobs are forgotten: by then their pages have answers, or nobody asks for them.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, delete, select, update

from pipeline.database.engine import Database
from pipeline.database.retry import retried
from schemas.columns import server_now, utc_now
from schemas.worker_tables import EndpointJob, EndpointJobPage

KEPT_DAYS = 7  # servers keep the answers of a job for some days


class KnownJob(NamedTuple):
    """`job_id` is the server's; None where its making was begun, and not heard of.

    `heard_seconds` is how long ago its maker said so, by the database's clock.
    """

    key: str
    job_id: str | None
    heard_seconds: float


class JobBook:
    """What a worker with such an engine reads and writes."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def find(self, model: str, pages: Collection[str]) -> dict[str, KnownJob]:
        """The latest job of each page that is in one, by the page's name there."""
        found: dict[str, KnownJob] = {}
        names = sorted(pages)
        with self._db.read(by_key=True) as connection:
            now = self._db.now(connection)
            for start in range(0, len(names), _AT_ONCE):
                which = (EndpointJob.model == model, EndpointJobPage.page.in_(names[start : start + _AT_ONCE]))
                jobs = select(EndpointJobPage.page, EndpointJob.key, EndpointJob.job_id, EndpointJob.created_at).join(
                    EndpointJob, EndpointJob.key == EndpointJobPage.key
                )
                for row in connection.execute(jobs.where(*which).order_by(EndpointJob.created_at)):
                    heard_at = row.created_at if row.created_at.tzinfo else row.created_at.replace(tzinfo=datetime.UTC)
                    found[row.page] = KnownJob(row.key, row.job_id, now - heard_at.timestamp())
        return found

    def begin(self, key: str, model: str, pages: Collection[str], instead_of: str | None = None) -> set[str]:
        """Write a job of these pages down; those that it has. Pages that `instead_of` has no longer are another's."""
        return _begin(self._db, key, model, pages, instead_of)

    def is_being_made(self, key: str) -> None:
        """Its maker is alive."""
        _is_being_made(self._db, key)

    def made(self, key: str, job_id: str) -> None:
        _made(self._db, key, job_id)

    def drop(self, key: str, pages: Collection[str] | None = None) -> None:
        """These pages of a job are not answered by it; None: it is none, or is known no more."""
        _drop(self._db, key, pages)


_AT_ONCE = 500  # of the parameters that a statement may have


@retried
def _begin(db: Database, key: str, model: str, pages: Collection[str], instead_of: str | None) -> set[str]:
    with db.write() as connection:
        ours = set(pages) if instead_of is None else _take(connection, instead_of, pages)
        if not ours:
            return ours
        old = select(EndpointJob.key).where(EndpointJob.created_at < utc_now() - datetime.timedelta(days=KEPT_DAYS))
        connection.execute(delete(EndpointJobPage).where(EndpointJobPage.key.in_(old)))
        connection.execute(delete(EndpointJob).where(EndpointJob.key.in_(old)))
        connection.execute(sa.insert(EndpointJob).values(key=key, model=model, created_at=server_now()))
        connection.execute(sa.insert(EndpointJobPage), [{"key": key, "page": page} for page in sorted(ours)])
        return ours


@retried
def _is_being_made(db: Database, key: str) -> None:
    with db.write() as connection:
        connection.execute(update(EndpointJob).where(EndpointJob.key == key).values(created_at=server_now()))


@retried
def _made(db: Database, key: str, job_id: str) -> None:
    with db.write() as connection:
        connection.execute(update(EndpointJob).where(EndpointJob.key == key).values(job_id=job_id))


@retried
def _drop(db: Database, key: str, pages: Collection[str] | None) -> None:
    with db.write() as connection:
        which = EndpointJobPage.key == key
        if pages is None:
            connection.execute(delete(EndpointJobPage).where(which))
            connection.execute(delete(EndpointJob).where(EndpointJob.key == key))
        else:
            _take(connection, key, pages)


def _take(connection: Connection, key: str, pages: Collection[str]) -> set[str]:
    """These out of a job; those that were in it."""
    taken: set[str] = set()
    names = sorted(pages)
    for start in range(0, len(names), _AT_ONCE):
        of_it = EndpointJobPage.page.in_(names[start : start + _AT_ONCE])
        gone = delete(EndpointJobPage).where(EndpointJobPage.key == key, of_it)
        taken |= set(connection.scalars(gone.returning(EndpointJobPage.page)))
    return taken
