"""The order of what was found: the same of SQLite's words and of PostgreSQL's vector."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.query.search_query import parse_query
from pipeline.query.search_rank import Indexed, scores
from pipeline.store.search_terms import search_row, search_vector
from tests.vectors import as_literal

WORDS = st.lists(st.sampled_from(["a", "aa", "ab", "b", "年", "度", "年度"]), min_size=1, max_size=12).map(" ".join)
QUERIES = ["a", "a b", '"a a"', "a*", "年", "年度", '"b 年"', "年度年", "a OR b NOT 年", "NEAR(a 年度, 2)", '"a b"*']


def ranked(query: str, *texts: str) -> list[int]:
    """Numbers of the texts, best first."""
    pages = [Indexed(search_row(text)[0], len(text.encode())) for text in texts]
    found = scores("sqlite", parse_query(query), pages)
    return sorted(range(len(texts)), key=lambda index: -found[index])


@given(st.lists(WORDS, min_size=1, max_size=4), st.sampled_from(QUERIES))
def test_both_databases_rank_alike(texts: list[str], query: str) -> None:
    by_words = [Indexed(search_row(text)[0], len(text)) for text in texts]
    by_vector = [Indexed(as_literal(search_vector(text)), len(text)) for text in texts]
    asked = parse_query(query)
    assert scores("sqlite", asked, by_words) == pytest.approx(scores("postgresql", asked, by_vector))


def test_more_often_shorter_rarer_and_side_by_side_come_first() -> None:
    assert ranked("tide", "tide " + "x " * 9, "tide tide " + "x " * 8) == [1, 0]
    assert ranked("tide", "tide " + "x " * 99, "tide x") == [1, 0]
    assert ranked("tide OR gull", "tide x x x x", "tide x x x x", "x gull x x x") == [2, 0, 1]
    assert ranked("annual report", "report x annual x", "annual report x x", "x annual x report") == [1, 0, 2]
    assert ranked('"a a"', "a a a b", "a a b b") == [0, 1] and scores("sqlite", parse_query("a"), []) == []
