"""Image files that a strict decoder refuses: damaged beside their picture, or cut in the middle of it.

Pillow's switch `LOAD_TRUNCATED_IMAGES` does two things: it passes over wrong checksums and too large texts of chunks
that are no part of the picture, and it keeps the rows that were decoded before the data ended. Rows that were not are
left at zero, so what is missing can be measured:

    a scan of 1,100 rows, cut after 97 % of its bytes:  rows 1,072 to 1,099 are zero  →  2.5 % missing, drawn white

Pillow gives a JPEG that ends early its end mark back: a progressive one comes out coarse, and of another all rows are
there, the missing ones in grey. What was really decoded is then measured without that mark.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops, ImageFile, PngImagePlugin

from pipeline.documents.images.cut_jp2 import made_whole
from pipeline.documents.images.cut_webp import decode_cut_webp
from pipeline.documents.images.flatten import WHITE

_JPEG_BLOCK_PX = 16  # rows that a JPEG decodes at once, at most
_MADE_UP, _LEAST_MADE_UP = range(127, 130), 0.01  # mid-grey; of the height
_COARSE = "the image file ends early: its picture is coarse, and parts may be missing"
_MOST_MISSING_BYTES = 1 << 28  # a length beyond it is a mistake
_BOX_BYTES = 8  # a box's length and kind
_MAX_TEXT_MEMORY_BYTES = 2**30  # of all texts in a PNG together, in the lenient try; the process has its own limit


@contextmanager
def lenient() -> Iterator[None]:
    """Let Pillow read what it can of a damaged file; the process that decodes has one thread."""
    strict, memory = ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_MEMORY
    ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_MEMORY = True, _MAX_TEXT_MEMORY_BYTES
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_MEMORY = strict, memory


@dataclass(frozen=True)
class Cut:
    """What was decoded of a damaged image."""

    image: Image.Image  # loaded
    first_row: float  # as a share of the height: rows above and below were not decoded
    last_row: float
    says: str


def decode_cut(
    path: str, formats: tuple[str, ...], page_index: int, check_size: Callable[[tuple[int, int]], None]
) -> Cut | None:
    """A picture that ends early, as far as it goes; None where nothing of it can be decoded.

    Raises what Pillow raises, and what `check_size` does for a file that Pillow did not open.
    """
    if "WEBP" in formats:
        return _cut_webp(path, check_size) if page_index == 0 else None
    if "HEIF" in formats:
        return _cut_heif(path, formats, page_index)
    if "JPEG2000" in formats:
        with suppress(Exception):  # whole tiles are better than a coarse picture
            if cut := _decode_cut(path, formats, page_index):
                return cut
        return _cut_jp2(path, formats)
    return _decode_cut(path, formats, page_index)


def _cut_webp(path: str, check_size: Callable[[tuple[int, int]], None]) -> Cut | None:
    found = decode_cut_webp(path, check_size)
    if found is None:
        return None
    image, rows, is_of_animation = found
    says = _says(1 - rows / image.height, "lower")
    if is_of_animation:
        says += "; it is the first frame of an animation"
    return Cut(image, 0, rows / image.height, says)


def _cut_heif(path: str, formats: tuple[str, ...], page_index: int) -> Cut | None:
    """With zeros where its data end, which are no picture, and let its decoder go as far as it comes."""
    size, stated = _sizes(path)
    if not 0 < stated - size <= _MOST_MISSING_BYTES:
        return None
    image = Image.open(io.BytesIO(Path(path).read_bytes() + bytes(stated - size)), formats=formats)
    image.seek(page_index)
    image.load()
    return Cut(image, 0, 1, _COARSE)


def _cut_jp2(path: str, formats: tuple[str, ...]) -> Cut | None:
    whole = made_whole(Path(path).read_bytes())
    if whole is None:
        return None
    with lenient():
        image = Image.open(io.BytesIO(whole), formats=formats)
        image.load()
    if (box := image.im.getbbox(False)) is None:
        return None
    if box != (0, 0, *image.size):  # tiles that are missing are zero
        canvas = Image.new(image.mode, image.size, WHITE.get(image.mode, 0))
        canvas.paste(image.crop(box), box)
        return Cut(canvas, 0, 1, _COARSE)
    return Cut(image, 0, 1, _COARSE)


def _decode_cut(path: str, formats: tuple[str, ...], page_index: int) -> Cut | None:
    with lenient():
        image = Image.open(path, formats=formats)
        image.seek(page_index)
        height, is_jpeg, is_interlaced = image.height, image.format in ("JPEG", "MPO"), _is_interlaced(image)
        image.load()
    if is_jpeg and image.info.get("progressive"):
        return Cut(image, 0, 1, _COARSE)
    first, last = _decoded_rows_of_jpeg(path, formats) if is_jpeg and page_index == 0 else _decoded_rows(image)
    if first >= last:
        return None
    if is_interlaced:
        if image.format == "GIF":
            _fill_rows(image)
        return Cut(image, 0, 1, "the image file ends early: its picture is coarse, and rows of it are missing")
    if image.format == "BMP":  # begins with its lowest row
        return Cut(image, first / height, 1, _says(first / height, "upper"))
    if is_jpeg:
        last = min(last + _JPEG_BLOCK_PX, height)  # these wait for bits, and the end mark brings them
        if last == height:
            says = f"the image file lacks its end: at most the last {_JPEG_BLOCK_PX} rows are missing"
            return Cut(image, 0, 1, says)
    return Cut(image, 0, last / height, _says(1 - last / height, "lower"))


def made_up_rows(image: Image.Image, notes: list[str]) -> float:
    """From which share of its height on a decoded JPEG is grey; 1 where it is not. Where its end mark or broken data
    come too early, the decoder makes up what is missing so, without a word."""
    if image.format not in ("JPEG", "MPO") or image.mode not in ("L", "RGB", "CMYK"):
        return 1.0
    colour = image.getpixel((0, image.height - 1))
    bands = colour if isinstance(colour, tuple) else (colour,)
    if not all(value in _MADE_UP for value in bands):
        return 1.0
    grey = Image.new(image.mode, image.size, colour)
    box = ImageChops.difference(image, grey).getbbox()
    share = box[3] / image.height if box is not None else 1.0
    if 1 - share < _LEAST_MADE_UP:
        return 1.0
    shown = f"the lowest {(1 - share) * 100:.0f} % of the picture is plain grey"
    notes.append(f"{shown}: it may be missing, and is drawn white")
    return share


def ends_early(path: str) -> str:
    """Of a file in boxes (AVIF, HEIC, JPEG XL) or a WebP that is shorter than these say: a reason; else nothing."""
    size, stated = _sizes(path)
    return f"the file ends early, after {size:,} of {stated:,} bytes or more" if stated > size else ""


def _sizes(path: str) -> tuple[int, int]:
    """How many bytes there are, and how many there should be, as far as its boxes tell; 0 where they do not."""
    with open(path, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        at = 0
        file.seek(0)
        if (head := file.read(8))[:4] == b"RIFF":
            return size, int.from_bytes(head[4:], "little") + len(head) if size > 16 else 0
        while at + _BOX_BYTES <= size:
            file.seek(at)
            head = file.read(2 * _BOX_BYTES)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if not kind.isalnum() or (length and length < _BOX_BYTES):
                break
            at = at + length if length else size
        else:
            return size, at if at >= size else at + _BOX_BYTES
    return size, 0


def _says(missing: float, where: str) -> str:
    if missing <= 0:
        return "the image file is damaged; all rows of its picture were decoded"
    share = f"{missing * 100:.0f} %" if missing >= 0.095 else f"{max(missing * 100, 0.1):.1f} %"
    return f"the image file ends early: {share} of the picture, its {where} part, is missing"


def _is_interlaced(image: Image.Image) -> bool:
    if image.format == "GIF":
        tiles = getattr(image, "tile", [])
        return bool(tiles and isinstance(tiles[0].args, tuple) and tiles[0].args[1])
    return bool(image.info.get("interlace"))


def _fill_rows(image: Image.Image) -> None:
    """Give an interlaced GIF's rows that are missing, and have the first colour, what stands above them."""
    height = image.height
    order = [*range(0, height, 8), *range(4, height, 8), *range(2, height, 4), *range(1, height, 2)]
    rows = (image.im.crop((0, y, image.width, y + 1)).getbbox(False) for y in reversed(order))
    missing = set(order[height - next((i for i, box in enumerate(rows) if box), height) :])
    above = 0
    for y in range(height):
        if y in missing:
            image.paste(image.crop((0, above, image.width, above + 1)), (0, y))
        else:
            above = y


def _decoded_rows(image: Image.Image) -> tuple[int, int]:
    """The first row that is not zero, and the one after the last."""
    box = image.im.getbbox(False)  # of the pixels as they are: Image.getbbox would load what a parser left unfinished
    return (box[1], box[3]) if box is not None else (0, 0)


def _decoded_rows_of_jpeg(path: str, formats: tuple[str, ...]) -> tuple[int, int]:
    """Decoded once more without an end mark, with which the decoder would make up all rows that are missing."""
    with lenient(), Image.open(path, formats=formats) as image:
        assert isinstance(image, ImageFile.ImageFile) and image.fp is not None
        image.load_read = image.fp.read  # type: ignore[attr-defined]  # Pillow's own puts the mark there
        with suppress(OSError):
            image.load()
        return _decoded_rows(image)
