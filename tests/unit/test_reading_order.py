"""From boxes to text: columns, tables, paragraphs, and what holds for any boxes at all."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import examples
from workers.engines.reading_order import Line, text_in_reading_order

PITCH = 20.0


def line(text: str, x: float, y: float, width: float, height: float = 14.0) -> Line:
    return Line(((x, y), (x + width, y), (x + width, y + height), (x, y + height)), text)


def column(name: str, x: float, y: float, width: float, num_lines: int) -> list[Line]:
    return [line(f"{name}{i}", x, y + i * PITCH, width) for i in range(num_lines)]


def turned(lines: list[Line], degrees: float) -> list[Line]:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [
        Line(tuple((x * cosine - y * sine, x * sine + y * cosine) for x, y in one.quad), one.text)  # type: ignore[arg-type]
        for one in lines
    ]


ARTICLE = [
    line("Title over both columns", 50, 20, 620, 26),
    *column("a", 50, 80, 300, 8),
    *column("b", 380, 80, 300, 8),
    line("Page 1", 340, 900, 50),
]
TABLE = [
    *[line(cell, x, 400, 60) for x, cell in ((50, "Item"), (350, "Count"), (550, "Price"))],
    *[line(cell, x, 420, 60) for x, cell in ((50, "Paper"), (350, "12"), (550, "48.00"))],
    *[line(cell, x, 440, 60) for x, cell in ((50, "Ink"), (350, "3"), (550, "91.50"))],
]
ARTICLE_TEXT = "Title over both columns\n\na0 a1 a2 a3 a4 a5 a6 a7\n\nb0 b1 b2 b3 b4 b5 b6 b7\n\nPage 1"
TABLE_TEXT = "Item | Count | Price\nPaper | 12 | 48.00\nInk | 3 | 91.50"


def test_empty_page_is_empty_text() -> None:
    assert text_in_reading_order([]) == ""
    assert text_in_reading_order([line("  ", 0, 0, 10)]) == ""


@pytest.mark.parametrize("degrees", [0.0, 1.5, -3.0])
def test_columns_are_read_one_after_the_other(degrees: float) -> None:
    assert text_in_reading_order(turned(ARTICLE, degrees)) == ARTICLE_TEXT


def test_columns_whose_lines_do_not_stand_level_are_columns_too() -> None:
    lines = [*column("a", 50, 80, 300, 8), *column("b", 380, 89, 300, 6)]
    assert text_in_reading_order(lines) == "a0 a1 a2 a3 a4 a5 a6 a7\n\nb0 b1 b2 b3 b4 b5"


def test_three_columns_are_read_from_the_left() -> None:
    lines = [*column("a", 20, 0, 200, 3), *column("b", 250, 0, 200, 3), *column("c", 480, 0, 200, 3)]
    assert text_in_reading_order(lines) == "a0 a1 a2\n\nb0 b1 b2\n\nc0 c1 c2"


def test_gap_level_in_both_columns_does_not_end_them() -> None:
    lines = [*column("a", 50, 0, 300, 3), *column("b", 380, 0, 300, 3)]
    lines += [*column("c", 50, 80, 300, 3), *column("d", 380, 80, 300, 3)]
    assert text_in_reading_order(lines) == "a0 a1 a2\n\nc0 c1 c2\n\nb0 b1 b2\n\nd0 d1 d2"


@pytest.mark.parametrize("degrees", [0.0, 2.0])
def test_table_row_stays_a_row(degrees: float) -> None:
    assert text_in_reading_order(turned(TABLE, degrees)) == TABLE_TEXT


def test_table_below_columns_stays_a_table() -> None:
    assert text_in_reading_order(ARTICLE[:-1] + TABLE) == ARTICLE_TEXT.removesuffix("Page 1") + TABLE_TEXT


def test_header_of_two_words_stays_one_row_above_columns() -> None:
    header = [line("Review", 50, 20, 60), line("1913", 640, 20, 40)]
    assert text_in_reading_order(header + ARTICLE[1:-1]).startswith("Review | 1913\n\na0 a1")


def test_short_last_line_of_a_paragraph_across_stays_with_it() -> None:
    abstract = [line("an abstract that runs across", 50, 20, 630), line("and ends", 50, 40, 90)]
    assert text_in_reading_order(abstract + ARTICLE[1:-1]).startswith("an abstract that runs across and ends\n\na0 a1")


def test_hyphen_at_a_line_end_is_closed_for_latin_words_only() -> None:
    texts = ["an impor-", "tant step to the Anglo-", "Saxon world of 1913-", "14"]
    lines = [line(text, 50, PITCH * i, 300) for i, text in enumerate(texts)]
    assert text_in_reading_order(lines) == "an important step to the Anglo-Saxon world of 1913- 14"


def test_chinese_lines_join_without_a_space() -> None:
    lines = [line("春江潮水连海平，海上明月", 50, 0, 300), line("共潮生。", 50, PITCH, 100)]
    assert text_in_reading_order(lines) == "春江潮水连海平，海上明月共潮生。"


def test_paragraphs_headings_and_list_items_stand_apart() -> None:
    lines = [
        line("Heading", 50, 0, 120, 24),
        line("first line of a paragraph", 50, 40, 300),
        line("and its end", 50, 60, 90),
        line("second paragraph after a gap", 50, 110, 300),
        line("third, indented", 80, 130, 270),
        line("• one", 60, 170, 80),
        line("• two", 60, 190, 80),
    ]
    assert text_in_reading_order(lines) == (
        "Heading\n\nfirst line of a paragraph and its end\n\nsecond paragraph after a gap\n\n"
        "third, indented\n\n• one\n• two"
    )


def test_line_that_the_detector_broke_is_one_line() -> None:
    lines = [line("the left", 50, 0, 100), line("half", 156, 1, 60), line("next line of it", 50, PITCH, 166)]
    assert text_in_reading_order(lines) == "the left half next line of it"


boxes = st.tuples(st.integers(0, 900), st.integers(0, 1000), st.integers(2, 600), st.integers(2, 60))


@examples(150)
@given(st.lists(boxes, max_size=40), st.integers(0, 1000), st.floats(-20, 20))
def test_every_line_appears_once_whatever_the_order(found: list[tuple[int, ...]], seed: int, degrees: float) -> None:
    lines = turned([line(f"<{i}>", *map(float, box)) for i, box in enumerate(found)], degrees)
    text = text_in_reading_order(lines)
    assert sorted(text.replace("|", " ").split()) == sorted(one.text for one in lines)
    random.Random(seed).shuffle(lines)
    assert text_in_reading_order(lines) == text
