"""How well a page fits a query: BM25 over the words of the index, the same on SQLite and on PostgreSQL.

For each phrase of the query that is wanted, the more often it stands on the page the better, each time by less, and
the better the shorter the page is; and a phrase counts for more where fewer of the pages that are ranked hold it. Words
that were asked for one by one count once more where they stand side by side, as they were written.

    score = Σ over phrases   idf × n × (k + 1) / (n + k × (1 - b + b × length / mean length))
    idf   = ln(1 + (pages - pages with it + ½) / (pages with it + ½))

Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", with its k = 1.2 and b = 0.75.

FTS5's own `bm25()` counts all pages of every word before it gives the first score, and `ts_rank` knows no rare word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.query.search_match import index_terms
from pipeline.query.search_query import Query, wanted_phrases
from pipeline.store.search_terms import Phrase, soles

_K, _B = 1.2, 0.75
_ASIDE = "16383"  # the place of words that PostgreSQL's index holds aside


@dataclass(frozen=True, slots=True)
class Indexed:
    """A page as the index holds it: SQLite's words in their order, or PostgreSQL's `tsvector` as text."""

    terms: str
    length: int  # of its text, in bytes
    alone: Mapping[str, float] = field(default_factory=dict)  # how often characters stand there, where that is known


@dataclass(frozen=True, slots=True)
class Counted:
    """What PostgreSQL is to say of a page: entries of these terms, or all; how often these characters stand there."""

    terms: Sequence[str] | None = None
    characters: Sequence[str] = ()


def scores(dialect: str, query: Query, pages: Sequence[Indexed]) -> list[float]:
    """One for each page, in their order."""
    if not pages:
        return []
    count = _in_vector if dialect == "postgresql" else _in_words
    mean = max(sum(page.length for page in pages) / len(pages), 1.0)
    weights = [_K * (1 - _B + _B * page.length / mean) for page in pages]
    total = [0.0] * len(pages)
    for phrase in _counted(query):
        occurrences = count(phrase)
        alone = phrase.terms[0] if _is_character(phrase) else ""
        found = [page.alone[alone] if alone in page.alone else occurrences(page.terms) for page in pages]
        holding = sum(map(bool, found))
        idf = math.log(1 + (len(pages) - holding + 0.5) / (holding + 0.5))
        for index, number in enumerate(found):
            if number:
                total[index] += idf * number * (_K + 1) / (number + weights[index])
    return total


def what_counts(query: Query) -> Counted:
    """What `scores` looks at. Words that are known by their beginning are in any entry; only characters are counted
    for us."""
    phrases = _counted(query)
    characters = [phrase.terms[0] for phrase in phrases if _is_character(phrase)]
    rest = [phrase for phrase in phrases if not _is_character(phrase)]
    if any(phrase.is_prefix for phrase in rest):
        return Counted()
    return Counted(sorted({term for phrase in rest for term in phrase.terms}), characters)


def _counted(query: Query) -> list[Phrase]:
    wanted = wanted_phrases(query)
    together = [word for phrase in wanted for word in phrase.terms]
    if len(wanted) > 1 and not any(phrase.is_prefix for phrase in wanted):
        wanted = [*wanted, Phrase(together)]
    alone = [Phrase(phrase.terms, True) if _is_alone(phrase) else index_terms(phrase) for phrase in wanted]
    return list({(tuple(phrase.terms), phrase.is_prefix): phrase for phrase in alone}.values())


def _is_alone(phrase: Phrase) -> bool:
    """One character: among the words in their order it is the beginning of pairs."""
    return len(phrase.terms) == 1 and bool(soles(phrase.terms))


def _is_character(counted: Phrase) -> bool:
    """The same of what is counted, where a term may be a pair."""
    return counted.is_prefix and _is_alone(counted)


def _in_words(phrase: Phrase) -> Callable[[str], int]:
    """How often the phrase stands among words with blanks between."""
    terms, is_prefix = phrase
    if len(terms) == 1 and not is_prefix:
        return lambda words: words.split(" ").count(terms[0])
    if len(terms) == 1:
        return lambda words: f" {words}".count(f" {terms[0]}")
    ending = "" if is_prefix else "(?: |\\Z)"
    found = re.compile(f" (?={' '.join(map(re.escape, terms))}{ending})")  # `a a` stands twice in `a a a`
    return lambda words: sum(1 for _ in found.finditer(f" {words}")) if terms[0] in words else 0


def _in_vector(phrase: Phrase) -> Callable[[str], int]:
    """The same in `'net':1 'income':2,7`."""
    *before, last = phrase.terms
    entries = [re.compile(f"'{re.escape(term)}':([0-9,]+)") for term in before]
    rest = "[^']*" if phrase.is_prefix else ""
    ending = re.compile(f"'{re.escape(last)}{rest}':([0-9,]+)")
    if not before:
        return lambda vector: sum(
            places.count(",") + (not places.endswith(_ASIDE)) for places in ending.findall(vector)
        )

    def occurrences(vector: str) -> int:
        places = {int(place) for found in ending.findall(vector) for place in found.split(",") if place != _ASIDE}
        for back, entry in enumerate(reversed(entries), 1):
            found = entry.search(vector) if places else None
            here = {int(place) + back for place in found[1].split(",")} if found else set()
            places &= here
        return len(places)

    return occurrences
