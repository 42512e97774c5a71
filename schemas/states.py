"""States of batches, documents and page tasks, and the causes of failures.

docs/architecture.md has what leads from one state to another.
"""

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


CAUSES = (  # of a failed file or page; the README says of each what to do
    "bad-answer",
    "budget",
    "cancelled",
    "changed",
    "crash",
    "damaged",
    "deadline",
    "empty",
    "encrypted",
    "endpoint",
    "engine",
    "filtered",
    "image-damaged",
    "image-missing",
    "length",
    "memory",
    "message",
    "missing",
    "not-finite",
    "refused",
    "schema",
    "special",
    "symlink",
    "timeout",
    "too-large",
    "unavailable",
    "undecodable",
    "unread-script",
    "unreadable",
    "unsupported",
    "unsupported-prompt",
)
