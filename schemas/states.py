"""States of batches, documents and page tasks; docs/architecture.md has what leads from one to another."""

from __future__ import annotations

from enum import StrEnum


class BatchState(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"  # nothing of it is given out until it is resumed
    FINISHED = "finished"
    CANCELLED = "cancelled"


class DocumentState(StrEnum):
    PENDING = "pending"
    LEASED = "leased"
    READY = "ready"  # every page has a row; the pages' own states say the rest
    FAILED = "failed"
    REJECTED = "rejected"


class TaskState(StrEnum):
    PENDING = "pending"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"
