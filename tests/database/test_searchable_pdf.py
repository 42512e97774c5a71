"""Searchable PDFs: words over their print, as other readers find them, and the file's own pages as they were."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pymupdf
import pypdfium2
import pytest
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from pipeline.documents.pdf.glyphless import font_file
from pipeline.errors import UsageError
from pipeline.export.export import ExportSummary, export
from pipeline.settings import Settings
from tests.conftest import Archive
from tests.placed import ReadPage, put

SENTENCES = [
    "The tide turns at noon in Cape Sorrel.",
    "Gulls wait, and 4,180 wading birds rest",
    "on the mud until water returns.",
]
SCALE = 2  # pixels of the page's image a point
Box = tuple[float, float, float, float]


def drawn(width: int, height: int) -> tuple[Image.Image, list[list[Any]], dict[str, Box]]:
    """Print on paper; its lines as a tight engine stores them; the box of each word."""
    image = Image.new("L", (width, height), 255)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=26)  # a sans-serif that is not Helvetica
    lines, words = [], {}
    for number, sentence in enumerate(SENTENCES):
        x, y = 40, 60 + 70 * number
        draw.text((x, y), sentence, fill=0, font=font)
        left, top, right, bottom = draw.textbbox((x, y), sentence, font=font)
        lines.append([round(left), round(top), round(right), round(bottom), 0.97, sentence])
        start = 0
        for word in sentence.split():
            start = sentence.index(word, start)
            at, to = x + font.getlength(sentence[:start]), x + font.getlength(sentence[: start + len(word)])
            words[word] = (at, top, to, bottom)
            start += len(word)
    return image, lines, words


def turned_box(box: Box, degrees: int, width: float, height: float) -> Box:
    """A box of a picture that is turned clockwise."""
    left, top, right, bottom = box
    if degrees == 90:
        return height - bottom, left, height - top, right
    if degrees == 180:
        return width - right, height - bottom, width - left, height - top
    if degrees == 270:
        return top, width - right, bottom, width - left
    return box


def words_of(page: Any) -> dict[str, Box]:
    """As pdfium finds them: boxes from the top left of the page as it is shown, in points."""
    text_page = page.get_textpage()
    text = text_page.get_text_range()
    found: dict[str, Box] = {}
    crop_left, crop_bottom, crop_right, crop_top = page.get_cropbox()
    rotation = page.get_rotation()
    start = 0
    for word in text.split():
        start = text.index(word, start)
        boxes = [text_page.get_charbox(start + index, loose=True) for index in range(len(word))]
        start += len(word)
        left, bottom, right, top = (
            pick(side) for pick, side in zip((min, min, max, max), zip(*boxes, strict=True), strict=True)
        )
        upright = (left - crop_left, crop_top - top, right - crop_left, crop_top - bottom)
        found[word] = turned_box(upright, rotation, crop_right - crop_left, crop_top - crop_bottom)
    assert len(text.split()) == len(found), text  # each word once
    return found


def overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - shared)


def check_places(page: Any, truth: dict[str, Box], scale: tuple[float, float]) -> None:
    """Every word where it is printed: within a quarter of the type's 26 pixels, and most of both boxes is shared."""
    found = words_of(page)
    assert set(found) >= set(truth), found
    shares = []
    for word, printed in truth.items():
        left, top, right, bottom = found[word]
        box = (left * scale[0], top * scale[1], right * scale[0], bottom * scale[1])
        assert all(abs(a - b) < 6.5 for a, b in zip(box, printed, strict=True)), (word, box, printed)
        shares.append(overlap(box, printed))
    assert np.median(shares) > 0.85 and min(shares) > 0.6, sorted(shares)


@pytest.fixture
def export_pdf(
    archive: Archive, settings: Settings, tmp_path: Path
) -> Callable[[], tuple[ExportSummary, list[str], Path]]:
    def run() -> tuple[ExportSummary, list[str], Path]:
        problems: list[str] = []
        summary = export(archive.db, tmp_path / "out", "pdf", settings=settings, problems=problems.append)
        return summary, problems, tmp_path / "out"

    return run


def test_words_lie_over_their_print(archive: Archive, tmp_path: Path, export_pdf: Callable[..., Any]) -> None:
    """Also on pages that are turned, cut, in units of their own, or leave their graphics in disorder; and nothing else
    of the file changes."""
    image, lines, words = drawn(800, 320)
    packed = io.BytesIO()
    image.save(packed, "PNG")
    width, height = 800 / SCALE, 320 / SCALE
    document, read, truths = pymupdf.open(), [], []
    for rotate in (0, 90, 180, 270):
        page = document.new_page(width=width + 100, height=height + 90)
        # What is printed stands upright once the page is turned.
        page.insert_image((60, 30, 60 + width, 30 + height), stream=packed.getvalue())
        page.set_cropbox((60, 30, 60 + width, 30 + height))
        page.set_rotation(rotate)
        shown = (width, height) if rotate % 180 == 0 else (height, width)
        boxes = [
            [*map(round, turned_box(tuple(line[:4]), rotate, 800, 320)), *line[4:], -rotate % 360] for line in lines
        ]
        px = tuple(-(-math.ceil(side * SCALE) // 16) * 16 for side in shown)
        read.append(ReadPage(boxes, px, shown, 72 * SCALE))  # type: ignore[arg-type]
        truths.append({word: turned_box(box, rotate, 800, 320) for word, box in words.items()})
    # The engine turned this one clockwise: its print runs up.
    upwards = io.BytesIO()
    image.transpose(Image.Transpose.ROTATE_90).save(upwards, "PNG")
    document.new_page(width=height, height=width).insert_image((0, 0, height, width), stream=upwards.getvalue())
    boxes = [[*map(round, turned_box(tuple(line[:4]), 270, 800, 320)), *line[4:]] for line in lines]
    read.append(ReadPage(boxes, (320, 800), (height, width), 72 * SCALE, angle=90.0))
    truths.append({word: turned_box(box, 270, 800, 320) for word, box in words.items()})
    stream = document[1].get_contents()[0]
    document.update_stream(stream, document.xref_stream(stream) + b"\n0.5 0 0 0.5 99 99 cm q q 3 Tr")
    lost = document.xref_length()  # of an object that the file names and does not hold
    document.xref_set_key(document[2].xref, "Contents", f"[{document[2].get_contents()[0]} 0 R {lost} 0 R]")
    path = tmp_path / "pages.pdf"
    document.save(path)
    put(archive, path, "pdf", read)
    summary, problems, out = export_pdf()
    assert (summary.files, summary.pages, problems, summary.has_failed) == (1, 5, [], False)
    written = (out / "pages.pdf").read_bytes()
    assert written.startswith(path.read_bytes())  # not a byte of it changed
    before, after = pymupdf.open(path), pymupdf.open(out / "pages.pdf")
    assert not after.is_repaired
    assert all(one.get_pixmap().samples == other.get_pixmap().samples for one, other in zip(before, after, strict=True))
    other = pypdfium2.PdfDocument(out / "pages.pdf")
    for index, truth in enumerate(truths):
        check_places(other[index], truth, (SCALE, SCALE))


def test_an_image_file_becomes_a_pdf_that_holds_it_as_it_is(
    archive: Archive, tmp_path: Path, export_pdf: Callable[..., Any]
) -> None:
    image, lines, words = drawn(800, 320)
    turned = image.transpose(Image.Transpose.ROTATE_90).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    files: dict[str, tuple[Image.Image, dict[str, Any], tuple[float, float]]] = {
        "photo.jpg": (turned, {"quality": 90, "exif": exif, "dpi": (144, 144)}, (2.0, 2.0)),
        "fax.tif": (
            image.resize((800, 160)).convert("1"),
            {"compression": "group4", "dpi": (144, 72), "save_all": True, "append_images": [image.convert("1")]},
            (2.0, 2.0),
        ),
        "screen.png": (image.convert("RGBA"), {}, (800 / 842, 800 / 842)),
        "palette.gif": (image.convert("P"), {}, (800 / 842, 800 / 842)),
        "deep.png": (Image.fromarray(np.asarray(image).astype(np.uint16) * 257), {"dpi": (144, 144)}, (2.0, 2.0)),
    }
    kinds = {".jpg": "jpeg", ".tif": "tiff", ".png": "png", ".gif": "gif"}
    for name, (picture, how, _) in files.items():
        path = tmp_path / name
        picture.save(path, **how)
        # Read at half its size: 400 of 400 pixels across, 160 of 160 down.
        half = [[*(side / 2 for side in line[:4]), *line[4:]] for line in lines]
        page = ReadPage(half, (400, 160), None, 72.0 if "dpi" in how else None)
        pages = [page, ReadPage([], (800, 320), None, 144.0, text="")] if name == "fax.tif" else [page]
        put(archive, path, kinds[path.suffix], pages)
    summary, problems, out = export_pdf()
    assert (summary.files, problems) == (len(files), [])
    for name, (picture, _, scale) in files.items():
        result = pymupdf.open(out / f"{name}.pdf")
        assert len(result) == (2 if name == "fax.tif" else 1)
        (xref, *_), *_ = result[0].get_images()
        held = result.extract_image(xref)
        if name == "photo.jpg":
            assert held["image"] == (tmp_path / name).read_bytes()
        else:
            stored = Image.open(io.BytesIO(held["image"])).convert("L")
            kept = np.asarray(stored) if name != "fax.tif" else np.asarray(stored) > 127
            wanted = image if name != "fax.tif" else picture
            assert np.array_equal(kept, np.asarray(wanted)), name
        shown = result[0].get_pixmap(matrix=pymupdf.Matrix(*scale), colorspace="gray")
        difference = np.frombuffer(shown.samples, np.uint8).reshape(shown.height, shown.stride)[:, : shown.width]
        assert np.abs(difference[:320, :800].astype(int) - np.asarray(image)).mean() < 12, name  # it stands upright
        check_places(pypdfium2.PdfDocument(out / f"{name}.pdf")[0], words, scale)


SCRIPTS = [
    "Łódź, Ærø und Straße",
    "Вчера в порту было тихо",
    "Ἡ θάλασσα ἦταν ἥσυχη",
    "潮水在中午转向，海鸥在等待",
    "ひき潮は正午です",
    "नमस्ते दुनिया",
    "الميناء هادئ اليوم",
    "הנמל שקט היום",
    "𠀀𠮷 𝒙",
]


def test_any_script_is_copied_out_as_it_was_read(
    archive: Archive, tmp_path: Path, export_pdf: Callable[..., Any]
) -> None:
    document = pymupdf.open()
    document.new_page(width=400, height=400)
    path = tmp_path / "scripts.pdf"
    # A password of the owner alone: anybody may read it, and what is added is encrypted, too.
    document.save(path, encryption=pymupdf.PDF_ENCRYPT_AES_256, owner_pw="owner", permissions=pymupdf.PDF_PERM_COPY)
    lines = [[20, 20 + 40 * n, 300, 50 + 40 * n, 0.9, text] for n, text in enumerate(SCRIPTS)]
    put(archive, path, "pdf", [ReadPage(lines, (400, 400), (400, 400), 72)])
    _, problems, out = export_pdf()
    assert not problems
    by_pdfium = pypdfium2.PdfDocument(out / "scripts.pdf")[0].get_textpage().get_text_range().splitlines()
    assert by_pdfium == SCRIPTS
    by_mupdf = pymupdf.open(out / "scripts.pdf")[0].get_text()  # which ends no line between two directions
    assert all(line in by_mupdf for line in SCRIPTS)


def test_what_has_text_is_left_and_what_has_no_places_is_found(
    archive: Archive, tmp_path: Path, export_pdf: Callable[..., Any]
) -> None:
    document = pymupdf.open()
    for index in range(4):
        document.new_page(width=400, height=400).insert_text((50, 50), f"printed {index}")
    path = tmp_path / "own.pdf"
    document.save(path)
    line = [50, 40, 120, 52, None, "printed"]
    columns = [
        [x, 100 + 20 * row, x + 90, 115 + 20 * row, 0.9, f"{side} {word}"]
        for row, word in enumerate(("one", "two"))
        for x, side in ((200, "right"), (20, "left"))
    ]
    put(
        archive,
        path,
        "pdf",
        [
            ReadPage([line], (400, 400), (400, 400), 72, engine="text-layer"),
            ReadPage(
                [line], (400, 400), (400, 400), 72, facts={"text_layer": "printed 1\n", "text_layer_verdict": "sound"}
            ),
            ReadPage(None, (400, 400), (400, 400), 72, text="first row\n\nsecond row", engine="pixtral"),
            ReadPage(columns, (400, 400), (400, 400), 72, text="left one left two\n\nright one right two"),
        ],
    )
    summary, _, out = export_pdf()
    pages = [page.get_text().split("\n")[:-1] for page in pymupdf.open(out / "own.pdf")]
    assert pages == [
        ["printed 0"],
        ["printed 1"],
        ["first row", "second row", "printed 2"],
        ["left one", "left two", "right one", "right two", "printed 3"],
    ]  # as it is read, not as it was found

    assert (summary.pages_unplaced, summary.has_failed) == (1, False)


def test_files_that_cannot_be_opened_again_are_told_and_stop_no_other(
    archive: Archive, tmp_path: Path, export_pdf: Callable[..., Any]
) -> None:
    page = ReadPage([[10, 10, 90, 30, 0.9, "tide"]], (400, 400), (400, 400), 72)
    for name in ("a-gone.pdf", "b-changed.pdf", "c-damaged.pdf", "d-short.pdf", "e-good.pdf"):
        document = pymupdf.open()
        document.new_page(width=400, height=400)
        document.save(tmp_path / name)
        if name == "c-damaged.pdf":
            (tmp_path / name).write_bytes(b"%PDF-1.7\n" + os.urandom(3000))
        put(archive, tmp_path / name, "pdf", [page] * (2 if name == "d-short.pdf" else 1))
    (tmp_path / "a-gone.pdf").unlink()
    (tmp_path / "b-changed.pdf").write_bytes((tmp_path / "e-good.pdf").read_bytes() + b"\n")
    summary, problems, out = export_pdf()
    assert [problem.partition(":")[0] for problem in problems] and len(problems) == 4
    for name, said in zip(
        ("a-gone", "b-changed", "c-damaged", "d-short"), ("gone", "changed", "", "page 2"), strict=True
    ):
        assert any(said in problem for problem in problems), (name, problems)
    assert (summary.files, summary.files_failed, summary.pages_bare, summary.has_failed) == (2, 3, 1, True)
    assert sorted(file.name for file in out.iterdir()) == ["d-short.pdf", "e-good.pdf"]  # and no half file


def test_a_child_that_is_too_slow_costs_its_own_file(archive: Archive, settings: Settings, tmp_path: Path) -> None:
    for name in ("a.pdf", "b.pdf"):
        document = pymupdf.open()
        document.new_page(width=400, height=400)
        document.save(tmp_path / name)
        put(archive, tmp_path / name, "pdf", [ReadPage([[10, 10, 90, 30, 0.9, "tide"]], (400, 400), (400, 400), 72)])
    at_once = settings.model_copy(update={"rasterize_seconds": 1e-6})
    problems: list[str] = []
    summary = export(archive.db, tmp_path / "out", "pdf", settings=at_once, problems=problems.append)
    assert (summary.files, summary.files_failed) == (0, 2)
    assert all("took longer than 1e-06 s" in problem for problem in problems) and not list((tmp_path / "out").iterdir())


def test_no_file_that_was_read_is_overwritten(archive: Archive, settings: Settings, tmp_path: Path) -> None:
    document = pymupdf.open()
    document.new_page(width=400, height=400)
    document.save(tmp_path / "a.pdf")
    before = (tmp_path / "a.pdf").read_bytes()
    Image.new("L", (400, 400), 255).save(tmp_path / "a.jpg")
    for name, kind in (("a.pdf", "pdf"), ("a.jpg", "jpeg")):
        put(archive, tmp_path / name, kind, [ReadPage([[10, 10, 90, 30, 0.9, "tide"]], (400, 400), (400, 400), 72)])
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    for out in (tmp_path, tmp_path / "link"):
        with pytest.raises(UsageError, match="was read, and would be overwritten"):
            export(archive.db, out, "pdf", settings=settings)
    assert (tmp_path / "a.pdf").read_bytes() == before
    assert not (tmp_path / "a.jpg.pdf").exists(), "of the file that comes before it"


def test_the_font_draws_nothing_and_is_as_wide_as_its_glyphs_numbers_say() -> None:
    font = TTFont(io.BytesIO(font_file()))
    for index, name in enumerate(font.getGlyphOrder()[1:], 1):
        assert font["hmtx"][name] == (50 * index, 0)
        glyph = font["glyf"][name]
        assert (glyph.xMin, glyph.yMin, glyph.xMax, glyph.yMax) == (0, -200, 50 * index, 800)
        points = list(glyph.coordinates)
        assert {(y + 200) * 50 * index - x * 1000 for x, y in points} == {0}  # on one line: no area
    assert (font["hhea"].ascent, font["hhea"].descent, font["head"].unitsPerEm) == (800, -200, 1000)
