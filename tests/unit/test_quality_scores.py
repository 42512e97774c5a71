"""The measure of reading: the same pages for the same seed, and scores that tell good from bad."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.quality.draw import KINDS, Page, draw, draw_all, load
from benchmarks.quality.score import score
from pipeline.evaluation.measures import plain_text
from pipeline.evaluation.tables import cell_f1, table_rows

LEFT = "The ledger was opened in the spring by the careful clerk of the harbour office."
RIGHT = "Nobody had measured the old bridge behind the station for more than a decade."


def page(text: str, tables: list[list[list[str]]] | None = None) -> Page:
    return Page("page.png", "columns", text, tables)


@pytest.mark.parametrize("kind", ["columns", "open table", "chinese", "few words"])
def test_a_page_is_the_same_for_the_same_seed_and_another_for_another(kind: str) -> None:
    drawn, *others = (draw(kind, number, seed) for number, seed in ((1, 5), (1, 5), (1, 6), (2, 5)))
    assert drawn == others[0]
    assert drawn[0].text != others[1][0].text != others[2][0].text


def test_every_kind_is_drawn_with_its_text(tmp_path: Path) -> None:
    small = ["receipt", "few words", "sideways table"]
    assert set(small) < set(KINDS)
    pages = draw_all(tmp_path, 1, 1, small)
    assert list(load(tmp_path)) == pages
    assert all((tmp_path / one.file).stat().st_size > 1000 and one.text.strip() for one in pages)
    assert pages[2].tables and pages[2].tables[0][0][0] in pages[2].text


def test_any_folder_of_pages_needs_only_files_and_texts(tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text(json.dumps([{"file": "letters_04.png", "text": "Dear", "dpi": 3}]))
    assert list(load(tmp_path)) == [Page("letters_04.png", "letters", "Dear")]


def test_a_perfect_text_scores_one_and_swapped_columns_only_by_their_words() -> None:
    perfect = score(page(f"{LEFT}\n\n{RIGHT}"), f"# {LEFT}\n\n{RIGHT}\n")
    assert (perfect.recall, perfect.precision, perfect.error) == (1.0, 1.0, 0.0)
    swapped = score(page(f"{LEFT}\n\n{RIGHT}"), f"{RIGHT} {LEFT}")
    assert (swapped.recall, swapped.precision) == (1.0, 1.0)
    assert swapped.error > 0.5


def test_what_is_missing_and_what_is_invented_count_apart() -> None:
    half = score(page(f"{LEFT} {RIGHT}"), LEFT)
    assert half.recall == pytest.approx(15 / 29, abs=0.02)
    assert half.precision == 1.0
    noise = score(page(LEFT), f"{LEFT} , . zz qq ! vv")
    assert noise.recall == 1.0
    assert noise.precision < 1.0
    assert (score(page(LEFT), "").recall, score(page(LEFT), "").error) == (0.0, 1.0)


def test_marks_of_writing_do_not_count() -> None:
    assert score(page("“Costs” – see Contents ..... 7"), '**"Costs"** - see Contents . . . . . . 7').error == 0.0
    assert score(page("潮汐 花园，全年开放。"), "潮汐花园,全年开放.").error == 0.0
    assert plain_text("## Head\n| a | b |\n|---|---|\n| 1\\.5 | R&amp;D<br>x |").split() == [
        *("Head", "|", "a", "|", "b", "|", "|", "1.5", "|", "R&D", "x", "|"),
    ]


def test_tables_are_found_in_markdown_in_html_and_in_rows_with_bars() -> None:
    rows = [["Item", "Costs"], ["Bridge", ""], ["Ferry", "7.20"]]
    markdown = "Text.\n\n| Item | Costs |\n|:---|---:|\n| Bridge | |\n| Ferry | 7.20 |\n\nMore."
    assert table_rows(markdown) == rows
    assert table_rows("Item | Costs\nFerry | 7.20") == [["Item", "Costs"], ["Ferry", "7.20"]]
    merged = (
        "<table><tr><th colspan=2>Both</th></tr><tr><td rowspan='2'>a</td><td>1</td></tr><tr><td>2</td></tr></table>"
    )
    assert table_rows(merged) == [["Both", ""], ["a", "1"], ["", "2"]]
    assert table_rows(merged.removesuffix("</td></tr></table>")) == table_rows(merged), "an answer that was cut"
    assert score(page("Item Costs", [rows]), markdown).cells == 1.0


def test_a_cell_that_vanishes_or_is_wrong_lowers_the_score() -> None:
    rows = [["Item", "Costs", "Year"], ["Bridge", "", "1913"], ["Ferry", "7.20", "1914"]]
    assert cell_f1(rows, rows) == 1.0
    assert cell_f1(rows, [rows[0], ["Bridge", "1913"], rows[2]]) == pytest.approx(16 / 17)
    assert cell_f1(rows, [rows[0], ["Bridge", "", "1918"], rows[2]]) == pytest.approx(16 / 18)
    assert cell_f1(rows, []) == 0.0
    assert score(page("Two columns", []), "Two | columns").is_false_table
