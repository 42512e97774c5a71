"""How a page too large for one image is cut: everything is seen, neighbours overlap, and the cost is bounded."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.documents.pages.tiles import MOST_TOKENS, OVERLAP_PX, num_tokens, plan_tiles
from tests.conftest import examples

PIXTRAL = {"side": 1024, "cell": 16}
sides = st.integers(1, 2048).map(lambda cells: 16 * cells)


@pytest.mark.parametrize(
    ("size", "rows", "columns", "tokens"),
    [
        ((1456, 2048), 3, 2, 17_696),  # A4 at 2,048 px
        ((1344, 1904), 2, 2, 15_040),  # A4, small print of 8 pt
        ((640, 5360), 6, 1, 16_074),  # a receipt
        ((5360, 640), 1, 6, 15_880),
        ((2048, 2048), 3, 3, 25_328),
        ((32, 2048), 3, 1, 560),
    ],
)
def test_tiles_and_what_they_cost(size, rows, columns, tokens):
    tiling = plan_tiles(*size, **PIXTRAL)
    assert (tiling.rows, tiling.columns) == (rows, columns)
    assert num_tokens(tiling.sizes, 16) == tokens


@pytest.mark.parametrize("size", [(16, 16), (736, 1024), (1024, 1024), (1024, 16)])
def test_a_page_of_one_image_is_left_alone(size):
    assert plan_tiles(*size, **PIXTRAL) is None


@examples(200)
@given(sides, sides, st.sampled_from([(1024, 16), (1540, 28), (1024, 32)]), st.sampled_from([0, 1536]))
def test_tiles_cover_the_page_overlap_and_stay_within_the_bounds(width, height, model, tiled_from):
    side, cell = model
    tiling = plan_tiles(width, height, side=side, cell=cell, tiled_from=tiled_from)
    if tiling is None:
        assert max(width, height) <= side
        return
    assert max(tiling.whole) == side - side % cell and not any(length % cell for length in tiling.whole)
    assert num_tokens(tiling.sizes, cell) <= MOST_TOKENS
    if not tiling.boxes:
        assert tiling.scaled == tiling.whole
        return
    assert len(tiling.boxes) == tiling.rows * tiling.columns > 1
    columns, rows = (sorted({(box[axis], box[axis + 2]) for box in tiling.boxes}) for axis in (0, 1))
    assert [(x, y, right, bottom) for y, bottom in rows for x, right in columns] == list(tiling.boxes)  # reading order
    for spans, length in ((columns, tiling.scaled[0]), (rows, tiling.scaled[1])):
        assert spans[0][0] == 0 and spans[-1][1] == length
        assert all(last - first <= side for first, last in spans)
        assert all(before[1] - after[0] >= OVERLAP_PX for before, after in pairwise(spans))
        assert len(spans) == 1 or not any((last - first) % cell for first, last in spans), "a tile would be resampled"
    on_page = tiling.on_page()
    assert on_page[0][:2] == [0, 0] and on_page[-1][2] <= width and on_page[-1][3] <= height
    assert on_page[-1][2] > width - 2 * cell and on_page[-1][3] > height - 2 * cell
    if tiling.scaled == (width, height):
        assert on_page == [list(box) for box in tiling.boxes]


def test_a_page_of_thousands_of_tiles_is_shrunk_to_what_is_bounded():
    tiling = plan_tiles(100_000, 100_000, **PIXTRAL)
    assert 2000 < tiling.scaled[0] < 2500 and len(tiling.boxes) == 9
    longest = plan_tiles(16, 1_000_000, **PIXTRAL)
    assert num_tokens(longest.sizes, 16) <= MOST_TOKENS and len(longest.boxes) < 300


def test_a_cache_that_holds_less_gets_a_smaller_page_or_the_whole_alone():
    full, small, least = (plan_tiles(1456, 2048, **PIXTRAL, most_tokens=most) for most in (32_768, 12_000, 64 * 65))
    assert full.scaled == (1456, 2048) and max(small.scaled) < 2048 and small.boxes
    assert num_tokens(small.sizes, 16) <= 12_000
    assert least.boxes == () and least.sizes == [(736, 1024)]


def test_a_page_that_is_not_much_larger_goes_whole():
    assert plan_tiles(1072, 1520, **PIXTRAL, tiled_from=1536).sizes == [(736, 1024)]
    assert plan_tiles(1104, 1552, **PIXTRAL, tiled_from=1536).boxes
