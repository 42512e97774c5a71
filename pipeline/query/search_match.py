"""A query as FTS5 and as PostgreSQL read it, in the terms of the index.

Terms hold letters, digits and marks only, so none can leave the quotes around it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from pipeline.errors import UsageError
from pipeline.query.search_query import Combined, Near, Query
from pipeline.store.search_terms import Phrase, in_pairs, soles

_MAX_SPELLED, _MAX_ORDERS = 4, 2_500  # of a tsquery that spells each order and distance out


def index_terms(phrase: Phrase, *, whole: bool = False) -> Phrase:
    """A phrase in the terms of the index, where characters of scripts without spaces are in pairs.

    Of a last character it is not known which one follows: 年度 is found by the one pair, `report 年` by how pairs
    begin. `whole`: as many terms as words, where distances are counted.
    """
    words = phrase.terms
    sole = soles(words)
    if words[-1] not in sole or (len(words) == 1 and not whole):
        return Phrase(in_pairs(words, sole), phrase.is_prefix and words[-1] not in sole)
    if len(words) > 1 and words[-2] in sole and not whole:
        return Phrase(in_pairs(words, sole)[:-1], False)
    return Phrase(in_pairs(words, sole), True)


def to_fts5(query: Query) -> str:
    """What MATCH takes."""
    if isinstance(query, Phrase):
        return fts5_phrase(index_terms(query))
    if isinstance(query, Near):
        phrases = (_quoted(index_terms(phrase, whole=True)) for phrase in query.phrases)
        return f"{_PLACED}NEAR({' '.join(phrases)}, {query.words})"
    return f"({f' {query.operator} '.join(map(to_fts5, query.parts))})"


_PLACED = "terms : "  # the column of words in their order; those aside stand beside each other by chance


def fts5_phrase(phrase: Phrase) -> str:
    """Of terms of the index."""
    return f"{_PLACED if len(phrase.terms) > 1 else ''}{_quoted(phrase)}"


def _quoted(phrase: Phrase) -> str:
    return f'"{" ".join(phrase.terms)}"' + (" *" if phrase.is_prefix else "")


_TSQUERY = {"AND": " & ", "OR": " | ", "NOT": " & !"}


def to_tsquery(query: Query) -> str:
    """The same as a literal of PostgreSQL's type; its parser would break words in other places than ours.

    Raises:
        UsageError: a NEAR of many phrases: the server knows distances in one order only, so each is spelled out.
    """
    if isinstance(query, Phrase):
        return _tsquery_phrase(index_terms(query))
    if isinstance(query, Combined):
        return f"({_TSQUERY[query.operator].join(map(to_tsquery, query.parts))})"
    count = len(query.phrases)
    if count > _MAX_SPELLED or math.comb(query.words + count - 1, count - 1) * math.factorial(count) > _MAX_ORDERS:
        raise UsageError(
            f"cannot search for NEAR of {count} phrases {query.words} words far on PostgreSQL; take two, or fewer words"
        )
    orders = [order for phrases in itertools.permutations(query.phrases) for order in _in_order(phrases, query.words)]
    return f"({' | '.join(orders)})" if orders else to_tsquery(Combined("NOT", (query.phrases[0],) * 2))  # never


def _tsquery_phrase(phrase: Phrase) -> str:
    return "(" + " <-> ".join(f"'{term}'" for term in phrase.terms) + (":*" if phrase.is_prefix else "") + ")"


def _in_order(phrases: Sequence[Phrase], words: int) -> list[str]:
    """`a <d> b` says that b begins d places after the end of a."""
    between = words - sum(len(phrase.terms) for phrase in phrases[1:-1])
    spelled = [_tsquery_phrase(index_terms(phrase, whole=True)) for phrase in phrases]
    orders = []
    for gap in itertools.product(range(between + 1), repeat=len(phrases) - 1):
        if sum(gap) <= between:
            steps = "".join(f" <{d + 1}> {phrase}" for d, phrase in zip(gap, spelled[1:], strict=True))
            orders.append(f"({spelled[0]}{steps})")
    return orders
