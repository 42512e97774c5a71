"""Rasterizing: sizes, boxes, rotation, image modes, and what hostile files cost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pymupdf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin

from pipeline.blobs.png import load
from pipeline.documents.identify import identify
from pipeline.documents.pages.drawn import clean
from pipeline.documents.rasterize import PageFailure, Rasterizer
from pipeline.documents.render_process import RasterizedPage
from pipeline.errors import DocumentRejected
from pipeline.settings import Settings
from tests import hostile
from tests.running import write_pdf

Result = RasterizedPage | PageFailure
TORN = {
    b"%PDF-1.7\n": "the PDF cannot be opened: Failed to open file as type pdf.",
    b"GIF89a": "the GIF image cannot be opened: no GIF follows its first bytes",
    b"\xff\xd8\xff": "the JPEG image cannot be opened: no JPEG follows its first bytes",
    b"II*\0": "the TIFF image cannot be opened: no TIFF follows its first bytes",
    b"RIFF\0\0\0\0WEBP": "the WEBP image cannot be opened: no WEBP follows its first bytes",
}


@pytest.fixture(scope="module")
def rasterizer() -> Iterator[Rasterizer]:
    with Rasterizer(Settings(detail="page")) as shared:  # what auto makes of the print: test_detail
        yield shared


def results(rasterizer: Rasterizer, path: Path, first_page: int = 0) -> list[Result]:
    with rasterizer.open(path, identify(path).kind) as document:
        return list(document.pages(first_page))


def pixels_of(result: Result) -> NDArray[np.uint8]:
    assert isinstance(result, RasterizedPage), result
    pixels = np.asarray(load(result.image).convert("RGB"))
    assert pixels.shape == (result.height_px, result.width_px, 3)
    return pixels


def outcome(result: Result) -> str:
    return result.error.cause if isinstance(result, PageFailure) else "page"


def rejection(rasterizer: Rasterizer, path: Path) -> DocumentRejected:
    with pytest.raises(DocumentRejected) as caught:
        results(rasterizer, path)
    return caught.value


# Text


@given(st.text(st.characters()))
def test_cleaned_text_is_storable(text: str) -> None:
    cleaned = clean(text + "\0\ud800")
    assert "\0" not in cleaned and cleaned.encode().decode() == cleaned


# PDF pages


def test_a_page_equals_what_mupdf_draws_and_the_rest_is_white(rasterizer: Rasterizer, tmp_path: Path) -> None:
    path = hostile.pages_of(tmp_path / "a.pdf", (595, 842), (842, 595))
    for index, result in enumerate(results(rasterizer, path)):
        pixels, page = pixels_of(result), pymupdf.open(path)[index]
        scale = 1024 / 842
        expected = page.get_pixmap(matrix=pymupdf.Matrix(scale, scale))
        drawn = np.frombuffer(expected.samples, np.uint8).reshape(expected.height, expected.width, 3)
        assert (pixels[: expected.height, : expected.width] == drawn).all()
        assert (pixels[expected.height :] == 255).all() and (pixels[:, expected.width :] == 255).all()
        assert isinstance(result, RasterizedPage) and result.text_layer == f"page {index + 1}\n"
        ((left, top, right, bottom, *_),) = (result.text_layer_found or {})["lines"]
        assert result.text_layer_verdict == "sound" and pixels[top:bottom, left:right].min() < 50
        rest = pixels.copy()
        rest[top - 1 : bottom + 1, left - 1 : right + 1] = 255
        assert (rest == 255).all(), "all print lies in the box of its line"
        assert (result.width_pt, result.height_pt) == ((595, 842), (842, 595))[index]


@pytest.mark.parametrize(
    ("rotation", "corner"), [(0, "top left"), (90, "top right"), (180, "bottom right"), (270, "bottom left")]
)
def test_rotation_and_crop_box_are_applied(rasterizer: Rasterizer, tmp_path: Path, rotation: int, corner: str) -> None:
    document = pymupdf.open()
    page = document.new_page(width=800, height=1000)
    page.draw_rect((100, 200, 180, 280), fill=(1, 0, 0), color=None)  # the crop box's upper left corner
    page.draw_rect((0, 0, 99, 1000), fill=(0, 0, 1), color=None)  # cropped away
    page.draw_rect((701, 0, 800, 1000), fill=(0, 0, 1), color=None)
    page.set_cropbox((100, 200, 700, 1000))
    page.set_rotation(rotation)
    document.save(tmp_path / "a.pdf")
    [result] = results(rasterizer, tmp_path / "a.pdf")
    pixels = pixels_of(result)
    assert pixels.shape[:2] == ((1024, 768) if rotation % 180 == 0 else (768, 1024))
    assert marked_corner(pixels) == corner
    assert not (pixels == (0, 0, 255)).all(axis=2).any()


def marked_corner(pixels: NDArray[np.uint8]) -> str:
    """Which corner is red."""
    for name, y, x in (("top left", 8, 8), ("top right", 8, -24), ("bottom left", -24, 8), ("bottom right", -24, -24)):
        red, green, blue = (int(value) for value in pixels[y, x])
        if red > 180 and green < 90 and blue < 90:
            return name
    return "none"


def test_annotations_and_form_fields_are_drawn(rasterizer: Rasterizer, tmp_path: Path) -> None:
    document = pymupdf.open()
    page = document.new_page(width=400, height=400)
    page.add_rect_annot((20, 20, 120, 120)).update(fill_color=(0, 1, 0))
    widget = pymupdf.Widget()
    widget.field_name, widget.field_type, widget.field_value = "name", pymupdf.PDF_WIDGET_TYPE_TEXT, "Ada"
    widget.rect, widget.fill_color = pymupdf.Rect(200, 200, 300, 240), (1, 1, 0)
    page.add_widget(widget)
    document.save(tmp_path / "a.pdf")
    pixels = pixels_of(results(rasterizer, tmp_path / "a.pdf")[0])
    assert tuple(pixels[180, 180]) == (0, 255, 0)
    assert (pixels[520:610, 520:760] == (255, 255, 0)).all(axis=2).any()


def test_grey_pages_are_stored_grey(rasterizer: Rasterizer, tmp_path: Path) -> None:
    [result] = results(rasterizer, hostile.pages_of(tmp_path / "a.pdf", (300, 300)))
    assert isinstance(result, RasterizedPage) and load(result.image).mode == "L"


def test_pages_go_on_from_any_page(rasterizer: Rasterizer, tmp_path: Path) -> None:
    path = hostile.pages_of(tmp_path / "a.pdf", *[(100, 100)] * 5)
    assert [result.page_index for result in results(rasterizer, path, first_page=3)] == [3, 4]


def test_turning_away_early_does_not_spoil_the_next_document(rasterizer: Rasterizer, tmp_path: Path) -> None:
    path = hostile.pages_of(tmp_path / "a.pdf", *[(100, 100)] * 9)
    with rasterizer.open(path, "pdf") as document:
        assert next(iter(document.pages())).page_index == 0
    assert [result.page_index for result in results(rasterizer, path)] == list(range(9))


# Image files


@pytest.mark.parametrize("suffix", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize(
    ("orientation", "size"), [*((orientation, (96, 64)) for orientation in range(1, 9)), (6, (3000, 2000))]
)
def test_exif_orientation_stands_the_picture_upright(
    rasterizer: Rasterizer, tmp_path: Path, orientation: int, suffix: str, size: tuple[int, int]
) -> None:
    from pipeline.documents.images.dots import TURNS

    if size[0] > 1024 and suffix != "jpeg":
        size = (1500, 1000)  # JPEGs alone are decoded smaller than they are
    undo = {
        Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270,
        Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90,
    }
    upright = Image.new("RGB", size, "white")
    upright.paste((220, 20, 20), (0, 0, size[0] // 2, size[1] // 2))
    turn = TURNS.get(orientation)
    stored = upright if turn is None else upright.transpose(undo.get(turn, turn))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    stored.save(path, exif=exif)
    with Image.open(path) as opened:  # Pillow's own table of turns; the picture was turned with ours
        assert marked_corner(np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))) == "top left"
    [result] = results(rasterizer, path)
    pixels = pixels_of(result)
    assert pixels.shape[:2] == ((64, 96) if size[0] == 96 else (688, 1024))
    assert marked_corner(pixels) == "top left"


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def left_and_right(rasterizer: Rasterizer, path: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    pixels = pixels_of(results(rasterizer, path)[0])
    assert pixels.shape[:2] == (64, 64)
    return tuple(map(int, pixels[32, 16])), tuple(map(int, pixels[32, 48]))


def halves(mode: str, left: object, right: object) -> Image.Image:
    image = Image.new(mode, (64, 64), right)  # type: ignore[arg-type]
    image.paste(left, (0, 0, 32, 64))  # type: ignore[arg-type]
    return image


def test_one_bit_grey_and_sixteen_bit(rasterizer: Rasterizer, tmp_path: Path) -> None:
    black_white = ((0, 0, 0), (255, 255, 255))
    assert left_and_right(rasterizer, saved(halves("1", 0, 1), tmp_path / "1.png")) == black_white
    assert left_and_right(rasterizer, saved(halves("1", 0, 1), tmp_path / "1.tif", compression="group4")) == black_white
    assert left_and_right(rasterizer, saved(halves("L", 0, 255), tmp_path / "l.bmp")) == black_white
    samples = np.full((64, 64), 65535, np.uint16)
    samples[:, :32] = 257 * 100
    for name in ("16.png", "16.tif"):
        Image.fromarray(samples).save(tmp_path / name)
        assert left_and_right(rasterizer, tmp_path / name) == ((100,) * 3, (255,) * 3)
    floats = np.full((64, 64), 1.0, np.float32)
    floats[:, :32] = 0.0
    assert left_and_right(rasterizer, saved(Image.fromarray(floats), tmp_path / "f.tif")) == black_white


def test_white_is_zero_at_sixteen_bits(rasterizer: Rasterizer, tmp_path: Path) -> None:
    samples = np.zeros((64, 64), np.uint16)
    samples[:, :32] = 65535
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[262] = 0
    Image.fromarray(samples).save(tmp_path / "a.tif", tiffinfo=info)
    path = tmp_path / "a.tif"
    with Image.open(path) as image:
        assert image.tag_v2[262] == 0, "the writer kept the tag"  # type: ignore[attr-defined]
    assert left_and_right(rasterizer, path) == ((0, 0, 0), (255, 255, 255))


def test_transparency_lies_on_white(rasterizer: Rasterizer, tmp_path: Path) -> None:
    clear_blue = halves("RGBA", (0, 0, 0, 0), (0, 0, 255, 255))
    white_blue = ((255, 255, 255), (0, 0, 255))
    for name in ("a.png", "a.webp", "a.tif"):
        options = {"lossless": True} if name.endswith("webp") else {}
        assert left_and_right(rasterizer, saved(clear_blue, tmp_path / name, **options)) == white_blue
    palette = halves("P", 0, 1)
    palette.putpalette([9, 9, 9, 0, 0, 255])
    assert left_and_right(rasterizer, saved(palette, tmp_path / "p.png", transparency=0)) == white_blue
    assert left_and_right(rasterizer, saved(palette, tmp_path / "p.gif", transparency=0)) == white_blue
    grey = halves("LA", (0, 0), (7, 255))
    assert left_and_right(rasterizer, saved(grey, tmp_path / "la.png")) == ((255,) * 3, (7,) * 3)


def test_cmyk_with_and_without_a_profile(rasterizer: Rasterizer, tmp_path: Path) -> None:
    image = halves("CMYK", (0, 0, 0, 0), (0, 255, 255, 0))
    broken = {"icc_profile": b"not a profile"}
    for name, options in (("a.jpg", {"quality": 95}), ("a.tif", {}), ("b.tif", broken)):
        white, red = left_and_right(rasterizer, saved(image, tmp_path / name, **options))
        assert min(white) > 245 and red[0] > 200 and max(red[1:]) < 60
    srgb, lab_profile = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    coloured = halves("RGB", (255, 255, 255), (200, 0, 0))
    lab = ImageCms.profileToProfile(coloured, srgb, lab_profile, outputMode="LAB")
    assert lab is not None
    white, red = left_and_right(rasterizer, saved(lab, tmp_path / "lab.tif"))
    assert min(white) > 245 and red[0] > 180 and max(red[1:]) < 40


def test_every_frame_of_a_tiff_and_the_first_of_a_gif(rasterizer: Rasterizer, tmp_path: Path) -> None:
    frames = [halves("L", shade, 255) for shade in (10, 120, 230)]
    for name, options in (("a.tif", {}), ("big.tif", {"big_tiff": True})):
        path = saved(frames[0], tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert [int(pixels_of(result)[8, 8, 0]) for result in results(rasterizer, path)] == [10, 120, 230]
    path = saved(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert [int(pixels_of(result)[8, 8, 0]) for result in results(rasterizer, path)] == [10]


def test_small_images_are_padded_and_large_ones_shrink(rasterizer: Rasterizer, tmp_path: Path) -> None:
    for name, size, padded in (("a.png", (50, 33), (48, 64)), ("b.png", (9000, 9), (16, 1024))):
        dark = Image.new("RGB", size, "black")
        dark.paste((9, 9, 9), (0, 0, size[0] // 2, size[1]))  # a picture of one colour is none
        pixels = pixels_of(results(rasterizer, saved(dark, tmp_path / name))[0])
        height, width = (33, 50) if name == "a.png" else (1, 1024)
        assert pixels.shape[:2] == padded and pixels[:height, :width].max() <= 9
        assert (pixels[height + 1 :] == 255).all()


# Bad input


def test_encrypted_cut_short_and_empty_documents_are_rejected(rasterizer: Rasterizer, tmp_path: Path) -> None:
    assert rejection(rasterizer, hostile.encrypted(tmp_path / "e.pdf")).cause == "encrypted"
    samples = Path(__file__).parents[2] / "samples"
    assert rejection(rasterizer, samples / "catalogue-cut-short.pdf").cause == "damaged"
    assert rejection(rasterizer, samples / "minutes-encrypted.pdf").cause == "encrypted"
    (tmp_path / "z.pdf").write_bytes(b"")
    assert rejection(rasterizer, tmp_path / "z.pdf").cause == "empty"
    empty = hostile.pdf_of([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[]/Count 0>>"], tmp_path / "n.pdf")
    assert rejection(rasterizer, empty).cause == "empty"


@pytest.mark.parametrize("head", list(TORN), ids=lambda head: head[:4].hex())
def test_a_file_that_only_begins_well_is_told_without_a_path_of_ours(
    rasterizer: Rasterizer, tmp_path: Path, head: bytes
) -> None:
    path = tmp_path / "torn"
    path.write_bytes(head + b"x" * 50)
    torn = rejection(rasterizer, path)
    assert torn.cause == "damaged" and str(torn) == f"{path}: {TORN[head]}"


def test_images_of_no_size_or_too_much_are_rejected_undecoded(rasterizer: Rasterizer, tmp_path: Path) -> None:
    assert rejection(rasterizer, hostile.png_claiming(tmp_path / "0.png", 0, 0)).cause == "damaged"
    bomb = rejection(rasterizer, hostile.png_claiming(tmp_path / "b.png", 50_000, 50_000))
    assert bomb.cause == "too-large" and "PAGEPACK_MAX_IMAGE_PIXELS" in str(bomb)


def test_a_damaged_image_fails_its_page(rasterizer: Rasterizer, tmp_path: Path) -> None:
    path = saved(Image.effect_noise((300, 300), 90), tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes()[:400])
    assert [outcome(result) for result in results(rasterizer, path)] == ["damaged"]


def test_an_oversized_page_fails_alone(rasterizer: Rasterizer, tmp_path: Path) -> None:
    path = hostile.pages_of(tmp_path / "a.pdf", (300, 300), (14_400, 14_400), (300, 300))
    found = results(rasterizer, path)
    assert [outcome(result) for result in found] == ["page", "too-large", "page"]
    assert isinstance(found[1], PageFailure) and "PAGEPACK_MAX_PAGE_PT" in str(found[1].error)


def test_a_page_of_no_area_or_lost_contents_is_no_crash(rasterizer: Rasterizer, tmp_path: Path) -> None:
    lost = results(rasterizer, hostile.lost_contents(tmp_path / "a.pdf"))
    assert [outcome(result) for result in lost] == ["damaged", "page"]
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 0 0]>>"
    objects = [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>", page]
    flat = results(rasterizer, hostile.pdf_of(objects, tmp_path / "b.pdf"))
    assert [outcome(result) for result in flat] in (["damaged"], ["page"])  # MuPDF takes Letter for an empty box


def test_a_huge_bitmap_inside_a_pdf_costs_that_page_at_most(tmp_path: Path) -> None:
    with Rasterizer(Settings(rasterize_memory_bytes=2**29)) as small:
        found = results(small, hostile.huge_bitmap_in_pdf(tmp_path / "a.pdf"))
        # MuPDF 1.28 subsamples it row by row within 512 MiB, and says that rows are missing.
        assert isinstance(found[0], PageFailure) or "truncated" in found[0].warnings
        after = results(small, hostile.pages_of(tmp_path / "b.pdf", (100, 100)))
    assert [outcome(result) for result in after] == ["page"]


def test_a_page_that_hangs_costs_that_page(tmp_path: Path) -> None:
    with Rasterizer(Settings(rasterize_seconds=1.5)) as hasty:
        found = results(hasty, hostile.nested_forms(tmp_path / "a.pdf"))
    assert [outcome(result) for result in found] == ["page", "timeout", "page"]
    assert isinstance(found[2], RasterizedPage) and found[2].text_layer == "before and after\n"


def test_many_pages_and_the_limit(rasterizer: Rasterizer, tmp_path: Path) -> None:
    path = hostile.pages_of(tmp_path / "a.pdf", *[(20, 20)] * 500, texts=False)
    with rasterizer.open(path, "pdf") as document:
        assert document.page_count == 500
        assert [result.page_index for result in document.pages(495)] == list(range(495, 500))
    with Rasterizer(Settings(max_pages=499)) as strict:
        assert rejection(strict, path).cause == "too-large"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGABRT])
def test_a_child_killed_once_loses_no_page(tmp_path: Path, how: signal.Signals) -> None:
    path = hostile.pages_of(tmp_path / "a.pdf", *[(595, 842)] * 12)
    with Rasterizer(Settings(max_side_px=256)) as rasterizer, rasterizer.open(path, "pdf") as document:
        found: list[Result] = []
        for result in document.pages():
            found.append(result)
            if result.page_index == 4:
                child = rasterizer._child
                assert child is not None
                os.kill(child._process.pid, how)
    assert [(result.page_index, outcome(result)) for result in found] == [(index, "page") for index in range(12)]


def test_some_pages_are_drawn_alone_by_a_child_that_goes_on(tmp_path: Path) -> None:
    path = hostile.pages_of(tmp_path / "a.pdf", *[(100, 100)] * 5)
    with Rasterizer(Settings()) as rasterizer, rasterizer.open(path, "pdf") as document:
        child = rasterizer.child()
        drawn = [result.page_index for first, end in ((3, 4), (0, 2), (4, 9)) for result in document.pages(first, end)]
        assert drawn == [3, 0, 1, 4] and rasterizer.child() is child


def test_a_large_parent_wears_out_no_child(tmp_path: Path) -> None:
    """Linux starts the peak of a new process at that of its parent, and each page was drawn by a child of its own."""
    held = bytearray(b"x") * (400 * 2**20)
    path = write_pdf(tmp_path / "a.pdf", 3)
    with (
        Rasterizer(Settings(rasterize_memory_bytes=2**29 + 2**28)) as rasterizer,
        rasterizer.open(path, "pdf") as document,
    ):
        pids = [(page.page_index, rasterizer.child().pid) for page in document.pages()]
    assert len(held) > 2**28 and [index for index, _ in pids] == [0, 1, 2]
    assert len({pid for _, pid in pids}) == 1


def test_a_page_that_kills_every_child_is_one_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that is ended whenever the parent asks for page 2, as a page that crashes MuPDF would."""
    path = hostile.pages_of(tmp_path / "a.pdf", *[(100, 100)] * 4)
    with Rasterizer(Settings()) as rasterizer, rasterizer.open(path, "pdf") as document:
        found = []
        original = document._stream

        def crashing(first_page: int, end: int) -> Iterator[Result]:
            for result in original(first_page, end):
                if result.page_index == 2:
                    child = rasterizer._child
                    assert child is not None
                    os.kill(child._process.pid, signal.SIGSEGV)
                    child._process.wait()
                    raise child._gone()
                yield result

        monkeypatch.setattr(document, "_stream", crashing)
        found = [outcome(result) for result in document.pages()]
    assert found == ["page", "page", "crash", "page"]


def test_the_child_holds_no_secrets_and_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    monkeypatch.setenv("PAGEPACK_DATABASE_URL", "postgresql://user:password@host/x")
    with Rasterizer(Settings(database_url=None)) as rasterizer:
        pid = rasterizer.child()._process.pid
        if sys.platform != "linux":
            pytest.skip("needs /proc")
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        limits = Path(f"/proc/{pid}/limits").read_text()
    assert b"hunter2" not in environment and b"password" not in environment
    assert "Max file size             0" in limits and f"Max address space         {2 * 2**30}" in limits


def test_no_orphan_remains_when_the_parent_is_killed(tmp_path: Path) -> None:
    path = hostile.nested_forms(tmp_path / "a.pdf")
    code = f"""
from pipeline.documents.rasterize import Rasterizer
from pipeline.settings import Settings
with Rasterizer(Settings()) as r, r.open({str(path)!r}, "pdf") as d:
    print(r._child._process.pid, flush=True)
    list(d.pages())
"""
    root = Path(__file__).parents[2]
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.5)  # now deep in the hanging page
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(6_000):
        if not is_running(child):
            return
        time.sleep(0.1)
    pytest.fail("the child outlived its parent by ten minutes")


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"
