"""The fields of a schema as columns of a table: one for each value that is no object, by its dotted name.

    {"seller": {"name": "Möwe", "rooms": [1, 2]}, "paid": true}   →   seller.name, seller.rooms, paid

What no column type holds is JSON in its cell: lists, values of several types, objects whose properties are not listed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.structured.walk import target

Kind = Literal["string", "integer", "number", "boolean", "json"]


@dataclass(frozen=True, slots=True)
class Column:
    """A field: where it stands in an answer. With `beside`, all that stands there beside these names."""

    name: str
    path: tuple[str, ...]
    kind: Kind
    beside: frozenset[str] | None = None

    def value(self, answer: Any) -> Any:
        """Of an answer; None where it has none."""
        for name in self.path:
            answer = answer.get(name) if isinstance(answer, dict) else None
        if self.beside is None:
            return answer
        rest = {key: part for key, part in answer.items() if key not in self.beside} if answer else None
        return rest or None


def columns_of(schema: str, taken: Collection[str] = ()) -> list[Column]:
    """In the order of the schema. A name that is `taken` by another column of the table stands behind `data.`."""
    root = json.loads(schema)
    columns: list[Column] = []
    names = set(taken)
    for column in _fields(root, _plain(root, root), ()):
        name = f"data.{column.name}" if column.name in taken else column.name
        number = 2
        while name in names:  # "a.b" beside a field b of a
            name, number = f"{column.name}_{number}", number + 1
        names.add(name)
        columns.append(Column(name, column.path, column.kind, column.beside))
    return columns


@dataclass(frozen=True, slots=True)
class _Plain:
    """A schema with its references and combinations put together, as far as a table is concerned."""

    properties: Mapping[str, Any]
    kinds: frozenset[str]  # of JSON's types, without null; empty: any
    is_open: bool  # takes properties that are not listed


def _fields(root: Any, plain: _Plain, path: tuple[str, ...]) -> Iterator[Column]:
    for name, part in plain.properties.items():
        inner = _plain(root, part)
        if inner.properties and inner.kinds <= {"object"}:
            yield from _fields(root, inner, (*path, name))
        else:
            yield Column(".".join((*path, name)), (*path, name), _kind(inner.kinds))
    if plain.is_open:
        yield Column(".".join((*path, "*")), path, "json", frozenset(plain.properties))


def _kind(kinds: frozenset[str]) -> Kind:
    if kinds == {"integer", "number"}:
        return "number"
    (only,) = kinds if len(kinds) == 1 else ("json",)
    return only if only in ("string", "integer", "number", "boolean") else "json"  # type: ignore[return-value]


def _plain(root: Any, schema: Any) -> _Plain:
    if not isinstance(schema, dict):
        return _Plain({}, frozenset(), False)
    parts = [_plain(root, one) for one in schema.get("allOf", ())]
    if "$ref" in schema:
        parts.append(_plain(root, target(root, schema["$ref"])))
    for key in ("anyOf", "oneOf"):
        options = [one for one in schema.get(key, ()) if not _is_null(one)]
        if len(options) == 1:
            parts.append(_plain(root, options[0]))
        elif options:  # of several objects no columns can be told, so it is one cell
            of_each = [_plain(root, one).kinds for one in options]
            parts.append(_Plain({}, frozenset().union(*of_each) if all(of_each) else frozenset(), False))
    own = _Plain(
        schema.get("properties", {}),
        _kinds(schema),
        bool(schema.get("additionalProperties") or schema.get("patternProperties")),
    )
    properties: dict[str, Any] = {}
    kinds: frozenset[str] = frozenset()
    for part in (own, *parts):
        properties = {**part.properties, **properties}
        kinds = kinds or part.kinds
    if properties and not kinds:
        kinds = frozenset({"object"})
    ordered = {name: properties[name] for part in (own, *parts) for name in part.properties}
    return _Plain(ordered, kinds, any(part.is_open for part in (own, *parts)))


def _kinds(schema: dict[str, Any]) -> frozenset[str]:
    said = schema.get("type", ())
    kinds = {said} if isinstance(said, str) else set(said)
    if not kinds:
        values = [schema["const"]] if "const" in schema else schema.get("enum", ())
        kinds = {_kind_of(value) for value in values}
    return frozenset(kinds - {"null"})


def _kind_of(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _is_null(schema: Any) -> bool:
    return isinstance(schema, dict) and (schema.get("type") == "null" or schema.get("const", 0) is None)
