"""Each query of docs/sql.md, run on both databases against an archive whose answers are known."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import ANY

from pipeline.errors import PageFailed, Unavailable
from pipeline.query.sql import run_sql
from pipeline.settings import Settings
from pipeline.store.pages import NewPage
from schemas.column_types import column_type
from schemas.prompts import DESCRIBE, OCR, schema_prompt
from schemas.review import SENTENCES, ReviewReason
from schemas.view_columns import COLUMNS
from tests.conftest import LIMITS, Archive, answer, complete_page, sha
from tests.sql_docs import queries

DATABASES = ("sqlite", "postgresql")

REPORT, LETTER = "/scans/reports/report.pdf", "/scans/letters/letter.pdf"
FIRST = "# Heron Bay Tidal Garden\n\nThe garden was open on 211 days; visitors like the tides."
SECOND = "## 鹭湾潮汐花园\n\n二〇二五年度报告"
LINES = [[100, 40, 300, 60, 0.97, "Heron Bay Tidal Garden"], [60, 400, 500, 420, 0.8, "The garden was open"]]
SCHEMA = {"type": "object", "properties": {"currency": {"type": "string"}, "total": {"type": "number"}}}


def said(archive: Archive, page: int, model: str = "m1", **of_prompt: Any) -> None:
    """Answer the prompts of a page, each with what is given for its name."""
    claim = archive.claim(page, models=[model])
    assert claim is not None
    outcomes = {task.task_id: of_prompt[task.prompt.name] for task in claim.tasks}
    complete_page(archive.db, claim, "read/1", outcomes, LIMITS)


def build(archive: Archive) -> None:
    archive.batch("one", prompts=[OCR, DESCRIBE])
    document = archive.see(REPORT, batch="one")
    assert document is not None
    size = {"width_pt": 595.276, "height_pt": 841.89, "dpi": 72.0}
    carried = {"text_layer": "H3ron", "text_layer_verdict": "garbled"}
    first, second = archive.ingest(
        document, [NewPage(0, sha("0"), 608, 848, **size), NewPage(1, sha("1"), 608, 848, **size, **carried)]
    )
    read = {"prompt_tokens": 100, "output_tokens": 20, "seconds": 1.5, "cost": 0.001}
    said(archive, first, ocr=answer(FIRST, confidence=0.95, **read), describe=answer("A map of the garden", **read))
    said(archive, second, ocr=Unavailable("the server is away"), describe=answer("A chart", **read))
    archive.execute("UPDATE page_tasks SET next_attempt_at = 0")
    said(archive, second, ocr=answer(SECOND, confidence=0.7, finish_reason="length", **read | {"seconds": 4.5}))
    archive.see("/scans/letters/locked.pdf", rejection="encrypted", batch="one")
    archive.see("/scans/letters/gone.pdf", batch="one")
    archive.execute("UPDATE sources SET gone_at = seen_at WHERE path = '/scans/letters/gone.pdf'")
    archive.batch("two", model="m2")
    archive.see(REPORT, batch="two")
    of_lines = {"details": {"lines": LINES}, "confidence": 0.885, "lowest_confidence": 0.8}
    said(archive, first, "m2", ocr=answer(f"{FIRST} By m2.", "m2", **of_lines))
    (letter,) = archive.ingest(archive.see(LETTER, "letter", batch="two") or 0, ["letter"])
    said(archive, letter, "m2", ocr=answer("Dear friends, we open to all visitors.", "m2", confidence=0.99))
    archive.see("/scans/letters/copy.pdf", "letter", batch="two")
    (torn,) = archive.ingest(archive.see("/scans/letters/torn.pdf", batch="two") or 0, ["torn"])
    said(archive, torn, "m2", ocr=PageFailed("the engine gave up"))
    archive.batch("three", prompts=[schema_prompt("invoice", json.dumps(SCHEMA))])
    for name, currency, total in (("a", "EUR", 19.5), ("b", "EUR", 0.5), ("c", "USD", 7)):
        (page,) = archive.ingest(archive.see(f"/scans/invoices/{name}.pdf", batch="three") or 0, [name])
        said(archive, page, invoice=answer(json.dumps({"currency": currency, "total": total}), engine="pixtral"))
    archive.see("/scans/notes.xyz", rejection="unsupported", batch="three")
    times = "started_at = '2026-03-01 10:00:00.000000', finished_at = '2026-03-01 10:00:10.000000'"
    archive.execute(f"UPDATE batches SET state = 'finished', {times} WHERE name = 'three'")
    archive.execute("UPDATE task_attempts SET ended_at = '2026-03-01 10:00:05.000000'")


BEGINS = FIRST[:80]
COPY = "/scans/letters/copy.pdf"
LOCKED, NOTES, TORN = "/scans/letters/locked.pdf", "/scans/notes.xyz", "/scans/letters/torn.pdf"
EXPECTED: dict[str, list[tuple[Any, ...]]] = {
    "Text of one file": [(f"{FIRST} By m2.\n\n{SECOND}",)],
    "Pages with some words": [(REPORT, 1, BEGINS)],
    "A phrase, and words near words": [
        (COPY, 1, "Dear friends, we open to all visitors."),
        (LETTER, 1, "Dear friends, we open to all visitors."),
        (REPORT, 1, BEGINS),
    ],
    "Chinese, Japanese, Korean": [(REPORT, 2)],
    "Figures on pages about something": [(REPORT, 1, "A map of the garden")],
    "Lines in a part of the page": [(REPORT, 1, "Heron Bay Tidal Garden", 100, 40, 300, 60)],
    "Pieces for retrieval": [
        (ANY, 1, REPORT, 1, f"{FIRST} By m2.", 60, 40, 500, 420),
        (ANY, 1, REPORT, 2, SECOND, None, None, None, None),
    ],
    "Fields of structured answers": [("EUR", 2, 20), ("USD", 1, 7)],
    "Files and pages by folder": [("/scans/letters", 2, 2, 0.99), ("/scans/reports", 1, 2, 0.793)],
    "The same content at several paths": [(ANY, 2, COPY, LETTER)],
    "Sizes of pages": [(210, 297, 2)],
    "Files by kind": [("pdf", 7, 70)],
    "Files that are gone": [("/scans/letters/gone.pdf", ANY)],
    "Pages that failed, and why": [
        (LOCKED, None, None, "encrypted", f"{LOCKED} is encrypted"),
        (TORN, 1, "ocr", "engine", "the engine gave up"),
        (NOTES, None, None, "unsupported", f"{NOTES} is unsupported"),
    ],
    "Failures by cause": [
        ("encrypted", "rejected", 1, f"{LOCKED} is encrypted"),
        ("engine", "failed", 1, "the engine gave up"),
        ("unsupported", "rejected", 1, f"{NOTES} is unsupported"),
    ],
    "Files that were not read": [(NOTES, "rejected", "unsupported", f"{NOTES} is unsupported")],
    "Pages that took several tries": [(REPORT, 2, "ocr", 2, "the server is away")],  # page 1: one try of each model
    "Pages worth a look": [(REPORT, 2, "ocr", "length", 0.8, SENTENCES[ReviewReason.LENGTH])],
    "Pages with the lowest confidence": [
        (REPORT, 2, "rapidocr", 0.7, None),
        (REPORT, 1, "rapidocr", 0.885, 0.8),
        (COPY, 1, "rapidocr", 0.99, None),
        (LETTER, 1, "rapidocr", 0.99, None),
    ],
    "Lines with the lowest confidence": [(REPORT, 1, "The garden was open", 0.8, 60, 400, 500, 420)],
    "Pages that two models read differently": [(REPORT, 1, "m1", "m2", len(FIRST), len(FIRST) + 7)],
    "Versions of one page": [(ANY, "rapidocr", "m1", 0, BEGINS), (ANY, "rapidocr", "m2", 1, BEGINS)],
    "Text layers against what was read": [(REPORT, 2, "garbled", 5, len(SECOND))],
    "How answers ended": [("pixtral", "stop", 3), ("rapidocr", "stop", 5), ("rapidocr", "length", 1)],
    "Tokens, seconds and cost by day": [("2026-03-01", 11, 400, 80, 9, 0.004)],
    "Throughput by hour and worker": [("2026-03-01 10", "read/1", 9)],
    "How long a batch took": [("three", "finished", 3, 10, 0.3)],
    "Which batches ask for a page": [("one", "done", 0), ("two", "done", 1)],
    "What was asked": [("describe", ANY, 1024, 2), ("invoice", ANY, 4096, 3), ("ocr", ANY, 4096, 5)],
    "What each column means": [
        ("page_text", column, column_type(column), meaning) for column, meaning in COLUMNS["page_text"].items()
    ],
}


def test_each_query_of_the_page_answers_its_question(archive: Archive, settings: Settings) -> None:
    build(archive)
    asked = queries(archive.db.dialect)
    for query in asked:
        rows = list(run_sql(settings, query.sql).rows)
        if query.title == "The slowest pages":
            assert len(rows) == 9 and rows[0] == (REPORT, 2, "ocr", "rapidocr", 4.5, 20)
        else:
            assert rows == EXPECTED[query.title], query.title
    assert {query.title for query in asked} == {*EXPECTED, "The slowest pages"}
