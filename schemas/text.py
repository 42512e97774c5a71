"""Text that every database takes."""

from __future__ import annotations

from typing import Any


def storable(text: str) -> str:
    """No NUL, which PostgreSQL refuses, and no half of a surrogate pair, which is no UTF-8: each becomes U+FFFD."""
    if text.isascii():
        return text.replace("\0", "\ufffd")
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def storable_json(value: Any) -> Any:
    """The same of every text in a JSON value, of which PostgreSQL stores an escape, and fails when it is read."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return {storable(str(key)): storable_json(part) for key, part in value.items()}
    return [storable_json(part) for part in value] if isinstance(value, list | tuple) else value
