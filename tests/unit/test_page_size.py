"""At what size a page is drawn."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.documents.pages.drawn import Limits
from pipeline.documents.pages.print_size import size_of_text
from pipeline.documents.pages.raster import drawn_for, parted
from pipeline.documents.pages.size import TARGET_PX, Size, choose_size, too_small
from pipeline.documents.render_process import slot_bytes
from pipeline.settings import Settings
from schemas.review import LEGIBLE_PX

SIDES = st.floats(0.01, 20_000, allow_nan=False)
PRINTS = st.none() | st.floats(0.01, 1_000)
DETAILS = st.sampled_from(["auto", "page"]) | st.integers(64, 32_768).map(str)


def limits(max_side_px: int = 8192, max_page_pixels: int = 2**24) -> Limits:
    return Limits(max_side_px, 1, 1, 1, max_page_pixels=max_page_pixels)


def sides(
    width: float, height: float, print_size: float | None, detail: str = "auto", enlarges: bool = True
) -> tuple[int, int]:
    size = choose_size(width, height, detail, limits(), print_size=print_size, enlarges=enlarges)
    return limits().padded(size.width_px), limits().padded(size.height_px)


@given(SIDES, SIDES, PRINTS, DETAILS, st.integers(4, 2048).map(lambda patches: patches * 16), st.booleans())
def test_sizes_keep_the_limits_and_the_proportions(
    width: float, height: float, print_size: float | None, detail: str, side: int, enlarges: bool
) -> None:
    most = limits(side, 2**20)
    size = choose_size(width, height, detail, most, print_size=print_size, enlarges=enlarges)
    assert min(size.width_px, size.height_px) >= 1 and max(size.width_px, size.height_px) <= side
    settings = Settings(max_side_px=min(side, 32_768), max_page_pixels=2**20)
    assert 3 * most.padded(size.width_px) * most.padded(size.height_px) <= slot_bytes(settings)
    for length, drawn in ((width, size.width_px), (height, size.height_px)):
        assert drawn == 1 or -1 <= drawn - length * size.scale <= 1
    if not enlarges:
        assert size.scale <= 1
    if detail == "page" and enlarges:
        assert max(size.width_px, size.height_px) == min(1024, side) or size.width_px * size.height_px >= 2**20 * 0.99


FEW = {"patch_size": 14, "spatial_merge_size": 2}
SMALL = FEW | {"image_size": 1540, "max_image_size": 1540}


def test_a_page_is_drawn_for_the_model_that_is_named(tmp_path: Path) -> None:
    """As large as one image of its, in whole squares of its; and so again, whoever draws it."""
    settings = Settings(model=tmp_path)
    assert drawn_for(settings) == "auto", "a folder that its engine will refuse"
    (tmp_path / "params.json").write_text(json.dumps({"vision_encoder": SMALL}))
    assert drawn_for(settings) == "auto 1540/28" and drawn_for(settings, "page") == "page 1540/28"
    assert drawn_for(Settings(model=tmp_path, engine="rapidocr")) == "auto"
    words, raster = parted("auto 1540/28")
    most = replace(limits(), raster=raster)
    size = choose_size(595.276, 841.89, words, most, print_size=10)
    assert (size.width_px, size.height_px) == (1089, 1540)
    assert (most.padded(size.width_px), most.padded(size.height_px)) == (1092, 1540) == (39 * 28, 55 * 28)
    large = choose_size(100, 841.89, "8192", most, print_size=10)
    assert most.padded(large.height_px) == 8176 == 292 * 28, "no longer than PAGEPACK_MAX_SIDE_PX with its white"
    assert 3 * most.padded(large.width_px) * most.padded(large.height_px) <= slot_bytes(settings)
    for wrong in ({"patch_size": 0}, {"image_size": 20}, {"spatial_merge_size": 99}, {"image_size": "large"}):
        (tmp_path / "params.json").write_text(json.dumps({"vision_encoder": SMALL | wrong}))
        assert drawn_for(settings) == "auto"
    (tmp_path / "params.json").write_text(json.dumps({"vision_encoder": SMALL | dict.fromkeys(SMALL, 10**9) | FEW}))
    assert drawn_for(settings, "32768") == "32768 32760/28", "16 characters are kept"
    (tmp_path / "params.json").write_text(json.dumps({"vision_encoder": {"patch_size": 16, "image_size": 1024}}))
    assert drawn_for(settings) == "auto", "Pixtral's pages are those of all others"


@given(st.integers(1, 1024), st.integers(1, 1024), PRINTS)
def test_image_files_are_never_enlarged(width: int, height: int, print_size: float | None) -> None:
    size = choose_size(width, height, "auto", limits(), print_size=print_size, enlarges=False)
    assert (size.scale, size.width_px, size.height_px) == (1.0, width, height)


def test_a4_comes_out_as_the_text_says() -> None:
    assert sides(595.276, 841.89, None, "page") == (736, 1024)
    assert sides(595.276, 841.89, 8) == (1056, 1488)
    assert sides(595.276, 841.89, 7) == (1200, 1696)
    assert sides(595.276, 841.89, 10) == sides(595.276, 841.89, 30) == (736, 1024), "large print costs no more"
    assert sides(595.276, 841.89, 10, "2048") == (1456, 2048)


def test_long_pages_and_large_sheets_get_the_pixels_that_they_need() -> None:
    assert sides(640, 5360, 14, enlarges=False) == (640, 5360), "a receipt keeps its pixels"
    assert sides(227, 3000, 9) == (368, 4672), "80 mm wide"
    assert sides(1684, 2384, 10) == (2368, 3344), "A1"


def test_print_that_stays_too_small_is_told_with_the_way_out() -> None:
    sheet, most = (2384.0, 3370.0), limits(4096)
    size = choose_size(*sheet, "auto", most, print_size=2.0)
    assert size.height_px == 4096
    assert "raise PAGEPACK_MAX_SIDE_PX" in too_small(2.0 * size.scale, size, *sheet, "auto", most)
    page = choose_size(*sheet, "page", most, print_size=10.0)
    assert "--detail auto" in too_small(10.0 * page.scale, page, *sheet, "page", most)
    scan = Size(1.0, 600, 800)
    assert "scan it at a higher resolution" in too_small(LEGIBLE_PX - 2, scan, 600, 800, "auto", most)
    assert too_small(None, scan, 600, 800, "auto", most) == too_small(TARGET_PX, scan, 600, 800, "auto", most) == ""


def test_small_print_counts_and_exponents_do_not() -> None:
    body, footnotes, exponents = (11.0, 40 * 450.0), (8.0, 4 * 450.0), (6.0, 30 * 3.0)
    assert size_of_text([body, exponents], 842) == 11.0
    assert size_of_text([body, footnotes, exponents], 842) == 8.0
    assert size_of_text([], 842) is None


def test_text_for_machines_is_no_print() -> None:
    assert size_of_text([(12.0, 400.0), (0.1, 4000.0), (math.ulp(0.0), 10.0)], 842) == 12.0


@pytest.mark.parametrize("detail", ["0", "63", "99999", "large", "-5", "1e3", "", "True"])
def test_detail_is_auto_page_or_a_side(detail: str) -> None:
    with pytest.raises(ValueError, match="neither auto"):
        Settings(detail=detail)
    assert Settings(detail=2048).detail == "2048"  # type: ignore[arg-type]
