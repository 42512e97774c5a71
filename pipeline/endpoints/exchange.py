"""One request to a server, and its reply, as values."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from pipeline.endpoints.words import parsed


class Reply(NamedTuple):
    """What came with a status of success."""

    content: bytes
    content_type: str
    seconds: float  # of the try that was answered
    tries: int

    def json(self) -> dict[str, Any]:
        """Raises Unavailable (`bad-answer`): it is no JSON object."""
        return parsed(self.content, self.content_type)


class Taker(Protocol):
    """Takes an answer that is too large to be kept, part by part."""

    def begin(self) -> None:
        """The answer comes from its beginning, perhaps once more."""

    def take(self, part: bytes) -> None: ...


class Asked(NamedTuple):
    method: str
    path: str
    most_bytes: int
    seconds: float
    may_be_missing: bool
    taker: Taker | None
    content: dict[str, Any]
