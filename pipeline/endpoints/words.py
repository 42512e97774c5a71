"""What servers say, cut down to one line for people; and what is no answer at all."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import Unavailable

_MOST_CHARACTERS = 200


def shown_url(url: str) -> str:
    """Scheme, host and path: a query may hold a key, and so may what stands before an @."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if host else one_line(parts.path)


def one_line(text: str, most: int = _MOST_CHARACTERS) -> str:
    """Without what drives a terminal, and not longer than fits a message."""
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in text[: 4 * most]).split())
    return words if len(words) <= most else f"{words[:most]}…"


def fields_of(value: Mapping[str, Any]) -> str:
    """The names of its fields, for whoever looks what came instead."""
    return one_line(", ".join(map(str, value)) or "no fields", 80)


def error_words(body: bytes) -> str:
    """What an answer says went wrong, in the forms that servers of this kind have; else its first words."""
    text = body[:65_536].decode(errors="replace")
    try:
        return one_line(_said(json.loads(body)) or text)
    except (ValueError, RecursionError):
        return one_line(re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE))


def _said(value: Any) -> str:
    """{"error": {"message": …}}, {"error": …}, {"message": …}, {"detail": [{"loc": …, "msg": …}]}."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "; ".join(filter(None, map(_said, value[:5])))
    if not isinstance(value, dict):
        return ""
    where = ".".join(map(str, value["loc"])) + ": " if isinstance(value.get("loc"), list) else ""
    return next((where + said for key in ("error", "message", "msg", "detail") if (said := _said(value.get(key)))), "")


def parsed(content: bytes, content_type: str) -> dict[str, Any]:
    """A JSON object; what the server calls it counts for less than what it is. Raises Unavailable (`bad-answer`)."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        raise bad_answer(_what_it_is(content, content_type)) from None
    if not isinstance(value, dict):
        raise bad_answer(f"JSON that is no object ({one_line(content[:400].decode(errors='replace'), 60)})")
    return value


def bad_answer(what: str) -> Unavailable:
    """The server answers, but not as a model's server does; another try may meet a better one."""
    return Unavailable(f"the endpoint answered with {what}", cause="bad-answer")


def _what_it_is(content: bytes, content_type: str) -> str:
    text = content[:4096].decode(errors="replace").strip()
    if not text:
        return "nothing"
    kind = content_type.partition(";")[0].strip().lower()
    if text[:1] == "<":
        return f"HTML in place of JSON: {error_words(content)}; is a proxy or a login page before it?"
    if kind == "text/event-stream" or text.startswith("data:"):
        return "a stream, which was not asked for"
    if text[:1] in "{[":
        return f"JSON that is cut off or broken after {len(content):,} bytes"
    return f"{kind or 'something'} in place of JSON: {one_line(text, 100)}"
