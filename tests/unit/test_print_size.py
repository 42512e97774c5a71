"""How high print is, found by a look at a page's pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pymupdf
import pytest
from PIL import Image, ImageDraw

from pipeline.documents.pages.print_size import look_at
from tests.odd_images import lines_of_text

WORDS = "the harbour log says that fog came in at six and the ferry waited for the tide while gulls sat on the pier"
DPI = 200


def seen(draw: Callable[[Any], object], dpi: int = DPI) -> Image.Image:
    """An A4 page in grey."""
    document: Any = pymupdf.open()
    page = document.new_page(width=595, height=842)
    draw(page)
    pixmap = page.get_pixmap(dpi=dpi, colorspace=pymupdf.csGRAY)
    return Image.frombytes("L", (pixmap.width, pixmap.height), pixmap.samples)


def write(page: Any, size_pt: float, top: float = 60, bottom: float = 780) -> None:
    words, line = WORDS.split(), 0
    while top < bottom:
        count = int(495 / (size_pt * 2.7))
        text = " ".join(words[(line * 3 + i) % len(words)] for i in range(count))
        page.insert_text((50, top), text, fontsize=size_pt)
        top, line = top + 1.3 * size_pt, line + 1


def title(page: Any) -> None:
    page.insert_text((150, 300), "Annual report", fontsize=28)
    page.insert_text((200, 350), "Harbour trust", fontsize=14)


def table(page: Any) -> None:
    for row in range(25):
        page.draw_line((50, 88 + 20 * row), (550, 88 + 20 * row), width=0.7)
        for column in range(5):
            page.insert_text((55 + 100 * column, 102 + 20 * row), WORDS.split()[(row + column) % 9], fontsize=10)
    for column in range(6):
        page.draw_line((50 + 100 * column, 88), (50 + 100 * column, 588), width=0.7)


def contents(page: Any) -> None:
    for number in range(30):
        page.insert_text((50, 100 + 20 * number), f"Chapter {number} {'.' * 110} {7 * number}", fontsize=10)


def screened(page: Image.Image, cell: int) -> Image.Image:
    """With a picture printed in dots over the upper half."""
    y, x = np.mgrid[0:900, 0:1600]
    tone = (np.sin(x / 200) + np.cos(y / 130)) / 4 + 0.5
    dots = (np.cos(4.4 * (x + y) / cell) + np.cos(4.4 * (x - y) / cell)) / 4 + 0.5 > tone
    page.paste(Image.fromarray(dots.astype(np.uint8) * 255), (20, 40))
    return page


def check(page: Image.Image, size_pt: float, dpi: int = DPI) -> None:
    look = look_at(page)
    assert look.has_ink and look.size == pytest.approx(size_pt * dpi / 72, rel=0.3)


@pytest.mark.parametrize(("draw", "size_pt"), [(title, 14), (table, 10), (contents, 10)])
def test_print_is_as_high_whichever_way_the_page_lies(draw: Callable[[Any], object], size_pt: float) -> None:
    page = seen(draw)
    for turn in (0, 90, 180, 270):
        check(page.rotate(turn, expand=True), size_pt)


@pytest.mark.parametrize("draw", [table, lambda page: write(page, 10)])
def test_a_skewed_page_has_the_print_that_it_had(draw: Callable[[Any], object]) -> None:
    page = seen(draw)
    for skew in (2.5, 8, 10):
        check(page.rotate(skew, Image.Resampling.BICUBIC, expand=True, fillcolor=255), 10)


def test_a_word_is_print() -> None:
    page = seen(lambda page: page.insert_text((250, 400), "Appendix", fontsize=12))
    check(page, 12)
    check(page.rotate(90, expand=True), 12)


def test_large_type_does_not_outvote_the_text_below_it() -> None:
    check(seen(lambda page: (page.insert_text((60, 400), "SALE", fontsize=200), write(page, 8, 600))), 8)
    check(seen(lambda page: (page.insert_text((60, 100), "Fog in port", fontsize=40), write(page, 10, 150))), 10)


def test_small_print_is_found_at_any_resolution() -> None:
    check(seen(lambda page: write(page, 6), 300), 6, 300)
    check(seen(lambda page: write(page, 10), 300), 10, 300)
    check(seen(lambda page: write(page, 7), 60), 7, 60)


@pytest.mark.parametrize("cell", [4, 6])
def test_the_dots_of_a_picture_are_no_print(cell: int) -> None:
    check(screened(seen(lambda page: write(page, 10, 560)), cell), 10)


def test_faint_print_beside_a_dark_edge_is_seen() -> None:
    page = seen(lambda page: write(page, 10)).point([200 + value * 55 // 255 for value in range(256)])
    ImageDraw.Draw(page).rectangle((1500, 0, page.width, page.height), fill=0)
    check(page, 10)


def test_noise_is_no_print_and_is_given_up_soon() -> None:
    rng = np.random.default_rng(1)
    paper = np.clip(rng.normal(230, 16, (2339, 1654)), 0, 255).astype(np.uint8)
    assert look_at(Image.fromarray(paper)).size is None
    grain = look_at(Image.fromarray(rng.integers(0, 256, (3000, 3000)).astype(np.uint8)))
    assert grain.size is None and grain.has_ink


def test_blank_paper_has_no_ink() -> None:
    assert look_at(Image.new("L", (1654, 2339), 255)) == (None, False, True)
    assert not look_at(Image.new("L", (3, 5000), 255)).has_ink


@pytest.mark.parametrize("size", [(160, 96), (320, 96), (320, 240), (640, 480)])
def test_print_of_a_small_picture_is_as_high_as_that_of_a_large_one(size: tuple[int, int]) -> None:
    assert look_at(lines_of_text(*size)).size == pytest.approx(14, rel=0.2)
