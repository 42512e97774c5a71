"""The piece of a page's text that shows why it was found, with the places of the words in it.

Text and query are broken into the same terms (`store/search_terms.py`), here with the place of each term in the
original text, so that what is shown is what is stored: ﬁ is found by "fi" and shown as ﬁ.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from dataclasses import dataclass

from pipeline.store.search_terms import CJK, Phrase

_TERM = re.compile(f"[{CJK}]|(?:(?![{CJK}])[^\\W_])+")
_SOLE = re.compile(f"[{CJK}]")
_WIDTH = 160  # characters: two lines of a terminal


@dataclass(frozen=True, slots=True)
class Snippet:
    """One line, without control characters; `matches` are (start, end) in it."""

    text: str
    matches: tuple[tuple[int, int], ...]


def make_snippet(text: str, phrases: list[Phrase], width: int = _WIDTH) -> Snippet:
    """Cut out the place where most of the phrases stand close together."""
    spans = _find(text, phrases)
    start, end = _window(text, spans, width)
    return _cut(text, start, end, [(a, b) for a, b, _ in spans if a >= start and b <= end])


def _find(text: str, phrases: list[Phrase]) -> list[tuple[int, int, int]]:
    """(start, end, number of the phrase) of every match in the text, in order."""
    folded, places = _fold(text)
    terms = [(match.group(), match.start(), match.end()) for match in _TERM.finditer(folded)]
    wanted = [(_TERM.findall(_fold(" ".join(phrase.terms))[0]), phrase.is_prefix) for phrase in phrases]
    found = []
    for index in range(len(terms)):
        for number, (phrase, may_go_on) in enumerate(wanted):
            here = [term for term, _, _ in terms[index : index + len(phrase)]]
            if not phrase or len(here) < len(phrase) or here[:-1] != phrase[:-1]:
                continue
            if here[-1] == phrase[-1] or (may_go_on and here[-1].startswith(phrase[-1])):
                last = terms[index + len(phrase) - 1][2] - 1
                found.append((places[terms[index][1]], places[last] + 1, number))
    return found


def _fold(text: str) -> tuple[str, list[int]]:
    """Compatibility forms, accents and case folded away; and for each character its index in `text`."""
    folded: list[str] = []
    places: list[int] = []
    for index, character in enumerate(text):
        plain = character.lower() if character < "\x80" else _plain(character)
        folded.append(plain)
        places.extend([index] * len(plain))
    return "".join(folded), places


def _plain(character: str) -> str:
    bare = "".join(c for c in unicodedata.normalize("NFKD", character) if not "\u0300" <= c <= "\u036f")
    return unicodedata.normalize("NFKC", bare).casefold()


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
