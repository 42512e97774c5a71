"""Tables: by the rulings that a page has, and by where its cells stand."""

from __future__ import annotations

import html
import math
import re

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.layout.lines import Line
from pipeline.layout.reading_order import text_in_reading_order
from pipeline.layout.rulings import Ruling, Rulings
from tests.conftest import examples
from tests.unit.test_reading_order import PITCH, column, line, turned

Pixels = NDArray[np.uint8]


def page(*rulings: tuple[float, float, float, float], width: int = 720, height: int = 400) -> Pixels:
    """White paper with grey lines from (x0, y0) to (x1, y1)."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    for x0, y0, x1, y1 in rulings:
        cv2.line(pixels, (round(x0), round(y0)), (round(x1), round(y1)), (150, 150, 150), 1)
    return pixels


def grid(xs: list[int], ys: list[int]) -> list[tuple[float, float, float, float]]:
    return [(xs[0], y, xs[-1], y) for y in ys] + [(x, ys[0], x, ys[-1]) for x in xs]


def in_cells(rows: list[list[str]], xs: list[int], y: float = 10, pitch: float = 30) -> list[Line]:
    return [
        line(cell, x + 6, y + pitch * i, 8.0 * len(cell))
        for i, row in enumerate(rows)
        for cell, x in zip(row, xs, strict=False)
        if cell
    ]


XS, YS = [50, 200, 350, 500], [5, 35, 65, 95]
ROWS = [["Item", "Count", "Price"], ["Paper", "", "48.00"], ["Ink", "3", ""]]
TEXT = "| Item | Count | Price |\n| --- | --- | --- |\n| Paper |  | 48.00 |\n| Ink | 3 |  |"


@pytest.mark.parametrize("degrees", [0.0, 0.4, 3.0, -6.0])
def test_ruled_table_keeps_its_empty_cells(degrees: float) -> None:
    long = line("A line of text as long as the table, so that the page's angle is known", 50, 120, 450)
    lines = [*in_cells(ROWS, XS), long]
    pixels = page(*grid(XS, YS))
    turn = np.array([[math.cos(math.radians(degrees)), -math.sin(math.radians(degrees)), 60],
                     [math.sin(math.radians(degrees)), math.cos(math.radians(degrees)), 60]])  # fmt: skip
    pixels = np.asarray(cv2.warpAffine(pixels, turn, (800, 500), borderValue=(255, 255, 255)), np.uint8)
    moved = [
        Line(tuple((x + 60, y + 60) for x, y in one.quad), one.text)  # type: ignore[arg-type]
        for one in turned(lines, degrees)
    ]
    assert text_in_reading_order(moved, pixels) == f"{TEXT}\n\n{long.text}"


def test_dotted_and_double_rulings_are_rulings() -> None:
    pixels = page()
    for x0, y0, x1, y1 in [*grid(XS, YS), (50, 38, 500, 38), (203, 5, 203, 95)]:
        pixels[y0 : y1 + 1 : 1 if y0 == y1 else 3, x0 : x1 + 1 : 1 if x0 == x1 else 3] = 60
    assert text_in_reading_order(in_cells(ROWS, XS), pixels) == TEXT


def test_cells_that_no_ruling_parts_are_merged() -> None:
    rulings = [(50, y, 500, y) for y in (5, 65, 95)] + [(200, 35, 500, 35)]
    rulings += [(x, 5, x, 95) for x in (50, 200, 500)] + [(350, 35, 350, 95)]
    lines = [line("Item", 56, 25, 40), line("Costs < 5", 300, 10, 80)]
    lines += [*in_cells([["new", "old"]], XS[1:], 42), *in_cells([["Ink", "3", "4"]], XS, 72)]
    assert text_in_reading_order(lines, page(*rulings)) == (
        '<table>\n<tr><td rowspan="2">Item</td><td colspan="2">Costs &lt; 5</td></tr>\n'
        "<tr><td>new</td><td>old</td></tr>\n<tr><td>Ink</td><td>3</td><td>4</td></tr>\n</table>"
    )


def test_lines_of_a_cell_are_joined_and_rows_between_two_rulings_are_rows() -> None:
    lines = [*in_cells([["Item", "Number"], ["", "of pieces"]], XS, 8, 18)]
    lines += in_cells([["Paper", "12"], ["Ink", "3"], ["Pen", "1"]], XS, 60, 20)
    assert text_in_reading_order(lines, page(*grid(XS[:3], [5, 50, 130]))) == (
        "| Item | Number of pieces |\n| --- | --- |\n| Paper | 12 |\n| Ink | 3 |\n| Pen | 1 |"
    )


def test_frame_around_columns_that_no_ruling_parts_is_read_by_where_they_stand() -> None:
    rows = [["Paper", "12", "48", "7"], ["Ink", "3", "91", "8"], ["Pen", "1", "12", "9"]]
    lines = [cell for i, row in enumerate(rows) for cell in in_cells([row], [50, 150, 250, 350], 10 + 20 * i)]
    assert text_in_reading_order(lines, page(*grid([45, 240, 420], [5, 75]))) == (
        "| Paper | 12 | 48 | 7 |\n| --- | --- | --- | --- |\n| Ink | 3 | 91 | 8 |\n| Pen | 1 | 12 | 9 |"
    )


def test_columns_of_prose_with_rulings_between_are_no_table() -> None:
    lines = [*column("a", 56, 10, 280, 9), *column("b", 370, 17, 280, 9)]
    assert text_in_reading_order(lines, page(*grid([50, 353, 660], [4, 200]))) == (
        "A0 a1 a2 a3 a4 a5 a6 a7 a8.\n\nB0 b1 b2 b3 b4 b5 b6 b7 b8."
    )


def test_field_and_label_in_a_box_are_one_line() -> None:
    lines, rulings = [], []
    for i, row in enumerate([("Name", "Town"), ("Born", "Height")]):
        for x, label in zip((50, 300), row, strict=True):
            rulings += grid([x, x + 230], [10 + 50 * i, 50 + 50 * i])
            lines += [line(label, x + 4, 13 + 50 * i, 30, 9), line(f"{label} filled in", x + 6, 28 + 50 * i, 120)]
    assert text_in_reading_order(lines, page(*rulings)) == (
        "Name Name filled in   Town Town filled in\nBorn Born filled in   Height Height filled in"
    )


def test_head_flush_left_over_numbers_flush_right_is_in_their_column() -> None:
    lines = in_cells([["Item", "Year", "Visitors"]], [50, 200, 320])
    for i, (item, year, visitors) in enumerate(
        [("Ledger", "1974", "7"), ("Engine", "1983", "46"), ("Oak", "1998", "9")]
    ):
        y = 30 + PITCH * i
        lines += [
            line(item, 56, y, 60),
            line(year, 280, y, 35),
            line(visitors, 445 - 8 * len(visitors), y, 8 * len(visitors)),
        ]
    assert text_in_reading_order(lines).splitlines()[0] == "| Item | Year | Visitors |"


def test_label_longer_than_its_column_does_not_merge_cells() -> None:
    """As the sums below an invoice."""
    rows = [["Ledger", "2", "86.00", "172.00"], ["Repair", "1", "54.50", "54.50"], ["Case", "3", "19.90", "59.70"],
            ["Letters", "4", "7.25", "29.00"], ["", "VAT of 20 %", "", "63.04"]]  # fmt: skip
    lines = [line("A running head", 50, -60, 120), line("1913", 470, -60, 40), line("Invoice", 50, -20, 60)]
    lines += in_cells(rows, [50, 250, 300, 400], 10, PITCH)
    assert text_in_reading_order(lines) == (
        "A running head   1913\n\nInvoice\n\n| Ledger | 2 | 86.00 | 172.00 |\n| --- | --- | --- | --- |\n"
        "| Repair | 1 | 54.50 | 54.50 |\n| Case | 3 | 19.90 | 59.70 |\n| Letters | 4 | 7.25 | 29.00 |\n"
        "|  | VAT of 20 % |  | 63.04 |"
    )


def test_row_of_one_cell_stays_in_the_table_and_a_bar_in_a_cell_is_no_ruling() -> None:
    rows = [["Sales:", "", ""], ["a | b", "12", "13"], ["Profit:", "", ""], ["Ink", "3", "4"], ["Pen", "5", "6"]]
    assert text_in_reading_order(in_cells(rows[1:], XS, 10, PITCH)) == (
        "| a \\| b | 12 | 13 |\n| --- | --- | --- |\n| Profit: |  |  |\n| Ink | 3 | 4 |\n| Pen | 5 | 6 |"
    )


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([["Name:", "Clara Quill"], ["Town:", "Marlow"], ["Born:", "1913"]], id="the fields of a form"),
        pytest.param([["First things", "3"], ["Of rain", "17"], ["Of wind", "31"]], id="a table of contents"),
    ],
)
def test_rows_of_two_that_are_no_table(rows: list[list[str]]) -> None:
    text = text_in_reading_order(in_cells(rows, [50, 300], 10, PITCH))
    assert [text_line.split() for text_line in text.splitlines()] == [" ".join(row).split() for row in rows]


def test_numbers_of_a_chart_stay_together_and_are_no_table() -> None:
    heights = [0.9, 1.2, 2.1, 3.8, 5.6, 6.5, 8.1, 8.6, 5.0, 3.4, 1.6, 1.4]
    lines = [line(str(tick), 56, 300 - 26 * tick, 10) for tick in range(0, 10, 2)]
    for i, height in enumerate(heights):
        lines += [line(str(height), 90 + 40 * i, 280 - 26 * height, 20), line(f"M{i}", 90 + 40 * i, 320, 22)]
    chart = [line("Visitors by month, thousands of them and more", 50, 20, 300), *lines]
    above, below = column("a", 50, -180, 560, 6), column("b", 50, 380, 560, 6)
    text = text_in_reading_order([*above, *chart, *below])
    assert "|" not in text
    assert text.startswith("A0 a1 a2 a3 a4 a5.\n\nVisitors")
    assert text.endswith("M11\n\nB0 b1 b2 b3 b4 b5.")


places = st.integers(0, 900)
ruling_lists = st.lists(
    st.builds(lambda at, a, b: Ruling(at, min(a, b), max(a, b)), places, places, places), max_size=9
)


@examples(150)
@given(
    st.lists(st.tuples(places, places, st.integers(2, 300), st.integers(2, 40)), max_size=30),
    ruling_lists,
    ruling_lists,
)
def test_every_line_appears_once_whatever_is_ruled(
    found: list[tuple[int, ...]], level: list[Ruling], upright: list[Ruling]
) -> None:
    lines = [line(f"<{i}>", *map(float, box)) for i, box in enumerate(found)]
    text = text_in_reading_order(lines, rulings=Rulings(sorted(level), sorted(upright)))
    assert sorted(re.findall(r"<\d+>", html.unescape(text))) == sorted(one.text for one in lines)


def test_table_beside_a_column_of_notes_is_known_by_where_rulings_end() -> None:
    """The cells stand level with the notes; but the rulings of both end at the gutter, at heights of their own."""
    rows = [[f"Row {i}", f"{i}10", f"{i}20"] for i in range(1, 11)]
    places = (20, 160, 260)
    table = [line(cell, x, 40 + 20 * i, 40) for i, row in enumerate(rows) for cell, x in zip(row, places, strict=True)]
    notes = [line(f"Note {i}", 346, 40 + 20 * i, 90) for i in range(1, 11)]
    left, right = [(20, y, 310, y) for y in (36, 96, 156, 256)], [(346, y, 660, y) for y in (46, 116, 246)]
    written = "\n".join(f"| {' | '.join(row)} |" for row in rows[1:])
    text = text_in_reading_order([*table, *notes], page(*left, *right))
    assert text.index(written) < text.index("Note 1\nNote 2\nNote 3")
    # Rulings level with each other on both sides are those of one table's rows.
    level = page(*left, *[(346, y0, 660, y1) for _, y0, _, y1 in left])
    assert "| Row 2 | 210 | 220 | Note 1 |" in text_in_reading_order([*table, *notes], level)


def test_label_beside_empty_cells_is_a_row_of_its_table() -> None:
    """Between longer labels, which reach over the gutter of the shorter ones."""
    rows = [
        ["Free cash flow to the firm", "369", "620", "633", "592"],
        ["Acquisitions"],
        ["Divestments", "2", "1", "0", "0"],
        ["Cash flow from investments", "(459)", "(502)", "(406)", "(315)"],
        ["Total assets", "1,710", "2,352", "2,912", "3,423"],
        ["Liabilities"],
        ["Total current liabilities, net", "193", "295", "300", "299"],
    ]
    lines = [
        line(text, x, 20.0 * number, 8 * len(text))
        for number, row in enumerate(rows)
        for text, x in zip(row, (50, 350, 430, 510, 590), strict=False)
    ]
    text = text_in_reading_order(lines)
    assert "| Acquisitions |  |  |  |  |" in text and "| Liabilities |  |  |  |  |" in text
    assert sum(row.startswith("|") for row in text.splitlines()) == len(rows) + 1


def test_close_rows_are_one_table_though_boxes_reach_into_each_other_and_a_name_begins_small() -> None:
    """Detected boxes are 17 px high where rows are 12 px apart; an I is read as an l."""
    names = ["Chimerix Inc (CMRX)", "Infinity Pharmaceuticals", "lonis Pharmaceuticals"]
    lines = [
        line(cell, x, 12.0 * i + (i + j) % 3 / 2, 8.0 * len(cell), 17.0)
        for i, name in enumerate(names)
        for j, (cell, x) in enumerate(((name, 50), (f"E(08/{10 + i}/2016)", 350), (f"${i}.75", 560)))
    ]
    rows = [f"| {name} | E(08/{10 + i}/2016) | ${i}.75 |" for i, name in enumerate(names)]
    assert text_in_reading_order(lines).splitlines() == [rows[0], "| --- | --- | --- |", *rows[1:]]


def test_head_whose_cells_stand_close_is_a_row_of_its_table() -> None:
    """A gap under 1.5 line heights is a broken line, unless the rows below say that it parts cells."""
    years = [line(f"FY201{i}A", 146.0 + 100 * i, 0, 85) for i in range(1, 5)]
    rows = [["Revenue", "7,230", "8,382", "9,647", "10,752"], ["Margin", "27.4%", "28.4%", "30.7%", "31.6%"],
            ["Costs", "1,984", "2,377", "2,963", "3,399"]]  # fmt: skip
    body = [
        line(cell, 40.0 if j == 0 else 228 + 100.0 * j - 8 * len(cell), 20.0 * i, 8.0 * len(cell))
        for i, row in enumerate(rows, 1)
        for j, cell in enumerate(row)
    ]
    assert "|  | FY2011A | FY2012A | FY2013A | FY2014A |\n" in text_in_reading_order([*years, *body])
    # Without a table below, the same is one line.
    assert text_in_reading_order(years) == "FY2011A FY2012A FY2013A FY2014A"


def test_line_below_a_tables_source_is_no_row_of_it() -> None:
    rows = [["TEV/EBITDA", "11.9x", "11.2x"], ["P/E", "18.6x", "17.3x"]]
    table = [line(cell, 40 + 150.0 * j, 20.0 * i, 60) for i, row in enumerate(rows) for j, cell in enumerate(row)]
    below = [line("Sources: the company, and our own estimates", 40, 40, 360), line("Price", 40, 75, 60),
             line("Volume", 250, 75, 60)]  # fmt: skip
    text = text_in_reading_order([*table, *below])
    assert text.splitlines()[-1] == "Price   Volume" and "| Price" not in text


def test_cell_that_goes_on_past_rulings_is_the_rows_of_its_neighbours() -> None:
    """Names that leave out rows stand beside a column of single rows; only some names are ruled off."""
    names = {0: "HPRT", 2: "RAD51", 4: "ATR", 6: "CHK2"}
    lines = [line("Primers", 46, 10, 60), line("Sequences", 206, 10, 80)]
    lines += [line(name, 46, 40 + 20.0 * i, 50) for i, name in names.items()]
    lines += [line(f"SEQUENCE{i}", 206, 40 + 20.0 * i, 90) for i in range(8)]
    drawn = page(
        *((40, y, 400, y) for y in (2, 34, 205)), *((x, 2, x, 205) for x in (40, 200, 400)), (40, 156, 200, 156)
    )
    written = [f"| {names.get(i, '')} | SEQUENCE{i} |" for i in range(8)]
    assert text_in_reading_order(lines, drawn).splitlines() == ["| Primers | Sequences |", "| --- | --- |", *written]


def test_columns_that_only_white_parts_are_columns_of_a_ruled_table() -> None:
    rows = [
        ["Antibody", "Vendor", "Number", "Blot"],
        *([f"A{i}", f"Maker {i}", f"{i}97", f"1:{i}00"] for i in range(1, 7)),
    ]
    places = (46, 206, 330, 466)
    lines = [
        line(cell, places[j], 10 + 24.0 * i, 9.0 * len(cell))
        for i, row in enumerate(rows)
        for j, cell in enumerate(row)
    ]
    drawn = page(*((40, y, 560, y) for y in (2, 32, 178)), *((x, 2, x, 178) for x in (40, 200, 460, 560)))
    written = [f"| {' | '.join(row)} |" for row in rows]
    assert text_in_reading_order(lines, drawn).splitlines() == [written[0], "| --- | --- | --- | --- |", *written[1:]]


def test_axes_of_charts_are_no_tables() -> None:
    ticks = [line("20 30 40 50", 60.0, 0, 100), line("70 80 90 100", 240.0, 0, 110), line("120", 400.0, 0, 30)]
    body = [
        line(cell, 60.0 + 160 * j, 40 + 20.0 * i, 60) for i in range(3) for j, cell in enumerate(("a", str(i), "x"))
    ]
    assert "| 20 30" not in text_in_reading_order([*ticks, *body])
    names = [
        line(("FSC-A", "(x105)", "50", "100")[(i + j) % 4], 60.0 + 100 * j, 20.0 * i, 50)
        for i in range(3)
        for j in range(4)
    ]
    assert "|" not in text_in_reading_order(names)


def test_squares_of_a_chart_that_hold_several_lines_in_few_places_are_no_table() -> None:
    drawn = page(*grid(list(range(20, 661, 80)), list(range(8, 387, 54))))
    names = [line(f"p={i}", 30, 12.0 + 16 * i, 30, 12) for i in range(23)]
    assert "<table>" not in (text := text_in_reading_order(names, drawn)) and "| p=" not in text
