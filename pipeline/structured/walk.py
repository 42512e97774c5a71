"""A JSON Schema as a tree of schemas: what lies in what, where references lead, how large all of it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_OF_NAMES = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_OF_LISTS = ("prefixItems", "anyOf", "oneOf", "allOf", "items")  # in older drafts, `items` may be a list
_OF_ONE = ("items", "additionalItems", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_DEFINITIONS = ("$defs", "definitions")


def children(schema: Any, *, definitions: bool = True) -> Iterator[tuple[str, Any]]:
    """The schemas that stand in this one, each with its JSON pointer from here."""
    if not isinstance(schema, dict):
        return
    for key, part in schema.items():
        if key in _OF_NAMES and isinstance(part, dict) and (definitions or key not in _DEFINITIONS):
            yield from ((f"/{key}/{escaped(name)}", one) for name, one in part.items())
        if key in _OF_LISTS and isinstance(part, list):
            yield from ((f"/{key}/{place}", one) for place, one in enumerate(part))
        if key in _OF_ONE and isinstance(part, dict | bool):
            yield f"/{key}", part


def escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def target(root: Any, reference: str) -> Any:
    """Where `#/$defs/a` leads. Raises LookupError: nowhere."""
    part = root
    for name in reference.removeprefix("#").split("/")[1:]:
        name = name.replace("~1", "/").replace("~0", "~")
        part = part[int(name)] if isinstance(part, list) and name.isdigit() else part[name]
        if not isinstance(part, dict | list | bool):
            raise LookupError(reference)
    return part


def resolved(root: Any, schema: Any) -> Any:
    """The schema itself, or the one that it is nothing but a reference to."""
    while isinstance(schema, dict) and "$ref" in schema:
        schema = target(root, schema["$ref"])
    return schema


class Recursive(Exception):
    """A reference leads back to where it stands."""


def extent(root: Any) -> tuple[int, int]:
    """(schemas, depth) with every reference followed, as often as it is met.

    Raises:
        Recursive: that never ends; its text is the pointer of a schema that contains itself.
    """
    known: dict[int, tuple[int, int]] = {}
    open_ones: set[int] = set()

    def measure(schema: Any, pointer: str) -> tuple[int, int]:
        if not isinstance(schema, dict):
            return 1, 1
        if id(schema) in open_ones:
            raise Recursive(pointer)
        if id(schema) not in known:
            open_ones.add(id(schema))
            parts = [measure(part, pointer + place) for place, part in children(schema, definitions=False)]
            if isinstance(reference := schema.get("$ref"), str):
                parts.append(measure(target(root, reference), reference))
            known[id(schema)] = 1 + sum(size for size, _ in parts), 1 + max((deep for _, deep in parts), default=0)
            open_ones.remove(id(schema))
        return known[id(schema)]

    return measure(root, "#")
