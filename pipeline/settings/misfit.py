"""What is wrong with a setting's value, and what would be right, in our own words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline.errors import did_you_mean, redacted

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def misfit(error: ErrorDetails, *, is_secret: bool) -> str:
    """To follow the setting's name; a value that may hold a password `is_secret`, and not shown."""
    kind, limits, got = error["type"], error.get("ctx", {}), redacted(str(error["input"]))[:80]
    shown = "" if is_secret else f" is {got!r}"
    if kind == "value_error":
        said = str(limits["error"])
        return f" {said}" if said.startswith(("is ", "holds ")) else f"{shown}: {said}"
    if kind == "literal_error":
        choices = re.findall("'([^']*)'", limits["expected"])
        return f"{shown}{did_you_mean(got, choices) or ';'} give {' or '.join([', '.join(choices[:-1]), choices[-1]])}"
    return f"{shown}; give {_WANTED.get(kind, _KINDS.get(kind.partition('_')[0], 'another value')).format(**limits)}"


_WANTED = {
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number from {ge} up",
    "less_than_equal": "a number up to {le}",
    "multiple_of": "a multiple of {multiple_of}",
}
_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}
"""By the first word of pydantic's types of errors: int_parsing, int_from_float, float_parsing…"""
