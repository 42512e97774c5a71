"""`export --chunks`: the view `chunks` as a table, whole, by batch and by condition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from pipeline.errors import UsageError
from pipeline.export.export import Format, export
from pipeline.query.batch_status import find_batch
from pipeline.settings import Settings
from schemas.page_chunks import CHUNK_COLUMNS
from tests.conftest import Archive

DATABASES = ("sqlite", "postgresql")
TEXT = " ".join(f"Sentence {n} of a page." for n in range(20))


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_chunks_hold_the_text_of_the_pages_that_fit(
    archive: Archive, settings: Settings, tmp_path: Path, form: Format
) -> None:
    for path, batch in (("/in/a'.pdf", "one"), ("/in/b.pdf", "two"), ("/in/c.pdf", "two")):
        archive.file(path, [TEXT, f"{path} second"], batch=batch)
    archive.see("/in/c.pdf", "another file lies there now", batch="three")

    def rows(batch: str | None = None, **asked: Any) -> list[dict[str, Any]]:
        out = tmp_path / "out"
        chosen = find_batch(archive.db, batch) if batch else None
        summary = export(archive.db, out, form, chosen, max_characters=100, settings=settings, **asked)
        read = parquet.read_table(out).to_pylist() if form == "parquet" else list(map(json.loads, out.open()))
        assert summary.chunks == len(read) and summary.files == 1
        return read

    found = rows()
    assert list(found[0]) == list(CHUNK_COLUMNS) and max(len(row["text"]) for row in found) <= 100
    for path in ("/in/a'.pdf", "/in/b.pdf"):
        pieces = [row for row in found if row["source_path"] == path and row["page_number"] == 1]
        assert " ".join(row["text"] for row in pieces) == TEXT
        assert [row["chunk_number"] for row in pieces] == list(range(1, len(pieces) + 1))
        assert all(TEXT[row["start_offset"] : row["end_offset"]] == row["text"] for row in pieces)
    assert {row["source_path"] for row in found} == {"/in/a'.pdf", "/in/b.pdf"}
    assert {row["source_path"] for row in rows("two")} == {"/in/b.pdf"}  # the other is another file by now
    only = rows(where="page_number = 2 AND source_path LIKE '%a''.pdf'")
    assert [row["text"] for row in only] == ["/in/a'.pdf second"]
    assert rows(prompt="ocr") == found


def test_chunks_are_a_table_of_text(archive: Archive, settings: Settings, tmp_path: Path) -> None:
    archive.file("/in/a.pdf", ["text"])
    for form in ("pdf", "markdown"):
        with pytest.raises(UsageError, match="--chunks makes a table"):
            export(archive.db, tmp_path / "out", form, max_characters=100, settings=settings)
