"""Tokens that were generated, as the text that is given for them, and what ends an answer."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as AbstractSequence
from dataclasses import dataclass

from workers.pixtral.plan.sequence import Sequence
from workers.pixtral.text.confidence import Confidence, confidence_of
from workers.pixtral.text.repetition import Loop, Watch


@dataclass(frozen=True, slots=True)
class Generation:
    """What the engine made of a request; `tokens` and `text` end before EOS or the stop string."""

    tokens: tuple[int, ...]
    text: str
    finish_reason: str  # stop, length, repetition, deadline or cancelled
    prompt_tokens: int
    seconds: float  # from submit
    queue_seconds: float
    time_to_first_token_seconds: float | None
    preemptions: int
    confidence: Confidence | None = None  # None where nothing was generated
    loop: Loop | None = None  # that was cut off the answer
    drafted: int = 0  # tokens of the request's draft that were tried
    accepted: int = 0  # of them, that the model chose itself


def ends_with_stop(
    tokens: AbstractSequence[int], stop: AbstractSequence[str], decode: Callable[[list[int]], str]
) -> bool:
    """Whether a stop string has just been completed; a tail of tokens suffices, each is at least a byte."""
    if not stop:
        return False
    tail = max(len(text.encode()) for text in stop) + 8
    text = decode(list(tokens[-tail:]))
    return any(end in text for end in stop)


def before_stop(text: str, stop: AbstractSequence[str]) -> str:
    """The text up to the first stop string."""
    places = [text.find(end) for end in stop]
    return text[: min([place for place in places if place >= 0], default=len(text))]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens as text; both functions raise where a token has none."""

    decode: Callable[[list[int]], str]
    piece: Callable[[int], bytes]  # of one token; empty for a control token
    eos_id: int


class Writing:
    """One answer while it is written: with which token it ends, and what it says."""

    def __init__(self, sequence: Sequence, vocabulary: Vocabulary) -> None:
        self.loop: Loop | None = None  # that it fell into
        self._sequence, self._vocabulary = sequence, vocabulary
        lines = sequence.request.sampling.page_lines
        self._watch = Watch(vocabulary.piece, lines) if lines else None
        if self._watch is not None:
            for token in sequence.generated:  # which did not loop, or it would not have been cut for its length
                self._watch.add(token)

    def ended(self, token: int) -> str | None:
        """Why the answer ends with its newest token, which its sequence has taken already; None where it goes on.

        Raises PageFailed: it could not be held to its schema. Others as `decode`.
        """
        sequence = self._sequence
        is_whole = sequence.constraint is not None and sequence.constraint.advance(token)
        if is_whole or token == self._vocabulary.eos_id:
            return "stop"
        stop = sequence.request.sampling.stop
        if stop and ends_with_stop(sequence.generated, stop, self._vocabulary.decode):
            return "stop"
        if self._watch is not None:
            self.loop = self._watch.add(token)
        if self.loop is not None:
            return "repetition"
        return "length" if len(sequence.tokens) - sequence.prompt_length >= sequence.max_tokens else None

    def worded(self, reason: str) -> tuple[list[int], str, Confidence | None]:
        """The tokens without EOS, the text, and how sure the model was of it; of a loop one copy."""
        sequence, vocabulary = self._sequence, self._vocabulary
        before, end = sequence.request.written, self.loop.first if self.loop else len(sequence.generated)
        tokens = list(sequence.generated[:end])
        likely = sequence.log_probabilities[: max(0, end - before)]
        if tokens and tokens[-1] == vocabulary.eos_id:
            tokens.pop()
        stop = sequence.request.sampling.stop if reason == "stop" else ()
        text = before_stop(vocabulary.decode(tokens), stop)
        pieces = [vocabulary.piece(token) for token in tokens] + [b""] * (end - len(tokens))
        return tokens, text, confidence_of(pieces, likely, len(text))
