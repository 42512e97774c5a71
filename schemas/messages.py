"""What crosses the broker: ids, never pixels. SQL is the truth; a message only says that something may wait.

Each message is the keyword arguments of a Celery task. A worker that meets a version it does not know leaves the row
alone: the sweep sends again, and a worker that knows it will come.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

INGEST_TASK = "pagepack.ingest_document"
READ_TASK = "pagepack.read_page"
READ_PAGES_TASK = "pagepack.read_pages"
SUBMIT_TASK = "pagepack.submit_document"
INGEST_QUEUE = "pagepack.ingest"
READ_QUEUE = "pagepack.read"
MOST_PAGES = 64  # of a message
MOST_OF_A_NAME = 500  # characters of a batch's name, which an index holds


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


class ReadPages(BaseModel):
    """Pages that wait, in one message: where readers use up many a second, a message for each is most of the work."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1] = 1
    page_ids: list[int] = Field(min_length=1, max_length=MOST_PAGES)


class SubmitDocument(BaseModel):
    """Anyone asks for a document (or, with `pages`, for some pages of it), without touching the database.

    `location` is a URL (`s3://bucket/a.pdf`), or a path as the ingest workers see it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1] = 1
    location: str = Field(min_length=1, max_length=4_096)
    batch: str = Field(max_length=MOST_OF_A_NAME, description="name of the batch that it joins, or makes")
    prompts: list[str] = Field(["ocr"], description="names in the prompt catalogue")
    schemas: dict[str, dict[str, Any]] = Field(
        {},
        description="prompts of the sender's own by name: each asks for the fields of its JSON Schema, and is answered "
        "with JSON that fits it; with [] as prompts, nothing else is asked",
    )
    pages: str | None = Field(None, description="page numbers from 1 and ranges, like 3-5,8,20-; default all")
    priority: int = Field(0, ge=-(2**31), lt=2**31)
    notify: str | None = Field(None, description="TASK or TASK@QUEUE, sent with a DocumentDone when it is done")


class DocumentDone(BaseModel):
    """What `--notify TASK@QUEUE` sends, at least once: every page of the document is read or has failed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1] = 1
    document_id: str = Field(description="as in the views page_text, document_text and files")
    batch_id: str = Field(description="as in the views batch_summary, files and failures")


def json_schemas() -> dict[str, dict[str, object]]:
    """Task name → JSON Schema (draft 2020-12) of its keyword arguments, and where it is sent."""
    taken: list[tuple[str, type[BaseModel], str]] = [
        (SUBMIT_TASK, SubmitDocument, INGEST_QUEUE),
        (INGEST_TASK, IngestDocument, INGEST_QUEUE),
        (READ_TASK, ReadPage, READ_QUEUE),
        (READ_PAGES_TASK, ReadPages, READ_QUEUE),
        ("TASK of --notify", DocumentDone, "QUEUE of --notify"),
    ]
    return {
        task: {"$schema": "https://json-schema.org/draft/2020-12/schema", "queue": queue} | message.model_json_schema()
        for task, message, queue in taken
    }
