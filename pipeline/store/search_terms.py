"""Text as words to search for, the same when it is stored and when it is asked for, on SQLite and on PostgreSQL.

Some scripts write no spaces: Chinese and Japanese, Thai, Lao, Khmer and Burmese; in Korean, endings cling to words. A
word breaker would need a dictionary, and a wrong break hides a word for ever. There each character, with its marks, is
a word of its own, and several are asked for as a phrase: 年度报告 finds every place where these four stand in a row.
Single characters are in so many pages that the index holds them in pairs: each place says its character and the next.

    年度报告 2019    stored   年度 度报 报告 告 2019     and, aside, 年 度 报 告
    年度报告         asked    年度 度报 报告             one after the other
    年               asked    年                       aside

*Aside* are words without a place: characters that somebody may ask for alone, and the halves of a word that a hyphen
broke at the end of a line. In its place stands the whole word.

Case and accents are folded here (`folding.py`): PostgreSQL's `simple` dictionary leaves accents and, by locale,
capitals as they are. Its parser is not asked either, for it takes a URL or a number with a sign for one word. Whoever
changes what is stored adds a migration after which older rows are yet to be made anew, as 0010 does.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Container, Iterable, Sequence
from itertools import chain, pairwise, repeat
from typing import NamedTuple

from pipeline.store.folding import DROPPED, MARKS, fold

CJK = "\u3005\u3007\u3040-\u3098\u309b-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
"""Inside the brackets of a regular expression: characters of Chinese, Japanese and Korean."""

SOLE = (
    f"{CJK}\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd\u0ec0-\u0ec6\u0edc-\u0edf"
    "\u1000-\u102a\u103f\u1050-\u1055\u105a-\u105d\u1061\u1065\u1066\u106e-\u1070\u1075-\u1081\u108e"
    "\u1780-\u17b3\u17d7\u17dc"
)
"""As `CJK`: characters that are words of their own: CJK, Thai, Lao, Burmese, Khmer."""
_SOLE_MARKS = (
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u1056-\u1059\u105e-\u1060"
    "\u1062-\u1064\u1067-\u106d\u1071-\u1074\u1082-\u108d\u108f\u109a-\u109d\u17b4-\u17d3\u17dd\u3099\u309a"
)
CHARACTER = rf"[{SOLE}](?:[\u1039\u17d2][{SOLE}]|[{_SOLE_MARKS}])*"
"""One of them, with its marks; a letter that stands below another belongs to it, in Burmese and Khmer."""
_CHARACTER = re.compile(CHARACTER)
_WORD = re.compile(rf"[\w{MARKS}]+")
_RUN = re.compile(rf"[{SOLE}{_SOLE_MARKS}]+|(?:[^\W{SOLE}]+|[{MARKS}]+)+")
_HAS_SOLE = re.compile(f"[{SOLE}]")
_IS_SOLE = _HAS_SOLE.match
_HAS_SOLE_MARKS = re.compile(f"[{_SOLE_MARKS}]")
_BREAKS = str.maketrans({chr(code): " " for code in range(128) if not chr(code).isalnum()})
_LINE_HYPHEN = re.compile("[-\u2010\u00ac\u00ad][^\\S\\n]*\\n\\s*")
_SOFT = "\u00ac\u00ad"  # the first is what many readers make of the second
_LAST = re.compile(rf"[\w{MARKS}{DROPPED}]+\Z")
_FIRST = re.compile(rf"[\w{MARKS}{DROPPED}]+")
_LONGEST_HALF = 64  # characters that are looked at on each side of a hyphen

_MAX_TERM_CHARACTERS = 255  # a longer word counts by its beginning; PostgreSQL takes 2,046 bytes
_MAX_VECTOR_BYTES = 1_000_000  # of a page; PostgreSQL takes 1,048,575. Words after that are not found
_SURELY_FITS = 30_000  # characters: each is at most two terms of 8 bytes, which take 16
_MOST_PLACES = 256  # of a word, that PostgreSQL takes
_ASIDE = 16_383  # the last place that PostgreSQL knows; a word without one would spoil phrases that end in a prefix
_ALONE = [struct.pack(">xHH", 1, place) for place in range(_ASIDE + 1)]  # a word's end, how many places, and which


class Word(NamedTuple):
    """A word that a hyphen broke at the end of a line: from where to where its hyphen goes, and its two halves."""

    start: int
    end: int
    halves: tuple[str, str]


def broken_words(text: str) -> list[Word]:
    """Places where a hyphen and the end of a line stand within a word.

    `exam-⏎ple` is; not `1914-⏎1918`, nor `Jean-⏎Paul`. Of `twenty-⏎five` nobody can tell: so its halves are words, too.
    """
    if "\n" not in text:
        return []
    found = []
    for hyphen in _LINE_HYPHEN.finditer(text):
        before = _LAST.search(text, max(hyphen.start() - _LONGEST_HALF, 0), hyphen.start())
        after = _FIRST.match(text, hyphen.end(), hyphen.end() + _LONGEST_HALF)
        if not before or not after:
            continue
        left, right = before.group(), after.group()
        is_name = right[0].isupper() and not left[-1].isupper()
        if hyphen.group()[0] in _SOFT or (left[-1].isalpha() and right[0].isalpha() and not is_name):
            found.append(Word(hyphen.start(), hyphen.end(), (left, right)))
    return found


class Terms(NamedTuple):
    """Words of a text in their order, and those that it holds aside."""

    placed: list[str]
    aside: list[str]


def words(text: str) -> list[str]:
    """In their order; characters of their own are not in pairs. Letters, digits and marks only, so that none can leave
    the quotes around it."""
    plain = fold(_joined(text, broken_words(text)))
    if plain.isascii():
        found = plain.translate(_BREAKS).split()  # a tenth of the time
    elif not _HAS_SOLE.search(plain):
        found = _WORD.findall(plain)
    else:
        found = [word for run in _RUN.findall(plain) for word in _characters(run)]
    return [word[:_MAX_TERM_CHARACTERS] for word in found]


def _characters(run: str) -> Sequence[str]:
    if not _IS_SOLE(run):
        return (run,)
    return _CHARACTER.findall(run) if _HAS_SOLE_MARKS.search(run) else run


def _joined(text: str, broken: Sequence[Word]) -> str:
    for word in reversed(broken):
        text = text[: word.start] + text[word.end :]
    return text


def soles(found: Iterable[str]) -> set[str]:
    """Those that are a character of a script without spaces."""
    return {word for word in set(found) if word >= "\u0e01" and _IS_SOLE(word)}


def in_pairs(found: Sequence[str], sole: Container[str]) -> list[str]:
    """Each character of its own with the next, where one follows."""
    return [one + other if one in sole and other in sole else one for one, other in pairwise([*found, ""])]


def terms(text: str) -> Terms:
    """What the index holds of a text."""
    found = words(text)
    aside: dict[str, None] = {}
    for word in broken_words(text):
        aside |= dict.fromkeys(half for part in word.halves for half in words(part))
    sole = set() if text.isascii() else soles(found)
    aside |= dict.fromkeys(sorted(sole))
    return Terms(in_pairs(found, sole) if sole else found, list(aside))


def search_row(text: str) -> tuple[str, str]:
    """What goes into SQLite's index: words in their order, and those aside."""
    found = terms(text)
    return " ".join(found.placed), " ".join(found.aside)


def search_vector(text: str) -> bytes:
    """What goes into PostgreSQL's index, as its type `tsvector` is sent: words, each with its places in their order."""
    found = terms(text)
    if len(text) > _SURELY_FITS:
        found = _what_fits(found)
    first: dict[bytes, int] = {}
    more: dict[bytes, list[int]] = {}  # most words stand on a page once
    placed, aside = (" ".join(some).encode().split() for some in found)
    for place, term in chain(enumerate(placed, 1), zip(repeat(_ASIDE), aside)):
        if term not in first:
            first[term] = place
        else:
            more.setdefault(term, []).append(place)
    sent = [len(first).to_bytes(4)]
    for term, place in first.items():
        if term in more:
            places = sorted({min(place, _ASIDE) for place in (place, *more[term])})[:_MOST_PLACES]
            sent.append(term + struct.pack(f">xH{len(places)}H", len(places), *places))
        else:
            sent.append(term + _ALONE[min(place, _ASIDE)])
    return b"".join(sent)


def _what_fits(found: Terms) -> Terms:
    size = sum(8 + len(term.encode()) for term in found.aside)
    if size > _MAX_VECTOR_BYTES // 2:
        return _what_fits(Terms(found.placed, found.aside[: len(found.aside) // 2]))
    seen: set[str] = set()
    for count, term in enumerate(found.placed):
        size += 2 if term in seen else 8 + len(term.encode())
        if size > _MAX_VECTOR_BYTES:
            return Terms(found.placed[:count], found.aside)
        seen.add(term)
    return found


class Phrase(NamedTuple):
    """Words that stand together; with `is_prefix` the last one may go on."""

    terms: list[str]
    is_prefix: bool = False


def query_phrases(query: str) -> list[Phrase]:
    """A user's query as phrases, all of which must occur: words between blanks, or as one phrase in quotes.

    A `*` at the end of a word, or after the quotes, makes its phrase a prefix.

    `net "annual report" 利* tid*` → net · annual report · 利… · tid…
    """
    phrases = []
    for quoted, star, bare in re.findall(r'"([^"]*)"(\*?)|([^\s"]+)', query):
        text = quoted or bare
        found = words(text)
        if found:
            phrases.append(Phrase(found, bool(star) or text.rstrip().endswith("*")))
    return phrases
