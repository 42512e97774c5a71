"""What an assistant can do. Each docstring is what the assistant is told of the tool, each `Field` of an argument."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from mcp_types import CallToolResult, ContentBlock, TextContent
from pydantic import Field

from pipeline.assistants.results import (
    BatchesResult,
    BatchResult,
    ListedBatch,
    PageFound,
    PageResult,
    SearchResult,
    SqlRows,
    ViewDescription,
    ViewsResult,
)
from pipeline.database.looking import Looking
from pipeline.errors import PagepackError, UsageError, did_you_mean
from pipeline.settings import Settings
from schemas.text import storable

if TYPE_CHECKING:
    from pipeline.query.batch_status import BatchRow

_MOST_TEXT = 100_000  # characters of one page: some 25,000 tokens
_MOST_SQL = 200_000  # characters of all rows
_SQL_SECONDS = 20.0

Prompt = Annotated[
    str, Field(description="What the page was asked: ocr is its text, describe what is to be seen; or a user's own")
]
Batch = Annotated[str | None, Field(description="Only files of this batch: its id or name, from list_batches")]


class Tools:
    """Over one database. Each call opens a SQLite file anew; a server stays connected."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: Looking | None = None
        self._lock = threading.Lock()

    def _open(self) -> Looking:
        from pipeline.database.open_to_look import open_to_look

        if self._settings.database_url is None:
            return open_to_look(self._settings)
        with self._lock:
            self._server = self._server or open_to_look(self._settings)
            return self._server

    def search(
        self,
        query: Annotated[
            str,
            Field(
                description='Words that all stand on the page. "in quotes" is a phrase, inv* words that begin so, '
                "OR one of them, NOT without it, NEAR(a b, 5) close together"
            ),
        ],
        prompt: Annotated[str | None, Field(description="Only texts of this prompt, such as ocr")] = None,
        batch: Batch = None,
        folder: Annotated[
            str | None, Field(description="Only files at or below it: /data/letters, or letters/1913 anywhere")
        ] = None,
        min_confidence: Annotated[float | None, Field(ge=0, le=1, description="Only pages read that surely")] = None,
        max_confidence: Annotated[float | None, Field(ge=0, le=1, description="Only pages read no surer")] = None,
        limit: Annotated[int, Field(ge=1, le=100, description="So many pages at most")] = 10,
    ) -> SearchResult:
        """Find pages by the words that stand on them, best first, each with the place in its text.

        Case and accents do not matter. It looks for words, not for meanings: try other words, or OR, where nothing is
        found."""
        from pipeline.query.batch_status import find_batch
        from pipeline.query.search import find

        db = self._open()
        found = find(
            db,
            query,
            prompt=prompt,
            limit=limit,
            batch=find_batch(db, batch) if batch else None,
            folder=storable(folder) if folder else None,
            min_confidence=min_confidence,
            max_confidence=max_confidence,
        )
        pages = [
            PageFound(
                source_path=hit.source_path,
                page_number=hit.page_number,
                prompt=hit.prompt,
                snippet="".join(f"**{text}**" if is_match else text for text, is_match in hit.snippet.pieces()),
                score=hit.score,
                document_id=hit.document_id,
            )
            for hit in found.hits
        ]
        return SearchResult(pages=pages, total=found.total, is_more=found.is_more)

    def read_page(
        self,
        path: Annotated[
            str, Field(description="The file: source_path as search gives it, the end of one, or a document_id")
        ],
        page: Annotated[int, Field(ge=1, description="Its number, from 1")] = 1,
        prompt: Prompt = "ocr",
        with_image: Annotated[bool, Field(description="Also the image of the page, as it was read")] = False,
    ) -> Annotated[CallToolResult, PageResult]:
        """Read one page: its text, how sure the engine was, and what read it.

        with_image shows the page itself, to check the text against it."""
        from pipeline.assistants.page_image import page_image
        from pipeline.query.find_file import find_file
        from pipeline.query.page_answer import page_answer

        db = self._open()
        found = page_answer(db, find_file(db, path), page, prompt)
        content: list[ContentBlock] = []
        image = None
        if with_image:
            try:
                content.append(page_image(self._settings, found.image_hash))
                image = "shown"
            except PagepackError as error:  # retention has removed it, or the storage is away: the text is there
                image = f"not shown: {error}"
        text = found.text
        cut = None
        if text is not None and len(text) > _MOST_TEXT:
            cut = f"the first {_MOST_TEXT:,} of {len(text):,} characters; run_sql with substr(text, …) reads on"
            text = text[:_MOST_TEXT]
        result = PageResult(
            **{name: value for name, value in asdict(found).items() if name in PageResult.model_fields}
            | {"text": text, "text_cut": cut, "image": image},
            read_at=None if found.created_at is None else found.created_at.isoformat(),
        )
        content.insert(0, TextContent(type="text", text=_as_text(result)))
        return CallToolResult(content=content, structured_content=result.model_dump(mode="json"))

    def list_batches(
        self, limit: Annotated[int, Field(ge=1, le=1_000, description="So many at most")] = 20
    ) -> BatchesResult:
        """List the batches, the latest first: which files were read together, and when. batch_status counts pages."""
        from pipeline.query.batch_status import batch_rows, is_interrupted, who_works

        db = self._open()
        return BatchesResult(
            batches=[
                _listed(row, row.state == "running" and is_interrupted(row, who_works(db, row)))
                for row in batch_rows(db, limit=limit)
            ]
        )

    def batch_status(
        self, batch: Annotated[str | None, Field(description="Its id or name; without one, the latest")] = None
    ) -> BatchResult:
        """How far a batch is: counts, rate, time left, what failed by cause, which pages a person should check."""
        from pipeline.query.batch_status import find_batch, status

        db = self._open()
        now = status(db, find_batch(db, batch or None))
        listed = _listed(now.batch, now.interrupted).model_dump()
        return BatchResult(
            **listed, **{name: getattr(now, name) for name in BatchResult.model_fields if name not in listed}
        )

    def run_sql(
        self,
        statement: Annotated[
            str,
            Field(
                description="One SELECT. SELECT folder, count(*) FROM files GROUP BY folder; "
                "SELECT source_path, page_number FROM page_text WHERE confidence < 0.8 LIMIT 20"
            ),
        ],
        max_rows: Annotated[int, Field(ge=1, le=1_000, description="So many rows at most")] = 100,
    ) -> Annotated[CallToolResult, SqlRows]:
        """Ask the archive in SQL. It reads only; a statement is stopped after 20 seconds.

        describe_views says which views and columns there are. To find words, search is faster than LIKE."""
        from pipeline.query.some_rows import some_rows

        limits: dict[str, Any] = {"max_rows": max_rows, "max_characters": _MOST_SQL, "limit_seconds": _SQL_SECONDS}
        found = some_rows(self._settings, statement, **limits)
        lines = [json.dumps(row, ensure_ascii=False) for row in (found.columns, *found.rows)]
        lines += [found.cut] if found.cut else [] if found.rows else ["no rows"]
        text = TextContent(type="text", text="\n".join(lines))  # a value a line would cost twice the tokens
        return CallToolResult(content=[text], structured_content=SqlRows(**asdict(found)).model_dump(mode="json"))

    def describe_views(
        self, view: Annotated[str | None, Field(description="Only this one; without it, all")] = None
    ) -> ViewsResult:
        """List the views that run_sql can read, and their columns; of one view, also what each column means."""
        from schemas.column_types import VIEWS, column_type
        from schemas.view_columns import COLUMNS

        if view is not None and view not in COLUMNS:
            near = did_you_mean(view, COLUMNS) or ";"
            raise UsageError(f"no view is called {view!r}{near} there are {', '.join(COLUMNS)}")

        def described(column: str, meaning: str) -> str:
            return column_type(column) if view is None else f"{column_type(column)}: {meaning}"

        return ViewsResult(
            database="sqlite" if self._settings.database_url is None else "postgresql",
            views=[
                ViewDescription(
                    view=name,
                    meaning=VIEWS[name],
                    columns={column: described(column, meaning) for column, meaning in columns.items()},
                )
                for name, columns in COLUMNS.items()
                if view in (None, name)
            ],
        )


def _listed(row: BatchRow, interrupted: bool) -> ListedBatch:
    return ListedBatch(
        batch_id=row.batch_id,
        name=row.name,
        state="interrupted" if interrupted else row.state,
        engine=row.engine,
        started_at=row.started_at.isoformat(),
        finished_at=None if row.finished_at is None else row.finished_at.isoformat(),
    )


def _as_text(page: PageResult) -> str:
    """For assistants that look at no structured content."""
    of = "" if page.page_count is None else f" of {page.page_count:,}"
    about = [f"{page.source_path}, page {page.page_number}{of}, prompt {page.prompt}"]
    if page.text is None:
        about.append(f"no text: {page.reason or 'it waits to be read'}")
    else:
        sure = "not given" if page.confidence is None else f"{page.confidence:.2f}"
        about.append(f"confidence {sure}, read by {page.engine} ({page.model}), finished: {page.finish_reason}")
    about += [f"image: {page.image}"] if page.image else []
    about += [f"text: {page.text_cut}"] if page.text_cut else []
    return "\n".join([*about, "", page.text or ""])
