"""Jobs of a batch API that pages were put into: written down before they are made, so that none is paid for twice.

    begin ──► (the server makes the job) ──► made ──► its pages are answered, and stored as any answer is
      └── died here: the job is looked for by its key

A page that is asked for again while its job is known waits for that job. What a job did not answer is dropped, and may
be put into another. Old jobs are forgotten: by then their pages have answers, or nobody asks for them.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import delete, select, update

from pipeline.database.engine import Database
from pipeline.database.retry import retried
from schemas.columns import utc_now
from schemas.worker_tables import EndpointJob, EndpointJobPage

KEPT_DAYS = 7  # servers keep the answers of a job for some days


class KnownJob(NamedTuple):
    """`job_id` is the server's; None where its making was begun, and not heard of."""

    key: str
    job_id: str | None


class JobBook:
    """What a worker with such an engine reads and writes."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def find(self, model: str, pages: Collection[str]) -> dict[str, KnownJob]:
        """The latest job of each page that is in one, by the page's name there."""
        found: dict[str, KnownJob] = {}
        names = sorted(pages)
        with self._db.read(by_key=True) as connection:
            for start in range(0, len(names), _AT_ONCE):
                which = (EndpointJob.model == model, EndpointJobPage.page.in_(names[start : start + _AT_ONCE]))
                jobs = select(EndpointJobPage.page, EndpointJob.key, EndpointJob.job_id).join(
                    EndpointJob, EndpointJob.key == EndpointJobPage.key
                )
                for row in connection.execute(jobs.where(*which).order_by(EndpointJob.created_at)):
                    found[row.page] = KnownJob(row.key, row.job_id)
        return found

    def begin(self, key: str, model: str, pages: Collection[str]) -> None:
        _begin(self._db, key, model, pages)

    def made(self, key: str, job_id: str) -> None:
        _made(self._db, key, job_id)

    def drop(self, key: str, pages: Collection[str] | None = None) -> None:
        """These pages of a job are not answered by it; None: it is none, or is known no more."""
        _drop(self._db, key, pages)


_AT_ONCE = 500  # of the parameters that a statement may have


@retried
def _begin(db: Database, key: str, model: str, pages: Collection[str]) -> None:
    with db.write() as connection:
        old = select(EndpointJob.key).where(EndpointJob.created_at < utc_now() - datetime.timedelta(days=KEPT_DAYS))
        connection.execute(delete(EndpointJobPage).where(EndpointJobPage.key.in_(old)))
        connection.execute(delete(EndpointJob).where(EndpointJob.key.in_(old)))
        connection.execute(sa.insert(EndpointJob), [{"key": key, "model": model, "created_at": utc_now()}])
        connection.execute(sa.insert(EndpointJobPage), [{"key": key, "page": page} for page in sorted(pages)])


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
            names = sorted(pages)
            for start in range(0, len(names), _AT_ONCE):
                of_it = EndpointJobPage.page.in_(names[start : start + _AT_ONCE])
                connection.execute(delete(EndpointJobPage).where(which, of_it))
