"""Tables of processes and servers: which workers run, who leads, what the broker holds, which jobs a server has."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, Float, ForeignKey, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from schemas.base import Base
from schemas.columns import StorableText, utc_now


class WorkerProcess(Base):
    """A worker that runs, or ran until lately: one incarnation, known by the `owner` of its leases."""

    __tablename__ = "worker_processes"

    owner: Mapped[str] = mapped_column(StorableText, primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    host: Mapped[str] = mapped_column(StorableText)
    device: Mapped[str | None] = mapped_column(StorableText)
    engine: Mapped[str | None] = mapped_column(StorableText)
    model: Mapped[str | None] = mapped_column(StorableText)
    prompts: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))  # that it answers; null: any
    version: Mapped[str] = mapped_column(StorableText)  # of the program
    slots: Mapped[int]  # pages or documents that it takes at once
    started_at: Mapped[datetime]
    seen_at: Mapped[float] = mapped_column(Float)  # seconds since the epoch, by the database's clock


class Leader(Base):
    """Who does what only one does, until `held_until`: `dispatch` for all, or `run 12`, which works on batch 12."""

    __tablename__ = "leaders"

    name: Mapped[str] = mapped_column(String(16), primary_key=True)
    owner: Mapped[str] = mapped_column(StorableText)
    held_until: Mapped[float] = mapped_column(Float)


class BrokerMark(Base):
    """One row: the queue in the broker that holds a mark, until the broker loses what it was given."""

    __tablename__ = "broker_marks"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)  # 1
    queue: Mapped[str] = mapped_column(StorableText)


class EndpointJob(Base):
    """A job of a server's batch API, written down before it is made; `key` is in the server's metadata of it."""

    __tablename__ = "endpoint_jobs"

    key: Mapped[str] = mapped_column(String(32), primary_key=True)
    model: Mapped[str] = mapped_column(StorableText)  # fingerprint of what reads
    job_id: Mapped[str | None] = mapped_column(StorableText)  # the server's; null: its making was not heard of
    created_at: Mapped[datetime] = mapped_column(default=utc_now)  # or last said to be on its way to the server


class EndpointJobPage(Base):
    """A page that is in a job: the hash of its image, and the version of its prompt."""

    __tablename__ = "endpoint_job_pages"

    key: Mapped[str] = mapped_column(ForeignKey("endpoint_jobs.key"), primary_key=True)
    page: Mapped[str] = mapped_column(StorableText, primary_key=True, index=True)
