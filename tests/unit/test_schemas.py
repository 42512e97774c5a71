"""JSON Schemas of answers: which are taken, how the others are refused, and what fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.prompts import choose_asked_prompts, question
from pipeline.errors import UsageError
from pipeline.structured.check import MOST_CHARACTERS, checked, closed, read_schema
from pipeline.structured.fit import Misfit, fitted
from schemas.prompts import DESCRIBE, OCR, Prompt, held_to

TEXT = {"type": "string"}
INVOICE = {
    "type": "object",
    "properties": {
        "number": TEXT,
        "total": {"type": "number", "multipleOf": 0.01},
        "due": {"type": ["string", "null"], "format": "date"},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
    },
    "required": ["number", "total"],
    "$defs": {
        "line": {"type": "object", "properties": {"what": TEXT, "count": {"type": "integer", "minimum": 1}}},
    },
}


def an_object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def test_a_schema_is_kept_with_its_properties_in_their_order() -> None:
    kept = read_schema(json.dumps(INVOICE, indent=3), "x")
    assert list(json.loads(kept)["properties"]) == ["number", "total", "due", "lines"]
    assert json.loads(kept) == INVOICE and " " not in kept


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = TEXT
    for _ in range(levels):
        schema = an_object(a=schema)
    return schema


DOUBLING = an_object(a={"$ref": "#/$defs/d0"}) | {  # 2^16 parts in a text of some kilobytes
    "$defs": {f"d{i}": an_object(a={"$ref": f"#/$defs/d{i + 1}"}, b={"$ref": f"#/$defs/d{i + 1}"}) for i in range(16)}
    | {"d16": TEXT}
}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("{", "it is no JSON: Expecting property name"),
        ('{"type": "object", "type": "array"}', "it is no JSON: 'type' stands twice in one object"),
        ('{"properties": NaN}', "it is no JSON: NaN is no number of JSON"),
        ("[" * 100_000, "it is no JSON: it is nested too deeply"),
        ([TEXT], "it is no JSON Schema but a list"),
        (True, "it is no JSON Schema but true or false"),
        (
            {"type": "objekt"},
            "it is no JSON Schema: #.type: 'objekt' is no type; did you mean object? write one of array",
        ),
        (
            an_object(a={"items": {"type": ["text", "null"]}}),
            "#.properties.a.items.type: ['text', 'null'] is no type; write",
        ),
        (
            an_object(type={"type": None}),
            "#.properties.type.type: null is no type; write one of array, boolean, integer",
        ),
        (an_object(a={"type": ["null", "null"]}), "#.properties.a.type: ['null', 'null'] names a type twice"),
        (an_object(type="string"), "#.properties.type: 'string' is no schema but a text; write an object"),
        (an_object(a={"minLength": -1}), "it is no JSON Schema: #.properties.a.minLength: -1 is less than"),
        (
            INVOICE | {"$schema": "https://x.example/mine"},
            "its $schema https://x.example/mine is not known; write draft",
        ),
        (
            an_object(a={"$ref": "https://x.example/a.json"}),
            "#/properties/a: $ref https://x.example/a.json leads out of",
        ),
        (an_object(a={"$ref": "common.json#/$defs/a"}), "leads out of the file, and nothing is fetched"),
        (an_object(a={"$ref": "#/$defs/b"}), "#/properties/a: $ref #/$defs/b leads nowhere"),
        (an_object(a={"$ref": "#"}), "# contains itself, and an answer could go on for ever"),
        (
            an_object(a={"$ref": "#/$defs/b"}) | {"$defs": {"b": an_object(c={"items": {"$ref": "#/$defs/b"}})}},
            "#/$defs/b contains itself",
        ),
        (nested(40), "parts in 41 levels, over the limits of 2,000 and 32"),
        (DOUBLING, "it has 262,143 parts in 35 levels, over the limits of 2,000 and 32"),
        (an_object(a={"description": "x" * MOST_CHARACTERS}), "characters, over the limit of 32,768"),
        ({"type": "array", "items": TEXT}, "its top is no object with properties; wrap what you ask for"),
        ({}, "its top is no object with properties"),
        (an_object(a={"not": TEXT}), "an answer cannot be held to not; leave it out"),
        (an_object(a={"type": "array", "uniqueItems": True}), "an answer cannot be held to uniqueItems"),
        (an_object(a={"if": {}, "then": {}}), "an answer cannot be held to if, then"),
        (an_object(a=TEXT | {"format": "colour"}), "an answer cannot be held to it: Unknown format: colour"),
        (an_object(a=TEXT | {"pattern": "("}), "#.properties.a.pattern: '(' is not a 'regex'"),
        (an_object(a=TEXT | {"pattern": "(?=a)b"}), "an answer cannot be held to it: regex parse error"),
        (
            an_object(a={"type": "number", "maximum": 1e19}),
            "#/properties/a: maximum is beyond 10^18, which no answer is",
        ),
        (an_object(a={"enum": []}) | {"required": ["a"]}, "nothing fits it"),
        (
            an_object(a={"type": "integer", "minimum": 5, "maximum": 3}),
            "nothing fits it: required",
        ),
        (
            an_object(a=TEXT) | {"required": ["b"], "additionalProperties": False},
            "nothing fits it: required property 'b'",
        ),
        (an_object(a=TEXT | {"const": 1}) | {"required": ["a"]}, "nothing fits it"),
    ],
)
def test_a_schema_that_no_answer_can_be_held_to_is_refused_in_one_line(tmp_path: Path, schema: Any, words: str) -> None:
    path = tmp_path / "invoice.json"
    path.write_text(schema if isinstance(schema, str) else json.dumps(schema), encoding="utf-8")
    with pytest.raises(UsageError) as refused:
        choose_asked_prompts([], [], {}, [path])
    said = str(refused.value)
    assert said.startswith(f"--schema {path}: ") and words in said and "\n" not in said and len(said) < 500


def test_options_of_the_library_are_not_the_schemas_to_choose() -> None:
    with pytest.raises(UsageError, match="cannot be held to not"):
        checked(an_object(a={"not": TEXT}) | {"x-guidance": {"lenient": True}}, "x")


def test_a_schema_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes(b'{"title": "\xe9"}')
    (tmp_path / "large.json").write_bytes(b" " * 1_000_001)
    for name, words in {
        "gone.json": "cannot be read: No such file or directory",
        "latin.json": "cannot be read: it is no UTF-8 text",
        "large.json": "it has 1,000,001 bytes",
        ".": "names no regular file",
    }.items():
        with pytest.raises(UsageError, match=words):
            question("Which?", {}, tmp_path / name)


def test_a_schema_alone_is_a_prompt_and_part_of_what_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "invoice.schema.json"
    path.write_text("\ufeff" + json.dumps(INVOICE), encoding="utf-8")
    (prompt,) = choose_asked_prompts([], [], {"max_tokens": 300}, [path])
    assert (prompt.name, prompt.max_tokens) == ("invoice", 300)
    assert prompt.schema is not None and prompt.schema in prompt.text
    assert [one.name for one in choose_asked_prompts(["ocr"], [], {}, [path])] == ["ocr", "invoice"]
    other = held_to(Prompt("invoice", "x"), checked(INVOICE, "x"))
    again = held_to(Prompt("invoice", "x"), checked(INVOICE | {"title": "T"}, "x"))
    assert len({Prompt("invoice", "x").version, other.version, again.version}) == 3
    reordered = INVOICE | {"properties": dict(reversed(INVOICE["properties"].items()))}  # type: ignore[attr-defined]
    assert held_to(Prompt("invoice", "x"), checked(reordered, "x")).version != other.version


def test_prompts_without_a_schema_keep_their_versions() -> None:
    assert (OCR.version, DESCRIBE.version) == ("4ff2af35f37fae21", "17a8fc7b713fb885")


def test_front_matter_names_a_schema_beside_the_prompt(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(an_object(when=TEXT)))
    (tmp_path / "t.json").write_text(json.dumps(an_object(where=TEXT)))
    paths = [tmp_path / "one.txt", tmp_path / "two.txt"]
    paths[0].write_text("---\nschema: s.json\nmax_tokens: 9\n---\nWhen?")
    paths[1].write_text("Where?")
    one, two = choose_asked_prompts([], paths, {})
    assert one.text.startswith("When?\n\nAnswer with JSON that fits") and one.max_tokens == 9
    assert one.schema == '{"type":"object","properties":{"when":{"type":"string"}}}' and two.schema is None
    for prompt in choose_asked_prompts([], paths, {}, [tmp_path / "t.json"]):
        assert prompt.schema is not None and "where" in prompt.schema
    with pytest.raises(UsageError, match="--schema is given several times, and holds for all of --prompt-file"):
        choose_asked_prompts([], paths, {}, [tmp_path / "s.json", tmp_path / "t.json"])
    (tmp_path / "ocr.json").write_text("{}")
    with pytest.raises(UsageError, match=r"ocr.json: 'ocr' is a prompt of the catalogue; rename the file"):
        choose_asked_prompts([], [], {}, [tmp_path / "ocr.json"])
    paths[0].write_text("---\nschema: gone.json\n---\nWhen?")
    with pytest.raises(UsageError, match=r"--prompt-file .*one.txt: schema gone.json cannot be read: No such file"):
        choose_asked_prompts([], paths[:1], {})
    paths[0].write_text("---\nschema:\n---\nWhen?")
    with pytest.raises(UsageError, match=r"one.txt, line 2: schema is empty"):
        choose_asked_prompts([], paths[:1], {})


def test_objects_take_no_other_fields_unless_the_schema_speaks_of_them() -> None:
    shut = closed(INVOICE | {"examples": [{"properties": {}}]})
    assert shut["additionalProperties"] is False and shut["$defs"]["line"]["additionalProperties"] is False
    assert shut["examples"] == [{"properties": {}}]
    assert closed(an_object(a=TEXT) | {"additionalProperties": TEXT})["additionalProperties"] == TEXT
    both = {"allOf": [an_object(a=TEXT), an_object(b=TEXT)]}  # each part would forbid what the other one lists
    assert closed(both) == both


KEPT = checked(INVOICE, "x")


@pytest.mark.parametrize(
    "text",
    [
        '{"number": "R-1", "total": 0.07}',  # among floats no multiple of 0.01
        '{"number": "", "total": 1e2, "due": null, "lines": [{"what": "é", "count": 3}]}',
        ' {"number": "\\u00e9\\ud83d\\ude00", "total": 123456789012345678.25, "more": 1}\n',
    ],
)
def test_an_answer_that_fits_is_kept_as_it_was_written(text: str) -> None:
    assert fitted(text, KEPT) == text.strip()


def test_what_postgresql_would_fail_on_is_replaced() -> None:
    text = '{"number": "a\\u0000b\\ud800", "total": 1, "due": "\\\\u0000"}'
    assert fitted(text, KEPT) == '{"number": "a\ufffdb\ufffd", "total": 1, "due": "\\\\u0000"}'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is no JSON: Expecting value"),
        ('{"number": "R-1", "total": 1', "it is no JSON"),
        ('Sure: {"number": "R-1", "total": 1}', "it is no JSON"),
        ('{"number": "R-1"}', r"\$: 'total' is a required property"),
        ('{"number": 3, "total": 1}', r"\$.number: 3 is not of type 'string'"),
        ('{"number": "R", "total": 0.005}', r"\$.total: .* is not a multiple of"),
        ('{"number": "R", "total": NaN}', "it is no JSON: NaN is no number of JSON"),
        ('{"number": "R", "total": 1e999}', r"the number 1E\+999 is out of range"),
        ('{"number": "R", "total": 18446744073709551616}', "the number 18446744073709551616 has more than 64 bits"),
        ('{"number": "R", "total": ' + "9" * 5000 + "}", "it is no JSON"),
        ('{"number": "R", "total": 1e300}', None),
        ('{"number": "R", "number": "S", "total": 1}', "'number' stands twice in one object"),
        ('{"number": "R", "total": 1, "lines": [{"count": 0}]}', r"\$.lines\[0\].count: 0 is less than the minimum"),
        ("[" * 100_000, "it is nested too deeply"),
    ],
)
def test_an_answer_that_does_not_fit_is_told_where_and_why(text: str, words: str | None) -> None:
    with pytest.raises(Misfit, match=words):
        fitted(text, KEPT)
