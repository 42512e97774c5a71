"""What the routes take and give, as OpenAPI tells it. Names are those of the SQL views; moments are UTC."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import Depends
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field

from schemas.messages import MOST_OF_A_NAME

TOKEN = Depends(HTTPBearer(auto_error=False, description="The server's token, where it has one"))
"""For OpenAPI alone: `guard.py` looks at it before any route."""


class Problem(BaseModel):
    """Why there is no answer: what kind of thing, and in words with the way out."""

    error: str
    detail: str


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "This cannot be asked so"},
    401: {"model": Problem, "description": "A token is needed"},
    404: {"model": Problem, "description": "There is none of that name"},
    422: {"model": Problem, "description": "A value is missing, or of the wrong kind"},
    503: {"model": Problem, "description": "Not now: the database or the storage is away, or busy"},
}
REFUSED: dict[int | str, dict[str, Any]] = {
    403: {"model": Problem, "description": "The server was not started to allow this"},
    **PROBLEMS,
}
TOO_LARGE: dict[int | str, dict[str, Any]] = {
    413: {"model": Problem, "description": "More than PAGEPACK_MAX_UPLOAD_BYTES"},
    507: {"model": Problem, "description": "The disk is full"},
    **REFUSED,
}


class Batch(BaseModel):
    """A job: files that are read together."""

    batch_id: str
    name: str
    state: str = Field(description="running, paused, finished or cancelled")
    all_seen: bool = Field(description="false while its files are being registered")
    engine: str
    model: str
    started_at: datetime
    finished_at: datetime | None


class Batches(BaseModel):
    batches: list[Batch]


class BatchStatus(Batch):
    """A batch with its exact counts."""

    files_seen: int
    files_done: int
    files_failed: int
    files_rejected: int
    pages_total: int
    pages_done: int
    pages_failed: int
    pages_per_second: float = Field(description="over the last minute")
    seconds_left: float | None
    failures: dict[str, int] = Field(description="cause → files, or pages and prompts")
    pages_worth_a_look: dict[str, int] = Field(description="reason of the view review → pages")
    prompts: list[str]
    interrupted: bool = Field(description="nobody works on it any more")
    command: str | None = Field(description="of a shell, to go on with it; null: workers do")


class Failure(BaseModel):
    source_path: str
    document_id: str | None
    page_number: int | None = Field(description="null where the whole file failed")
    prompt: str | None
    cause: str
    reason: str
    attempts: int
    failed_at: datetime | None


class Failures(BaseModel):
    failures: list[Failure]
    next: str | None = Field(description="where more follow: ask again with it as `after`")


class Document(BaseModel):
    document_id: str
    source_path: str = Field(description="one of its paths, where it lies at several")
    page_count: int | None = Field(description="null until it was opened")
    state: str = Field(description="pending, leased, ready, rejected or failed")


class Page(BaseModel):
    """A page and its current answer; where there is none, text is null and reason says why."""

    source_path: str
    document_id: str
    page_number: int
    page_count: int | None
    prompt: str
    state: str = Field(description="done, waiting or failed")
    text: str | None
    cause: str | None
    reason: str | None
    engine: str | None
    model: str | None
    finish_reason: str | None
    confidence: float | None
    lowest_confidence: float | None
    angle: float | None
    created_at: datetime | None
    image_hash: str | None
    width_px: int | None
    height_px: int | None


class Pages(BaseModel):
    pages: list[Page]


class Snippet(BaseModel):
    text: str
    matches: list[tuple[int, int]] = Field(description="(start, end) of the words in text, in characters")


class Hit(BaseModel):
    source_path: str
    document_id: str
    page_number: int
    prompt: str
    score: float = Field(description="grows with relevance; compares within one search only")
    snippet: Snippet


class Hits(BaseModel):
    hits: list[Hit]
    total: int = Field(description="pages that fit, or that were ranked of them")
    is_more: bool = Field(description="there are more than were ranked; narrow the search to rank them all")
    not_indexed: int = Field(description="answers at most that are yet to be put into the index")


class Statement(BaseModel):
    statement: str = Field(description="one SELECT", max_length=100_000)
    max_rows: int = Field(1_000, ge=1, le=10_000)


class Rows(BaseModel):
    columns: list[str]
    rows: list[list[str | int | float | None]]
    cut: str | None = Field(description="what is left out; null: these are all rows")


class View(BaseModel):
    view: str
    meaning: str
    columns: dict[str, str] = Field(description="name → type: what it means")


class Views(BaseModel):
    database: str = Field(description="sqlite or postgresql")
    views: list[View]


class Paths(BaseModel):
    """Files and folders on the server, below what --read-from names."""

    paths: list[str] = Field(min_length=1, max_length=1_000)
    batch: str | None = Field(
        None, description="name of the batch; without one, that of the paths", max_length=MOST_OF_A_NAME
    )
    prompts: list[str] = Field(["ocr"], max_length=20, description="names of the catalogue: ocr, describe, …")


class Retry(BaseModel):
    cause: str | None = Field(None, description="only failures of this cause; without one, all")


class Retried(BaseModel):
    """What waits again."""

    failures: int = Field(description="that were chosen")
    documents: int = Field(description="that are opened again")
    answers: int = Field(description="pages and prompts that are read again")
    nobody_reads: str | None = Field(description="why nothing will come of it by itself, and the way out")


class AddedFile(BaseModel):
    name: str = Field(description="as it was sent")
    source_path: str = Field(description="as search and SQL know it from now on")
    size_bytes: int
    content_hash: str = Field(description="SHA-256")
    was_known: bool = Field(description="the same content under the same name was there already")


class Added(BaseModel):
    """A batch that what was sent belongs to; ask /api/v1/batches/{batch_id} how far it is."""

    batch_id: str
    name: str
    all_seen: bool = Field(description="false: its files are still being looked at")
    files: list[AddedFile] = Field(description="that were uploaded")
    nobody_reads: str | None = Field(description="why nothing will come of it by itself, and the way out")
