"""Single dashes in cells, which a detector of words does not see."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.layout.lines import Line
from pipeline.layout.reading_order import text_in_reading_order
from tests.unit.test_reading_order import line
from workers.engines.dashes import find_dashes, plain_dashes

ROWS = [
    ["Revenue", "1,382", "1,535"],
    ["Income taxes", "254", "295"],
    ["Minorities", "", ""],
    ["Net income", "529", "579"],
]
RIGHT = (260, 360)  # where numbers end
PITCH = 20


def a_table() -> tuple[list[Line], np.ndarray]:
    """Its lines, as an engine finds them, and the page, on which a row of dashes is drawn and no line of theirs."""
    lines = [
        line(cell, 20.0 if j == 0 else RIGHT[j - 1] - 8.0 * len(cell), 10.0 + PITCH * i, 8.0 * len(cell))
        for i, row in enumerate(ROWS)
        for j, cell in enumerate(row)
        if cell
    ]
    pixels = np.full((200, 420, 3), 255, np.uint8)
    for one in lines:
        (x0, _), _, (_, y1), _ = one.quad
        cv2.putText(pixels, one.text, (round(x0), round(y1) - 2), cv2.FONT_HERSHEY_PLAIN, 0.9, (0, 0, 0))
    return lines, pixels


def stroke(pixels: np.ndarray, right: int, y: float, length: int = 5, thick: int = 1) -> None:
    cv2.rectangle(pixels, (right - length, round(y)), (right, round(y) + thick - 1), (30, 30, 30), -1)


def middle_of(lines: list[Line], text: str) -> float:
    (_, top), _, (_, bottom), _ = next(one for one in lines if one.text == text).quad
    return (top + bottom) / 2


def test_dashes_that_stand_in_cells_are_found() -> None:
    lines, pixels = a_table()
    for right in RIGHT:
        stroke(pixels, right, middle_of(lines, "Minorities"))
    dashes = [Line(quad, "-") for quad in find_dashes(pixels, lines)]
    assert len(dashes) == 2 and "| Minorities | - | - |" in text_in_reading_order([*lines, *dashes])


@pytest.mark.parametrize(
    ("right", "length", "thick", "off"),
    [(RIGHT[0], 5, 1, 8), (305, 5, 1, 0), (RIGHT[0], 40, 1, 0), (RIGHT[0], 5, 5, 0)],
    ids=["between rows", "between columns", "a rule", "a square"],
)
def test_other_strokes_are_no_dashes(right: int, length: int, thick: int, off: float) -> None:
    lines, pixels = a_table()
    assert find_dashes(pixels, lines) == [], "the strokes of letters are none"
    stroke(pixels, right, middle_of(lines, "Minorities") + off, length, thick)
    assert find_dashes(pixels, lines) == []


def test_a_dash_that_was_taken_for_the_chinese_one_is_a_dash() -> None:
    latin, dash = line("Income taxes", 20, 10, 90), line("一", 120, 10, 8)
    assert [one.text for one in plain_dashes([latin, dash])] == ["Income taxes", "-"]
    chinese = line("港务局", 20, 30, 60)
    assert plain_dashes([latin, dash, chinese])[1].text == "一"
