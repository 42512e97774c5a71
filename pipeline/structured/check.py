"""Which JSON Schemas an answer can be held to; whatever else is refused before anything is stored, in one line.

The last word has the library that turns the schema into masks over a model's tokens: what it cannot hold, or says that
nothing fits, is refused by its name. It is asked for every engine, so that a schema means the same everywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.errors import UsageError, did_you_mean
from pipeline.structured.strict_json import beginning, parse
from pipeline.structured.walk import Recursive, children, extent, resolved, target

if TYPE_CHECKING:
    from jsonschema import SchemaError

MOST_CHARACTERS = 32_768  # the model reads it with every page: some 8,000 tokens
MOST_SCHEMAS = 2_000  # with references followed
MOST_DEPTH = 32
_DRAFTS = "draft 4, 6, 7, 2019-09 or 2020-12"


def read_schema(text: str, where: str) -> str:
    """A file's content → the schema as it is kept: JSON in one line, its properties in their order.

    Raises:
        UsageError: it is none, or none that an answer can be held to. `where` names the file.
    """
    try:
        schema = parse(text)
    except ValueError as error:
        raise UsageError(f"{where}: it is no JSON: {beginning(error)}") from error
    return checked(schema, where)


def checked(schema: Any, where: str) -> str:
    """As `read_schema`, of JSON that was parsed already."""
    for wrong in _faults(schema):
        raise UsageError(f"{where}: {wrong}")
    return _compact(schema)


def grammar_of(schema: str) -> str:
    """The grammar of a schema that was `checked`, as llguidance takes it.

    One line of JSON as `json.dumps` writes it: free white space is what a small model gets lost in. An object with
    `properties` holds these and no others, unless the schema speaks of others. Integers have 18 digits at most, which
    databases hold: a model that falls into a row of ones would write them to its last token.
    """
    from llguidance import LLMatcher

    plain = json.loads(schema)
    plain.pop("x-guidance", None)  # options of the library, which are not the schema's to choose
    options: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "coerce_one_of": True}
    return LLMatcher.grammar_from_json_schema(json.dumps(_bounded(closed(plain))), overrides=options)


def closed(schema: Any) -> Any:
    """The schema, with `additionalProperties: false` in each object that lists its properties and names no others.

    That is what people mean, and a model that may invent fields does. What fits fits the schema itself, too. Left as it
    is where parts of one object stand in several places, for each would forbid what the others list.
    """
    if _is_pieced(schema):
        return schema

    def close(part: Any) -> Any:
        if isinstance(part, list):
            return [close(one) for one in part]
        if not isinstance(part, dict):
            return part
        kept = {key: value if key in _OF_VALUES else close(value) for key, value in part.items()}
        is_open = isinstance(part.get("properties"), dict) and not kept.keys() & _OF_OTHERS
        return kept | {"additionalProperties": False} if is_open else kept

    return close(schema)


def _bounded(part: Any) -> Any:
    """With bounds for integers that have none."""
    if isinstance(part, list):
        return [_bounded(one) for one in part]
    if not isinstance(part, dict):
        return part
    kept = {key: value if key in _OF_VALUES else _bounded(value) for key, value in part.items()}
    types = [part["type"]] if isinstance(part.get("type"), str) else part.get("type", ())
    if not isinstance(types, list) or "integer" not in types or "number" in types or {"enum", "const"} & part.keys():
        return kept
    lower = {} if {"minimum", "exclusiveMinimum"} & part.keys() else {"minimum": -_LARGEST}
    upper = {} if {"maximum", "exclusiveMaximum"} & part.keys() else {"maximum": _LARGEST}
    return kept | lower | upper


_LARGEST = 10**18


def requires_all(schema: Any) -> bool:
    """Whether each object in it lists its properties, requires all of them, and takes no others."""
    if not isinstance(schema, dict):
        return True
    fields = schema.get("properties")
    is_object = "object" in schema.get("type", ()) or fields is not None
    is_shut = isinstance(fields, dict) and schema.get("additionalProperties") is False
    is_whole = not is_object or (is_shut and set(schema.get("required", ())) == set(fields or ()))
    return is_whole and all(requires_all(part) for _, part in children(schema))


_OF_VALUES = {"const", "enum", "default", "examples"}
_OF_OTHERS = {"additionalProperties", "patternProperties"}


def _is_pieced(schema: Any) -> bool:
    """Whether one object's properties are listed in several places."""
    if not isinstance(schema, dict):
        return False
    pieces = [key for key in ("anyOf", "oneOf", "allOf", "$ref") if key in schema]
    is_several = "allOf" in schema and len(schema["allOf"]) > 1
    is_here = bool(pieces) and ("properties" in schema or len(pieces) > 1 or is_several)
    return is_here or any(_is_pieced(part) for _, part in children(schema))


def _faults(schema: Any) -> Iterator[str]:
    """What is wrong, one thing after the other: each may rely on those before it."""
    if not isinstance(schema, dict):
        yield f"it is no JSON Schema but {_kind(schema)}; write an object with type, properties and required"
    try:
        size = len(_compact(schema))
        _compact(schema).encode()
    except (UnicodeEncodeError, RecursionError):
        yield "it is nested too deeply, or holds half a character; write it anew"
    if size > MOST_CHARACTERS:
        yield f"it has {size:,} characters, over the limit of {MOST_CHARACTERS:,}; ask for less with one prompt"
    yield from _against_its_draft(schema)
    yield from _references(schema)
    try:
        count, depth = extent(schema)
    except Recursive as error:
        yield f"{error} contains itself, and an answer could go on for ever; write out as many levels as you need"
    if count > MOST_SCHEMAS or depth > MOST_DEPTH:
        yield (
            f"with its references followed it has {count:,} parts in {depth} levels, over the limits of "
            f"{MOST_SCHEMAS:,} and {MOST_DEPTH}; ask for less with one prompt"
        )
    top = resolved(schema, schema)
    if not isinstance(top, dict) or top.get("type", "object") != "object" or not ({"properties", "allOf"} & top.keys()):
        yield "its top is no object with properties; wrap what you ask for: {type: object, properties: {…}}"
    yield from _not_held(schema)


def _against_its_draft(schema: dict[str, Any]) -> Iterator[str]:
    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.validators import validator_for

    draft = validator_for(schema, default=None) if "$schema" in schema else Draft202012Validator
    if draft is None:
        yield f"its $schema {beginning(schema['$schema'])} is not known; write {_DRAFTS}, or leave $schema out"
    try:
        draft.check_schema(schema)
    except SchemaError as error:
        yield f"it is no JSON Schema: {error.json_path.replace('$', '#', 1)}: {_told(error)}"


def _told(error: SchemaError) -> str:
    """What is wrong at its place, in words for people; the rarer mistakes in the library's."""
    value = beginning(json.dumps(error.instance, ensure_ascii=False), 40).replace('"', "'")
    at = names = False  # the last of the path is a name that people chose; such names stand at its end
    for step in error.absolute_path:
        at, names = names, not names and step in _NAMED
    if error.json_path.endswith(".type") and not at:
        types = error.instance if isinstance(error.instance, list) else [error.instance]
        wrong = [one for one in types if one not in _TYPES]
        if types and not wrong:
            return f"{value} names a type twice; name each once"
        near = did_you_mean(wrong[0], _TYPES) if wrong and isinstance(wrong[0], str) else ""
        return f"{value} is no type{near or ';'} write one of {', '.join(_TYPES)}, or a list of them"
    if error.validator == "type" and error.validator_value in (["object", "boolean"], "object") and not names:
        return f'{value} is no schema but {_kind(error.instance)}; write an object, such as {{"type": "string"}}'
    return beginning(error.message)


_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def _references(schema: dict[str, Any]) -> Iterator[str]:
    for pointer, part in _all(schema, "#"):
        for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            if abs(part.get(key, 0)) > _LARGEST:  # llguidance 1.3 then lets no smaller number pass
                yield f"{pointer}: {key} is beyond 10^18, which no answer is held to; leave it out"
        for key in ("$dynamicRef", "$recursiveRef"):
            if key in part:
                yield f"{pointer}: {key} is not supported; write $ref: #/$defs/…"
        reference = part.get("$ref")
        if reference is None:
            continue
        if not reference.startswith("#") or (len(reference) > 1 and not reference.startswith("#/")):
            yield (
                f"{pointer}: $ref {beginning(reference)} leads out of the file, and nothing is fetched; copy what it "
                "means into $defs and write #/$defs/…"
            )
        try:
            is_schema = isinstance(target(schema, reference), dict | bool)
        except (LookupError, TypeError, ValueError):
            is_schema = False
        if not is_schema:
            yield f"{pointer}: $ref {beginning(reference)} leads nowhere; define it in $defs"


def _not_held(schema: dict[str, Any]) -> Iterator[str]:
    from llguidance import LLMatcher

    asked = [schema]
    if not _is_pieced(schema):  # a field that nothing can stand in would be left out of every answer
        asked.append(_with_all_fields(schema))
    for one in asked:
        try:
            error = LLMatcher.validate_grammar(grammar_of(_compact(one)))
        except ValueError as refused:
            error = str(refused)
        said = " ".join(error.split())
        if keys := re.search(r"Unimplemented keys: \[(.*)\]", said):
            yield f"an answer cannot be held to {keys[1].replace(chr(34), '')}; leave it out and check it afterwards"
        elif said.startswith("Unsatisfiable"):
            yield f"nothing fits it: {beginning(said.partition(': ')[2])}"
        elif said:
            yield f"an answer cannot be held to it: {beginning(said)}"


def _with_all_fields(part: Any) -> Any:
    if isinstance(part, list):
        return [_with_all_fields(one) for one in part]
    if not isinstance(part, dict):
        return part
    kept = {key: value if key in _OF_VALUES else _with_all_fields(value) for key, value in part.items()}
    fields = part.get("properties")
    if part.get("type", "object") != "object" or not isinstance(fields, dict) or not fields:
        return kept
    return kept | {"required": list(dict.fromkeys([*fields, *part.get("required", [])]))}


def _all(schema: Any, pointer: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        yield pointer, schema
        for place, part in children(schema):
            yield from _all(part, pointer + place)


def _compact(schema: Any) -> str:
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
