"""Terms: the same when text is stored and when it is asked for, and snippets that point into the original."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.query.snippets import make_snippet
from pipeline.store.folding import DROPPED, fold
from pipeline.store.search_terms import Phrase, query_phrases, search_row, search_vector, words
from tests.vectors import as_literal


@pytest.mark.parametrize(
    ("words", "phrases"),
    [
        ("net income", [["net"], ["income"]]),
        ('net "annual report" 利润', [["net"], ["annual", "report"], ["利", "润"]]),
        ("2019年度报告PDF", [["2019", "年", "度", "报", "告", "pdf"]]),
        ("e-mail foo_bar", [["e", "mail"], ["foo", "bar"]]),
        ("", []),
        ('* AND_ "', [["and"]]),
        ("'; -- ()", []),
        ("ﬁle １２", [["file"], ["12"]]),
        ("x\u0302y", [["xy"]]),
        ("Café CAFÉ cafe\u0301 ΟΔΌΣ", [["cafe"], ["cafe"], ["cafe"], ["οδοσ"]]),
        ("한국 が", [["한", "국"], ["が"]]),
    ],
)
def test_a_query_is_split_into_phrases(words: str, phrases: list[list[str]]) -> None:
    assert [phrase.terms for phrase in query_phrases(words)] == phrases


def test_a_star_makes_its_own_phrase_a_prefix() -> None:
    assert query_phrases('tid* garden "annual rep"* 利* "net inc*" *') == [
        Phrase(["tid"], True),
        Phrase(["garden"], False),
        Phrase(["annual", "rep"], True),
        Phrase(["利"], True),
        Phrase(["net", "inc"], True),
    ]


@given(st.text())
def test_terms_are_never_able_to_leave_their_quotes(words: str) -> None:
    for phrase in query_phrases(words):
        for term in phrase.terms:
            assert term and not any(character in term for character in "\"'*():^-+{}\\ \n\0")


def test_a_page_of_any_length_goes_into_an_index() -> None:
    long = " ".join(f"word{index}" for index in range(200_000)) + " " + "x" * 5_000
    assert 800_000 < len(search_vector(long)) < 1_000_000
    assert words("x" * 5_000) == words("x" * 4_000) == ["x" * 255]
    assert as_literal(search_vector("net income, NET")) == "'net':1,3 'income':2"


@given(st.text())
def test_splitting_text_twice_adds_nothing(text: str) -> None:
    assert words(" ".join(words(text))) == words(text)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("STRASSE Weiß", "straße WEISS"),
        ("Łódź Øre Đà Nẵng", "LODZ ore đa nang"),
        ("Æther Œuvre þing", "aether oeuvre THING"),
        ("ısı İstanbul DIYARBAKIR", "isi istanbul Dıyarbakır"),
        ("ΟΔΌΣ Ἀθῆναι", "οδος αθηναι"),
        ("Ёлка Київ", "елка киів"),
        ("שָׁלוֹם עֲלֵיכֶם", "שלום עליכם"),
        ("مُحَمَّد العربـــية", "محمد العربية"),
        ("أحمد إلى", "احمد الى"),
        ("کتاب یک", "كتاب يك"),
        ("पढ़ना २०१९", "पढना 2019"),
        ("soft\u00adhyphen می\u200cخواهم", "softhyphen میخواهم"),
        ("exam-\n  ple EXAM\u00ad\nPLE exam\u2010 \nple", "example example EXAMPLE"),
        ("カ\u3099 ﾊﾞｽ", "ガ バス"),
        ("한국", "\u1112\u1161\u11ab\u1100\u116e\u11a8"),
    ],
)
def test_what_does_not_tell_words_apart_is_folded(text: str, other: str) -> None:
    assert words(text) == words(other) and all(word.isalnum() or word > "\u0900" for word in words(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("हिन्दी में क्षत्रिय", ["हिन्दी", "में", "क्षत्रिय"]),
        ("தமிழ் నేను বাংলা", ["தமிழ்", "నేను", "বাংলা"]),
        ("བོད་ཡིག", ["བོད", "ཡིག"]),
        ("1914-\n1918 Jean-\nPaul a -\nb", ["1914", "1918", "jean", "paul", "a", "b"]),
        ("ไทย ภาษา", ["ไ", "ท", "ย", "ภ", "า", "ษ", "า"]),
        ("ភាសាខ្មែរ", ["ភា", "សា", "ខ្មែ", "រ"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
    ],
)
def test_marks_belong_to_their_word(text: str, expected: list[str]) -> None:
    assert words(text) == [fold(word) for word in expected]


def test_no_mark_of_any_script_parts_a_word() -> None:
    alone = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3099\u309a"  # of scripts without spaces
    marks = [chr(code) for code in range(0x300, 0xF0000) if unicodedata.category(chr(code))[0] == "M"]
    assert len(marks) > 1_500
    parted = [mark for mark in marks if not re.match(f"[{alone}]", mark) and len(words(f"a{mark}b")) != 1]
    assert parted == [] and re.match(f"[{DROPPED}]", "\u0301")


def test_characters_of_their_own_are_in_pairs_and_aside() -> None:
    assert search_row("年度报告 2019 年\n度") == ("年度 度报 报告 告 2019 年度 度", "告 年 度 报")
    assert search_row("twenty-\nfive exam-\nple") == ("twentyfive example", "twenty five exam ple")
    assert as_literal(search_vector("年度 a")) == "'年度':1 '度':2,16383 'a':3 '年':16383"


def test_a_snippet_marks_a_broken_word_whole_and_points_with_their_letters() -> None:
    text = "An exam-\n ple, soft\u00ad\nhyphen, מִלָּה, ﾊﾞｽ停"
    snippet = make_snippet(text, query_phrases("example softhyphen מלה バス停"))
    shown = [snippet.text[start:end] for start, end in snippet.matches]
    assert shown == ["exam- ple", "soft hyphen", "מִלָּה", "ﾊﾞｽ停"]


def test_a_snippet_shows_the_original_text_and_where_the_words_are() -> None:
    text = "A word.\n\nThe ﬁnal Überschuss\tof the year was high."
    snippet = make_snippet(text, [Phrase(["final"]), Phrase(["uberschuss"])])
    assert [snippet.text[start:end] for start, end in snippet.matches] == ["ﬁnal", "Überschuss"]
    assert "\n" not in snippet.text and "\t" not in snippet.text


def test_a_snippet_is_cut_around_the_best_place() -> None:
    text = "apple " * 100 + "pear and apple pie " + "filler " * 200
    snippet = make_snippet(text, [Phrase(["apple"]), Phrase(["pear"])])
    assert "pear and apple pie" in snippet.text and len(snippet.text) < 220
    assert snippet.text.startswith("…") and snippet.text.endswith("…")


def test_a_snippet_of_chinese_highlights_the_phrase() -> None:
    snippet = make_snippet(
        "前言。" * 100 + "本公司年度报告显示利润增长。" + "后记。" * 100, query_phrases("年度报告 利润")
    )
    assert [snippet.text[start:end] for start, end in snippet.matches] == ["年度报告", "利润"]


def test_a_prefix_highlights_the_whole_word() -> None:
    snippet = make_snippet("reports were reported", [Phrase(["report"], True)])
    assert [snippet.text[start:end] for start, end in snippet.matches] == ["reports", "reported"]
    assert make_snippet("reports", [Phrase(["report"])]).matches == ()


@given(st.text(max_size=400), st.text(min_size=1, max_size=5))
@example("", "\U0003134b")  # assigned in Unicode 15, which Python 3.11 does not know
def test_snippets_of_any_text_are_one_safe_line_with_matches_inside(text: str, words: str) -> None:
    phrases = query_phrases(words)
    snippet = make_snippet(f"{text} {words} {text}", phrases)
    assert not any(character < " " or "\x7f" <= character < "\xa0" for character in snippet.text)
    assert all(0 <= start < end <= len(snippet.text) for start, end in snippet.matches)
