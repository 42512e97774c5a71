"""`pagepack export --schema`: answers as a table, a column a field."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from pipeline.errors import PageFailed, UsageError
from pipeline.export.export import Format, export
from pipeline.export.fields import find_fields
from pipeline.structured.check import checked
from pipeline.structured.columns import columns_of
from schemas.prompts import OCR, Prompt, schema_prompt
from tests.conftest import Archive

DATABASES = ("sqlite", "postgresql")

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "number": {"type": "string"},
        "total": {"type": ["number", "null"]},
        "paid": {"type": "boolean"},
        "count": {"type": "integer"},
        "seller": {"anyOf": [{"$ref": "#/$defs/party"}, {"type": "null"}]},
        "lines": {"type": "array", "items": {"type": "object", "properties": {"what": {"type": "string"}}}},
        "state": {"enum": ["new", "old"]},
    },
    "required": ["number"],
    "$defs": {"party": {"type": "object", "properties": {"name": {"type": "string"}, "since": {"type": "integer"}}}},
}
INVOICE = schema_prompt("invoice", checked(SCHEMA, "x"))
FIRST = {
    "number": 'R "1",\n2', "total": 19.90, "paid": True, "count": 3, "seller": {"name": "Möwe", "since": 1999},
    "lines": [{"what": "tea"}], "state": "old",
}  # fmt: skip
TEXT = json.dumps(FIRST, ensure_ascii=False).replace("19.9", "19.90")
ABOUT = ["source_path", "document_id", "page_number", "prompt", "state", "cause", "reason"]
FIELDS = ["number", "total", "paid", "count", "seller.name", "seller.since", "lines", "data.state"]


@pytest.fixture
def filled(archive: Archive) -> Archive:
    """Three pages, filled in, failed and waiting; a plain prompt beside; a file that was not taken in."""
    archive.batch("b", prompts=[INVOICE, OCR])
    document = archive.see("/in/a.pdf")
    assert document is not None
    first, second, _ = archive.ingest(document, ["one", "two", "three"])
    archive.read(first, lambda prompt: TEXT if prompt.schema else "plain")
    archive.read(second, lambda prompt: PageFailed("cut off", cause="length") if prompt.schema else "plain")
    archive.see("/in/b.pdf", rejection="encrypted")
    return archive


def rows_of(archive: Archive, out: Path, form: Format, wanted: str = "invoice", **how: Any) -> list[dict[str, Any]]:
    export(archive.db, out, form, fields=find_fields(archive.db, wanted, how.get("prompt")), **how)
    if form == "parquet":
        return list(parquet.read_table(out).to_pylist())
    if form == "jsonl":
        return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    with out.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_field_is_a_column_and_a_page_that_was_not_read_says_why(
    filled: Archive, tmp_path: Path, form: Format
) -> None:
    rows = rows_of(filled, tmp_path / "out", form)
    assert [list(row) for row in rows] == [[*ABOUT, *FIELDS]] * 4
    first, *others = rows
    nothing: Any = "" if form == "csv" else None
    told = [(row["source_path"], str(row["page_number"] or ""), row["state"], row["cause"] or "") for row in rows]
    assert told == [
        ("/in/a.pdf", "1", "done", ""),
        ("/in/a.pdf", "2", "failed", "length"),
        ("/in/a.pdf", "3", "waiting", "waiting"),
        ("/in/b.pdf", "", "rejected", "encrypted"),
    ]
    assert all(row[name] == nothing for row in others for name in FIELDS)
    values = [first[name] for name in FIELDS]
    lines: Any = FIRST["lines"] if form == "jsonl" else '[{"what": "tea"}]'
    typed = [FIRST["number"], 19.9, True, 3, "Möwe", 1999, lines, "old"]
    assert values == (typed if form != "csv" else [FIRST["number"], "19.90", "true", "3", "Möwe", "1999", lines, "old"])


def test_a_schema_is_found_by_its_file_too_and_only_where_it_was_asked(filled: Archive, tmp_path: Path) -> None:
    path = tmp_path / "any.json"
    path.write_text(json.dumps(SCHEMA, indent=1))
    by_name = rows_of(filled, tmp_path / "a.csv", "csv")
    assert rows_of(filled, tmp_path / "b.csv", "csv", str(path)) == by_name
    assert rows_of(filled, tmp_path / "c.csv", "csv", str(path), prompt="invoice") == by_name
    path.write_text(json.dumps(SCHEMA | {"title": "another"}))
    for wanted, prompt, words in (
        (
            str(path),
            None,
            "no page was asked with this schema; `pagepack run --schema .*` asks; such prompts are invoice",
        ),
        (
            "ocr",
            None,
            "--schema ocr is no file, and no prompt with a JSON Schema has this name; such prompts are invoice",
        ),
        ("invoce", None, "has this name; did you mean invoice\\? such prompts are invoice"),
        ("invoice", "ocr", "has this name"),
        (str(tmp_path / "a.csv"), None, "a.csv cannot be read as a JSON Schema"),
    ):
        with pytest.raises(UsageError, match=words):
            find_fields(filled.db, wanted, prompt)


def test_after_a_changed_schema_the_newest_is_the_table_and_the_old_one_by_its_file(
    archive: Archive, tmp_path: Path
) -> None:
    archive.batch("b", prompts=[INVOICE])
    document = archive.see("/in/a.pdf")
    assert document is not None
    for page_id in archive.ingest(document, ["one", "two"]):
        archive.read(page_id, TEXT)
    changed = checked({"type": "object", "properties": {"total": {"type": "string"}}}, "x")
    archive.batch("c", prompts=[schema_prompt("invoice", changed)])
    archive.see("/in/a.pdf", batch="c")
    archive.read(archive.waiting(document)[0], '{"total": "19,90"}')
    rows = rows_of(archive, tmp_path / "out.csv", "csv")
    assert [(row["page_number"], row["state"], row["total"]) for row in rows] == [
        ("1", "done", "19,90"),
        ("2", "waiting", ""),
    ]
    (tmp_path / "old.json").write_text(json.dumps(SCHEMA))
    old = rows_of(archive, tmp_path / "old.csv", "csv", str(tmp_path / "old.json"))
    assert [(row["page_number"], row["total"]) for row in old] == [("1", "19.90"), ("2", "19.90")]


def test_formats_that_do_not_fit_are_refused(filled: Archive, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--format csv is for fields: add --schema"):
        export(filled.db, tmp_path / "out", "csv")
    with pytest.raises(UsageError, match="--format markdown is for text"):
        export(filled.db, tmp_path / "out", "markdown", fields=find_fields(filled.db, "invoice"))


@pytest.mark.only("sqlite")
def test_a_blank_page_is_done_and_has_no_fields(archive: Archive, tmp_path: Path) -> None:
    archive.batch("b", prompts=[INVOICE])
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, ["one"])
    archive.read(page, "")
    (row,) = rows_of(archive, tmp_path / "out", "jsonl")
    assert row["state"] == "done" and [row[name] for name in FIELDS] == [None] * len(FIELDS)


def names(*properties: Any, **more: Any) -> list[tuple[str, str]]:
    schema = {"type": "object", "properties": dict(properties), **more}
    return [(column.name, column.kind) for column in columns_of(json.dumps(schema), ABOUT)]


@pytest.mark.only("sqlite")
def test_columns_have_the_kinds_of_their_fields(archive: Archive) -> None:
    text, whole = {"type": "string"}, {"type": "integer"}
    assert names(("a", {"const": 1}), ("b", {"enum": ["x", None]}), ("c", {"enum": ["x", 1]}), ("d", True)) == [
        ("a", "integer"), ("b", "string"), ("c", "json"), ("d", "json"),
    ]  # fmt: skip
    assert names(("a", {"anyOf": [whole, {"type": "number"}]}), ("b", {"anyOf": [text, whole]})) == [
        ("a", "number"), ("b", "json"),
    ]  # fmt: skip
    both = {"allOf": [{"properties": {"x": text}}, {"$ref": "#/$defs/y"}]}
    assert names(("a", both), **{"$defs": {"y": {"type": "object", "properties": {"y": whole}}}}) == [
        ("a.x", "string"), ("a.y", "integer"),
    ]  # fmt: skip
    one_of = {"oneOf": [{"properties": {"x": text}}, {"properties": {"y": text}}]}
    assert names(("a", {"type": "object"}), ("b", one_of)) == [("a", "json"), ("b", "json")]
    inner = {"type": "object", "properties": {"b": text}}
    assert [name for name, _ in names(("a.b", text), ("a", inner), ("cause", text))] == ["a.b", "a.b_2", "data.cause"]
    rest = {"type": "object", "properties": {"x": text}, "additionalProperties": text}
    assert names(("a", rest)) == [("a.x", "string"), ("a.*", "json")]
    columns = columns_of(json.dumps({"properties": {"a": rest}}))
    assert [column.value({"a": {"x": "1", "y": "2", "z": "3"}}) for column in columns] == ["1", {"y": "2", "z": "3"}]
    assert [column.value({}) for column in columns] == [None, None]
    assert Prompt("p", "x").schema is None
