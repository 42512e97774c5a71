"""Tokens that were generated, as the text that is given for them; where a stop string ends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workers.pixtral.text.confidence import Confidence, confidence_of


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
    confidence: Confidence | None = None  # None where nothing was generated


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


def worded(
    generated: Sequence[int],
    log_probabilities: Sequence[float],
    stop: Sequence[str],
    decode: Callable[[list[int]], str],
    piece: Callable[[int], bytes],
    eos_id: int,
) -> tuple[list[int], str, Confidence | None]:
    """An answer's tokens without EOS, the text up to a stop string, and how sure the model was of both.

    `piece` gives the bytes of one token. Raises whatever `decode` and `piece` do of a token that has no text.
    """
    tokens = list(generated)
    if tokens and tokens[-1] == eos_id:
        tokens.pop()
    text = before_stop(decode(tokens), stop)
    pieces = [piece(token) for token in tokens] + [b""] * (len(generated) - len(tokens))
    return tokens, text, confidence_of(pieces, log_probabilities, len(text))
