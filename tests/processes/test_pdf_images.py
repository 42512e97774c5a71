"""Images of a PDF whose dictionary and data contradict each other, or that are cut: read and said, or failed."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pymupdf
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.documents.pages.drawn import Drawn, Limits
from pipeline.documents.render import open_document
from pipeline.errors import PageFailed
from schemas.review import LOST_PARTS, WARNINGS
from tests.odd_images import encoded, lines_of_text
from tests.odd_pdfs import BOX, image_page, one_page, stream

LIMITS = Limits(max_side_px=400, max_pages=9, max_page_pt=7200, max_image_pixels=10**6)
PAGE = lines_of_text(400, 300)
SIZE = b"/Width 400/Height 300/BitsPerComponent 8"
GREY = SIZE + b"/ColorSpace/DeviceGray"
FLATE, DCT = b"/Filter/FlateDecode", b"/Filter/DCTDecode"
SEEN = b"q 400 0 0 300 0 0 cm /I Do Q"


def drawn(path: Path) -> Drawn:
    return open_document(str(path), "pdf", LIMITS).draw(0)


def shades(page: Drawn) -> NDArray[np.uint8]:
    return np.frombuffer(page.pixels, np.uint8).reshape(page.height_px, page.width_px, 3)[:300, :400].min(axis=2)


def shows_the_page(page: Drawn, rows: int = 300) -> bool:
    """Of its first rows; what lies below is white."""
    seen, wanted = shades(page).astype(int), np.asarray(PAGE)
    return bool(np.abs(seen[:rows] - wanted[:rows]).mean() < 12 and seen[rows + 2 :].min(initial=255) == 255)


def with_more(path: Path, samples: bytes, entries: bytes, *objects: bytes) -> Path:
    """A page that an image fills; its further objects begin at 6."""
    image = stream(samples, b"/Type/XObject/Subtype/Image%s" % entries)
    return one_page(path, SEEN, BOX + b"/Resources<</XObject<</I 5 0 R>>>>", (image, *objects))


def loses(page: Drawn) -> bool:
    return any(part in page.warnings for part in WARNINGS[LOST_PARTS])


# What a JPEG says itself


@pytest.mark.parametrize(
    ("mode", "space"),
    [
        ("L", b"/ColorSpace/DeviceRGB"),
        ("L", b"/ColorSpace/DeviceCMYK"),
        ("L", b""),
        ("RGB", b"/ColorSpace/DeviceGray"),
        ("RGB", b"/ColorSpace/DeviceCMYK"),
        ("RGB", b"/ColorSpace[/Indexed/DeviceRGB 1<000000ffffff>]"),
        ("RGB", b"/ColorSpace[/ICCBased 6 0 R]"),
        ("RGB", b"/ColorSpace/Unheard"),
        ("RGB", b"/ImageMask true"),
        ("CMYK", b"/ColorSpace/DeviceRGB"),
        ("CMYK", b"/ColorSpace/DeviceGray"),
    ],
)
def test_a_jpeg_has_the_components_that_it_says_itself(tmp_path: Path, mode: str, space: bytes) -> None:
    profile = stream(b"no profile", b"/N 1/Alternate/DeviceGray")
    data = encoded(PAGE.convert("RGB").convert(mode), "JPEG", quality=90)
    page = drawn(with_more(tmp_path / "a.pdf", data, SIZE + DCT + space, profile))
    assert shows_the_page(page) and "as its JPEG says" in page.warnings


def test_a_jpeg_has_the_size_that_it_says_itself(tmp_path: Path) -> None:
    entries = b"/Width 800/Height 900/BitsPerComponent 8/ColorSpace/DeviceGray" + DCT
    page = drawn(image_page(tmp_path / "a.pdf", encoded(PAGE, "JPEG", quality=90), entries))
    assert shows_the_page(page) and "400 × 300 px" in page.warnings


def test_sound_images_are_left_alone(tmp_path: Path) -> None:
    for data, entries in (
        (encoded(PAGE, "JPEG", quality=90), GREY + DCT),
        (encoded(PAGE.convert("RGB"), "JPEG", quality=90), SIZE + b"/ColorSpace/DeviceRGB" + DCT),
        (zlib.compress(PAGE.tobytes()), GREY + FLATE),
        (encoded(PAGE, "JPEG2000"), b"/Width 400/Height 300/Filter/JPXDecode"),
    ):
        page = drawn(image_page(tmp_path / "a.pdf", data, entries))
        assert shows_the_page(page) and page.warnings == ""


def test_an_image_in_a_form_is_mended_too(tmp_path: Path) -> None:
    form = stream(SEEN, b"/Type/XObject/Subtype/Form/BBox[0 0 400 300]/Resources<</XObject<</I 6 0 R/F 5 0 R>>>>")
    image = stream(encoded(PAGE, "JPEG", quality=90), b"/Subtype/Image/ColorSpace/DeviceRGB" + SIZE + DCT)
    page = drawn(one_page(tmp_path / "a.pdf", b"/F Do", BOX + b"/Resources<</XObject<</F 5 0 R>>>>", (form, image)))
    assert shows_the_page(page) and "as its JPEG says" in page.warnings


def test_an_image_that_names_no_colours_has_those_that_its_data_suffice_for(tmp_path: Path) -> None:
    page = drawn(image_page(tmp_path / "a.pdf", zlib.compress(PAGE.tobytes()), SIZE + FLATE))
    assert shows_the_page(page) and "names no colours" in page.warnings


# Cut, or packed otherwise

RGB = PAGE.convert("RGB").tobytes()
CUTS: dict[str, tuple[bytes, bytes]] = {
    "flate": (zlib.compress(PAGE.tobytes()[:60_000]), GREY + FLATE),
    "raw": (PAGE.tobytes()[:60_000], GREY),
    "raw RGB": (RGB[:180_000], SIZE + b"/ColorSpace/DeviceRGB"),
    "raw mask": (PAGE.convert("1").tobytes()[:7_500], b"/Width 400/Height 300/ImageMask true/BitsPerComponent 1"),
}


@pytest.mark.parametrize("name", list(CUTS))
def test_what_is_missing_of_a_cut_image_is_white_and_said(tmp_path: Path, name: str) -> None:
    page = drawn(image_page(tmp_path / "a.pdf", *CUTS[name]))
    assert "50 % of the picture is missing, and is drawn white" in page.warnings and loses(page)
    seen = shades(page).astype(int)
    assert np.abs(seen[:148] - np.asarray(PAGE)[:148]).mean() < 30 and seen[152:].min() == 255


def test_broken_flate_data_are_said(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 60, (300, 400), np.uint8)
    data = zlib.compress((np.asarray(PAGE) // 2 + noise).astype(np.uint8).tobytes())
    broken = data[: len(data) // 2] + b"\xff" * 900
    page = drawn(image_page(tmp_path / "a.pdf", broken, GREY + FLATE))
    assert "of the picture is missing" in page.warnings and loses(page)


def test_what_is_missing_and_cannot_be_white_is_said(tmp_path: Path) -> None:
    entries = SIZE + FLATE + b"/ColorSpace[/Indexed/DeviceGray 255<%s>]" % bytes(range(256)).hex().encode()
    page = drawn(image_page(tmp_path / "a.pdf", zlib.compress(PAGE.tobytes()[:60_000]), entries))
    assert page.warnings.startswith("an image of the page ends early: 50 % of the picture is missing") and loses(page)


@pytest.mark.parametrize(
    "entries",
    [GREY + b"/Filter/LZWDecode", GREY + b"/Filter/Unheard", GREY + b"/Filter/RunLengthDecode"],
)
def test_an_image_of_which_next_to_nothing_is_there_fails(tmp_path: Path, entries: bytes) -> None:
    with pytest.raises(PageFailed, match="it was not decoded") as caught:
        drawn(image_page(tmp_path / "a.pdf", b"\x80\x0b\x60\x50\x22\x0c\x0c\x85\x01" * 9, entries))
    assert caught.value.cause == "damaged"


def fax() -> bytes:
    tiff = encoded(PAGE.convert("1", dither=Image.Dither.NONE), "TIFF", compression="group4", strip_size=10**6)
    tags = Image.open(BytesIO(tiff)).tag_v2  # type: ignore[attr-defined]
    [at], [size] = tags[273], tags[279]
    return tiff[at : at + size]


@pytest.mark.parametrize(
    "how", [b"/K 0/Columns 400", b"/K 4/Columns 400/Rows 300", b"/K -1/Columns 200", b"/K -1", b""]
)
def test_a_fax_that_says_another_kind_or_width_is_read(tmp_path: Path, how: bytes) -> None:
    entries = b"/Width 400/Height 300/BitsPerComponent 1/ColorSpace/DeviceGray/Filter/CCITTFaxDecode/Decode[1 0]"
    page = drawn(image_page(tmp_path / "a.pdf", fax(), entries + b"/DecodeParms<<%s>>" % how))
    assert shows_the_page(page) and "packed otherwise than it says" in page.warnings and not loses(page)


def test_a_cut_jpeg_2000_is_coarse(tmp_path: Path) -> None:
    data = encoded(PAGE, "JPEG2000")
    entries = b"/Width 400/Height 300/Filter/JPXDecode"
    page = drawn(image_page(tmp_path / "a.pdf", data[: len(data) * 6 // 10], entries))
    assert "coarse" in page.warnings and loses(page) and shades(page).min() < 100


# Hidden


def mask_of(samples: bytes) -> bytes:
    return stream(zlib.compress(samples), b"/Subtype/Image" + GREY + FLATE)


def _hidden(path: Path) -> Path:
    entries = GREY + FLATE + b"/SMask 6 0 R"
    return with_more(path, zlib.compress(PAGE.tobytes()), entries, mask_of(bytes(120_000)))


def _cut_mask(path: Path) -> Path:
    entries = GREY + FLATE + b"/SMask 6 0 R"
    return with_more(path, zlib.compress(PAGE.tobytes()), entries, mask_of(b"\xff" * 999))


def _one_shade(path: Path) -> Path:
    return image_page(path, zlib.compress(PAGE.tobytes()), GREY + FLATE + b"/Decode[1 1]")


@pytest.mark.parametrize(
    ("draw", "says"), [(_hidden, "hidden throughout"), (_cut_mask, "without it"), (_one_shade, "hidden throughout")]
)
def test_an_image_that_its_mask_hides_is_shown(tmp_path: Path, draw: Callable[[Path], Path], says: str) -> None:
    page = drawn(draw(tmp_path / "a.pdf"))
    assert shows_the_page(page) and says in page.warnings


def test_what_one_page_mends_or_shows_is_on_another_as_it_is_alone(tmp_path: Path) -> None:
    with pymupdf.open(_hidden(tmp_path / "hidden.pdf")) as document:
        page = document.new_page(width=400, height=300)
        page.insert_text((40, 60), "words below an image that is hidden")
        page.insert_image(page.rect, xref=document[0].get_images()[0][0])
        document.save(tmp_path / "two.pdf")
    pages = open_document(str(tmp_path / "two.pdf"), "pdf", LIMITS)
    assert "hidden throughout" in pages.draw(0).warnings
    after, alone = pages.draw(1), open_document(str(tmp_path / "two.pdf"), "pdf", LIMITS).draw(1)
    assert np.array_equal(shades(after), shades(alone)) and after.warnings == alone.warnings

    with pymupdf.open(
        image_page(tmp_path / "cut.pdf", zlib.compress(PAGE.tobytes()[:60_000]), GREY + FLATE)
    ) as document:
        document.new_page(width=400, height=300).insert_image((0, 0, 400, 300), xref=document[0].get_images()[0][0])
        document.save(tmp_path / "both.pdf")
    pages = open_document(str(tmp_path / "both.pdf"), "pdf", LIMITS)
    assert [loses(pages.draw(index)) for index in (0, 1, 0)] == [True] * 3


def test_blank_paper_under_a_mask_stays_blank(tmp_path: Path) -> None:
    entries = GREY + FLATE + b"/SMask 6 0 R"
    path = with_more(tmp_path / "a.pdf", zlib.compress(b"\xf0" * 120_000), entries, mask_of(bytes(120_000)))
    page = drawn(path)
    assert shades(page).min() == 255 and page.warnings == ""
