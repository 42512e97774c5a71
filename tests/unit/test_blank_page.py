"""What scanning leaves makes a page no less blank, and whatever somebody wrote does."""

from __future__ import annotations

import pytest
from PIL import Image, ImageDraw

from benchmarks.quality.blank import LEFT_BY_SCANNING, TO_READ, blank_sheet, nearly_blank_sheet
from pipeline.blobs.png import canonical
from pipeline.documents.pages.blank import is_blank

SEEDS = 1, 2


def as_drawn(sheet: Image.Image) -> Image.Image:
    """In the size of a page image, with white up to multiples of 16."""
    sheet.thumbnail((1024, 1024), Image.Resampling.BOX)
    padded = Image.new("RGB", (-(-sheet.width // 16) * 16, -(-sheet.height // 16) * 16), "white")
    padded.paste(sheet)
    return canonical(padded)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["clean", *LEFT_BY_SCANNING, "several"])
def test_what_scanning_leaves_is_nothing(kind: str, seed: int) -> None:
    assert is_blank(as_drawn(blank_sheet(kind, seed)))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", TO_READ)
def test_a_page_with_next_to_nothing_is_not_blank(kind: str, seed: int) -> None:
    assert not is_blank(as_drawn(nearly_blank_sheet(kind, seed)))


@pytest.mark.parametrize("size", [(16, 16), (64, 48), (320, 240), (1600, 1200)])
def test_pictures_of_any_size(size: tuple[int, int]) -> None:
    paper = Image.new("L", size, 251)
    assert is_blank(paper)
    ImageDraw.Draw(paper).text((3, 2), "7", fill=0)
    assert not is_blank(paper)


def test_light_print_on_a_dark_page_is_print() -> None:
    dark = Image.new("RGB", (720, 1024), (20, 20, 60))
    ImageDraw.Draw(dark).text((300, 500), "Nachtrag", fill=(230, 230, 230))
    assert not is_blank(dark)


def test_a_picture_that_fills_the_page_is_no_lid() -> None:
    picture = Image.new("L", (720, 1024), 250)
    ImageDraw.Draw(picture).rectangle((0, 0, 300, 1024), fill=30)
    assert not is_blank(picture)
