"""What crosses the broker: ids, never pixels. SQL is the truth; a message only says that something may wait.

Each message is the keyword arguments of a Celery task. A worker that meets a version it does not know leaves the row
alone: the sweep rings again, and a worker that knows it will come.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

INGEST_TASK = "pagepack.ingest_document"
READ_TASK = "pagepack.read_page"
INGEST_QUEUE = "pagepack.ingest"
READ_QUEUE = "pagepack.read"


class IngestDocument(BaseModel):
    """A document waits to be turned into pages."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1] = 1
    document_id: int


class ReadPage(BaseModel):
    """A page has prompts that wait for an answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1] = 1
    page_id: int
