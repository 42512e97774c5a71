"""Answers held to a JSON Schema in the database: what fits is JSON for SQL, what does not stays with its reason."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from pipeline.ingest.submission import BadMessage, submit_message
from pipeline.settings import Settings
from pipeline.store.answers import ReadAnswer, UnfitAnswer
from pipeline.store.results import complete_pages
from pipeline.store.retries import retry_cut, retry_failures
from pipeline.structured.check import checked
from schemas.messages import SubmitDocument
from schemas.prompts import OCR, Prompt, schema_prompt
from tests.conftest import LIMITS, Archive
from workers.outcome import held_to_schema

DATABASES = ("sqlite", "postgresql")

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "number": {"type": "string"},
        "total": {"type": "number"},
        "seller": {"type": "object", "properties": {"name": {"type": "string"}}},
        "lines": {"type": "array", "items": {"type": "object", "properties": {"what": {"type": "string"}}}},
    },
    "required": ["number", "total"],
}
INVOICE = schema_prompt("invoice", checked(SCHEMA, "x"), max_tokens=50)


def answer(archive: Archive, page_id: int, text: str, finish_reason: str = "stop") -> None:
    """As a read worker stores what its engine said, to every prompt that waits."""
    claim = archive.claim(page_id)
    assert claim is not None
    outcomes = {}
    for task in claim.tasks:
        said = ReadAnswer("pixtral", archive.model, text, finish_reason, output_tokens=50)
        outcomes[task.task_id] = held_to_schema(said, task.prompt)
    complete_pages(archive.db, "read/1", [(claim, outcomes)], LIMITS)


def pages(archive: Archive, *prompts: Prompt, count: int = 2) -> list[int]:
    archive.batch("b", prompts=prompts or (INVOICE,))
    document = archive.see("/in/a.pdf")
    assert document is not None
    return archive.ingest(document, [f"page {number}" for number in range(count)])


def test_an_answer_that_fits_is_queried_with_the_functions_of_either_database(archive: Archive) -> None:
    first, second = pages(archive, INVOICE, OCR)
    texts = [
        {
            "number": "R-1",
            "total": 19.90,
            "seller": {"name": "Möwe & Co"},
            "lines": [{"what": "tea"}, {"what": "tide"}],
        },
        {"number": "R-2", "total": 100},
    ]
    for page_id, text in zip((first, second), texts, strict=True):
        answer(archive, page_id, json.dumps(text))
    assert archive.rows(
        "SELECT page_number, data ->> 'number', data -> 'seller' ->> 'name', CAST(data ->> 'total' AS REAL) "
        "FROM page_data WHERE prompt = 'invoice' ORDER BY 1"
    ) == [(1, "R-1", "Möwe & Co", pytest.approx(19.9)), (2, "R-2", None, pytest.approx(100))]
    each = {"sqlite": "json_each(data, '$.lines') l", "postgresql": "jsonb_array_elements(data -> 'lines') l (value)"}
    lines = f"SELECT l.value ->> 'what' FROM page_data CROSS JOIN {each[archive.db.dialect]} ORDER BY 1"
    assert archive.rows(lines) == [("tea",), ("tide",)]
    assert archive.scalar("SELECT count(*) FROM page_data") == 2, "other prompts have no row"
    stored = archive.scalar("SELECT schema FROM prompts WHERE prompt = 'invoice'")
    assert (
        json.loads(str(stored)) == SCHEMA and archive.scalar("SELECT schema FROM prompts WHERE prompt = 'ocr'") is None
    )


@pytest.mark.only("postgresql")
def test_where_no_prompt_has_a_schema_no_answer_is_looked_at(archive: Archive) -> None:
    archive.file("/in/a.pdf", ["tide", "gull"])
    plan = "\n".join(row[0] for row in archive.rows("EXPLAIN (ANALYZE) SELECT * FROM page_data"))
    looked_at = re.findall(r"Scan.* on (\w+) .*actual time", plan)
    assert "One-Time Filter" in plan and set(looked_at) == {"prompt_versions"}, plan


@pytest.mark.parametrize(
    ("text", "finish_reason", "cause", "words"),
    [
        ('{"number": "R-1", "tot', "length", "length", "it was cut at 50 tokens: `pagepack retry --cause length`"),
        ('{"number": "R-1", "tot', "deadline", "deadline", "raise PAGEPACK_PAGE_SECONDS"),
        ("The number is R-1.", "stop", "schema", "it is no JSON: Expecting value"),
        ('{"number": "R-1", "total": "much"}', "stop", "schema", "$.total: 'much' is not of type 'number'"),
    ],
)
def test_an_answer_that_does_not_fit_is_a_failure_and_keeps_its_text(
    archive: Archive, text: str, finish_reason: str, cause: str, words: str
) -> None:
    (page_id,) = pages(archive, count=1)
    answer(archive, page_id, text, finish_reason)
    ((kind, found, reason),) = archive.rows("SELECT cause, kind, reason FROM failures")
    assert (kind, found) == (cause, "failed") and words in str(reason)
    kept = "SELECT text, finish_reason, output_tokens, engine, error FROM attempts"
    assert archive.rows(kept) == [(text, finish_reason, 50, "pixtral", reason)]
    assert archive.scalar("SELECT count(*) FROM page_text") == 0
    assert retry_failures(archive.db, archive.batches["b"].id, [("/in/a.pdf", 1)]) == (0, 1)
    answer(archive, page_id, '{"number": "R-1", "total": 3}')
    assert archive.rows("SELECT data ->> 'number' FROM page_data") == [("R-1",)]
    assert archive.rows("SELECT text, error FROM attempts ORDER BY attempt") == [(text, reason), (None, None)]


def test_a_cut_answer_that_does_not_fit_is_read_anew_with_more_tokens(archive: Archive) -> None:
    (page_id, other) = pages(archive)
    answer(archive, page_id, '{"number": "R-1", "tot', "length")
    answer(archive, other, "no JSON")
    at = [("/in/a.pdf", 1), ("/in/a.pdf", 2)]
    assert retry_cut(archive.db, archive.batches["b"].id, at, 100) == 1, "the other one was not cut"
    claim = archive.claim(page_id)
    assert claim is not None and [task.asked.max_tokens for task in claim.tasks] == [100]


def test_a_blank_page_has_nothing_to_fill_in(archive: Archive) -> None:
    (page_id,) = pages(archive, count=1)
    answer(archive, page_id, "", "blank")
    assert archive.rows("SELECT text FROM page_text") == [("",)] and archive.rows("SELECT * FROM page_data") == []
    said = ReadAnswer("pixtral", "m", "", "stop")
    assert isinstance(held_to_schema(said, INVOICE), UnfitAnswer) and held_to_schema(said, OCR) is said


def test_a_message_brings_its_schemas(archive: Archive, tmp_path: Any) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7\nnothing follows")
    settings = Settings(home=tmp_path / "home")
    asked = SubmitDocument(location=str(tmp_path / "a.pdf"), batch="b", prompts=[], schemas={"invoice": SCHEMA})
    submit_message(archive.db, settings, asked)
    rows = archive.rows(
        "SELECT v.name, v.version FROM batch_prompts p JOIN prompt_versions v ON v.version = p.prompt_version"
    )
    assert rows == [("invoice", schema_prompt("invoice", checked(SCHEMA, "x")).version)]


@pytest.mark.parametrize(
    ("schemas", "words"),
    [
        ({"invoice": {"type": "objekt"}}, "the schema invoice: it is no JSON Schema: #.type: 'objekt'"),
        ({"invoice": {"$ref": "https://x.example/a"}}, "the schema invoice: #: $ref https://x.example/a leads out"),
        ({"ocr": SCHEMA}, "the schema ocr: that is a prompt of the catalogue"),
        ({"a\nb": SCHEMA}, "the schema 'a\\nb': a prompt's name has 1 to 100 characters"),
        ({"a" * 101: SCHEMA}, "a prompt's name has 1 to 100 characters"),
    ],
)
def test_a_message_with_a_bad_schema_is_dropped_with_its_reason(
    archive: Archive, tmp_path: Any, schemas: dict[str, Any], words: str
) -> None:
    asked = SubmitDocument(location=str(tmp_path / "a.pdf"), batch="b", schemas=schemas)
    with pytest.raises(BadMessage) as refused:
        submit_message(archive.db, Settings(home=tmp_path / "home"), asked)
    assert words in str(refused.value)
    assert archive.rows("SELECT cause, reason FROM failures") == [("message", str(refused.value))]
    assert archive.rows("SELECT name FROM prompt_versions") == [("ocr",)]
