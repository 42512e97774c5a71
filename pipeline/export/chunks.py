"""Pieces of the text for retrieval as a table: the view `chunks`, with pieces as long as people want them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.database.looking import as_moment
from pipeline.export.selection import Selected, Selection
from pipeline.export.table import Kind
from pipeline.export.where import LIMIT_SECONDS, some_at_once, stopped
from pipeline.query.sql import run_sql
from pipeline.query.sql_result import TooSlow
from pipeline.settings import Settings
from schemas.column_types import column_type
from schemas.page_chunks import CHUNK_COLUMNS, chunks
from schemas.view_parts import literal

_KINDS: dict[str, Kind] = {"text": "str", "integer": "int", "real": "float", "timestamp": "datetime"}


def kinds_of_chunks() -> dict[str, Kind]:
    """The columns of a row."""
    return {column: _KINDS[column_type(column)] for column in CHUNK_COLUMNS}


def chunk_rows(
    chosen: Selection, settings: Settings, max_characters: int, seconds: float | None = None
) -> Iterator[dict[str, Any]]:
    """By path, page, prompt and place, of the pages that fit; of a batch's files, those that lie there still."""
    view = chunks("sqlite" if settings.database_url is None else "postgresql", max_characters)
    columns = list(CHUNK_COLUMNS)
    for some in some_at_once(chosen.sources(), lambda selected: selected.source):
        by_path = {selected.source.source_path: selected for selected in some if selected.source.document_id}
        if not by_path:
            continue
        among = f"source_path IN ({', '.join(map(literal, by_path))})"
        if chosen.prompt is not None:
            among += f" AND prompt = {literal(chosen.prompt)}"
        order = "source_path, page_number, prompt, chunk_number"
        statement = f"SELECT {', '.join(columns)} FROM ({view}) chunks WHERE {among} ORDER BY {order}"
        limit = LIMIT_SECONDS if seconds is None else seconds
        try:
            for values in run_sql(settings, statement, limit_seconds=limit).rows:
                row: dict[str, Any] = dict(zip(columns, values, strict=True))
                if _fits(row, by_path[row["source_path"]]):
                    row["created_at"] = as_moment(row["created_at"]) if row["created_at"] else None
                    yield row
        except TooSlow as error:
            raise stopped("--chunks", limit) from error


def _fits(row: dict[str, Any], selected: Selected) -> bool:
    if row["document_id"] != selected.source.document_id:
        return False
    return selected.kept is None or (row["page_number"], row["prompt"]) in selected.kept
