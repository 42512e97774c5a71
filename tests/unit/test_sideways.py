"""Blocks that lie on their side on an upright page."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.layout.lines import Line
from pipeline.layout.reading_order import text_in_reading_order
from tests.unit.test_reading_order import column, line
from tests.unit.test_tables import ROWS, TEXT, XS, YS, Pixels, grid, in_cells, page

ABOVE, BELOW = column("a", 40, 10, 500, 3), column("b", 40, 640, 500, 3)


def laid(lines: list[Line], pixels: Pixels, turn: int, x: int, y: int) -> tuple[list[Line], Pixels]:
    """A small page laid on its side, its top left corner at (x, y), on a white sheet of 720 × 800 px; `turn` quarters
    counter-clockwise set it upright again."""
    height, width = pixels.shape[:2]
    moved = []
    for one in lines:
        corners = [(height - py, px) if turn == 1 else (py, width - px) for px, py in one.quad]
        corners = [(px + x, py + y) for px, py in corners]
        a, b, c, d = corners
        moved.append(Line((d, a, b, c) if turn == 1 else (b, c, d, a), one.text, turn=turn))
    sheet = np.full((800, 720, 3), 255, np.uint8)
    sheet[y : y + width, x : x + height] = np.rot90(pixels, -turn)
    return moved, sheet


@pytest.mark.parametrize("turn", [1, 3])
@pytest.mark.parametrize("has_rulings", [True, False])
def test_sideways_table_is_a_table_where_it_stands(turn: int, has_rulings: bool) -> None:
    paper = page(*(grid(XS, YS) if has_rulings else []), width=520, height=110)
    rows = ROWS if has_rulings else [["Item", "Count", "Price"], ["Paper", "12", "48.00"], ["Ink", "3", "91.50"]]
    lines, pixels = laid(in_cells(rows, XS), paper, turn, 200, 100)
    text = TEXT if has_rulings else TEXT.replace("|  | 48.00", "| 12 | 48.00").replace("| 3 |  |", "| 3 | 91.50 |")
    assert text_in_reading_order([*ABOVE, *lines, *BELOW], pixels) == f"A0 a1 a2.\n\n{text}\n\nB0 b1 b2."


def test_a_line_in_the_margin_is_no_block_and_leaves_the_page_as_it_is() -> None:
    quad = ((4.0, 100.0), (18.0, 100.0), (18.0, 400.0), (4.0, 400.0))
    beside = Line(quad, "Scanned in 1994", turn=1)
    sheet = np.full((800, 720, 3), 255, np.uint8)
    text = text_in_reading_order([*ABOVE, beside, *BELOW], sheet)
    assert sorted(text.split("\n\n")) == ["A0 a1 a2.", "B0 b1 b2.", "Scanned in 1994"]
    assert sheet.min() == 255


def test_sideways_paragraph_is_joined() -> None:
    lines, pixels = laid(column("s", 10, 10, 300, 5), page(width=320, height=120), 3, 500, 200)
    text = text_in_reading_order([*ABOVE, line("c", 40, 300, 12), *lines, *BELOW], pixels)
    assert "S0 s1 s2 s3 s4." in text.split("\n\n")
