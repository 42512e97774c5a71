"""What a query means, and what is said of one that means nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.query.search_match import to_fts5, to_tsquery
from pipeline.query.search_query import parse_query, wanted_phrases


@pytest.mark.parametrize(
    ("words", "fts5", "tsquery"),
    [
        ("net income", '("net" AND "income")', "(('net') & ('income'))"),
        ("net AND income", '("net" AND "income")', "(('net') & ('income'))"),
        ("a OR b c", '("a" OR ("b" AND "c"))', "(('a') | (('b') & ('c')))"),
        ("a NOT b c", '("a" NOT ("b" AND "c"))', "(('a') & !(('b') & ('c')))"),
        ("a b NOT c", '(("a" AND "b") NOT "c")', "((('a') & ('b')) & !('c'))"),
        ("a AND NOT b", '("a" NOT "b")', "(('a') & !('b'))"),
        ("a OR b AND c", '("a" OR ("b" AND "c"))', "(('a') | (('b') & ('c')))"),
        ("(a OR b) c*", '(("a" OR "b") AND "c" *)', "((('a') | ('b')) & ('c':*))"),
        ('"a OR b" "NOT"', '(terms : "a or b" AND "not")', "(('a' <-> 'or' <-> 'b') & ('not'))"),
        ("a or not b", '("a" AND "or" AND "not" AND "b")', "(('a') & ('or') & ('not') & ('b'))"),
        ("f(x) (g(y))", '(terms : "f x" AND terms : "g y")', "(('f' <-> 'x') & ('g' <-> 'y'))"),
        ("年度 OR 报告", '("年度" OR "报告")', "(('年度') | ('报告'))"),
        ("年度报告 年*", '(terms : "年度 度报 报告" AND "年")', "(('年度' <-> '度报' <-> '报告') & ('年'))"),
        ('"report 年" "年 a*"', '(terms : "report 年" * AND terms : "年 a" *)',
         "(('report' <-> '年':*) & ('年' <-> 'a':*))"),
        ("2019年度a", 'terms : "2019 年度 度 a"', "('2019' <-> '年度' <-> '度' <-> 'a')"),
        ("NEAR(年度 a, 0)", 'terms : NEAR("a" "年度 度" *, 0)', "((('a') <1> ('年度' <-> '度':*)) | "
         "(('年度' <-> '度':*) <1> ('a')))"),
        ("NEAR(a b, 0)", 'terms : NEAR("a" "b", 0)', "((('a') <1> ('b')) | (('b') <1> ('a')))"),
        ('NEAR("a b" c)', 'terms : NEAR("a b" "c", 10)', None),
        ("NEAR(f(x), y, 3) z", '(terms : NEAR("f x" "y", 3) AND "z")', None),
        ("NEAR near", '("near" AND "near")', "(('near') & ('near'))"),
        ("0) :-( a ((b", '("0" AND "a" AND "b")', "(('0') & ('a') & ('b'))"),
        ("() a (-)", '"a"', "('a')"),
    ],
)  # fmt: skip
def test_a_query_as_both_databases_read_it(words: str, fts5: str, tsquery: str | None) -> None:
    query = parse_query(words)
    assert to_fts5(query) == fts5
    assert tsquery is None or to_tsquery(query) == tsquery


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "no word to search for in ''; try `pagepack search invoice`"),
        ("report OR", "cannot search for 'report OR': no word after OR; write `report OR draft`, or the word itself in "
         "quotes, as in '\"OR\"'"),
        ("OR report", "cannot search for 'OR report': no word before OR; write `report OR draft`"),
        ("NOT draft", "cannot search for 'NOT draft': no word before NOT; write `report NOT draft`"),
        ("a OR NOT b", "cannot search for 'a OR NOT b': no word after OR;"),
        ("a OR - b AND", "cannot search for 'a OR - b AND': no word after AND;"),
        ("(a OR) b", "cannot search for '(a OR) b': no word after OR;"),
        ("NEAR(a b", "cannot search for 'NEAR(a b': NEAR( is not closed; write `NEAR(tide gull, 5)`"),
        ("NEAR(a)", "cannot search for 'NEAR(a)': NEAR takes two words or phrases at least;"),
        ("NEAR(a a)", "cannot search for 'NEAR(a a)': NEAR takes two words or phrases at least;"),
        ("NEAR(a b, 1001)", "cannot search for 'NEAR(a b, 1001)': NEAR looks 1,000 words far at most;"),
        ("(" * 21 + "a" + ") b" * 21, "more than 20 parentheses in each other; use fewer"),
        ("a " * 65, "65 words to search for, over the limit of 64; use fewer"),
    ],
)  # fmt: skip
def test_a_bad_query_is_told_what_is_wrong(words: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_query(words)
    assert said in str(error.value)


def test_a_near_that_a_server_cannot_spell_out_is_told() -> None:
    with pytest.raises(UsageError, match=r"cannot search for NEAR of 3 phrases 100 words far on PostgreSQL; take two"):
        to_tsquery(parse_query("NEAR(a b c, 100)"))
    assert to_tsquery(parse_query("NEAR(a b, 1000)")) and to_tsquery(parse_query("NEAR(a b c)"))


def test_what_is_searched_for_is_shown_and_what_is_not_is_not() -> None:
    query = parse_query("(a OR NEAR(b c)) NOT d")
    assert [phrase.terms for phrase in wanted_phrases(query)] == [["a"], ["b"], ["c"]]


@given(
    st.text(st.one_of(st.sampled_from('"*()  ,5ab'), st.characters()), max_size=40),
    st.sampled_from(["OR", "NOT", "NEAR("]),
)
def test_any_text_is_a_query_or_is_told_why_not(words: str, operator: str) -> None:
    for text in (words, f"{words} {operator} {words}", f"{operator}{words})"):
        try:
            query = parse_query(text)
            to_fts5(query), to_tsquery(query)
        except UsageError as error:
            assert "search for" in str(error)
