"""What programs read: batches, failures, documents, pages, search, SQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from fastapi import Path as PathParameter
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from pipeline.database.looking import Looking, as_moment
from pipeline.errors import PageFailed, UsageError
from pipeline.query.batch_status import BatchRow, batch_rows, find_batch, status
from pipeline.query.failure_list import list_failures
from pipeline.query.find_file import FoundFile, find_file
from pipeline.query.page_answer import PageAnswer, page_answer, page_answers, page_image_hash
from pipeline.query.search import find
from pipeline.query.some_rows import some_rows
from pipeline.web.request_site import Site, TheSite
from pipeline.web.v1 import shapes
from schemas.column_types import VIEWS, column_type
from schemas.text import storable
from schemas.view_columns import COLUMNS

router = APIRouter(prefix="/api/v1", tags=["read"], responses=shapes.PROBLEMS, dependencies=[shapes.TOKEN])

_SQL_SECONDS = 20.0
_SQL_CHARACTERS = 10_000_000  # of all rows
_STATEMENTS_AT_ONCE = 4
_PAGES_AT_ONCE = 100
_statements = threading.BoundedSemaphore(_STATEMENTS_AT_ONCE)

Ref = Annotated[str, PathParameter(description="A batch by its id, by a beginning of it, or by its name")]
DocumentId = Annotated[str, PathParameter(description="As search and SQL give it")]
Number = Annotated[int, PathParameter(ge=1, le=2**31 - 1, description="Of the page, from 1")]
Prompt = Annotated[str, Query(description="What the pages were asked", max_length=200)]
Limit = Annotated[int, Query(ge=1, le=1_000)]
_TEXT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The text"}
}


def batch_of(db: Looking, ref: str) -> BatchRow:
    """Raises HTTPException 404: no such batch, or several."""
    try:
        return find_batch(db, ref)
    except UsageError as error:
        raise HTTPException(404, str(error)) from error


def _document(db: Looking, document_id: str) -> FoundFile:
    try:
        return find_file(db, document_id, by_end=False)
    except UsageError as error:
        raise HTTPException(404, str(error)) from error


def _page(site: Site, document_id: str, number: int, prompt: str) -> PageAnswer:
    db = site.db
    document = _document(db, document_id)
    try:
        return page_answer(db, document, number, prompt)
    except UsageError as error:
        raise HTTPException(404, str(error)) from error


@router.get("/batches")
def list_batches(site: TheSite, limit: Limit = 100) -> shapes.Batches:
    """The latest first. Their counts are asked for one by one."""
    return shapes.Batches(batches=[_batch(row) for row in batch_rows(site.db, limit=limit)])


def _batch(row: BatchRow) -> shapes.Batch:
    return shapes.Batch(**{name: getattr(row, name) for name in shapes.Batch.model_fields})


@router.get("/batches/{batch}")
def batch_status(site: TheSite, batch: Ref) -> shapes.BatchStatus:
    """How far a batch is: exact counts, rate, failures by cause. Costs a look at each of its pages."""
    db = site.db
    now = status(db, batch_of(db, batch))
    more = [name for name in shapes.BatchStatus.model_fields if name not in shapes.Batch.model_fields]
    return shapes.BatchStatus(**_batch(now.batch).model_dump(), **{name: getattr(now, name) for name in more})


@router.get("/batches/{batch}/failures")
def batch_failures(
    site: TheSite,
    batch: Ref,
    cause: Annotated[str | None, Query(max_length=100)] = None,
    after: Annotated[str, Query(pattern=r"^\d{1,9}-\d{1,18}$", description="`next` of the failures before")] = "0-0",
    limit: Limit = 100,
) -> shapes.Failures:
    """What was not taken in or not read, and why."""
    part, key = map(int, after.split("-"))
    wanted = None if cause is None else storable(cause)
    db = site.db
    found = list_failures(db, batch_of(db, batch).id, wanted, (part, key), limit)
    shown = [shapes.Failure(**{name: getattr(one, name) for name in shapes.Failure.model_fields}) for one in found]
    more = f"{found[-1].key[0]}-{found[-1].key[1]}" if len(found) == limit else None
    return shapes.Failures(failures=shown, next=more)


@router.get("/documents")
def find_document(
    site: TheSite,
    path: Annotated[str, Query(description="source_path, or the end of one: 2024/invoice.pdf", max_length=4_096)],
) -> shapes.Document:
    """The document that lies at a path."""
    try:
        found = find_file(site.db, path)
    except UsageError as error:
        raise HTTPException(404, str(error)) from error
    return _shown(found)


@router.get("/documents/{document_id}")
def show_document(site: TheSite, document_id: DocumentId) -> shapes.Document:
    """A document by its id: how many pages it has, and whether it was opened."""
    return _shown(_document(site.db, document_id))


def _shown(found: FoundFile) -> shapes.Document:
    return shapes.Document(**{name: getattr(found, name) for name in shapes.Document.model_fields})


@router.get("/documents/{document_id}/text", response_class=Response, responses=_TEXT)
def document_text(site: TheSite, document_id: DocumentId, prompt: Prompt = "ocr") -> Response:
    """Its text in the order of its pages, a blank line between them; pages without text are left out."""
    db = site.db
    document = _document(db, document_id)
    try:
        first = page_answers(db, document, prompt, 1, _PAGES_AT_ONCE)
    except UsageError as error:
        raise HTTPException(404, str(error)) from error

    def parts() -> Iterator[str]:
        some, between = first, ""
        while some:
            for page in some:
                if page.text is not None:
                    yield f"{between}{page.text}"
                    between = "\n\n"
            is_last = len(some) < _PAGES_AT_ONCE
            some = [] if is_last else page_answers(db, document, prompt, some[-1].page_number + 1, _PAGES_AT_ONCE)

    return StreamingResponse(parts(), media_type="text/plain; charset=utf-8")


@router.get("/documents/{document_id}/pages")
def document_pages(
    site: TheSite,
    document_id: DocumentId,
    prompt: Prompt = "ocr",
    first: Annotated[int, Query(ge=1, le=2**31 - 1)] = 1,
    limit: Annotated[int, Query(ge=1, le=200)] = 20,
) -> shapes.Pages:
    """Its pages with their texts, from the first one that is wanted."""
    db = site.db
    document = _document(db, document_id)
    try:
        found = page_answers(db, document, prompt, first, limit)
    except UsageError as error:
        raise HTTPException(404, str(error)) from error
    return shapes.Pages(pages=[shapes.Page(**asdict(page)) for page in found])


@router.get("/documents/{document_id}/pages/{number}")
def show_page(site: TheSite, document_id: DocumentId, number: Number, prompt: Prompt = "ocr") -> shapes.Page:
    """A page: its text, how sure the engine is of it, what read it; or why there is no text."""
    return shapes.Page(**asdict(_page(site, document_id, number, prompt)))


@router.get("/documents/{document_id}/pages/{number}/text", response_class=Response, responses=_TEXT)
def page_text(site: TheSite, document_id: DocumentId, number: Number, prompt: Prompt = "ocr") -> Response:
    """The text alone."""
    page = _page(site, document_id, number, prompt)
    if page.text is None:
        raise HTTPException(404, page.reason or f"page {number} waits to be read")
    return PlainTextResponse(page.text)


@router.get(
    "/documents/{document_id}/pages/{number}/image",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}, "description": "The page as it was read"}},
)
def page_image(site: TheSite, document_id: DocumentId, number: Number) -> Response:
    """The image of the page, as PNG. Retention may have removed it: then it is 404, with the way to draw it again."""
    db = site.db
    try:
        data = site.images.get(page_image_hash(db, _document(db, document_id), number))
    except (UsageError, PageFailed) as error:
        raise HTTPException(404, str(error)) from error
    return Response(data, media_type="image/png")


@router.get("/search")
def search_pages(
    site: TheSite,
    q: Annotated[str, Query(description="As `pagepack search` takes it: docs/search.md", max_length=10_000)],
    prompt: Annotated[str | None, Query(max_length=200)] = None,
    batch: Annotated[str | None, Query(max_length=200)] = None,
    folder: Annotated[
        str | None, Query(max_length=4_096, description="At or below it: a path, or the end of one")
    ] = None,
    since: Annotated[datetime | None, Query(description="Read then or later; UTC where no zone is told")] = None,
    until: Annotated[datetime | None, Query(description="Read before")] = None,
    min_confidence: Annotated[float | None, Query(ge=0, le=1)] = None,
    max_confidence: Annotated[float | None, Query(ge=0, le=1)] = None,
    limit: Limit = 20,
) -> shapes.Hits:
    """Pages that hold the words, best first, each with the place in its text."""
    db = site.db
    found = find(
        db,
        q,
        prompt=prompt or None,
        limit=limit,
        batch=batch_of(db, batch) if batch else None,
        folder=storable(folder) if folder else None,
        since=_utc(since),
        until=_utc(until),
        min_confidence=min_confidence,
        max_confidence=max_confidence,
    )
    return shapes.Hits(
        hits=[shapes.Hit(**asdict(hit)) for hit in found.hits],
        total=found.total,
        is_more=found.is_more,
        not_indexed=found.not_indexed,
    )


def _utc(moment: datetime | None) -> datetime | None:
    try:
        return None if moment is None else as_moment(moment)
    except OverflowError as error:  # at the ends of what a calendar holds, in another zone
        raise HTTPException(422, f"{moment} is no moment in UTC") from error


@router.get("/views")
def list_views(site: TheSite) -> shapes.Views:
    """What SQL can read: views, their columns, and what each means."""
    views = [
        shapes.View(
            view=name,
            meaning=VIEWS[name],
            columns={column: f"{column_type(column)}: {meaning}" for column, meaning in columns.items()},
        )
        for name, columns in COLUMNS.items()
    ]
    return shapes.Views(database=site.db.dialect, views=views)


@router.post("/sql")
def run_sql(site: TheSite, asked: shapes.Statement) -> shapes.Rows:
    """The rows of one SELECT. It reads only, is stopped after 20 seconds, and gives 10 million characters at most."""
    if not _statements.acquire(blocking=False):
        raise HTTPException(503, f"{_STATEMENTS_AT_ONCE} statements run already; try again", {"Retry-After": "5"})
    try:
        limits: dict[str, Any] = {"max_rows": asked.max_rows, "max_characters": _SQL_CHARACTERS}
        found = some_rows(site.settings, asked.statement, **limits, max_cell=1_000_000, limit_seconds=_SQL_SECONDS)
    finally:
        _statements.release()
    return shapes.Rows(**asdict(found))
