"""Whether an answer fits its prompt's JSON Schema, whoever gave it."""

from __future__ import annotations

import functools
import json
import math
from decimal import Decimal
from typing import Any

from pipeline.structured.strict_json import beginning, parse
from schemas.text import storable_json

_LARGEST = 2**63 - 1  # what SQLite, PostgreSQL's bigint and Parquet hold


class Misfit(ValueError):
    """An answer that does not fit; the text says where and why."""


def fitted(text: str, schema: str) -> str:
    """The answer as it is stored: its own words, which are JSON that fits and that both databases can query.

    Raises:
        Misfit: it is no JSON, does not fit, or holds a number that no database does.
    """
    text = text.strip()
    try:
        answer = parse(text, Decimal)
    except ValueError as error:
        raise Misfit(f"it is no JSON: {error}") from error
    _check_numbers(answer)
    try:
        wrong = next(iter(_validator(schema).iter_errors(answer)), None)
    except ArithmeticError as error:  # of a number too long to be divided
        raise Misfit(f"a number of it cannot be computed with: {error}") from error
    if wrong is not None:
        raise Misfit(f"{wrong.json_path}: {beginning(wrong.message)}")
    # The escapes of NUL and of half a character are JSON, and PostgreSQL fails on them when it is asked for the field.
    return text if "\\u" not in text else _storable(text)


@functools.lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    # Decimals, for 0.07 is no multiple of 0.01 among floats. No registry that would fetch anything.
    plain = json.loads(schema, parse_float=Decimal)
    return validator_for(plain, default=Draft202012Validator)(plain, registry=Registry())


def _storable(text: str) -> str:
    plain = json.loads(text)
    kept = storable_json(plain)
    return text if kept == plain else json.dumps(kept, ensure_ascii=False)


def _check_numbers(value: Any) -> None:
    if isinstance(value, dict):
        for part in value.values():
            _check_numbers(part)
    elif isinstance(value, list):
        for part in value:
            _check_numbers(part)
    elif isinstance(value, Decimal):
        if not math.isfinite(float(value)):
            raise Misfit(f"the number {beginning(value)} is out of range")
    elif isinstance(value, int) and abs(value) > _LARGEST:
        raise Misfit(f"the number {beginning(value)} has more than 64 bits")
