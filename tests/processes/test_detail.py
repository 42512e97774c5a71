"""Pages are drawn as large as their print needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pymupdf
import pytest
from PIL import Image, ImageFilter

from pipeline.blobs.png import load
from pipeline.documents.identify import identify
from pipeline.documents.pages.size import ENOUGH_PX, TARGET_PX
from pipeline.documents.rasterize import Rasterizer
from pipeline.documents.render_process import RasterizedPage
from pipeline.settings import Settings
from schemas.review import LEGIBLE_PX

WORDS = "the harbour log says that fog came in at six and the ferry waited for the tide while gulls sat on the pier"


@pytest.fixture(scope="module")
def rasterizer() -> Iterator[Rasterizer]:
    with Rasterizer(Settings()) as shared:
        yield shared


def written(
    width_pt: float, height_pt: float, size_pt: float, *, rotation: int = 0, share: float = 1.0, grey: float = 0.0
) -> Any:
    """A page of print of one size, over the upper part of it."""
    page = pymupdf.open().new_page(width=width_pt, height=height_pt)
    count = max(int((width_pt - 6 * size_pt) / (size_pt * 0.48 * 5.6)), 1)
    y, line, words = 4 * size_pt, 0, WORDS.split()
    while y < share * height_pt - 2 * size_pt:
        text = " ".join(words[(line * 3 + number) % len(words)] for number in range(count))
        page.insert_text((3 * size_pt, y), text, fontsize=size_pt, color=(grey, grey, grey))
        y, line = y + 1.3 * size_pt, line + 1
    page.set_rotation(rotation)
    return page


def scanned(page: Any, dpi: int, path: Path, blur: float = 0.7) -> Path:
    """As a scanner gives it: grey, noisy, and unsharp. A .tif of it is written and read with the least work."""
    pixmap = page.get_pixmap(dpi=dpi, colorspace=pymupdf.csGRAY)
    image = Image.frombytes("L", (pixmap.width, pixmap.height), pixmap.samples).filter(ImageFilter.GaussianBlur(blur))
    noise = np.random.default_rng(1).standard_normal((pixmap.height, pixmap.width), np.float32)
    pixels = np.asarray(image) * np.float32(0.8) + 40 + 9 * noise
    Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)).save(path, dpi=(dpi, dpi))
    return path


def saved(page: Any, path: Path) -> Path:
    page.parent.save(path)
    return path


def drawn(rasterizer: Rasterizer, path: Path, detail: str | None = None) -> RasterizedPage:
    with rasterizer.open(path, identify(path).kind, detail=detail) as document:
        [page] = document.pages()
    assert isinstance(page, RasterizedPage), page
    return page


def test_pages_are_drawn_in_whole_squares_of_the_model_that_is_named(rasterizer: Rasterizer, tmp_path: Path) -> None:
    """As large as one image of its; at a given size pixel for pixel what others get, but for the white beside it."""
    page = written(595, 842, 10.0)
    pdf, scan = saved(page, tmp_path / "a.pdf"), scanned(page, 100, tmp_path / "a.tif")
    whole = drawn(rasterizer, pdf, "auto 1540/28")
    assert (whole.width_px, whole.height_px) == (1092, 1540)
    for path in (pdf, scan):
        usual, other = (drawn(rasterizer, path, f"1024{raster}") for raster in ("", " 1540/28"))
        assert usual.width_px % 16 == usual.height_px % 16 == 0 == other.width_px % 28 == other.height_px % 28
        one, two = (np.asarray(load(page.image)) for page in (usual, other))
        height, width = map(min, zip(one.shape, two.shape, strict=True))
        assert np.array_equal(one[:height, :width], two[:height, :width]) and width > 700
        assert (two[height:] == 255).all() and (two[:, width:] == 255).all()


@pytest.mark.parametrize(
    ("sides_pt", "size_pt", "sides_px"),
    [
        ((595, 842), 7.0, (1200, 1696)),
        ((595, 842), 8.0, (1056, 1488)),
        ((595, 842), 10.0, (736, 1024)),  # large print costs no more than ever
        ((842, 595), 16.0, (1024, 736)),
        ((227, 3000), 9.0, (368, 4672)),  # a receipt
        ((1684, 2384), 10.0, (2368, 3344)),  # A1
    ],
)
def test_text_says_how_large_its_page_is_drawn(
    rasterizer: Rasterizer, tmp_path: Path, sides_pt: tuple[int, int], size_pt: float, sides_px: tuple[int, int]
) -> None:
    page = drawn(rasterizer, saved(written(*sides_pt, size_pt, share=0.2), tmp_path / "a.pdf"))
    assert (page.width_px, page.height_px) == sides_px
    assert page.print_px is not None and page.print_px >= ENOUGH_PX
    assert page.dpi == pytest.approx(72 * page.print_px / size_pt, rel=0.01)
    assert not page.warnings


def test_whole_page_and_a_side_are_what_they_were(rasterizer: Rasterizer, tmp_path: Path) -> None:
    path = saved(written(595, 842, 6, share=0.2), tmp_path / "a.pdf")
    page = drawn(rasterizer, path, "page")
    assert (page.width_px, page.height_px) == (736, 1024)
    assert page.print_px == pytest.approx(6 * 1024 / 842) and "--detail auto" in page.warnings
    assert drawn(rasterizer, path, "1600").height_px == 1600


@pytest.mark.parametrize(("size_pt", "dpi", "rotation"), [(5, 300, 0), (5, 300, 90), (10, 300, 0), (12, 150, 90)])
def test_a_look_finds_the_print_of_a_scan(
    rasterizer: Rasterizer, tmp_path: Path, size_pt: float, dpi: int, rotation: int
) -> None:
    page = written(420, 595, size_pt, share=0.6, rotation=rotation)
    size_px = size_pt * dpi / 72
    scan = drawn(rasterizer, scanned(page, dpi, tmp_path / "scan.tif"))
    whole = 1024 / (595 * dpi / 72)
    wanted = max(whole, min(TARGET_PX / size_px, 1.0))
    assert max(scan.width_px, scan.height_px) / (595 * dpi / 72) == pytest.approx(wanted, rel=0.2)
    assert scan.print_px == pytest.approx(size_px * scan.dpi / dpi if scan.dpi else 0, rel=0.2)
    assert scan.dpi == pytest.approx(dpi * max(scan.width_px, scan.height_px) / (595 * dpi / 72), rel=0.02)


def test_scan_in_a_pdf_is_looked_at_whatever_text_lies_on_it(rasterizer: Rasterizer, tmp_path: Path) -> None:
    scan = scanned(written(420, 595, 7, share=0.6), 300, tmp_path / "scan.tif")
    page = pymupdf.open().new_page(width=420, height=595)
    page.insert_image(page.rect, filename=str(scan))
    for name, stamp in (("plain", ""), ("stamped", "EXHIBIT 17")):
        page.insert_text((225, 573), stamp, fontsize=24)
        found = drawn(rasterizer, saved(page, tmp_path / f"{name}.pdf"))
        assert found.print_px == pytest.approx(TARGET_PX, rel=0.2)
        assert found.height_px == pytest.approx(595 * TARGET_PX / 7, rel=0.2)


def test_print_too_small_in_the_scan_is_told(rasterizer: Rasterizer, tmp_path: Path) -> None:
    page = drawn(rasterizer, scanned(written(595, 842, 7), 60, tmp_path / "fax.png", blur=0.3))
    assert (page.width_px, page.height_px) == (496, 704), "nothing is enlarged"
    assert page.print_px is not None and page.print_px < LEGIBLE_PX
    assert "scan it at a higher resolution" in page.warnings


def test_print_too_small_for_the_largest_image_is_told(tmp_path: Path) -> None:
    path = saved(written(842, 595, 5, share=0.3), tmp_path / "a.pdf")
    with Rasterizer(Settings(max_side_px=512)) as small:
        assert "raise PAGEPACK_MAX_SIDE_PX" in drawn(small, path).warnings
    with Rasterizer(Settings(max_page_pixels=300 * 300)) as small:
        page = drawn(small, path)
        assert page.width_px * page.height_px <= 320 * 320 and "PAGEPACK_MAX_PAGE_PIXELS" in page.warnings


def test_a_receipt_keeps_the_pixels_that_its_print_needs(rasterizer: Rasterizer, tmp_path: Path) -> None:
    page = written(230, 1930, 6, share=1.0)
    receipt = drawn(rasterizer, scanned(page, 200, tmp_path / "receipt.tif"))
    assert receipt.height_px == pytest.approx(5361 * TARGET_PX / (6 * 200 / 72), rel=0.2) and receipt.width_px > 440


def test_scanned_paper_is_blank_and_a_page_number_is_not(rasterizer: Rasterizer, tmp_path: Path) -> None:
    page = pymupdf.open().new_page(width=595, height=842)
    assert drawn(rasterizer, scanned(page, 200, tmp_path / "blank.tif")).is_blank
    page.insert_text((297, 810), "7", fontsize=8)
    assert not drawn(rasterizer, scanned(page, 200, tmp_path / "7.tif")).is_blank
    assert not drawn(rasterizer, saved(page, tmp_path / "7.pdf")).is_blank


def test_a_blank_page_may_carry_text_that_nobody_sees(rasterizer: Rasterizer, tmp_path: Path) -> None:
    page = pymupdf.open().new_page(width=595, height=842)
    page.insert_text((72, 72), "so a program read the paper", render_mode=3)
    assert drawn(rasterizer, saved(page, tmp_path / "hidden.pdf")).is_blank
    page.insert_text((72, 100), "faint", color=(0.92, 0.92, 0.92))
    assert not drawn(rasterizer, saved(page, tmp_path / "faint.pdf")).is_blank


def test_blank_and_soft_pictures_are_drawn_small(rasterizer: Rasterizer, tmp_path: Path) -> None:
    Image.new("L", (2480, 3508), 255).save(tmp_path / "blank.png")
    blank = drawn(rasterizer, tmp_path / "blank.png")
    assert (blank.width_px, blank.height_px, blank.print_px, blank.warnings) == (736, 1024, None, "")
    Image.linear_gradient("L").resize((3000, 2000)).save(tmp_path / "sky.png")
    assert max(drawn(rasterizer, tmp_path / "sky.png").width_px, 0) <= 1760


def test_large_page_after_large_page_comes_out_whole(rasterizer: Rasterizer, tmp_path: Path) -> None:
    document = pymupdf.open()
    for number in range(3):  # one slot more than there are
        document.insert_pdf(written(1684, 1191, 10, share=0.2, grey=0.1 * number).parent)
    document.save(tmp_path / "a.pdf")
    with rasterizer.open(tmp_path / "a.pdf", "pdf") as opened:
        pages = list(opened.pages())
    hashes = {page.image_hash for page in pages if isinstance(page, RasterizedPage)}
    assert len(hashes) == 3
    assert [drawn(rasterizer, saved(written(1684, 1191, 10, share=0.2), tmp_path / "b.pdf")).image_hash] == [
        pages[0].image_hash if isinstance(pages[0], RasterizedPage) else ""
    ]
