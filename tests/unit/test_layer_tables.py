"""Tables where a PDF's own text is the answer, and that nothing else becomes one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pymupdf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.documents.drawn import Limits
from pipeline.documents.render_pdf import PdfPages
from pipeline.store.layer_tables import with_tables

SAMPLES = Path(__file__).parents[2] / "samples"
Placed = tuple[float, float, str]  # left, baseline, text


def read(path: Path) -> str:
    """As a page's own text answers."""
    page = PdfPages(str(path), Limits(1024, 100, 7200, 10**7)).draw(0)
    assert page.text_layer is not None and page.text_lines is not None
    return with_tables(page.text_layer, [line[:4] for line in page.text_lines[0]])


def page_of(path: Path, placed: Sequence[Placed]) -> str:
    with pymupdf.open() as document:
        page = document.new_page(width=595, height=842)
        for left, baseline, text in placed:
            page.insert_text((left, baseline), text, fontsize=10)
        document.save(path)
    return read(path)


def grid(rows: Sequence[Sequence[str]], lefts: Sequence[float], top: float = 100) -> list[Placed]:
    return [
        (left, top + 18 * number, text)
        for number, row in enumerate(rows)
        for left, text in zip(lefts, row, strict=True)
        if text
    ]


def test_the_tables_of_the_samples_are_markdown() -> None:
    report = read(SAMPLES / "report.pdf").split("\n")
    head = report.index("| Quarter | Visitors | Income, € | Costs, € | Balance, € |")
    assert report[head + 1] == "| --- | --- | --- | --- | --- |"
    assert report[head + 2] == "| January – March | 4,180 | 21,450 | 30,200 | −8,750 |"
    assert report[head - 1] == "" and report[head + 6] == "| Year | 48,320 | 227,480 | 191,545 | 35,935 |"
    assert report[head + 7 : head + 9] == ["", "Table 1. Visitors and money by quarter."]
    assert "| Heron Bay, pier | 6:30 | 8:00 | 9:30 |" in read(SAMPLES / "timetable-landscape.pdf")


def test_an_article_in_columns_has_no_table() -> None:
    assert "|" not in read(SAMPLES / "article.pdf")


def test_empty_cells_keep_their_place(tmp_path: Path) -> None:
    rows = [["Item", "Costs", "Balance"], ["Paper", "12.50", "87.50"], ["Ink", "", "71.11"], ["Total", "28.89", ""]]
    said = page_of(tmp_path / "a.pdf", [(50, 60, "A line above."), *grid(rows, (50, 200, 300))])
    assert "| Ink |  | 71.11 |\n| Total | 28.89 |  |\n" in said and said.startswith("A line above.\n")


def test_a_group_of_a_table_stands_in_its_column(tmp_path: Path) -> None:
    rows = [["Name", "Maker", "Purity"], ["ODA", "Ada", "99"], ["Base", "", ""], ["KOH", "Bob", "98"]]
    assert "| Base |  |  |\n| KOH | Bob | 98 |" in page_of(tmp_path / "a.pdf", grid(rows, (50, 200, 300)))


def test_a_head_over_several_columns_stays_above_the_table(tmp_path: Path) -> None:
    rows = [["a", "11", "12", "13"], ["b", "21", "22", "23"], ["c", "31", "32", "33"]]
    over = (195, 82, "measured in two years and a half")
    said = page_of(tmp_path / "a.pdf", [(50, 82, "key"), over, *grid(rows, (50, 200, 250, 300))])
    assert "measured in two years and a half\n\n| a | 11 | 12 | 13 |" in said


@pytest.mark.parametrize(
    "placed",
    [
        grid([["1.", "Bread and butter"], ["2.", "Milk"], ["3.", "Salt"], ["4.", "Tea"]], (50, 90)),  # a list
        grid([["Jan", "Feb", "Mar"], ["0.9", "1.2", "2.1"]], (50, 200, 300)),  # of a chart
        grid([["the first column of", "a second one that", "and the third of all"]] * 3, (50, 200, 350))[:0]
        + grid([["words of a column that go on", "as another has its own too", "and a third one has as well"]] * 4,
               (50, 220, 390)),  # prose, drawn row by row
        [(50 + 37 * number % 400, 100 + 23 * number, f"mark {number}") for number in range(20)],  # of a drawing
    ],
    ids=["list", "axis", "prose", "drawing"],
)  # fmt: skip
def test_what_is_no_table_stays_as_it_is(tmp_path: Path, placed: list[Placed]) -> None:
    assert "|" not in page_of(tmp_path / "a.pdf", placed)


def test_a_long_list_costs_no_more_than_its_length() -> None:
    """A transaction that other workers wait for holds its answer."""
    boxes = [[left, 12 * row, left + 40, 12 * row + 10] for row in range(2_000) for left in (0, 100)]
    started = time.process_time()
    assert with_tables("ab\n" * len(boxes), boxes) == "ab\n" * len(boxes)
    wide = [[50 * column, 0, 50 * column + 40, 10] for column in range(4_000)]
    assert with_tables("ab\n" * len(wide), wide) == "ab\n" * len(wide)
    assert time.process_time() - started < 3, "each row was held against all that follow"


LEFT, TOP = st.sampled_from((0, 100, 200, 210)), st.sampled_from(range(0, 120, 20))
BOXES = st.tuples(TOP, LEFT, st.sampled_from((30, 60, 105)), st.sampled_from((0, 12, 14)))


@given(
    st.lists(st.tuples(BOXES, st.sampled_from(["", " ", "a", "b c", "|", "12.5", "x " * 9])), max_size=30),
    st.booleans(),
)
def test_no_word_is_lost_added_or_moved(
    lines: list[tuple[tuple[int, int, int, int], str]], is_drawn_by_rows: bool
) -> None:
    lines = sorted(lines) if is_drawn_by_rows else lines
    text = "".join(f"{line}\n" for _, line in lines)
    boxes = [(left, top, left + width, top + height) for (top, left, width, height), _ in lines]
    said = with_tables(text, boxes)
    plain = [word for word in said.replace("\\|", "¦").replace("|", " ").split() if word != "---"]
    was = text.replace("|", "¦").split()
    assert plain == was if said != text else said.split() == text.split()
    assert with_tables(text, boxes[1:]) == text or not lines
