"""What a grammar lets pass, the validator takes: random walks through the masks, without a model.

Two libraries read the same schema, one before each token and one at the end. Where they would differ, every answer of
some schema would fail.
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from benchmarks.checkpoint import tiny_tokenizer
from pipeline.structured.check import checked, grammar_of
from pipeline.structured.columns import columns_of
from pipeline.structured.fit import fitted
from workers.pixtral.plan.sequence import Request, Sequence
from workers.pixtral.text import grammar
from workers.pixtral.text.grammar import Grammars, _Walk

TEXT = {"type": "string", "maxLength": 8}
PARTS: dict[str, dict[str, Any]] = {
    "text": TEXT | {"minLength": 2},
    "pattern anywhere": {"type": "string", "pattern": "[0-9]{3}", "maxLength": 9},
    "pattern of all": {"type": "string", "pattern": "^(DE|AT)[0-9]{2,4}$"},
    "letters": {"type": "string", "pattern": "^\\w{1,4}é\\d$"},
    "integer": {"type": "integer", "minimum": -120, "exclusiveMaximum": 1999},
    "even": {"type": "integer", "multipleOf": 2, "minimum": 0, "maximum": 5000},
    "money": {"type": "number", "multipleOf": 0.01, "minimum": 0, "maximum": 99999},
    "number": {"type": "number", "exclusiveMinimum": -1.5, "maximum": 2.25},
    "values": {"enum": ['a"b', "ü\n", 1, 2.5, None, [1], {"x": "y"}]},
    "constant": {"const": {"a": [True, None]}},
    "date": {"type": "string", "format": "date"},
    "moment": {"type": "string", "format": "date-time"},
    "time": {"type": ["string", "null"], "format": "time"},
    "uuid": {"type": "string", "format": "uuid"},
    "address": {"type": "string", "format": "ipv4"},
    "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 4},
    "tuple": {"type": "array", "prefixItems": [{"type": "boolean"}, {"const": 1}], "items": False, "minItems": 1},
    "either": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "null"}, TEXT]},
    "one of": {
        "oneOf": [
            {"type": "object", "properties": {"k": {"const": "a"}, "v": TEXT}, "required": ["k"]},
            {"type": "object", "properties": {"k": {"const": "b"}, "v": {"type": "boolean"}}, "required": ["k"]},
        ]
    },
    "all of": {"allOf": [{"type": "object", "properties": {"a": TEXT, "b": {"enum": [1]}}, "required": ["a"]}]},
    "any integer": {"type": ["integer", "null"]},
    "large": {"type": "number", "minimum": 0, "maximum": 10**18, "multipleOf": 0.5},
    "map": {"type": "object", "additionalProperties": {"enum": [1, 2]}, "maxProperties": 1},
    "optional": {
        "type": "object",
        "properties": {"a": TEXT, "b": TEXT, "c": {"$ref": "#/$defs/yes"}},
        "required": ["b"],
    },
}


def schema_of(part: dict[str, Any]) -> str:
    properties = {"it's": part, "end": {"$ref": "#/$defs/yes"}}
    return checked(
        {"type": "object", "properties": properties, "required": ["it's"], "$defs": {"yes": {"type": "boolean"}}}, "x"
    )


@pytest.fixture(scope="module")
def grammars(tmp_path_factory) -> Grammars:
    path = tmp_path_factory.mktemp("tokenizer") / "tekken.json"
    path.write_text(json.dumps(tiny_tokenizer(words=("true", '", "', "199", "00", " é", '"}'))))
    return Grammars(MistralTokenizer.from_file(str(path)), 320)  # more than the tokenizer knows


def walk(grammars: Grammars, schema: str, rng: np.random.Generator) -> str:
    """Any token that may follow, until nothing may."""
    constraint = grammars.of(schema)()
    written = b""
    tokenizer = grammars._tokenizer.instruct_tokenizer.tokenizer
    for _ in range(2_000):
        allowed = np.flatnonzero(np.unpackbits(constraint.mask.view(np.uint8), bitorder="little"))
        assert len(allowed) and allowed.max() < tokenizer.n_words
        token = int(rng.choice(allowed))
        written += tokenizer.id_to_byte_piece(token)
        if constraint.advance(token):
            return written.decode()
    raise AssertionError(f"no end: {written[:100]!r}")


@pytest.mark.parametrize("name", PARTS)
def test_what_the_grammar_lets_pass_fits(grammars, name):
    schema = schema_of(PARTS[name])
    rng = np.random.default_rng(len(name))
    answers = [walk(grammars, schema, rng) for _ in range(12)]
    for answer in answers:
        assert fitted(answer, schema).replace("\ufffd", "") and "\n" not in answer
        fields = json.loads(answer)
        assert set(fields) <= {"it's", "end"}
        for column in columns_of(schema):
            column.value(fields)
    assert len(set(answers)) > 1


@pytest.mark.parametrize("name", PARTS)
def test_along_a_draft_stand_the_masks_that_would_stand_token_by_token(grammars, name):
    """Of the draft what may follow is tried, and what must; nobody goes there before it is the answer."""
    schema = schema_of(PARTS[name])
    rng = np.random.default_rng(len(name))
    tokenizer = grammars._tokenizer.instruct_tokenizer.tokenizer
    answer = tokenizer.encode(walk(grammars, schema, rng), bos=False, eos=False)
    constraint, number_tried = grammars.of(schema)(), 0
    for place, token in enumerate(answer):
        draft = list(answer[place:])
        for _ in range(rng.integers(3)):
            draft.insert(int(rng.integers(len(draft) + 1)), int(rng.integers(320)))
        tried = constraint.ahead(draft, most=int(rng.integers(1, 20)))
        number_tried += len(tried)
        masks, alone = constraint.masks(tried), grammars.of(schema)()
        alone.follow(answer[:place])
        assert np.array_equal(masks[0], constraint.mask) and np.array_equal(constraint.mask, alone.mask)
        for mask, one in zip(masks[1:], tried, strict=True):
            assert not alone.advance(one), "what would be the last is not tried: nothing is asked after it"
            assert np.array_equal(mask, alone.mask)
        assert constraint.advance(token) == (place == len(answer) - 1), "as if nothing had been tried"
    assert number_tried > len(answer)
    exact = grammars.of(schema)().ahead(answer, most=1_000)
    assert exact == answer[:-1], "a draft that is the answer is tried to its end"


def test_what_must_follow_is_tried_without_a_draft_and_before_it(grammars):
    properties = {"number": TEXT, "sum": TEXT}
    whole = checked({"type": "object", "properties": properties, "required": ["number", "sum"]}, "x")
    tokenizer = grammars._tokenizer.instruct_tokenizer.tokenizer

    def tried(written: str, draft: str) -> str:
        constraint = grammars.of(whole)()
        constraint.follow(tokenizer.encode(written, bos=False, eos=False))
        return tokenizer.decode(constraint.ahead(tokenizer.encode(draft, bos=False, eos=False), most=40))

    assert tried("", "") == '{"number": "'
    assert tried("", "7 of\n") == '{"number": "7 of', "a line's end is not in a string"
    assert tried('{"number": "7"', "of May") == ', "sum": "of May'
    assert tried('{"number": "7"', ', "sum": "of M') == ', "sum": "of M', "JSON is followed in its own order"
    assert tried('{"number": "12345678', "9") == '", "sum": "9', "no longer than it may be"


def test_a_begun_answer_goes_on_under_the_mask_of_its_last_token_alone(grammars, monkeypatch):
    schema = schema_of(TEXT)
    token_of = {grammars._tokenizer.instruct_tokenizer.tokenizer.id_to_byte_piece(one): one for one in range(256)}
    written = [token_of[bytes([byte])] for byte in b'{"it\'s": "a long']
    constraint = grammars.of(schema)()
    for token in written:
        assert not constraint.advance(token)
    masks, fill = [], _Walk._fill
    monkeypatch.setattr(_Walk, "_fill", lambda walk: masks.append(fill(walk)))
    begun = Sequence.of(Request((1, *written), written=len(written), constrain=grammars.of(schema)))
    assert begun.constraint is not None and np.array_equal(begun.constraint.mask, constraint.mask)
    assert len(masks) == 2, "of the beginning, and of what comes next"


def test_a_schema_is_compiled_while_another_is(grammars, monkeypatch):
    compiles, may_go_on, slow = threading.Event(), threading.Event(), schema_of({"const": "slow"})

    def slowly(schema):
        if schema == slow:
            compiles.set()
            assert may_go_on.wait(60)
        return grammar_of(schema)

    monkeypatch.setattr(grammar, "grammar_of", slowly)
    with ThreadPoolExecutor(2) as pool:
        first, other = pool.submit(grammars.of, slow), None
        try:
            assert compiles.wait(60)
            other = pool.submit(grammars.of, schema_of({"const": "fast"}))
            assert callable(other.result(10)) and not first.done()
        finally:
            may_go_on.set()
        assert callable(first.result(60))
