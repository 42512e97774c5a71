"""A user's query: words, phrases and the operators of FTS5, understood the same on SQLite and PostgreSQL.

    annual report              both, anywhere on the page (AND may be written)
    "annual report"            next to each other, in this order
    report*                    words that begin so
    invoice OR receipt         one of them
    report NOT draft           the first without the second
    NEAR(tide gull, 5)         both, in any order, with at most 5 words between them (10 where no number is given)
    (invoice OR receipt) 2019  parentheses group; else side by side comes first, then NOT, AND, OR

Operators are in capitals, so that `or` is a word; `"OR"` in quotes is one too. All other signs part words.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.errors import UsageError
from pipeline.store.search_terms import Phrase, query_phrases

_MAX_PHRASES = 64  # FTS5's parser has an end; nobody types more
_MAX_DEPTH = 20
_NEAR_WORDS = 10  # FTS5's own
_MAX_NEAR_WORDS = 1_000


@dataclass(frozen=True, slots=True)
class Near:
    """Phrases in any order, with at most `words` between the end of the first and the beginning of the last."""

    phrases: tuple[Phrase, ...]
    words: int


@dataclass(frozen=True, slots=True)
class Combined:
    """`AND` or `OR` of several; `NOT`: the first without the second."""

    operator: str
    parts: tuple[Query, ...]


Query = Phrase | Near | Combined


def parse_query(text: str) -> Query:
    """A user's query.

    Raises:
        UsageError: no word in it, an operator without what it needs, or more than FTS5 takes.
    """
    query = _Parser(text).parse()
    count = sum(1 for _ in all_phrases(query))
    if count > _MAX_PHRASES:
        raise UsageError(f"{count} words to search for, over the limit of {_MAX_PHRASES}; use fewer")
    return query


def wanted_phrases(query: Query) -> list[Phrase]:
    """The phrases that a page is found by: all but those after NOT."""
    if isinstance(query, Phrase):
        return [query]
    if isinstance(query, Near):
        return list(query.phrases)
    wanted = query.parts[:1] if query.operator == "NOT" else query.parts
    return [phrase for part in wanted for phrase in wanted_phrases(part)]


def all_phrases(query: Query) -> Sequence[Phrase]:
    """Also those after NOT."""
    if isinstance(query, Combined):
        return [phrase for part in query.parts for phrase in all_phrases(part)]
    return wanted_phrases(query)


class _Token(NamedTuple):
    kind: str  # AND OR NOT NEAR ( ) or WORD
    text: str


_TOKEN = re.compile(
    r"""\s* (?: (?P<open>\() | (?P<near>NEAR\() | (?P<quoted>"[^"]*"\*?) | (?P<close>\)) | (?P<bare>[^\s"]+) | " )""",
    re.VERBOSE,
)


def _tokens(text: str) -> list[_Token]:
    """A parenthesis within a word belongs to it, as in `f(x)`; one at its end that nothing in it opened does not."""
    tokens: list[_Token] = []
    place = 0
    while match := _TOKEN.match(text, place):
        place = match.end()
        if match["open"]:
            tokens.append(_Token("(", "("))
        elif match["close"]:
            tokens.append(_Token(")", ")"))
        elif match["near"]:
            inside = _inside(text, place)
            if inside is None:
                raise _bad(text, "NEAR( is not closed", "write `NEAR(tide gull, 5)`")
            tokens.append(_Token("NEAR", inside))
            place += len(inside) + 1
        elif match["quoted"]:
            tokens.append(_Token("WORD", match["quoted"]))
        elif bare := match["bare"]:
            word = bare
            while word.endswith(")") and word.count(")") > word.count("("):
                word = word[:-1]
            place -= len(bare) - len(word)
            tokens.append(_Token(word if word in ("AND", "OR", "NOT") else "WORD", word))
    return tokens


def _grouped(tokens: Sequence[_Token]) -> list[_Token]:
    """Without what holds no word, and without parentheses that have no fellow, as text has that somebody pasted."""
    kept: list[_Token] = []
    opened: list[int] = []
    for token in tokens:
        if token.kind == "WORD" and not query_phrases(token.text):
            continue
        if token.kind == ")":
            if not opened:
                continue
            start = opened.pop()
            if start == len(kept) - 1:
                del kept[start]
                continue
        if token.kind == "(":
            opened.append(len(kept))
        kept.append(token)
    return [token for place, token in enumerate(kept) if place not in opened]


def _inside(text: str, start: int) -> str | None:
    """Up to the parenthesis that closes the one before `start`."""
    depth, is_quoted = 1, False
    for place in range(start, len(text)):
        is_quoted ^= text[place] == '"'
        if not is_quoted:
            depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return text[start:place]
    return None


def _bad(text: str, fact: str, way_out: str) -> UsageError:
    shown = text if len(text) <= 80 else f"{text[:80]}…"
    return UsageError(f"cannot search for {shown!r}: {fact}; {way_out}")


class _Parser:
    """As FTS5 has it, where words that stand side by side are held together before any operator.

    or: and {OR and} · and: not {AND not} · not: words {NOT words} · words: one {one} · one: phrase | NEAR(…) | ( or )
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _grouped(_tokens(text))
        self._place = 0

    def parse(self) -> Query:
        if not any(token.kind in ("WORD", "NEAR") for token in self._tokens) and not self._operators():
            raise UsageError(
                f"no word to search for in {self._text!r}; try `pagepack search invoice` or `pagepack search 年度`"
            )
        return self._either(0)

    def _operators(self) -> bool:
        return any(token.kind in ("AND", "OR", "NOT") for token in self._tokens)

    def _next(self) -> str:
        return self._tokens[self._place].kind if self._place < len(self._tokens) else ""

    def _either(self, depth: int) -> Query:
        parts = [self._all(depth)]
        while self._takes("OR"):
            parts.append(self._all(depth))
        return _combined("OR", parts)

    def _all(self, depth: int) -> Query:
        parts = [self._without(depth)]
        while self._takes("AND"):
            parts.append(self._without(depth))
        return _combined("AND", parts)

    def _without(self, depth: int) -> Query:
        query = self._together(depth)
        while self._takes("NOT") or self._takes("AND", "NOT"):  # the second is what many write
            query = Combined("NOT", (query, self._together(depth)))
        return query

    def _together(self, depth: int) -> Query:
        parts = [self._one(depth)]
        while self._next() in ("WORD", "NEAR", "("):
            parts.append(self._one(depth))
        return _combined("AND", parts)

    def _takes(self, *kinds: str) -> bool:
        is_next = tuple(token.kind for token in self._tokens[self._place : self._place + len(kinds)]) == kinds
        self._place += len(kinds) if is_next else 0
        return is_next

    def _one(self, depth: int) -> Query:
        kind = self._next()
        if kind not in ("WORD", "NEAR", "("):
            raise self._missing(kind)
        token = self._tokens[self._place]
        self._place += 1
        if kind == "NEAR":
            return self._near(token.text)
        if kind == "WORD":
            phrases = query_phrases(token.text)
            return _combined("AND", phrases)
        if depth == _MAX_DEPTH:
            raise _bad(self._text, f"more than {_MAX_DEPTH} parentheses in each other", "use fewer")
        query = self._either(depth + 1)
        self._place += 1  # what closes it
        return query

    def _missing(self, kind: str) -> UsageError:
        before = self._tokens[self._place - 1].kind if self._place else ""
        is_after = before in ("AND", "OR", "NOT")
        operator, where = (before, "after") if is_after else (kind, "before")
        return _bad(
            self._text,
            f"no word {where} {operator}",
            f"write `report {operator} draft`, or the word itself in quotes, as in '\"{operator}\"'",
        )

    def _near(self, inside: str) -> Near:
        words, comma, number = inside.rpartition(",")
        if not comma or not number.strip().isascii() or not number.strip().isdigit():
            words, number = inside, str(_NEAR_WORDS)
        phrases = tuple(phrase for phrase, _ in itertools.groupby(sorted(query_phrases(words))))  # each once
        if len(phrases) < 2:
            raise _bad(self._text, "NEAR takes two words or phrases at least", "write `NEAR(tide gull, 5)`")
        if len(number.strip()) > 4 or int(number) > _MAX_NEAR_WORDS:
            raise _bad(self._text, f"NEAR looks {_MAX_NEAR_WORDS:,} words far at most", "write `NEAR(tide gull, 5)`")
        return Near(phrases, int(number))


def _combined(operator: str, parts: Sequence[Query]) -> Query:
    return parts[0] if len(parts) == 1 else Combined(operator, tuple(parts))


def alternatives(query: Query) -> tuple[Query, ...]:
    """The parts of an OR: a rare word's pages are to be looked at, however many there are of a common one."""
    return query.parts if isinstance(query, Combined) and query.operator == "OR" else (query,)
