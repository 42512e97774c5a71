"""TIFF files: samples of every width, pictures that are no pages, and files of which a part is gone."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.documents.pages.drawn import Drawn, Limits
from pipeline.documents.rasterize import Rasterizer
from pipeline.documents.render import open_document
from pipeline.documents.render_process import RasterizedPage
from pipeline.errors import PageFailed
from pipeline.settings import Settings
from tests.odd_images import encoded, lines_of_text
from tests.odd_tiffs import packed, picture, written

LIMITS = Limits(max_side_px=1024, max_pages=100, max_page_pt=7200, max_image_pixels=10**7)
WIDTH, HEIGHT = 160, 96
PRINT = lines_of_text(WIDTH, HEIGHT)
SHADES = np.asarray(PRINT).astype(np.float64) / 255  # 1 is white


def drawn(path: Path) -> list[Drawn]:
    document = open_document(str(path), "tiff", LIMITS)
    return [document.draw(page_index) for page_index in range(document.page_count)]


def pixels_of(page: Drawn) -> NDArray[np.uint8]:
    bands = {"L": 1, "RGB": 3}[page.mode]
    return np.frombuffer(page.pixels, np.uint8).reshape(page.height_px, page.width_px, bands)


def is_the_print(page: Drawn) -> bool:
    shades = pixels_of(page)[:HEIGHT, :WIDTH].mean(axis=2)
    return bool(np.abs(shades - np.asarray(PRINT)).max() < 20)


def samples(bits: int, top: int | None = None, *, inverted: bool = False) -> NDArray[np.uint64]:
    scaled = (1 - SHADES if inverted else SHADES) * ((2**bits - 1) if top is None else top)
    return np.round(scaled).astype(np.uint64)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [4, 8, 10, 12, 14, 16, 24, 32])
@pytest.mark.parametrize("photometric", [0, 1])
def test_grey_of_any_depth_is_right(tmp_path: Path, order: str, bits: int, photometric: int) -> None:
    data = packed(samples(bits, inverted=photometric == 0), bits, order)
    if bits == 24 and order == "<":
        data = np.frombuffer(data, np.uint8).reshape(-1, 3)[:, ::-1].tobytes()
    half = len(data) // 2
    for compression, strips in ((1, [data[:half], data[half:]]), (8, [zlib.compress(data)])):
        tags = {259: [compression], 262: [photometric]}
        path = written(tmp_path / "a.tif", picture(WIDTH, HEIGHT, bits, strips, tags), order=order)
        [page] = drawn(path)
        if bits != 4:
            assert is_the_print(page)
        assert page.warnings == ""


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize(("bits", "white"), [(32, 1.0), (32, 255.0), (32, 1e6), (64, 1.0), (16, 1.0)])
def test_floats_are_right(tmp_path: Path, bits: int, white: float, photometric: int) -> None:
    values = ((SHADES if photometric else 1 - SHADES) * white).astype(f"<f{bits // 8}")
    values[0, :3] = (np.nan, np.inf, -np.inf)
    tags = {262: [photometric], 339: [3]}
    [page] = drawn(written(tmp_path / "a.tif", picture(WIDTH, HEIGHT, bits, [values.tobytes()], tags)))
    shades = pixels_of(page)[1:HEIGHT, :WIDTH, 0].astype(int)
    assert np.abs(shades - np.asarray(PRINT)[1:]).max() < 20


def test_a_small_range_in_large_samples_is_stretched(tmp_path: Path) -> None:
    values = samples(16, top=4095)
    values[0, 0] = 65535  # a hot pixel is no paper
    [page] = drawn(written(tmp_path / "a.tif", picture(WIDTH, HEIGHT, 16, [packed(values, 16)])))
    assert is_the_print(page) and "stretched" in page.warnings
    signed = (SHADES * 32767).astype("<i2")
    [page] = drawn(written(tmp_path / "b.tif", picture(WIDTH, HEIGHT, 16, [signed.tobytes()], {339: [2]})))
    assert is_the_print(page)


@pytest.mark.parametrize(("bits", "planar"), [(8, 2), (12, 1), (16, 1), (16, 2), (32, 1)])
def test_colours_of_any_depth_are_right(tmp_path: Path, bits: int, planar: int) -> None:
    one = samples(bits)
    strips = [packed(one, bits)] * 3 if planar == 2 else [packed(np.stack([one] * 3, 2).reshape(HEIGHT, -1), bits)]
    tags = {258: [bits] * 3, 262: [2], 277: [3], 278: [HEIGHT], 284: [planar]}
    [page] = drawn(written(tmp_path / "a.tif", picture(WIDTH, HEIGHT, bits, strips, tags)))
    assert is_the_print(page)


def test_predictors_are_undone(tmp_path: Path) -> None:
    whole = samples(16).astype(np.uint16)
    steps = np.diff(whole, axis=1, prepend=np.uint16(0))
    tags = {259: [8], 317: [2]}
    [page] = drawn(written(tmp_path / "a.tif", picture(WIDTH, HEIGHT, 16, [zlib.compress(steps.tobytes())], tags)))
    assert is_the_print(page)
    planes = np.frombuffer(SHADES.astype(">f4").tobytes(), np.uint8).reshape(HEIGHT, WIDTH, 4).transpose(0, 2, 1)
    turned = np.diff(planes.reshape(HEIGHT, -1), axis=1, prepend=np.uint8(0))
    tags = {259: [8], 317: [3], 339: [3]}
    [page] = drawn(written(tmp_path / "b.tif", picture(WIDTH, HEIGHT, 32, [zlib.compress(turned.tobytes())], tags)))
    assert is_the_print(page)


def test_what_is_not_decoded_is_told_without_a_name_of_ours(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", picture(WIDTH, HEIGHT, 16, [packed(samples(16), 16)], {262: [32803]}))
    with pytest.raises(PageFailed, match="photometric interpretation 32803") as caught:
        drawn(path)
    assert "object at" not in str(caught.value) and "/dev/" not in str(caught.value)


def test_the_sandboxed_process_reads_twelve_bits(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", picture(WIDTH, HEIGHT, 12, [packed(samples(12), 12)]))
    with Rasterizer(Settings()) as rasterizer, rasterizer.open(path, "tiff") as document:
        [page] = document.pages()
    assert isinstance(page, RasterizedPage) and page.warnings == ""


# What is no page

SMALL = picture(80, 48, 8, [np.asarray(PRINT.resize((80, 48))).tobytes()])
PAGE = picture(WIDTH, HEIGHT, 8, [np.asarray(PRINT).tobytes()])


@pytest.mark.parametrize("says", [{254: [1]}, {254: [4]}, {254: [5]}, {255: [2]}])
def test_copies_and_masks_are_no_pages(tmp_path: Path, says: dict[int, list[int]]) -> None:
    beside = ({**SMALL[0], **says}, SMALL[1])
    assert len(drawn(written(tmp_path / "a.tif", PAGE, beside, PAGE, beside))) == 2
    [page, _] = drawn(written(tmp_path / "b.tif", beside, PAGE, beside, ({**PAGE[0], 254: [2]}, PAGE[1])))
    assert is_the_print(page)
    assert len(drawn(written(tmp_path / "c.tif", beside))) == 1, "a copy alone is what there is"


def test_a_small_copy_that_says_nothing_of_itself_is_no_page(tmp_path: Path) -> None:
    large = picture(640, 384, 8, [np.asarray(PRINT.resize((640, 384))).tobytes()])
    [page] = drawn(written(tmp_path / "a.tif", large, PAGE))
    assert page.width_px == 640 and "no pages" in page.warnings
    other = picture(48, 80, 8, [bytes(range(240)) * 16])
    assert len(drawn(written(tmp_path / "b.tif", large, other))) == 2, "of another shape"


def test_the_picture_below_a_copy_is_the_page(tmp_path: Path) -> None:
    small = ({**SMALL[0], 254: [1]}, SMALL[1])
    [page] = drawn(written(tmp_path / "a.tif", small, PAGE, below=[1]))
    assert page.width_px == WIDTH and is_the_print(page)
    raw = ({**PAGE[0], 262: [32803]}, PAGE[1])
    [page] = drawn(written(tmp_path / "b.tif", small, raw, below=[1]))
    assert page.width_px == 80, "raw data of a camera is no picture"


# Files of which a part is gone


def test_a_chain_that_leads_nowhere_is_said(tmp_path: Path) -> None:
    [page] = drawn(written(tmp_path / "a.tif", PAGE, end=10**6))
    assert is_the_print(page) and "ends before the next" in page.warnings
    assert len(drawn(written(tmp_path / "b.tif", PAGE, PAGE, end=8))) == 2, "a circle ends"


def strips_of(compression: str, image: Image.Image) -> tuple[bytes, int, dict[int, list[int]]]:
    """One strip as Pillow compresses it."""
    data = encoded(image, "TIFF", compression=compression, strip_size=10**6)
    with Image.open(BytesIO(data)) as written_image:
        tags = written_image.tag_v2  # type: ignore[attr-defined]
        offset, size = tags[273][0], tags[279][0]
        kept = {tag: [int(tags[tag])] for tag in (259, 262, 293) if tag in tags}
        return data[offset : offset + size], tags[258][0], kept


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "group4", "group3"])
def test_a_cut_strip_is_read_as_far_as_it_goes(tmp_path: Path, compression: str) -> None:
    tall = lines_of_text(WIDTH, 480)
    image = tall.convert("1") if compression.startswith("group") else tall
    strip, bits, tags = strips_of(compression, image)
    [page] = drawn(written(tmp_path / "a.tif", picture(WIDTH, 480, bits, [strip[: len(strip) // 2]], tags)))
    rows = np.asarray((pixels_of(page)[:480] < 128).any(axis=(1, 2)))
    assert "missing" in page.warnings and "%" in page.warnings
    assert rows[:150].mean() > 0.3 and not rows[400:].any()


def test_a_lost_strip_costs_its_rows(tmp_path: Path) -> None:
    data = np.asarray(PRINT).tobytes()
    strips = [zlib.compress(data[start : start + 32 * WIDTH]) for start in range(0, len(data), 32 * WIDTH)]
    strips[1] = b"\0" * len(strips[1])
    [page] = drawn(written(tmp_path / "a.tif", picture(WIDTH, HEIGHT, 8, strips, {259: [8]})))
    assert "33 % of the picture is missing" in page.warnings
    shades = pixels_of(page)[:HEIGHT, :WIDTH, 0]
    assert (shades[32:64] == 255).all() and (shades[:32] == np.asarray(PRINT)[:32]).all()


def test_a_strip_that_claims_gigabytes_is_read_as_it_is(tmp_path: Path) -> None:
    strip, bits, tags = strips_of("tiff_lzw", PRINT)
    path = written(tmp_path / "a.tif", picture(WIDTH, HEIGHT, bits, [strip], tags))
    data = path.read_bytes()
    size = struct.pack("<HHII", 279, 4, 1, len(strip))
    assert data.count(size) == 1
    path.write_bytes(data.replace(size, struct.pack("<HHII", 279, 4, 1, 2**32 - 1)))
    with Rasterizer(Settings(rasterize_memory_bytes=2**30)) as small, small.open(path, "tiff") as document:
        [page] = document.pages()
    assert isinstance(page, RasterizedPage), page


def test_fax_pixels_are_square(tmp_path: Path) -> None:
    strip, bits, tags = strips_of("group4", PRINT.convert("1"))
    tags |= {282: [204, 1], 283: [98, 1], 296: [2]}
    [page] = drawn(written(tmp_path / "a.tif", picture(WIDTH, HEIGHT, bits, [strip], tags)))
    assert page.width_px == WIDTH and abs(page.height_px - HEIGHT * 204 / 98) < 16
    values = packed(samples(12), 12)
    tags = {282: [204, 1], 283: [98, 1], 296: [2]}
    [page] = drawn(written(tmp_path / "b.tif", picture(WIDTH, HEIGHT, 12, [values], tags)))
    assert page.width_px == WIDTH and abs(page.height_px - HEIGHT * 204 / 98) < 16
    assert (
        drawn(written(tmp_path / "c.tif", picture(WIDTH, HEIGHT, 12, [values], tags | {274: [6]})))[0].height_px == 160
    )


@pytest.mark.parametrize(
    ("compression", "strip"), [(5, b"\x80\x00\x20\x50\x38\x24" + b"\xff" * 300), (8, b"\xff" * 300)]
)
def test_a_picture_of_which_nothing_is_decoded_fails(tmp_path: Path, compression: int, strip: bytes) -> None:
    path = written(tmp_path / "a.tif", picture(WIDTH, HEIGHT, 8, [strip], {259: [compression]}))
    with pytest.raises(PageFailed) as raised:
        open_document(str(path), "tiff", LIMITS).draw(0)
    assert raised.value.cause == "damaged"
