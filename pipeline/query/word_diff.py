"""What changed from one text to another, word by word.

    the old house stood   →   the [-old-]{+new+} house stood

with the marks of `wdiff` and of `git diff --word-diff`. A Chinese, Japanese or Korean character is a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rapidfuzz.distance import Levenshtein

from pipeline.store.search_terms import CJK

_WORD = re.compile(rf"[{CJK}]|[^\s{CJK}]+")
_CONTEXT_WORDS = 5


class Change(StrEnum):
    SAME = "same"
    DELETED = "deleted"
    INSERTED = "inserted"
    LEFT_OUT = "left out"  # words that both texts have, far from any change


@dataclass(frozen=True, slots=True)
class Piece:
    """Words that belong together; spaces and line ends within are one space each."""

    change: Change
    text: str


def words_of(text: str) -> list[str]:
    return _WORD.findall(text)


def words_changed(before: Sequence[str], after: Sequence[str]) -> int:
    """Words to change, insert or delete until one is the other."""
    return Levenshtein.distance(before, after)


def diff(before: str, after: str) -> list[Piece]:
    """The changes in their order, each with a few words around it."""
    spans = [[(found.start(), found.end()) for found in _WORD.finditer(text)] for text in (before, after)]
    pieces = list(_pieces((before, after), spans))
    return [short for piece in _around(pieces) for short in piece]


def _pieces(texts: tuple[str, str], spans: Sequence[list[tuple[int, int]]]) -> Iterator[Piece]:
    first, second = ([text[start:end] for start, end in some] for text, some in zip(texts, spans, strict=True))

    def cut(side: int, start: int, end: int) -> str:
        return " ".join(texts[side][spans[side][start][0] : spans[side][end - 1][1]].split())

    for step in Levenshtein.opcodes(first, second):
        if step.tag == "equal":
            yield Piece(Change.SAME, cut(1, step.dest_start, step.dest_end))
            continue
        if step.src_end > step.src_start:
            yield Piece(Change.DELETED, cut(0, step.src_start, step.src_end))
        if step.dest_end > step.dest_start:
            yield Piece(Change.INSERTED, cut(1, step.dest_start, step.dest_end))


def _around(pieces: list[Piece]) -> Iterator[list[Piece]]:
    last = len(pieces) - 1
    for at, piece in enumerate(pieces):
        if piece.change != Change.SAME:
            yield [piece]
            continue
        found = list(_WORD.finditer(piece.text))
        head = 0 if at == 0 else _CONTEXT_WORDS
        tail = 0 if at == last else _CONTEXT_WORDS
        if len(found) <= head + tail + 1:
            yield [piece]
            continue
        before = [Piece(Change.SAME, piece.text[: found[head - 1].end()])] if head else []
        after = [Piece(Change.SAME, piece.text[found[-tail].start() :])] if tail else []
        yield [*before, Piece(Change.LEFT_OUT, "…"), *after]


COLOURS = {Change.DELETED: "red", Change.INSERTED: "green"}
_MARKS = {Change.DELETED: ("[-", "-]"), Change.INSERTED: ("{+", "+}")}
_ENDS_CJK, _STARTS_CJK = re.compile(rf"[{CJK}]$"), re.compile(rf"[{CJK}]")


def in_order(pieces: Sequence[Piece]) -> Iterator[tuple[Change, str]]:
    """Each change with its text in its marks; together they are one line."""
    before: Piece | None = None
    for piece in pieces:
        first, last = _MARKS.get(piece.change, ("", ""))
        is_close = before is None or (before.change, piece.change) == (Change.DELETED, Change.INSERTED)
        if before is not None and not is_close:
            is_close = bool(_ENDS_CJK.search(before.text) or _STARTS_CJK.match(piece.text))
        yield piece.change, f"{'' if is_close else ' '}{first}{piece.text}{last}"
        before = piece


def marked(pieces: Sequence[Piece]) -> str:
    return "".join(text for _, text in in_order(pieces))
