"""A JSON Schema on the command line: the whole way to SQL, and what is refused before anything is stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.checkpoint import make_checkpoint
from tests.running import call, pagepack, reconciles, rows, write_pdf

# How a page lies is not looked at: that would load other models in each run.
VARIABLES = {"PAGEPACK_INTERNAL_ENGINE": "", "PAGEPACK_MAX_SIDE_PX": "64", "PAGEPACK_TURN_PAGES": "false"}
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["invoice", "letter"]}, "pages": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["kind", "pages"],
}


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    (tmp_path / "invoice.json").write_text(json.dumps(SCHEMA))
    return tmp_path / "invoice.json"


@pytest.mark.xdist_group("reader")  # one process, of which runs with a model are forked, imports torch
def test_pages_are_filled_in_and_a_question_is_answered_under_a_schema(tmp_path: Path, schema: Path) -> None:
    document, model = write_pdf(tmp_path / "in" / "a.pdf", 2), make_checkpoint(tmp_path / "tiny", "tiny")
    common = ["--schema", schema, "--model", model, "--home", tmp_path / "home"]
    run = ["run", document, *common, "--max-tokens", "20"]
    cut = pagepack(*run, **VARIABLES)
    assert cut.returncode == 1, cut.stderr
    assert rows(tmp_path / "home", "SELECT page_number, cause FROM failures ORDER BY 1") == [
        (1, "length"),
        (2, "length"),
    ]
    assert all(text.startswith('{"kind": "') for (text,) in rows(tmp_path / "home", "SELECT text FROM attempts"))
    told = call("retry", "--cause", "length", "--where", "page_number < 3", "--home", tmp_path / "home", "--json")
    assert (json.loads(told.stdout)["pages_waiting"], json.loads(told.stdout)["max_tokens"]) == (2, 40)
    done = pagepack(*run, **VARIABLES)
    assert done.returncode == 0, done.stderr
    of_both = "page_data JOIN page_text USING (source_path, page_number, prompt)"
    answers = rows(tmp_path / "home", f"SELECT prompt, data, finish_reason FROM {of_both}")
    assert len(answers) == 2 and {(prompt, reason) for prompt, _, reason in answers} == {("invoice", "stop")}
    for _, data, _ in answers:
        assert set(json.loads(data)) == {"kind", "pages"}
    asked = pagepack("ask", "What is it?", document, *common, "--pages", "2", "--json", **VARIABLES)
    assert asked.returncode == 0, asked.stderr
    assert json.loads(json.loads(asked.stdout)["answer"])["kind"] in ("invoice", "letter")
    reconciles(tmp_path / "home")


@pytest.mark.parametrize("command", ["run", "submit"])
def test_an_engine_that_cannot_refuses_a_schema_before_anything_is_stored(
    tmp_path: Path, schema: Path, command: str
) -> None:
    document = write_pdf(tmp_path / "in" / "a.pdf", 1)
    asked = [command, document, "--schema", schema, "--engine", "rapidocr", "--home", tmp_path / "home"]
    refused = (pagepack if command == "run" else call)(*asked, PAGEPACK_INTERNAL_ENGINE="")
    assert refused.returncode == 2
    said = (
        "the engine rapidocr answers ocr only, not 'invoice', which has a JSON Schema; use --engine pixtral --model DIR"
    )
    assert refused.stderr.strip().endswith(f"{said}, or --engine endpoint")
    assert not (tmp_path / "home" / "pagepack.db").exists()


@pytest.mark.parametrize("command", [["run"], ["submit"], ["ask", "Which?"]])
def test_a_file_that_is_no_schema_is_one_line_and_nothing_is_stored(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "bad.json").write_text('{"type": "object", "properties": {"a": {"uniqueItems": true}}}')
    document = write_pdf(tmp_path / "in" / "a.pdf", 1)
    refused = call(*command, document, "--schema", tmp_path / "bad.json", "--home", tmp_path / "home")
    assert (refused.returncode, refused.stdout) == (2, "")
    said = f"pagepack: --schema {tmp_path}/bad.json: an answer cannot be held to uniqueItems; leave it out and check it"
    assert refused.stderr == f"{said} afterwards\n"
    assert not (tmp_path / "home").exists()


def test_an_engine_that_ignores_a_schema_fails_the_page_and_keeps_the_text(tmp_path: Path, schema: Path) -> None:
    """As a server may that knows no schemas; the stand-in answers with words."""
    document = write_pdf(tmp_path / "in" / "a.pdf", 1)
    done = pagepack("run", document, "--schema", schema, "--prompt", "ocr", "--home", tmp_path / "home")
    assert done.returncode == 1, done.stderr
    ((prompt, cause, reason),) = rows(tmp_path / "home", "SELECT prompt, cause, reason FROM failures")
    assert (prompt, cause) == ("invoice", "schema")
    assert reason.startswith("the answer does not fit its JSON Schema: it is no JSON: Expecting value")
    ((text,),) = rows(tmp_path / "home", "SELECT text FROM attempts WHERE error IS NOT NULL")
    assert text.startswith("invoice of ")
