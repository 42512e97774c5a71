"""MuPDF, with what is mended here, against pdfium over the repository's own odd files.

Two renderers never agree on a pixel, so both pictures are shrunk to 32 × 32 shades before they are compared. Where they
differ by much, one of them lost something: such a file is looked at, and stands in `KNOWN` with what was seen.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pypdfium2
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.documents.pages.drawn import Drawn, Limits
from pipeline.documents.pdf.mupdf import PdfPages
from pipeline.documents.render import open_document
from pipeline.errors import DocumentRejected, PageFailed
from tests import hostile, odd_pdfs
from tests.odd_pdfs import BOX, KIDS, words

LIMITS = Limits(max_side_px=400, max_pages=100, max_page_pt=7200, max_image_pixels=10**7)
MUCH = 0.5  # of 255, on average: fonts and edges make 0.15, four letters that are missing 1.7
TREES = {
    "too small": b"<</Type/Pages%s/Count 1>>" % KIDS,
    "zero": b"<</Type/Pages%s/Count 0>>" % KIDS,
    "negative": b"<</Type/Pages%s/Count -3>>" % KIDS,
    "cycle": b"<</Type/Pages/Kids[3 0 R 9 0 R]/Count 3>>",
    "sound": b"<</Type/Pages%s/Count 3>>" % KIDS,
}
GREY = odd_pdfs.flate_grey(16, 16, bytes(range(0, 256)))
FILES: dict[str, Callable[[Path], Path]] = {
    **{name: lambda path, root=root: odd_pdfs.page_tree(path, root) for name, root in TREES.items()},  # type: ignore[misc]
    "cyclic structure": odd_pdfs.cyclic_structure,
    "crop box empty": lambda path: odd_pdfs.one_page(path, words("seen"), BOX + b"/CropBox[0 0 0 0]"),
    "crop box outside": lambda path: odd_pdfs.one_page(path, words("seen"), BOX + b"/CropBox[500 500 700 700]"),
    "crop box half outside": lambda path: odd_pdfs.one_page(path, words("seen"), BOX + b"/CropBox[0 100 800 250]"),
    "unknown operator": lambda path: odd_pdfs.one_page(path, b"0 0 90 90 re f Quux " + words("after")),
    "image": lambda path: odd_pdfs.image_page(path, *GREY),
    "rc4 of 40 bits": lambda path: odd_pdfs.rc4_encrypted(path, version=1, revision=2, key_bytes=5, used_bytes=5),
    "attachments encrypted": odd_pdfs.attachments_encrypted,
    "rotated": lambda path: odd_pdfs.one_page(path, words("turned"), BOX + b"/Rotate 90"),
    "user unit": lambda path: odd_pdfs.one_page(path, words("large"), BOX + b"/UserUnit 2"),
    "sizes": lambda path: hostile.pages_of(path, (300, 300), (100, 400)),
}
KNOWN = {
    "too small": "pdfium believes the number",
    "crop box outside": "pdfium has a page of no size",
}


def by_mupdf(path: Path) -> list[NDArray[np.uint8]]:
    document = open_document(str(path), "pdf", LIMITS)
    return [shades(picture_of(document.draw(page_index))) for page_index in range(document.page_count)]


def picture_of(page: Drawn) -> Image.Image:
    picture = Image.frombytes(page.mode, (page.width_px, page.height_px), bytes(page.pixels))
    assert page.width_pt is not None and page.height_pt is not None
    scale = LIMITS.max_side_px / max(page.width_pt, page.height_pt)
    return picture.crop((0, 0, round(page.width_pt * scale), round(page.height_pt * scale)))


def by_pdfium(path: Path) -> list[NDArray[np.uint8]]:
    document = pypdfium2.PdfDocument(path)
    try:
        pages = []
        for page in document:
            if not all(page.get_size()):
                continue
            scale = LIMITS.max_side_px / max(page.get_size())
            pages.append(shades(page.render(scale=scale).to_pil()))
        return pages
    finally:
        document.close()


def shades(picture: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.BOX))


@pytest.mark.parametrize("name", list(FILES))
def test_both_see_the_same(tmp_path: Path, name: str) -> None:
    path = FILES[name](tmp_path / "a.pdf")
    ours = by_mupdf(path)
    try:
        theirs = by_pdfium(path)
    except pypdfium2.PdfiumError:
        theirs = []
    differences = [float(np.abs(mine.astype(int) - other).mean()) for mine, other in zip(ours, theirs, strict=False)]
    agrees = len(ours) == len(theirs) and all(difference < MUCH for difference in differences)
    assert len(ours) >= len(theirs) and agrees == (name not in KNOWN), (len(ours), len(theirs), differences)


def test_a_lost_line_would_be_seen(tmp_path: Path) -> None:
    full = odd_pdfs.one_page(tmp_path / "full.pdf", words("seen"))
    empty = odd_pdfs.one_page(tmp_path / "empty.pdf", b"q Q")
    assert np.abs(by_mupdf(full)[0].astype(int) - by_pdfium(empty)[0]).mean() > 2 * MUCH


# What MuPDF cannot draw


def test_a_page_that_mupdf_cannot_draw_is_drawn_by_pdfium(tmp_path: Path) -> None:
    """Its picture's dictionary holds a word where a key should be."""
    samples, entries = GREY
    path = odd_pdfs.image_page(tmp_path / "a.pdf", samples, b"/Intent /Perceptual too" + entries)
    with pytest.raises(PageFailed, match="nothing of the page could be drawn"):
        PdfPages(str(path), LIMITS).draw(0)
    page = open_document(str(path), "pdf", LIMITS).draw(0)
    assert page.warnings.startswith("drawn by pdfium") and "invalid key" in page.warnings
    assert (page.width_pt, page.height_pt, page.text_layer) == (400, 300, None)
    sound = odd_pdfs.image_page(tmp_path / "b.pdf", samples, entries)
    assert np.abs(shades(picture_of(page)).astype(int) - by_mupdf(sound)[0]).mean() < 2 * MUCH


def test_a_file_that_mupdf_cannot_open_is_drawn_by_pdfium(tmp_path: Path) -> None:
    """Its table of objects is wrong, and its one page holds a word where a key should be: a broken object to MuPDF."""
    path = odd_pdfs.one_page(tmp_path / "a.pdf", words("seen"), BOX + b"/Tabs /S too")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"startxref\n", b"startxref\n1"))
    with pytest.raises((DocumentRejected, PageFailed)) as caught:
        PdfPages(str(path), LIMITS).draw(0)
    [page] = [open_document(str(path), "pdf", LIMITS).draw(0)]
    assert caught.value.cause == "damaged" and page.warnings.startswith("drawn by pdfium")
    assert np.asarray(picture_of(page)).min() < 50


def test_what_neither_draws_fails_as_mupdf_says(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(b"%PDF-1.7\nnothing of it is left\x00\xff")
    with pytest.raises(DocumentRejected) as caught:
        open_document(str(path), "pdf", LIMITS)
    assert caught.value.cause in ("damaged", "empty") and "pdfium" not in str(caught.value)
    samples, entries = odd_pdfs.flate_grey(16, 16, bytes(256))
    path = odd_pdfs.image_page(path, samples, b"/Intent /Perceptual too" + entries)  # black to pdfium
    with pytest.raises(PageFailed, match="nothing of the page could be drawn: "):
        open_document(str(path), "pdf", LIMITS).draw(0)
