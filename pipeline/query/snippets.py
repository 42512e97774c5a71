"""The piece of a page's text that shows why it was found, with the places of the words in it.

Text and query are broken into the same words (`store/search_terms.py`), here with the place of each in the original
text, so that what is shown is what is stored: ﬁ is found by "fi" and shown as ﬁ, and a word that is broken at the end
of a line is marked whole.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.store.folding import DROPPED, MARKS, fold
from pipeline.store.search_terms import CHARACTER, CJK, SOLE, Phrase, broken_words, words

_PIECE = re.compile(  # what folds by itself: a letter with its marks; Hangul and kana that are written in parts
    rf"(?P<ascii>[\x00-\x7f]+(?=[\x00-\x7f]|\Z))|[\u1100-\u11ff]+|[\uff66-\uff9d][\uff9e\uff9f]?|{CHARACTER}|[^\W{SOLE}][{MARKS}{DROPPED}]*|.",
    re.DOTALL,
)
_SOLE = re.compile(f"[{CJK}]")
_WIDTH = 160  # characters: two lines of a terminal


@dataclass(frozen=True, slots=True)
class Snippet:
    """One line, without control characters; `matches` are (start, end) in it."""

    text: str
    matches: tuple[tuple[int, int], ...]

    def pieces(self) -> Iterator[tuple[str, bool]]:
        """The text in pieces, and whether each was searched for."""
        done = 0
        for start, end in self.matches:
            if end > done:
                yield self.text[done : max(start, done)], False
                yield self.text[max(start, done) : end], True
                done = end
        yield self.text[done:], False


def make_snippet(text: str, phrases: list[Phrase], width: int = _WIDTH) -> Snippet:
    """Cut out the place where most of the phrases stand close together."""
    spans = _find(text, phrases)
    start, end = _window(text, spans, width)
    return _cut(text, start, end, [(a, b) for a, b, _ in spans if a >= start and b <= end])


def _find(text: str, phrases: list[Phrase]) -> list[tuple[int, int, int]]:
    """(start, end, number of the phrase) of every match in the text, in order."""
    here = _located(text)
    found = []
    for index, (word, _, _) in enumerate(here):
        for number, (phrase, is_prefix) in enumerate(phrases):
            if word != phrase[0] and not (is_prefix and len(phrase) == 1):
                continue
            run = here[index : index + len(phrase)]
            if len(run) < len(phrase) or any(one[0] != other for one, other in zip(run, phrase[:-1], strict=False)):
                continue
            if run[-1][0] == phrase[-1] or (is_prefix and run[-1][0].startswith(phrase[-1])):
                found.append((run[0][1], run[-1][2], number))
    return found


def _located(text: str) -> list[tuple[str, int, int]]:
    """Each word of a text, and from where to where it stands."""
    folded: list[str] = []
    places: list[tuple[int, int]] = []  # of each character of `folded`
    for start, end in _unbroken(text):
        for piece in _PIECE.finditer(text, start, end):
            if piece["ascii"]:  # letter by letter, and most of many texts
                folded.append(fold(piece["ascii"]))
                places.extend(
                    zip(range(piece.start(), piece.end()), range(piece.start() + 1, piece.end() + 1), strict=True)
                )
                continue
            plain = _folded(piece.group())
            folded.append(plain)
            places.extend([piece.span()] * len(plain))
    located, place = [], 0
    plain = "".join(folded)
    for word in words(plain):
        start = plain.find(word, place)
        if start >= 0:  # else two pieces fold into one, which no writing known to us does
            place = start + len(word)
            located.append((word, places[start][0], places[place - 1][1]))
    return located


_folded = functools.lru_cache(maxsize=4_096)(fold)


def _unbroken(text: str) -> list[tuple[int, int]]:
    """From where to where, without the hyphens of words that are broken at the end of a line."""
    edges = [0, *(edge for word in broken_words(text) for edge in (word.start, word.end)), len(text)]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _window(text: str, spans: list[tuple[int, int, int]], width: int) -> tuple[int, int]:
    """Where `width` characters hold the most different phrases, closest together; the first such place."""
    best, start, end = (0, 0), 0, 0
    for first, (a, _, _) in enumerate(spans):
        seen: set[int] = set()
        reach = a
        for _, b, number in itertools.islice(spans, first, None):
            if b > a + width:
                break
            if number not in seen:
                seen.add(number)
                reach = b
        value = (len(seen), a - reach)
        if seen and value > best:
            best, start, end = value, a, reach
    margin = max(width - (end - start), 0)
    start = max(start - margin // 3, 0)
    end = min(max(start + width, end), len(text))
    for step in range(20):  # not in the middle of a word, where one ends close by
        if start - step <= 0 or text[start - step - 1].isspace():
            start = max(start - step, 0)
            break
    for step in range(20):
        if end + step >= len(text) or text[end + step].isspace():
            end = min(end + step, len(text))
            break
    return start, end


def _cut(text: str, start: int, end: int, spans: list[tuple[int, int]]) -> Snippet:
    """One line: runs of blanks and control characters become one blank, and the matches move along."""
    pieces = ["…"] if start > 0 else []
    length = len(pieces)
    moved: dict[int, int] = {}
    is_blank = True
    for index in range(start, end):
        moved[index] = length
        character = text[index]
        blank = character.isspace() or unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn")
        blank = blank and not _SOLE.match(character)  # a character that is newer than this Python's tables is found too
        if not (blank and is_blank):
            pieces.append(" " if blank else character)
            length += 1
        is_blank = blank
    moved[end] = length
    if end < len(text):
        pieces.append("…")
    return Snippet("".join(pieces), tuple((moved[a], moved[b]) for a, b in spans))
