"""What the tools give back: assistants get it as text, and by these schemas as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class PageFound(BaseModel):
    """A page that holds the words."""

    source_path: str
    page_number: int
    prompt: str
    snippet: str = Field(description="the place in its text, with **the words** marked")
    score: float = Field(description="higher is better; compares within one search only")
    document_id: str


class SearchResult(BaseModel):
    """The best pages, and how many there are."""

    pages: list[PageFound]
    total: int = Field(description="pages that fit; a higher limit gives more of them")
    is_more: bool = Field(description="there are more than total; narrow the search")


class PageResult(BaseModel):
    """A page as it was read."""

    source_path: str
    document_id: str
    page_number: int
    page_count: int | None = Field(description="pages of the document")
    prompt: str
    state: str = Field(description="done, waiting or failed")
    text: str | None = Field(description="null where there is none; reason says why")
    text_cut: str | None = Field(description="what of the text is left out; null: it is whole")
    reason: str | None = Field(description="why there is no text")
    confidence: float | None = Field(description="0 to 1, of the engine in its own reading; null where it has none")
    lowest_confidence: float | None = Field(description="in the line or token that it was least sure of")
    engine: str | None
    model: str | None
    finish_reason: str | None = Field(description="stop, or why the text may lack something")
    read_at: str | None = Field(description="UTC")
    image: str | None = Field(description="how the image came out, where it was asked for")


class ListedBatch(BaseModel):
    """A job: files that were read together."""

    batch_id: str
    name: str
    state: str = Field(description="running, paused, finished, cancelled, or interrupted: nobody works on it")
    engine: str = Field(description="that was asked for; any: whatever the workers read with")
    started_at: str
    finished_at: str | None


class BatchesResult(BaseModel):
    """The latest first."""

    batches: list[ListedBatch]


class BatchResult(ListedBatch):
    """One job, and how it goes."""

    files_seen: int
    files_done: int
    files_failed: int
    files_rejected: int
    pages_total: int
    pages_done: int
    pages_failed: int
    prompts: list[str] = Field(description="what each page is asked")
    pages_per_second: float = Field(description="over the last minute")
    seconds_left: float | None
    failures: dict[str, int] = Field(description="cause → files or pages; their reasons are in the view failures")
    pages_worth_a_look: dict[str, int] = Field(description="reason → pages that a person should check; view review")


class SqlRows(BaseModel):
    """The first rows of a statement."""

    columns: list[str]
    rows: list[list[Any]]
    cut: str | None = Field(description="what is left out; null: these are all rows")


class ViewDescription(BaseModel):
    """A view and its columns."""

    view: str
    meaning: str = Field(description="what a row of it is")
    columns: dict[str, str] = Field(description="name → type, and where one view was asked for what it means")


class ViewsResult(BaseModel):
    """What SQL can read."""

    database: str = Field(description="sqlite or postgresql: whose SQL it is")
    views: list[ViewDescription]
