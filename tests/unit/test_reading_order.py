"""From boxes to text: columns, tables, paragraphs, and what holds for any boxes at all."""

from __future__ import annotations

import html
import math
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.layout import columns
from pipeline.layout.lines import Line, find_frame, lay_out
from pipeline.layout.reading_order import text_in_reading_order
from tests.conftest import examples

PITCH = 20.0


def line(text: str, x: float, y: float, width: float, height: float = 14.0) -> Line:
    return Line(((x, y), (x + width, y), (x + width, y + height), (x, y + height)), text)


def column(name: str, x: float, y: float, width: float, num_lines: int) -> list[Line]:
    """One sentence: A0 a1 a2."""
    texts = [f"{name if i else name.upper()}{i}" + "." * (i == num_lines - 1) for i in range(num_lines)]
    return [line(text, x, y + i * PITCH, width) for i, text in enumerate(texts)]


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
ARTICLE_TEXT = "# Title over both columns\n\nA0 a1 a2 a3 a4 a5 a6 a7.\n\nB0 b1 b2 b3 b4 b5 b6 b7.\n\nPage 1"
TABLE_TEXT = "| Item | Count | Price |\n| --- | --- | --- |\n| Paper | 12 | 48.00 |\n| Ink | 3 | 91.50 |"


TWO_LINES = [
    ["The old mill at the", "river stood idle"],
    ["in a town of fewer", "than a thousand"],
    ["people, whom nobody", "has seen since then."],
]


def in_columns(columns: list[list[str]]) -> list[Line]:
    return [
        line(text, 50 + 170 * number, 10 + PITCH * i, 7.5 * len(text))
        for number, column in enumerate(columns)
        for i, text in enumerate(column)
    ]


@pytest.mark.parametrize("is_given", [False, True])
def test_columns_of_two_lines_are_no_table(is_given: bool) -> None:
    text = text_in_reading_order(in_columns(TWO_LINES), is_given=is_given)
    assert text.split() == [word for column in TWO_LINES for one in column for word in one.split()]
    cells = [
        ["Price of a ream", "Twelve shillings"],
        ["Made in the mill", "The old paper mill"],
        ["Sold at the fair", "at Bristol"],
    ]
    assert "| Price of a ream |" in text_in_reading_order(in_columns(cells), is_given=is_given)


def test_empty_page_is_empty_text() -> None:
    assert text_in_reading_order([]) == ""
    assert text_in_reading_order([line("  ", 0, 0, 10)]) == ""


@pytest.mark.parametrize("degrees", [0.0, 1.5, -3.0])
def test_columns_are_read_one_after_the_other(degrees: float) -> None:
    assert text_in_reading_order(turned(ARTICLE, degrees)) == ARTICLE_TEXT


def test_columns_whose_lines_do_not_stand_level_are_columns_too() -> None:
    lines = [*column("a", 50, 80, 300, 8), *column("b", 380, 89, 300, 6)]
    assert text_in_reading_order(lines) == "A0 a1 a2 a3 a4 a5 a6 a7.\n\nB0 b1 b2 b3 b4 b5."


@pytest.mark.parametrize("degrees", [4.0, 8.0, -8.0, 10.0])
def test_a_page_far_askew_is_set_level_though_lines_of_two_columns_meet_as_it_lies(degrees: float) -> None:
    meets = -330 * math.tan(math.radians(degrees)) % PITCH  # as it lies, rows of one column go on in the other
    lines = turned([*column("a", 50, 80, 300, 12), *column("b", 380, 80 + meets, 300, 12)], degrees)
    assert find_frame(lines).angle == pytest.approx(math.radians(degrees), abs=0.005)


def test_numbers_of_a_chart_stay_together() -> None:
    bars = [line(text, 60 + 70 * i, y, 24) for i, (text, y) in enumerate((("1.2", 300), ("5.6", 180), ("8.6", 90)))]
    axis = [line(text, 20, y, 10) for text, y in (("8", 100), ("4", 220), ("0", 340))]
    text = text_in_reading_order([line("Visitors by month, thousands", 20, 0, 300), *bars, *axis])
    title, numbers = text.split("\n\n")
    assert title == "Visitors by month, thousands"
    assert sorted(numbers.split()) == sorted(["1.2", "5.6", "8.6", "8", "4", "0"])


def test_three_columns_are_read_from_the_left() -> None:
    lines = [*column("a", 20, 0, 200, 3), *column("b", 250, 0, 200, 3), *column("c", 480, 0, 200, 3)]
    assert text_in_reading_order(lines) == "A0 a1 a2.\n\nB0 b1 b2.\n\nC0 c1 c2."


def test_columns_of_a_newspaper_stand_close() -> None:
    """Their gutter is a third of a line high where the detector's boxes end; the lines stand level in all of them."""
    stories = [column(name, 20 + 207 * i, 60, 200, 6) for i, name in enumerate("abcde")]
    lines = [line("Headline over all", 20, 0, 900, 28), *(one for story in stories for one in story)]
    texts = [" ".join(f"{name if i else name.upper()}{i}" for i in range(6)) + "." for name in "abcde"]
    assert text_in_reading_order(lines) == "\n\n".join(["# Headline over all", *texts])


def test_gap_level_in_both_columns_does_not_end_them() -> None:
    lines = [*column("a", 50, 0, 300, 3), *column("b", 380, 0, 300, 3)]
    lines += [*column("c", 50, 80, 300, 3), *column("d", 380, 80, 300, 3)]
    assert text_in_reading_order(lines) == "A0 a1 a2.\n\nC0 c1 c2.\n\nB0 b1 b2.\n\nD0 d1 d2."


@pytest.mark.parametrize("degrees", [0.0, 2.0])
def test_table_row_stays_a_row(degrees: float) -> None:
    assert text_in_reading_order(turned(TABLE, degrees)) == TABLE_TEXT


def test_table_below_columns_stays_a_table() -> None:
    assert text_in_reading_order(ARTICLE[:-1] + TABLE) == ARTICLE_TEXT.removesuffix("Page 1") + TABLE_TEXT


def test_headings_that_stand_level_at_the_end_of_two_columns_are_no_table() -> None:
    """Each with the beginning of its text, as where a page ends."""
    above = [*column("a", 50, 80, 300, 8), *column("b", 380, 80, 300, 8)]
    below = [
        line("Wooden department", 50, 270, 160, 17), *column("c", 50, 296, 300, 2),
        line("Timetable of", 380, 270, 130, 17), *column("d", 380, 296, 300, 2),
    ]  # fmt: skip
    text = text_in_reading_order(above + below)
    order = [text.lower().index(word) for word in ("a0", "wooden", "c0 c1", "b0", "timetable", "d0 d1")]
    assert order == sorted(order) and "|" not in text, text
    assert text_in_reading_order(above + TABLE).endswith(TABLE_TEXT)


def test_header_of_two_words_stays_one_row_above_columns() -> None:
    header = [line("Review", 50, 20, 60), line("1913", 640, 20, 40)]
    assert text_in_reading_order(header + ARTICLE[1:-1]).startswith("Review   1913\n\nA0 a1")


def test_short_last_line_of_a_paragraph_across_stays_with_it() -> None:
    abstract = [line("an abstract that runs across", 50, 20, 630), line("and ends", 50, 40, 90)]
    assert text_in_reading_order(abstract + ARTICLE[1:-1]).startswith("an abstract that runs across and ends\n\nA0 a1")


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
        "## Heading\n\nfirst line of a paragraph and its end\n\nsecond paragraph after a gap\n\n"
        "third, indented\n\n• one\n• two"
    )


@pytest.mark.parametrize(
    ("text", "height", "written"),
    [
        ("Of wind and rain", 27, "# Of wind and rain"),
        ("Of wind and rain", 21, "## Of wind and rain"),
        ("Of wind and rain", 17.5, "### Of wind and rain"),
        ("Of wind and rain", 15, "Of wind and rain"),
        ("of wind and rain", 21, "of wind and rain"),
        ("Of wind and rain.", 21, "Of wind and rain."),
        ("1,234.50 EUR", 21, "1,234.50 EUR"),
        ("风和雨", 21, "## 风和雨"),
    ],
)
def test_large_line_that_reads_as_a_heading_is_one(text: str, height: float, written: str) -> None:
    prose = [line(f"{'And' if i == 0 else 'and'} so on, line {i}", 50, 60 + PITCH * i, 300) for i in range(4)]
    read = text_in_reading_order([line(text, 50, 10, 160, height), *prose])
    assert read.split("\n\n")[0] == written


def test_headline_of_several_lines_is_one_heading() -> None:
    headline = [line("A storm of the third", 50, 0, 220, 28), line("of November", 50, 36, 140, 24)]
    prose = [
        line(f"{'The' if i == 0 else 'the'} line {i} of what it is about", 50, 90 + PITCH * i, 300) for i in range(4)
    ]
    assert text_in_reading_order([*headline, *prose]).startswith("# A storm of the third of November\n\nThe line 0 of")


def test_line_that_the_detector_broke_is_one_line() -> None:
    lines = [line("the left", 50, 0, 100), line("half", 156, 1, 60), line("next line of it", 50, PITCH, 166)]
    assert text_in_reading_order(lines) == "the left half next line of it"


def test_columns_half_a_line_apart_are_columns() -> None:
    lines = [*column("a", 50, 0, 300, 6), *column("b", 358, 0, 300, 6)]
    assert text_in_reading_order(lines) == "A0 a1 a2 a3 a4 a5.\n\nB0 b1 b2 b3 b4 b5."


def test_footnote_below_the_left_column_comes_after_both() -> None:
    columns = [*column("a", 50, 0, 300, 8), *column("b", 380, 0, 300, 8)]
    footnote = line("* What is said of it below, in small print", 50, 190, 250, 11)
    assert text_in_reading_order([*columns, footnote]) == (
        f"A0 a1 a2 a3 a4 a5 a6 a7.\n\nB0 b1 b2 b3 b4 b5 b6 b7.\n\n{footnote.text}"
    )


@pytest.mark.parametrize("number_x", [50, 665])
@pytest.mark.parametrize("y", [30, 245])
def test_running_head_and_foot_do_not_stand_between_the_columns(y: float, number_x: float) -> None:
    """Less than a line from the text: a name and the page's number, at both margins or at one."""
    running = [line("Shen and others", 80, y, 150), line("1188", number_x, y, 15)]
    text = text_in_reading_order([*column("a", 50, 60, 300, 9), *column("b", 380, 60, 300, 9), *running])
    columns_text = "A0 a1 a2 a3 a4 a5 a6 a7 a8.\n\nB0 b1 b2 b3 b4 b5 b6 b7 b8."
    assert columns_text in text and "1188" in text.replace(columns_text, "").split()


def test_last_row_of_a_table_is_no_running_foot() -> None:
    lines = [
        line(cell, x, 100.0 + 24 * i, 60)
        for i in range(6)
        for x, cell in ((50, f"Item {i}"), (350, str(7 * i)), (550, str(90 - i)))
    ]
    assert text_in_reading_order(lines).splitlines()[-1] == "| Item 5 | 35 | 85 |"


def test_line_whose_box_is_too_long_does_not_tear_the_columns() -> None:
    lines = [*column("a", 50, 0, 300, 8), *column("b", 360, 0, 300, 8)]
    lines[3] = line("a3", 50, 3 * PITCH, 314)  # reaches into the other column by a third of a line's height
    assert text_in_reading_order(lines) == "A0 a1 a2 a3 a4 a5 a6 a7.\n\nB0 b1 b2 b3 b4 b5 b6 b7."


def test_prose_beside_short_level_cells_is_not_their_table() -> None:
    prose = [
        "The garden opened its",
        "gates in spring and",
        "welcomed more guests",
        "than ever before, one",
        "in six a child.",
    ]
    cells = [("Price", "12"), ("Sold", "311"), ("Left", "4")]
    lines = [line(text, 50, PITCH * i, 300) for i, text in enumerate(prose)]
    lines += [line(name, 380, PITCH * i, 50) for i, (name, _) in enumerate(cells)]
    lines += [line(value, 520, PITCH * i, 30) for i, (_, value) in enumerate(cells)]
    assert (
        text_in_reading_order(lines)
        == " ".join(prose) + "\n\n| Price | 12 |\n| --- | --- |\n| Sold | 311 |\n| Left | 4 |"
    )


def test_page_numbers_stay_with_their_chapters_though_short_lines_stand_askew() -> None:
    chapters = [("First things", 3), ("Of rain", 17), ("Of wind", 31), ("Last things", 58)]
    askew = [turned([line(name, 0, 0, 70 + 10 * i)], 0.9)[0] for i, (name, _) in enumerate(chapters)]
    lines = [line(str(number), 640, PITCH * i, 20) for i, (_, number) in enumerate(chapters)]
    for i, one in enumerate(askew):  # a pixel's error at the end of a short line; the page itself is straight
        lines.append(Line(tuple((50 + x, PITCH * i + y) for x, y in one.quad), one.text))  # type: ignore[arg-type]
    assert text_in_reading_order(lines) == "\n".join(f"{name}   {number}" for name, number in chapters)


def test_rows_that_are_level_across_the_page_are_believed_before_short_lines_that_err_to_one_side() -> None:
    lines = []
    for i in range(15):
        y, width = 20.0 + 20 * i, 110.0 + 10 * (i % 4)
        lines.append(Line(((50, y), (50 + width, y + 2), (50 + width, y + 22), (50, y + 20)), f"Chapter {i} of"))
        lines.append(line(str(7 * i), 620, y + 1, 20, 20))
    expected = "\n".join(f"Chapter {i} of   {7 * i}" for i in range(15))
    assert text_in_reading_order(lines) == expected


def test_long_lines_say_how_a_page_lies_and_short_ones_do_not() -> None:
    long = turned([line("A long line that was measured well", 50, 0, 900)], 2.0)
    short = [line(f"short {i}", 50, 40 + PITCH * i, 70) for i in range(5)]
    level = lay_out(long + short)
    assert level[0].y1 - level[0].y0 == pytest.approx(14, abs=0.5)


def test_gutter_of_a_table_does_not_cut_the_columns_of_the_page() -> None:
    rows = [
        ("Revenue", "7,230", "8,382", "11,510"),
        ("Margin", "27.4", "28.4", "31.5"),
        ("Profit", "1,984", "2,377", "3,621"),
    ]
    lines = [line(cell, 50 + 80 * j, PITCH * i, 60) for i, row in enumerate(rows) for j, cell in enumerate(row)]
    lines += [*column("a", 50, 80, 300, 4), *column("b", 380, 7, 300, 9)]
    assert text_in_reading_order(lines) == (
        "| Revenue | 7,230 | 8,382 | 11,510 |\n| --- | --- | --- | --- |\n"
        "| Margin | 27.4 | 28.4 | 31.5 |\n| Profit | 1,984 | 2,377 | 3,621 |\n\n"
        "A0 a1 a2 a3.\n\nB0 b1 b2 b3 b4 b5 b6 b7 b8."
    )


def test_letterhead_is_read_before_the_columns_below_it() -> None:
    head = [line("Heron Bay", 50, 0, 90), line("Dyke Road 7", 380, -8, 90), line("Heron Bay", 380, 12, 80)]
    text = text_in_reading_order([*head, *column("a", 50, 80, 300, 5), *column("b", 380, 83, 300, 5)])
    assert text == "Heron Bay\n\nDyke Road 7\nHeron Bay\n\nA0 a1 a2 a3 a4.\n\nB0 b1 b2 b3 b4."


def test_sentence_that_a_column_breaks_goes_on_in_the_next() -> None:
    left = ["The society was foun-", "ded by friends of the", "bay, who wanted a gar-"]
    right = ["den where the tide comes", "in twice a day, and", "nothing else."]
    lines = [line(text, 50, PITCH * i, 300) for i, text in enumerate(left)]
    lines += [line(text, 380, 7 + PITCH * i, 300) for i, text in enumerate(right)]
    assert text_in_reading_order(lines) == (
        "The society was founded by friends of the bay, who wanted a garden where the tide comes in twice a day, "
        "and nothing else."
    )


def test_sentence_goes_on_past_a_figure_at_the_top_of_the_next_column() -> None:
    left = ["The society was foun-", "ded by friends of the", "bay, who wanted a gar-"]
    right = ["den where the tide comes", "in twice a day, and", "nothing else."]
    lines = [line(text, 50, 200 + PITCH * i, 300) for i, text in enumerate(left)]
    lines += [line(str(10 * i), 380, 30 * i, 20, 10) for i in range(5)]
    lines += [line("Figure 1. Visitors by the hour.", 380, 160, 200, 10)]
    lines += [line(text, 380, 207 + PITCH * i, 300) for i, text in enumerate(right)]
    text = text_in_reading_order(lines)
    assert "who wanted a garden where the tide comes in twice a day, and nothing else." in text
    assert text.endswith("Figure 1. Visitors by the hour.")


def test_hyphen_stays_in_a_word_that_the_page_writes_with_it() -> None:
    texts = ["a well-known and far-off place, as well-", "known as it is far away, and far-", "away is what it is"]
    lines = [line(text, 50, PITCH * i, 300) for i, text in enumerate(texts)]
    assert text_in_reading_order(lines) == (
        "a well-known and far-off place, as well-known as it is far away, and faraway is what it is"
    )


def test_lines_of_an_address_stay_lines_and_a_typescript_set_wide_is_paragraphs() -> None:
    address = ["Friends of the Bay", "Dyke Road 7", "0555 Heron Bay"]
    assert text_in_reading_order([line(text, 50, PITCH * i, 8 * len(text)) for i, text in enumerate(address)]) == (
        "\n".join(address)
    )
    wide = [line(f"line {i} of a typescript that goes on", 50, 2.2 * PITCH * i, 400) for i in range(6)]
    assert "\n" not in text_in_reading_order(wide)


def test_prose_among_short_lines_is_joined_all_the_same() -> None:
    texts = ["In spring we planted shrubs along", "the eastern dyke, and they grew", "well, for it rained and the sun",
             "shone.", "Plans", "A new path", "A roof", "Money", "A gift"]  # fmt: skip
    lines = [line(text, 50, PITCH * i, 9 * len(text)) for i, text in enumerate(texts)]
    assert text_in_reading_order(lines).startswith(" ".join(texts[:4]) + "\n")


def test_references_that_hang_begin_at_the_margin() -> None:
    lines = [
        line("[1] A. Writer. A long title that", 50, 0, 300),
        line("goes on below, and ends there.", 75, PITCH, 260),
        line("[2] B. Writer. Another title of", 50, 2 * PITCH, 298),
        line("Some length, 1984.", 75, 3 * PITCH, 150),
    ]
    assert text_in_reading_order(lines) == (
        "[1] A. Writer. A long title that goes on below, and ends there.\n"
        "[2] B. Writer. Another title of Some length, 1984."
    )


@pytest.mark.parametrize(("a", "b"), [("אבג", "דהו"), ("ابج", "دهو")])
def test_scripts_from_right_to_left_begin_with_the_right_column(a: str, b: str) -> None:
    lines = [line(b, 50, PITCH * i, 300) for i in range(5)] + [line(a, 380, 7 + PITCH * i, 300) for i in range(5)]
    assert text_in_reading_order(lines) == " ".join([a] * 5) + "\n\n" + " ".join([b] * 5)
    row = [line(text, x, PITCH * i, 40) for i in range(2) for text, x in ((a, 300), (b, 50))]
    assert text_in_reading_order(row) == f"{a}   {b}\n{a}   {b}"


def test_vertical_japanese_is_read_from_the_right_and_its_upper_half_first() -> None:
    upper = [
        line(text, 500 - 40 * i, 0, 24, 300)
        for i, text in enumerate(["春はあけぼの", "やうやう白く", "なりゆく山ぎは。"])
    ]
    lower = [
        line(text, 500 - 40 * i, 340, 24, 300)
        for i, text in enumerate(["夏は夜。月の", "ころはさらなり", "やみもなほ。"])
    ]
    assert (
        text_in_reading_order(lower + upper)
        == "春はあけぼのやうやう白くなりゆく山ぎは。\n\n夏は夜。月のころはさらなりやみもなほ。"
    )


boxes = st.tuples(st.integers(0, 900), st.integers(0, 1000), st.integers(2, 600), st.integers(2, 60))


@examples(150)
@given(st.lists(boxes, max_size=40), st.integers(0, 1000), st.floats(-20, 20))
def test_every_line_appears_once_whatever_the_order(found: list[tuple[int, ...]], seed: int, degrees: float) -> None:
    lines = turned([line(f"<{i}>", *map(float, box)) for i, box in enumerate(found)], degrees)
    text = text_in_reading_order(lines)
    assert sorted(re.findall(r"<\d+>", html.unescape(text))) == sorted(one.text for one in lines)
    random.Random(seed).shuffle(lines)
    assert text_in_reading_order(lines) == text


def test_corners_of_short_lines_that_err_are_no_skew() -> None:
    """Every other title of a table of contents leans by two pixels; page numbers stay with their titles."""
    lines = []
    for i in range(20):
        y, lean = 20.0 * i, 2.0 * (i % 2)
        quad = ((80.0, y), (210.0, y + lean), (210.0, y + 20 + lean), (80.0, y + 20))
        lines += [Line(quad, f"Chapter {i}"), line(str(10 + i), 620, y, 22, 20)]
    lean = find_frame(lines).angle
    assert lean == 0.0
    assert text_in_reading_order(lines).splitlines() == [f"Chapter {i}   {10 + i}" for i in range(20)]


def test_receipt_that_lies_askew_is_set_level_though_its_lines_are_short() -> None:
    labels = [line(f"Lamp oil {i}", 40, 40.0 * i, 180, 34) for i in range(14)]
    prices = [line(f"{i}.50", 520, 40.0 * i, 80, 32) for i in range(14)]
    lines = turned([*labels, *prices], -0.75)
    assert find_frame(lines).angle == pytest.approx(math.radians(-0.75), abs=1e-4)
    assert "| Lamp oil 3 | 3.50 |" in text_in_reading_order(lines)


def test_not_every_end_of_a_dense_sheet_is_tried_as_a_gutter(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, cut_at = [], columns._cut_at
    monkeypatch.setattr(columns, "_MOST_LOOKED_AT", 10_000)  # 660 lines with the true one would take a second
    monkeypatch.setattr(columns, "_cut_at", lambda *given: tried.append(given) or cut_at(*given))
    rng, starts = random.Random(1), ((0, "a"), (400, "b"), (800, "c"))
    lines = [
        line(f"Entry {row} of {name}", x + 5 * rng.random(), row * PITCH, 300)
        for row in range(50)
        for x, name in starts
    ]
    assert "| Entry 3 of a | Entry 3 of b | Entry 3 of c |" in text_in_reading_order(lines)
    assert 0 < len(tried) <= 10_000 // len(lines) + 1 < len(lines) // 2


def test_stamp_in_the_margin_is_read_after_all_else() -> None:
    """With a piece of it that is too short to tell how it runs; it begins beside the third line."""
    text = [line(f"Line {i} of the text goes on.", 100, 20.0 * i, 300) for i in range(12)]
    stamp = [Line(((20, 50), (40, 50), (40, 62), (20, 62)), "S"),
             Line(((20, 66), (40, 66), (40, 236), (20, 236)), "stamp 2004.04906", turn=3)]  # fmt: skip
    assert text_in_reading_order([*text, *stamp]).endswith("Line 11 of the text goes on.\n\nS stamp 2004.04906")
    # The name of an axis is short, and stands where it stands.
    axis = Line(((20, 66), (40, 66), (40, 136), (20, 136)), "volume", turn=3)
    assert not text_in_reading_order([*text, axis]).endswith("volume")
