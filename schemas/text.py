"""Text that every database takes."""

from __future__ import annotations


def storable(text: str) -> str:
    """No NUL, which PostgreSQL refuses, and no half of a surrogate pair, which is no UTF-8: each becomes U+FFFD."""
    if text.isascii():
        return text.replace("\0", "\ufffd")
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
