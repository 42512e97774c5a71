"""Tokens that were generated, as the text that is given for them; where a stop string ends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Generation:
    """What the engine made of a request; `tokens` and `text` end before EOS or the stop string."""

    tokens: tuple[int, ...]
    text: str
    finish_reason: str  # stop, length, deadline or cancelled
    prompt_tokens: int
    seconds: float  # from submit
    queue_seconds: float
    time_to_first_token_seconds: float | None
    preemptions: int


def ends_with_stop(tokens: Sequence[int], stop: Sequence[str], decode: Callable[[list[int]], str]) -> bool:
    """Whether a stop string has just been completed; a tail of tokens suffices, each is at least a byte."""
    if not stop:
        return False
    tail = max(len(text.encode()) for text in stop) + 8
    text = decode(list(tokens[-tail:]))
    return any(end in text for end in stop)


def before_stop(text: str, stop: Sequence[str]) -> str:
    """The text up to the first stop string."""
    places = [text.find(end) for end in stop]
    return text[: min([place for place in places if place >= 0], default=len(text))]
