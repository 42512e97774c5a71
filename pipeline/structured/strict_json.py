"""JSON as RFC 8259 has it: no NaN, and no name twice in an object, of which each program would take another one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def parse(text: str, parse_float: type = float) -> Any:
    """Raises ValueError: it is none; the text says why."""
    try:
        return json.loads(text, parse_float=parse_float, parse_constant=_no_constant, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def beginning(text: object, most: int = 160) -> str:
    """Enough of it for a message, in one line."""
    words = " ".join(str(text).split())
    return words if len(words) <= most else f"{words[:most]}…"


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"{beginning(twice)!r} stands twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
