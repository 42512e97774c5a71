"""A PDF page's own text as it reads: columns, tables, paragraphs, whatever order its file gives; no word lost."""

from __future__ import annotations

import html
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pymupdf as _pymupdf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.documents.pages.drawn import Limits
from pipeline.documents.pdf.mupdf import PdfPages
from pipeline.documents.render_process import found_on
from pipeline.documents.text_layer.layer_lines import LayerLine
from pipeline.layout.own_text import own_text
from pipeline.layout.rulings import of_strokes
from tests import hostile

pymupdf: Any = _pymupdf
SAMPLES = Path(__file__).parents[2] / "samples"
Placed = tuple[float, float, str]  # left, baseline, text


def read(path: Path) -> str:
    """As a page's own text answers."""
    return own_text(*arguments_of(path))


def arguments_of(path: Path) -> Any:
    page = PdfPages(str(path), Limits(1024, 100, 7200, 10**7)).draw(0)
    assert page.text_layer is not None and page.text_lines is not None and page.strokes is not None
    return page.text_layer, found_on(list(map(LayerLine.received, page.text_lines[0])), *page.strokes)


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
    assert "| Ink |  | 71.11 |\n| Total | 28.89 |  |" in said and said.startswith("A line above.\n")


def test_a_group_of_a_table_stands_in_its_column(tmp_path: Path) -> None:
    rows = [["Name", "Maker", "Purity"], ["ODA", "Ada", "99"], ["Base", "", ""], ["KOH", "Bob", "98"]]
    assert "| Base |  |  |\n| KOH | Bob | 98 |" in page_of(tmp_path / "a.pdf", grid(rows, (50, 200, 300)))


def test_a_head_over_several_columns_is_of_the_table(tmp_path: Path) -> None:
    rows = [["a", "11", "12", "13"], ["b", "21", "22", "23"], ["c", "31", "32", "33"]]
    over = (195, 82, "measured in two years and a half")
    said = page_of(tmp_path / "a.pdf", [(50, 82, "key"), over, *grid(rows, (50, 200, 250, 300))])
    assert said.startswith("| key | measured in two years and a half |  |  |\n") and "| a | 11 | 12 | 13 |" in said


@pytest.mark.parametrize(
    "placed",
    [
        grid([["1.", "Bread and butter"], ["2.", "Milk"], ["3.", "Salt"], ["4.", "Tea"]], (50, 90)),  # a list
        grid([["words of a column that go on", "as another has its own too", "and a third one has as well"]] * 4,
               (50, 220, 390)),  # prose, drawn row by row
        [(50 + 37 * number % 400, 100 + 23 * number, f"mark {number}") for number in range(20)],  # of a drawing
    ],
    ids=["list", "prose", "drawing"],
)  # fmt: skip
def test_what_is_no_table_stays_as_it_is(tmp_path: Path, placed: list[Placed]) -> None:
    assert "|" not in page_of(tmp_path / "a.pdf", placed)


LEFT_COLUMN = [
    "The harbour office has kept its books by hand",
    "for more than eighty years, and nobody ever",
    "asked whether the figures in them were com-",
    "plete. A student counted them last winter and",
    "found that nine pages in ten agree with what",
]
RIGHT_COLUMN = [
    "the customs house across the bay wrote down",
    "in the same weeks. The tenth page is always",
    "that of a storm, when nobody went out and the",
    "clerk at the window guessed how many boats he",
    "would have seen on a clear day.",
]
ARTICLE = (
    "# An honest nothing\n\nThe harbour office has kept its books by hand for more than eighty years, and nobody ever "
    "asked whether the figures in them were complete. A student counted them last winter and found that nine pages in "
    "ten agree with what the customs house across the bay wrote down in the same weeks. The tenth page is always that "
    "of a storm, when nobody went out and the clerk at the window guessed how many boats he would have seen on a clear "
    "day.\n\n17"
)


def article(order: str) -> list[tuple[float, float, str, float]]:
    """Left, baseline, text and font size of each line, in the order in which a file may give them."""
    columns = [
        [(left, 120.0 + 13 * number, text, 10.0) for number, text in enumerate(texts)]
        for left, texts in ((60, LEFT_COLUMN), (310, RIGHT_COLUMN))
    ]
    head, foot = (60.0, 90.0, "An honest nothing", 20.0), (295.0, 420.0, "17", 9.0)
    if order == "columns":
        return [head, *columns[0], *columns[1], foot]
    lines = [head, *(line for row in zip(*columns, strict=True) for line in row), foot]
    if order == "shuffled":
        random.Random(7).shuffle(lines)
    return lines


def drawn(path: Path, lines: Sequence[tuple[float, float, str, float]], degrees: float = 0.0) -> Path:
    """A page of these lines, its text turned counter-clockwise around the middle while the page stays as it is."""
    with pymupdf.open() as document:
        page = document.new_page(width=1000, height=1000)
        for left, baseline, text, size in lines:
            writer = pymupdf.TextWriter(page.rect)
            writer.append((left + 200, baseline + 200), text, fontsize=size)
            writer.write_text(page, morph=(pymupdf.Point(500, 500), pymupdf.Matrix(degrees)))
        document.save(path)
    return path


@pytest.mark.parametrize("order", ["columns", "rows", "shuffled"])
@pytest.mark.parametrize("degrees", [0, 7, 45, 90, 180, 270])
def test_columns_read_one_after_the_other_whatever_the_order_of_the_file(
    tmp_path: Path, order: str, degrees: float
) -> None:
    assert read(drawn(tmp_path / "a.pdf", article(order), degrees)) == ARTICLE


def test_the_order_of_the_file_holds_where_it_can_be_read(tmp_path: Path) -> None:
    """A note beside the text: white space cannot tell whether it comes before."""
    note = [
        (420.0, 120.0 + 13 * number, text, 8.0)
        for number, text in enumerate(("See page 9", "for the figures", "of 1913."))
    ]
    text = [(60.0, 120.0 + 13 * number, line, 10.0) for number, line in enumerate(LEFT_COLUMN)]
    whole = " ".join(LEFT_COLUMN).replace("com- plete", "complete")
    assert read(drawn(tmp_path / "a.pdf", [*text, *note])).startswith(f"{whole}\n\nSee page 9")
    assert read(drawn(tmp_path / "b.pdf", [*note, *text])).endswith(f"of 1913.\n\n{whole}")


def test_pieces_of_a_line_are_one(tmp_path: Path) -> None:
    """MuPDF ends a line at wide white, and at a raised sign."""
    pieces = [
        (60.0, 120.0, "He was king of", 10.0),
        (140.0, 120.0, "all the English", 10.0),
        (212.0, 116.0, "[2]", 6.0),
    ]
    lines = [*pieces, (60.0, 133.0, "until he died in the year of nine hundred", 10.0)]
    assert read(drawn(tmp_path / "a.pdf", lines)) == (
        "He was king of all the English [2] until he died in the year of nine hundred"
    )


def test_a_line_with_wide_white_between_its_words_is_no_row_of_cells(tmp_path: Path) -> None:
    """As narrow justified columns have them; twice, one below the other."""
    texts = ["The harbour office has kept its books by", "whether all the figures were right or not,"]
    right = 60 + pymupdf.get_text_length(texts[0], fontsize=10)
    lines = [(60.0, 120.0, texts[0], 10.0)]
    for number, (first, middle, last, at) in enumerate(
        (("for more", "eighty", "years", 120), ("and", "some", "ask", 160))
    ):
        ends = right - pymupdf.get_text_length(last, fontsize=10)
        lines += [
            (x, 133.0 + 13 * number, text, 10.0) for x, text in ((60.0, first), (float(at), middle), (ends, last))
        ]
    assert read(drawn(tmp_path / "a.pdf", [*lines, (60.0, 159.0, texts[1], 10.0)])) == (
        f"{texts[0]} for more eighty years and some ask {texts[1]}"
    )


def test_cells_that_stand_near_each_other_are_apart_where_others_stand_below(tmp_path: Path) -> None:
    rows = [["Quay", "4,180", "21,450"], ["Pier", "960", "4,310"], ["Dyke", "740", "8,020"], ["Bay", "40", "300"]]
    said = page_of(tmp_path / "a.pdf", grid(rows, (50, 84, 122)))
    assert said.startswith("| Quay | 4,180 | 21,450 |\n| --- | --- | --- |\n| Pier | 960 | 4,310 |")


def test_the_lines_of_a_cell_are_one_where_the_file_gives_cell_by_cell(tmp_path: Path) -> None:
    """As office programs and typesetters do."""
    cells = [[["Inhibitor", "concentration (g)"], ["Potential (V)"], ["Corrosion", "rate (mm/year)"]],
             [["0.25"], ["0.9393"], ["2.8163"]], [["none, as it", "was drawn"], [], ["0.0919"]],
             [["6"], ["0.5536"], ["1.9476"]]]  # fmt: skip
    placed, top = [], 100.0
    for row in cells:
        for left, lines in zip((50, 200, 300), row, strict=True):
            placed += [(left, top + 12 * n, text) for n, text in enumerate(lines)]
        top += 12 * max(map(len, row)) + 8
    assert page_of(tmp_path / "a.pdf", placed) == (
        "| Inhibitor concentration (g) | Potential (V) | Corrosion rate (mm/year) |\n| --- | --- | --- |\n"
        "| 0.25 | 0.9393 | 2.8163 |\n| none, as it was drawn |  | 0.0919 |\n| 6 | 0.5536 | 1.9476 |"
    )


@pytest.mark.parametrize("order", ["drawn", "rows", "shuffled"])
def test_leaders_are_of_their_entry_whenever_they_are_drawn(tmp_path: Path, order: str) -> None:
    """All dots after all numbers, too, as some programs draw a table of contents."""
    entries = [("1 The harbour", 3), ("Northern pier", 9), ("2 What the office kept", 18), ("Boats", 22), ("3 Fog", 30)]
    titles = [(60.0, 120.0 + 17 * n, title, 10.0) for n, (title, _) in enumerate(entries)]
    numbers = [(520.0, 120.0 + 17 * n, str(number), 10.0) for n, (_, number) in enumerate(entries)]
    ends = [left + pymupdf.get_text_length(title, fontsize=10) + 8 for left, _, title, _ in titles]
    dots = [(end, 120.0 + 17 * n, " ." * int((500 - end) / 5.6), 10.0) for n, end in enumerate(ends)]
    lines = [*titles, *numbers, *dots]
    if order == "rows":
        lines.sort(key=lambda line: (line[1], line[0]))
    elif order == "shuffled":
        random.Random(3).shuffle(lines)
    said = read(drawn(tmp_path / "a.pdf", lines))
    assert [re.sub(r"[ .]+", " ", line) for line in said.splitlines()] == [f"{title} {n}" for title, n in entries]


def test_labels_of_a_form_stand_with_what_was_filled_in(tmp_path: Path) -> None:
    """Programs draw all fields after all labels."""
    labels = [(60.0, 120.0 + 30 * n, text, 10.0) for n, text in enumerate(("Name:", "Born:", "Town:", "Trade:"))]
    values = [(160.0, 120.0 + 30 * n, text, 10.0) for n, text in enumerate(("Ada Wren", "1913", "Heron Bay", "clerk"))]
    said = read(drawn(tmp_path / "a.pdf", [*labels, *values]))
    assert said.split("\n\n") == ["Name: Ada Wren", "Born: 1913", "Town: Heron Bay", "Trade: clerk"]


def found(lines: Sequence[Sequence[float | None]], level: Any = (), upright: Any = ()) -> Any:
    return {"lines": lines, "level": level, "upright": upright}


def test_right_to_left_columns_begin_at_the_right() -> None:
    texts = ["في البداية كانت المدينة صغيرة جدا ولا يسكنها", "الكثير من الناس ثم جاءت السفن من الجزر", "ومعها تجار"]
    lefts, tops = (310, 60), (100, 114, 128)
    lines = [[left, top, left + 220, top + 14, 10] for top in tops for left in reversed(lefts)]
    said = "".join(f"{column}{texts[row]}\n" for row in range(3) for column in ("٢ ", "١ "))
    read_ = own_text(said, found(lines))
    assert [read_.index(f"١ {text}") for text in texts] < [read_.index(f"٢ {text}") for text in texts]
    assert read_.index(f"١ {texts[2]}") < read_.index(f"٢ {texts[0]}")


VERTICAL = ("春江潮水连海平海上明月共潮生", "滟滟随波千万里何处春江无月明", "江流宛转绕芳甸月照花林皆似霰")


def test_vertical_writing_reads_from_the_right(tmp_path: Path) -> None:
    """MuPDF gives a line a letter."""
    columns = [(400 - 24 * number, column) for number, column in enumerate(VERTICAL)]
    shown = b"".join(
        b"1 0 0 1 %d 500 Tm <%s> Tj " % (left, column.encode("utf-16-be").hex().encode())
        for left, column in reversed(columns)
    )
    info = b"/CIDSystemInfo<</Registry(Adobe)/Ordering(GB1)/Supplement 2>>/FontDescriptor<</Type/FontDescriptor"
    metrics = b"/FontName/STSong-Light/Flags 4/Ascent 880/Descent -120/ItalicAngle 0/FontBBox[0 -200 1000 900]>>"
    glyphs = b"<</Type/Font/Subtype/CIDFontType0/BaseFont/STSong-Light" + info + metrics + b">>"
    font = b"<</Type/Font/Subtype/Type0/BaseFont/STSong-Light/Encoding/UniGB-UCS2-V/DescendantFonts[" + glyphs + b"]>>"
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 500 600]/Contents 4 0 R/Resources<</Font<</F " + font + b">>>>>>"
    head = [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>", page]
    path = hostile.pdf_of([*head, hostile.stream(b"BT /F 14 Tf " + shown + b"ET")], tmp_path / "a.pdf")
    assert read(path) == "".join(VERTICAL)


IN_CELLS = [("Item", 66, 113), ("Costs", 166, 113), ("new", 166, 133), ("old", 216, 133), ("Ink", 66, 153),
            ("14", 216, 153), ("Pens", 66, 173), ("3", 166, 173)]  # fmt: skip


def ruled(path: Path, draw: Any) -> str:
    with pymupdf.open() as document:
        page = document.new_page(width=595, height=842)
        page.insert_text((60, 60), "What the office bought in a year, in pounds", fontsize=11)
        for text, x, y in IN_CELLS:
            page.insert_text((x, y), text, fontsize=9)
        draw(page)
        document.save(path)
    return read(path)


def with_lines(page: Any) -> None:
    for y in (100, 140, 160, 180):
        page.draw_line((60, y), (260, y), width=0.7)
    page.draw_line((160, 120), (260, 120), width=0.7)
    for x, top in ((60, 100), (160, 100), (210, 120), (260, 100)):
        page.draw_line((x, top), (x, 180), width=0.7)


CELLS = [(60, 100, 160, 140), (160, 100, 260, 120), (160, 120, 210, 140), (210, 120, 260, 140),
         *((x0, y, x1, y + 20) for y in (140, 160) for x0, x1 in ((60, 160), (160, 210), (210, 260)))]  # fmt: skip


def with_boxes(page: Any) -> None:
    for cell in CELLS:
        page.draw_rect(cell, width=0.5)


def with_bars(page: Any) -> None:
    """Areas of a hair's breadth, as browsers and office programs draw borders, on a ground of white."""
    page.draw_rect((40, 80, 300, 200), color=None, fill=(1, 1, 1), overlay=False)
    for x0, y0, x1, y1 in CELLS:
        level = ((x0, y, x1, y + 0.75) for y in (y0, y1))
        upright = ((x, y0, x + 0.75, y1) for x in (x0, x1))
        for side in (*level, *upright):
            page.draw_rect(side, color=None, fill=(0, 0, 0))


@pytest.mark.parametrize("draw", [with_lines, with_boxes, with_bars])
def test_the_rulings_of_a_page_make_empty_and_merged_cells(tmp_path: Path, draw: Any) -> None:
    assert ruled(tmp_path / "a.pdf", draw) == (
        "What the office bought in a year, in pounds\n\n"
        '<table>\n<tr><td rowspan="2">Item</td><td colspan="2">Costs</td></tr>\n<tr><td>new</td><td>old</td></tr>\n'
        "<tr><td>Ink</td><td></td><td>14</td></tr>\n<tr><td>Pens</td><td>3</td><td></td></tr>\n</table>"
    )


def test_a_drawing_is_no_table_and_its_strokes_are_not_counted_up(tmp_path: Path) -> None:
    def hatched(page: Any) -> None:
        shape = page.new_shape()
        for number in range(2_500):
            x, y = 60 + number % 50 * 9, 200 + number // 50 * 9
            shape.draw_line((x, y), (x + 6, y))
        shape.finish(width=0.3)
        shape.commit()

    assert "<table>" not in ruled(tmp_path / "a.pdf", hatched)
    strokes = [[y, x, x + 40] for x in range(0, 60_000, 50) for y in range(0, 200, 20)]
    started = time.process_time()
    rulings = of_strokes(strokes, [[x, y, z] for x, y, z in strokes], 12)
    assert not rulings.level and not rulings.upright and time.process_time() - started < 1


def test_a_table_that_lies_on_its_side_is_read_as_one(tmp_path: Path) -> None:
    """With its rulings, and without numpy, whose threads a process that forks workers shall not have."""
    above = [(60.0, 80.0 + 13 * n, text, 10.0) for n, text in enumerate(LEFT_COLUMN)]
    path = drawn(tmp_path / "a.pdf", [])
    with pymupdf.open() as document:
        page = document.new_page(width=595, height=842)
        for left, baseline, text, size in above:
            page.insert_text((left, baseline), text, fontsize=size)
        with pymupdf.open() as other:
            aside = other.new_page(width=300, height=200)
            grid_ = (("Item", "Costs", "Left"), ("Ink", "", "14"), ("Pens", "3", ""), ("Paper", "9", "1"))
            for row, cells in enumerate(grid_):
                for column, cell in enumerate(cells):
                    aside.insert_text((26 + 80 * column, 34 + 20 * row), cell, fontsize=10)
            for number in range(5):
                aside.draw_line((20, 20 + 20 * number), (260, 20 + 20 * number))
            for number in range(4):
                aside.draw_line((20 + 80 * number, 20), (20 + 80 * number, 100))
            page.show_pdf_page(pymupdf.Rect(150, 200, 350, 500), other, 0, rotate=90)
        document.save(path)
    said = read(path)
    rows = ("| Item | Costs | Left |", "| --- | --- | --- |", "| Ink |  | 14 |", "| Pens | 3 |  |", "| Paper | 9 | 1 |")
    assert said.endswith("\n".join(rows))
    code = f"import sys; from pipeline.layout.own_text import own_text; own_text(*{arguments_of(path)!r}); "
    command = [sys.executable, "-c", code + "print(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert {"numpy", "cv2"}.isdisjoint(done.stdout.split())


@pytest.mark.parametrize("order", ["rows", "columns", "shuffled"])
@pytest.mark.parametrize("count", [3_000, 20_000])
def test_a_page_of_thousands_of_lines_takes_no_time_that_their_square_would(order: str, count: int) -> None:
    """Beyond a bound the order is that of the file."""
    rng = random.Random(count)
    lines: list[list[float | None]] = [
        [left, top, left + rng.randint(20, 95), top + 10, 8]
        for left, top in ((100 * (n % 10), 12 * (n // 10)) for n in range(count))
    ]
    if order == "columns":
        lines.sort()
    elif order == "shuffled":
        rng.shuffle(lines)
    text = "".join(f"word{n}\n" for n in range(count))
    started = time.process_time()
    said = own_text(text, found(lines))
    assert time.process_time() - started < 5
    assert all(f"word{n}" in said for n in range(0, count, 997))


LEFT, TOP = st.sampled_from((0, 100, 200, 210, 420)), st.sampled_from(range(0, 240, 12))
BOXES = st.tuples(LEFT, TOP, st.sampled_from((4, 30, 60, 105, 400)), st.sampled_from((0, 10, 12, 14, 40)))
WORDS = ["", " ", "a", "b c", "|", "12.5", "x " * 9, "of the inter-", "national law", "Sum:", "<b>", "&amp;", "# 1",
         "- b", "平海上", "سلام", "soft\u00adly", "-", "co-op", "Jean-", "Paul"]  # fmt: skip
RULINGS = st.lists(st.tuples(st.integers(-5, 250), st.integers(-5, 100), st.integers(100, 500)), max_size=8)


@given(
    st.lists(
        st.tuples(BOXES, st.sampled_from(WORDS), st.sampled_from((0, 0, 0, 6, 10, 20)),
                  st.sampled_from((0, 0, 0, 0, 90, 180, 270, 45, 3, None))),
        max_size=40,
    ),
    RULINGS,
    RULINGS,
)  # fmt: skip
@settings(deadline=None)
def test_no_letter_is_lost_or_doubled(lines: Any, level: Any, upright: Any) -> None:
    """Whatever order a file gives. Hyphens may go where a word was broken, signs of tables and headings may come."""
    text = "".join(f"{said}\n" for _, said, _, _ in lines)
    stored = [
        [left, top, left + width, top + height, size, direction]
        for (left, top, width, height), _, size, direction in lines
    ]
    for known in (found(stored, level, upright), found([line[:4] for line in stored], level, upright), None):
        said = own_text(text, known)
        said = re.sub("<table>.*?</table>", lambda one: html.unescape(re.sub("<.*?>", "", one[0])), said, flags=re.S)
        kept = [Counter(re.sub(r"[\s|\\#\u00ad-]", "", some)) for some in (said, text)]
        assert kept[0] == kept[1]
        assert said.count("-") <= text.count("-") or "| --- |" in said


def test_a_vowel_sign_that_is_drawn_before_its_letter_tears_no_word(tmp_path: Path) -> None:
    """MuPDF began a line at each: a search for the word found nothing."""
    text = "কিছু লিখেছি তিনি বই লিখেছেন"
    with pymupdf.open() as document:
        document.new_page().insert_htmlbox((50, 50, 550, 200), f"<p>{text}</p>")
        document.save(tmp_path / "a.pdf")
    layer = arguments_of(tmp_path / "a.pdf")[0]
    assert "\n" in layer.strip(), "MuPDF tears it no more"
    assert read(tmp_path / "a.pdf") == text
    assert own_text("पत्र ल\nिखा और भेजा\n", None) == "पत्र लिखा और भेजा\n"  # nothing is known of its lines
