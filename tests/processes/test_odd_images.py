"""Image files that are odd and readable: damaged beside their picture, cut, animated, transparent, of oblong pixels."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.documents.images.formats import formats_of
from pipeline.documents.pages.drawn import Drawn, Limits
from pipeline.documents.render import open_document
from pipeline.errors import DocumentRejected, PageFailed
from tests import odd_images
from tests.odd_images import lines_of_text

LIMITS = Limits(max_side_px=1024, max_pages=100, max_page_pt=7200, max_image_pixels=10**7)
ALL_FRAMES = Limits(1024, 100, 7200, 10**7, all_frames=True)


def drawn(path: Path, limits: Limits = LIMITS) -> list[Drawn]:
    kind = {"jpg": "jpeg", "tif": "tiff"}.get(path.suffix[1:], path.suffix[1:])
    document = open_document(str(path), kind, limits)
    return [document.draw(page_index) for page_index in range(document.page_count)]


def pixels_of(page: Drawn) -> NDArray[np.uint8]:
    bands = {"L": 1, "RGB": 3}[page.mode]
    return np.frombuffer(page.pixels, np.uint8).reshape(page.height_px, page.width_px, bands)


def ink_rows(page: Drawn) -> NDArray[np.bool_]:
    """Which rows hold something dark."""
    return (pixels_of(page) < 128).any(axis=(1, 2))


# Damaged beside the picture


@pytest.mark.parametrize(
    "chunk",
    [
        odd_images.png_chunk(b"tEXt", b"Comment\0scanned", crc=1),
        odd_images.png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**21))),
        odd_images.png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(2**21))),
        odd_images.png_chunk(b"iCCP", b"profile\0\0no deflate"),
        odd_images.png_chunk(b"eXIf", b"no EXIF at all"),
        odd_images.png_chunk(b"eXIf", b"MM\0*\0\0\xff\xff"),
        odd_images.png_chunk(b"gAMA", b"\0"),
    ],
    ids=["bad CRC", "large zTXt", "large iCCP", "broken iCCP", "no EXIF", "broken EXIF", "short gAMA"],
)
def test_a_png_is_read_whatever_lies_beside_its_picture(tmp_path: Path, chunk: bytes) -> None:
    sound, path = tmp_path / "sound.png", tmp_path / "a.png"
    odd_images.png_with(sound, lines_of_text())
    [page] = drawn(odd_images.png_with(path, lines_of_text(), chunk))
    assert bytes(page.pixels) == bytes(drawn(sound)[0].pixels)
    assert drawn(sound)[0].warnings == ""


def test_what_was_left_out_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    chunk = odd_images.png_chunk(b"tEXt", b"Comment\0scanned", crc=1)
    assert "beside its picture" in drawn(odd_images.png_with(path, lines_of_text(), chunk))[0].warnings
    chunk = odd_images.png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**21)))
    assert "too large" in drawn(odd_images.png_with(path, lines_of_text(), chunk))[0].warnings
    for exif in (b"no EXIF at all", b"MM\0*\0\0\xff\xff"):  # the second is only warned of by Pillow
        chunk = odd_images.png_chunk(b"eXIf", exif)
        assert "EXIF" in drawn(odd_images.png_with(path, lines_of_text(), chunk))[0].warnings


# Cut in the picture


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 90}),
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("GIF", {"interlace": 0}),
        ("WEBP", {"quality": 80}),
        ("WEBP", {"lossless": True, "method": 0}),
    ],
)
def test_a_cut_picture_is_read_as_far_as_it_goes(tmp_path: Path, kind: str, options: dict[str, object]) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    data = odd_images.encoded(lines_of_text(320, 640), kind, **options)
    if kind == "TIFF":  # its directory, which Pillow writes last, has to survive
        data = odd_images.directory_first(data)
    [page] = drawn(odd_images.cut(path, data, 0.6))
    rows, height = ink_rows(page)[:640], 640
    assert "EXIF" not in page.warnings, "it has none"
    missing = float(re.search(r"([\d.]+) % of the picture", page.warnings)[1]) / 100  # type: ignore[index]
    assert 0.2 < missing < 0.8
    there = rows[: int(height * (1 - missing))] if kind != "BMP" else rows[int(height * missing) :]
    gone = rows[int(height * (1 - missing)) + 8 :] if kind != "BMP" else rows[: int(height * missing) - 8]
    assert there.mean() > 0.3 and not gone.any()


def test_what_a_decoder_passes_over_is_said(tmp_path: Path) -> None:
    path, picture = tmp_path / "a.jpg", lines_of_text(320, 640)
    whole = odd_images.encoded(picture, "JPEG", quality=90)
    for ended in (whole[: len(whole) // 2] + b"\xff\xd9", whole[: len(whole) // 2] + b"\xff\xd9" + whole[-99:]):
        path.write_bytes(ended)  # an end mark too early: the decoder makes up the rest in grey
        [page] = drawn(path)
        assert re.search("lowest [3-6]. % of the picture is plain grey", page.warnings), page.warnings
        assert ink_rows(page)[:250].mean() > 0.3 and not ink_rows(page)[450:640].any()
    path, whole = tmp_path / "a.png", odd_images.encoded(picture, "PNG")
    at = whole.index(b"IDAT") + (len(whole) - whole.index(b"IDAT")) // 2
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
    assert "of the picture" in drawn(path)[0].warnings
    path.write_bytes(whole[:29] + bytes([whole[29] ^ 1]) + whole[30:])  # the sum of its size
    [page] = drawn(path)
    assert "damaged at its beginning" in page.warnings and ink_rows(page)[:640].mean() > 0.3


def test_a_jpeg_without_its_end_mark_is_whole(tmp_path: Path) -> None:
    image = lines_of_text(320, 640)
    whole, path = tmp_path / "whole.jpg", tmp_path / "a.jpg"
    whole.write_bytes(odd_images.encoded(image, "JPEG"))
    path.write_bytes(whole.read_bytes()[:-2])
    [page], [sound] = drawn(path), drawn(whole)
    assert bytes(page.pixels) == bytes(sound.pixels) and "lacks its end" in page.warnings and not sound.warnings


def test_a_cut_progressive_jpeg_is_coarse_and_no_black_page(tmp_path: Path) -> None:
    data = odd_images.encoded(lines_of_text(320, 640), "JPEG", progressive=True)
    [page] = drawn(odd_images.cut(tmp_path / "a.jpg", data, 0.7))
    assert "coarse" in page.warnings and ink_rows(page)[:640].mean() > 0.3


def test_a_cut_animation_shows_its_first_frame(tmp_path: Path) -> None:
    first = lines_of_text().convert("RGBA")
    first.putalpha(first.convert("L").point(lambda value: 255 - value // 2))
    data = odd_images.encoded(first, "WEBP", save_all=True, append_images=[first.rotate(180)], method=0)
    [page] = drawn(odd_images.cut(tmp_path / "a.webp", data, 0.9))
    assert "first frame of an animation" in page.warnings and len(np.unique(pixels_of(page))) > 9


def test_a_cut_webp_is_bounded_before_it_is_decoded(tmp_path: Path) -> None:
    data = odd_images.encoded(lines_of_text(), "WEBP")
    with pytest.raises(DocumentRejected, match="320 × 240 px, over the limit"):
        drawn(odd_images.cut(tmp_path / "a.webp", data, 0.5), Limits(1024, 9, 7200, 320 * 240 - 1))


@pytest.mark.parametrize(("options", "share"), [({}, 0.5), ({"tile_size": (160, 120), "irreversible": False}, 0.2)])
def test_a_cut_jpeg_2000_is_coarse_or_lacks_tiles(tmp_path: Path, options: dict[str, object], share: float) -> None:
    data = odd_images.encoded(lines_of_text(), "JPEG2000", **options)
    [sound] = drawn(odd_images.cut(tmp_path / "a.jp2", data, 1))
    [page] = drawn(odd_images.cut(tmp_path / "a.jp2", data, share))
    assert "coarse" in page.warnings and abs(pixels_of(page).mean() - pixels_of(sound).mean()) < 40
    if options:  # the last tiles are white, and not black
        assert ink_rows(page)[:120].any() and not ink_rows(page)[130:].any()


def test_a_cut_interlaced_gif_is_coarse_and_not_black(tmp_path: Path) -> None:
    [sound], [page] = (
        drawn(odd_images.cut(tmp_path / "a.gif", odd_images.encoded(lines_of_text(), "GIF", interlace=1), share))
        for share in (1, 0.7)
    )
    assert "coarse" in page.warnings
    assert (pixels_of(page) < 128).mean() < 1.3 * (pixels_of(sound) < 128).mean()


def test_a_cut_heic_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    [sound] = drawn(odd_images.cut(tmp_path / "a.heic", odd_images.HEIC, 1))
    first, second = drawn(tmp_path / "a.heic", ALL_FRAMES)
    assert "the first of 2 frames is read" in sound.warnings and bytes(first.pixels) == bytes(sound.pixels)
    assert abs(pixels_of(second)[::-1, ::-1].astype(int) - pixels_of(first)).mean() < 20  # of 255; both lose much
    [page] = drawn(odd_images.cut(tmp_path / "a.heic", odd_images.HEIC, 0.75))
    assert "ends early" in page.warnings and ink_rows(page)[:48].any()
    with pytest.raises((DocumentRejected, PageFailed), match=r"ends early, after [\d,]+ of [\d,]+ bytes"):
        drawn(odd_images.cut(tmp_path / "a.heic", odd_images.HEIC, 0.3))


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("AVIF", {"speed": 10}, r"ends early, after [\d,]+ of [\d,]+ bytes"),
        ("JXL", {"effort": 1}, "cut or damaged"),
        ("TIFF", {"compression": "tiff_lzw"}, r"ends early: its pictures are described at byte [\d,]+"),
    ],
)
def test_a_cut_picture_that_no_decoder_reads_says_so(
    tmp_path: Path, kind: str, options: dict[str, object], reason: str
) -> None:
    formats_of("jxl")
    data = odd_images.encoded(lines_of_text().convert("RGB"), kind, **options)
    with pytest.raises(DocumentRejected, match=reason) as caught:
        drawn(odd_images.cut(tmp_path / f"a.{kind.lower()}", data, 0.8))
    assert caught.value.cause == "damaged" and "first bytes" not in str(caught.value)


def test_a_picture_of_which_nothing_is_there_fails(tmp_path: Path) -> None:
    for kind in ("JPEG", "PNG", "GIF", "WEBP"):
        data = odd_images.encoded(lines_of_text().convert("RGB"), kind)
        begin = data.index(b"IDAT") + 6 if kind == "PNG" else 700 if kind == "JPEG" else 60
        (tmp_path / f"a.{kind.lower()}").write_bytes(data[:begin])
        with pytest.raises((DocumentRejected, PageFailed)) as caught:
            drawn(tmp_path / f"a.{kind.lower()}")
        assert caught.value.cause == "damaged"


def test_a_bmp_that_pillow_refuses_is_read(tmp_path: Path) -> None:
    """Two bits a pixel, as Windows CE writes them."""
    shades = np.asarray(lines_of_text(64, 40).resize((64, 40))) // 64
    rows = b"".join(bytes(row[0::4] << 6 | row[1::4] << 4 | row[2::4] << 2 | row[3::4]) for row in shades[::-1])
    palette = b"".join(bytes((shade, shade, shade, 0)) for shade in (0, 85, 170, 255))
    head = struct.pack("<IiiHHIIiiII", 40, 64, 40, 1, 2, 0, len(rows), 0, 0, 4, 4)
    begin = 14 + len(head) + len(palette)
    path = tmp_path / "a.bmp"
    path.write_bytes(b"BM" + struct.pack("<IHHI", begin + len(rows), 0, 0, begin) + head + palette + rows)
    with pytest.raises(OSError, match="depth"):
        Image.open(path)
    [page] = drawn(path)
    assert (pixels_of(page)[:40, :64, 0] // 64 == shades).all()


# A JPEG that is broken before its picture


def jpeg() -> bytes:
    return odd_images.encoded(lines_of_text(), "JPEG", quality=90)


def without_height(data: bytes) -> bytes:
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + b"\0\0" + data[at + 2 :]


def exif_too_long(data: bytes) -> bytes:
    """Its length leads into the picture, and it has a thumbnail with tables of its own."""
    thumbnail = odd_images.encoded(lines_of_text(40, 40), "JPEG")
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\0" + thumbnail
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 999) + exif + data[2:]


BROKEN = {
    "two beginnings": lambda data: b"\xff\xd8" + data,
    "begun anew": lambda data: data[:20] + data,
    "a segment past the end": lambda data: data[:2] + b"\xff\xe1\xea\x60Exif\0\0junk" + data[2:],
    "a segment into the next": lambda data: data[:2] + b"\xff\xe1\0\x28Exif\0\0junk" + data[2:],
    "a comment past the end": lambda data: data[:2] + b"\xff\xfe\xff\xf0scanned" + data[2:],
    "EXIF into the picture": exif_too_long,
    "the height behind the scan": lambda data: without_height(data)[:-2] + b"\xff\xdc\0\x04\0\xf0\xff\xd9",
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_a_jpeg_that_is_broken_before_its_picture_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "sound.jpg").write_bytes(jpeg())
    (tmp_path / "a.jpg").write_bytes(BROKEN[name](jpeg()))
    [sound], [page] = drawn(tmp_path / "sound.jpg"), drawn(tmp_path / "a.jpg")
    assert bytes(page.pixels) == bytes(sound.pixels) and not sound.warnings
    assert "damaged before its picture" in page.warnings
    assert ("nobody knows" in page.warnings) == (b"Exif" in BROKEN[name](jpeg()))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (without_height(jpeg()), "measures 320 × 0 px"),
        (jpeg().replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc0\0\x0b\x0c"), "12 bits a sample"),
        (jpeg().replace(b"\xff\xc0", b"\xff\xc3"), "packed without loss"),
    ],
    ids=["no height", "12 bits", "lossless"],
)
def test_a_jpeg_that_no_decoder_reads_says_why(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises((DocumentRejected, PageFailed), match=reason) as caught:
        drawn(tmp_path / "a.jpg")
    assert caught.value.cause == "damaged"


# One colour, transparency


def test_a_picture_of_one_colour_fails_and_blank_paper_does_not(tmp_path: Path) -> None:
    for shade in ("black", "grey", "navy"):
        Image.new("RGB", (60, 40), shade).save(tmp_path / "a.png")
        with pytest.raises(PageFailed, match="one colour, #"):
            drawn(tmp_path / "a.png")
    for shade in ("white", (250, 248, 245)):
        Image.new("RGB", (60, 40), shade).save(tmp_path / "b.png")
        assert drawn(tmp_path / "b.png")[0].warnings == ""


@pytest.mark.parametrize("inks", [("white",), ("white", "black"), ((230, 230, 160),)])
def test_light_print_on_a_transparent_picture_is_legible(tmp_path: Path, inks: tuple[object, ...]) -> None:
    image = Image.new("RGBA", (320, 240), (255, 255, 255, 0))
    for index, ink in enumerate(inks):
        print_ = lines_of_text(160, 240, 255, 0)
        image.paste(ink, (160 * index, 0, 160 * index + 160, 240), print_)  # type: ignore[arg-type]
    image.save(tmp_path / "a.png")
    [page] = drawn(tmp_path / "a.png")
    assert "transparent" in page.warnings
    for index in range(len(inks)):
        half = pixels_of(page)[:240, 160 * index : 160 * index + 160, 0].astype(int)
        background = int(np.median(half))
        assert np.abs(half - background).max() > 100


def test_dark_print_on_a_transparent_picture_lies_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (320, 240), (0, 0, 0, 0))
    image.paste("black", (0, 0), lines_of_text(320, 240, 255, 0))
    image.save(tmp_path / "a.png")
    [page] = drawn(tmp_path / "a.png")
    assert page.warnings == "" and np.median(pixels_of(page)) == 255


def test_a_picture_that_is_transparent_throughout_is_drawn(tmp_path: Path) -> None:
    image = lines_of_text(320, 240).convert("RGBA")
    image.putalpha(0)
    image.save(tmp_path / "a.png")
    [page] = drawn(tmp_path / "a.png")
    assert "throughout" in page.warnings and ink_rows(page)[:240].mean() > 0.3
    Image.new("RGBA", (320, 240), (0, 0, 0, 0)).save(tmp_path / "b.png")
    assert drawn(tmp_path / "b.png")[0].warnings == "", "nothing at all is blank paper"


# Frames and pixels


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_an_animation_says_how_many_frames_it_has_and_gives_all_on_request(tmp_path: Path, kind: str) -> None:
    frames = [lines_of_text(320, height).resize((320, 240)) for height in (240, 200, 160)]
    path = tmp_path / f"a.{kind}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    [page] = drawn(path)
    assert "the first of 3 frames is read" in page.warnings
    pages = drawn(path, ALL_FRAMES)
    assert len(pages) == 3 and len({bytes(page.pixels) for page in pages}) == 3
    assert not any(page.warnings for page in pages)
    blank = Image.new("L", (320, 240), 255)
    blank.save(path, save_all=True, append_images=frames)
    assert "and a blank one" in drawn(path)[0].warnings


def test_several_pictures_in_one_jpeg(tmp_path: Path) -> None:
    frames = [lines_of_text(320, height).resize((320, 240)) for height in (240, 200)]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
    [page] = drawn(tmp_path / "a.jpg")
    assert "the first of 2 frames" in page.warnings
    assert len(drawn(tmp_path / "a.jpg", ALL_FRAMES)) == 2


@pytest.mark.parametrize(
    ("dpi", "size"),
    [((204, 98), (400, 416)), ((98, 204), (833, 200)), ((300, 300), (400, 200)), ((72, 1), (400, 200))],
)
def test_oblong_pixels_are_drawn_square(tmp_path: Path, dpi: tuple[int, int], size: tuple[int, int]) -> None:
    for suffix in ("tif", "png", "jpg"):
        lines_of_text(400, 200).convert("1" if suffix == "tif" else "L").save(tmp_path / f"a.{suffix}", dpi=dpi)
        [page] = drawn(tmp_path / f"a.{suffix}")
        assert abs(page.width_px - size[0]) <= 16 and abs(page.height_px - size[1]) <= 16
