"""Lines that the detector found across a ruling or a gutter are cut there."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.layout.rulings import Ruling, Rulings
from workers.engines.parted import parted
from workers.engines.regions import Region

HEIGHT = 20


def region(x: int, y: int, words: list[tuple[int, int]], width: int, *rulings: int) -> Region:
    """A line of black words, each from one column of the line's image to another."""
    image = np.full((HEIGHT, width, 3), 255, np.uint8)
    for start, end in words:
        image[4:-4, start:end:3] = 0
        image[4:-4, start + 1 : end : 3] = 0
    for at in rulings:
        image[:, at] = 90
    left, top, right, bottom = float(x), float(y), float(x + width), float(y + HEIGHT)
    return Region(((left, top), (right, top), (right, bottom), (left, bottom)), image)


def extents(regions: list[Region]) -> list[tuple[float, float]]:
    return [(round(one.quad[0][0]), round(one.quad[1][0])) for one in regions]


def columns(count: int) -> list[Region]:
    words = [(0, 90), (96, 200), (206, 300)]
    return [region(x, 60 + 24 * i, words, 300) for i in range(count) for x in (50, 370)]


def test_line_across_a_gutter_is_cut_at_its_blank() -> None:
    merged = region(50, 36, [(0, 150), (156, 300), (320, 450), (456, 620)], 620)
    found = parted([merged, *columns(4)], Rulings())
    assert len(found) == 10
    (a, b), (c, d) = extents(found[:2])
    assert a == 50 and 350 <= b <= 360 <= c <= 370 and d == 670


@pytest.mark.parametrize(
    ("words", "num_columns"),
    [
        pytest.param([(0, 150), (156, 330), (336, 620)], 4, id="its words stand closer there"),
        pytest.param([(0, 150), (156, 300), (320, 450), (456, 620)], 2, id="too few lines say that there is a gutter"),
    ],
)
def test_line_is_not_cut_for_nothing(words: list[tuple[int, int]], num_columns: int) -> None:
    merged = region(50, 36, words, 620)
    assert parted([merged, *columns(num_columns)], Rulings())[0] is merged


def test_one_of_many_lines_across_may_have_a_wide_blank_between_its_words() -> None:
    across = [(0, 150), (156, 330), (336, 620)]
    wide = region(50, 12, [(0, 150), (156, 300), (320, 450), (456, 620)], 620)
    found = parted([region(50, -12, across, 620), wide, region(50, 36, across, 620), *columns(4)], Rulings())
    assert found[1] is wide


def test_line_across_a_ruling_is_cut_and_the_ruling_left_out() -> None:
    cells = region(50, 36, [(4, 60), (68, 120)], 124, 64)
    found = parted([cells], Rulings(upright=[Ruling(114.0, 30.0, 90.0)]))
    assert extents(found) == [(50, 114), (115, 174)]
    assert all(not (part.image[0] < 200).any() for part in found)


def test_stem_of_a_letter_is_no_ruling() -> None:
    word = region(50, 36, [(4, 120)], 124)
    inside, through = Ruling(114.0, 40.0, 52.0), Ruling(114.0, 30.0, 90.0)
    for one in (inside, through):  # short, and without blank paper beside it
        assert parted([word], Rulings(upright=[one])) == [word]


@pytest.mark.parametrize("is_dotted", [True, False])
def test_digits_below_each_other_are_no_dotted_ruling(is_dotted: bool) -> None:
    """All rows of the column reach over it; a ruling that is drawn through cuts them all the same."""
    rows = [region(50, 36 + HEIGHT * i, [(0, 30), (38, 90)], 90, 34) for i in range(8)]
    seen = Rulings(upright=[Ruling(84, 36, 36 + 8 * HEIGHT, is_dotted)])
    assert len(parted(rows, seen)) == (8 if is_dotted else 16)
    other = [region(200, 36 + HEIGHT * i, [(0, 40)], 40) for i in range(8)]
    beside = Rulings(upright=[Ruling(84, 36 - 6 * HEIGHT, 36 + 8 * HEIGHT, is_dotted)])
    assert len(parted([*rows[:3], *other], beside)) == 8 + 6, "a dotted one that runs on beside them cuts the few"
