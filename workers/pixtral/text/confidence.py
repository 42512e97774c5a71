"""How sure the model was: of a whole answer, of its least likely token, and in which places of its text.

Each token comes with log p, the logarithm of how likely the model held it to be among all tokens, at temperature 1.

    confidence   exp of the mean of log p: 0.99 where a token in a hundred might as well have been another
    lowest       the smallest p
    doubts       runs of tokens with p below DOUBTED, as places in the text; the least likely first

The token that ends an answer counts with the others: an empty answer has nothing else, and one that ended too early
shows it there, as a doubt of no length at the end of the text.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

DOUBTED = 0.8  # one time in five the model would have drawn another token
MOST_DOUBTS = 20


class Doubt(NamedTuple):
    """Characters first … last - 1 of the answer's text, and the smallest p among their tokens."""

    first: int
    last: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Confidence:
    mean: float
    lowest: float
    doubts: tuple[Doubt, ...]


def confidence_of(pieces: Sequence[bytes], log_probabilities: Sequence[float], length: int) -> Confidence | None:
    """`pieces` are the tokens' bytes, the end's empty; `length` is that of the text that they make, where it is cut.

    The last of the tokens have probabilities: others may have been written before. None where none has.
    """
    if not log_probabilities:
        return None
    doubts: list[Doubt] = []
    places = list(_places(pieces))[len(pieces) - len(log_probabilities) :]
    for (first, last), log_probability in zip(places, log_probabilities, strict=True):
        likely = math.exp(log_probability)
        if likely >= DOUBTED or first > length:
            continue
        last = min(last, length)
        if doubts and first <= doubts[-1].last:
            before = doubts.pop()
            first, last, likely = before.first, max(last, before.last), min(likely, before.confidence)
        doubts.append(Doubt(first, last, round(likely, 4)))
    return Confidence(
        math.exp(math.fsum(log_probabilities) / len(log_probabilities)),
        math.exp(min(log_probabilities)),
        tuple(sorted(doubts, key=lambda doubt: doubt.confidence)[:MOST_DOUBTS]),
    )


def without(doubts: Iterable[Doubt], cuts: Sequence[tuple[int, int]]) -> tuple[Doubt, ...]:
    """The same places after characters first … last - 1 of each cut were taken out of the text; cuts are in order."""

    def moved(place: int) -> int:
        return place - sum(min(place, last) - first for first, last in cuts if first < place)

    kept = (doubt for doubt in doubts if not any(first <= doubt.first and doubt.last <= last for first, last in cuts))
    return tuple(Doubt(moved(doubt.first), moved(doubt.last), doubt.confidence) for doubt in kept)


def _places(pieces: Iterable[bytes]) -> Iterable[tuple[int, int]]:
    """The characters that each token is part of: one may be some bytes of a character, and several make it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    first = 0
    for piece in pieces:
        last = first + len(decoder.decode(piece))
        has_begun = bool(decoder.getstate()[0])  # a character whose other bytes are to come
        yield first, last + has_begun
        first = last
