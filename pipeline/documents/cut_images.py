"""Image files that a strict decoder refuses: damaged beside their picture, or cut in the middle of it.

Pillow's switch `LOAD_TRUNCATED_IMAGES` does two things: it passes over wrong checksums and too large texts of chunks
that are no part of the picture, and it keeps the rows that were decoded before the data ended. Rows that were not are
left at zero, so what is missing can be measured:

    a scan of 1,100 rows, cut after 97 % of its bytes:  rows 1,072 to 1,099 are zero  →  2.5 % missing, drawn white

Pillow gives a JPEG that ends early its end mark back: a progressive one comes out coarse, and of another all rows are
there, the missing ones in grey. What was really decoded is then measured without that mark.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from PIL import Image, ImageFile, PngImagePlugin

_JPEG_BLOCK_PX = 16  # rows that a JPEG decodes at once, at most
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


def decode_cut(path: str, formats: tuple[str, ...], page_index: int) -> Cut | None:
    """A picture that ends early, as far as it goes; None where nothing of it can be decoded.

    Raises what Pillow raises.
    """
    with lenient():
        image = Image.open(path, formats=formats)
        image.seek(page_index)
        height, is_jpeg, is_interlaced = image.height, image.format in ("JPEG", "MPO"), _is_interlaced(image)
        image.load()
    if is_jpeg and image.info.get("progressive"):
        return Cut(image, 0, 1, "the image file ends early: its picture is coarse, and parts may be missing")
    first, last = _decoded_rows_of_jpeg(path, formats) if is_jpeg and page_index == 0 else _decoded_rows(image)
    if first >= last:
        return None
    if is_interlaced:
        return Cut(image, 0, 1, "the image file ends early: its picture is coarse, and rows of it are missing")
    if image.format == "BMP":  # begins with its lowest row
        return Cut(image, first / height, 1, _says(first / height, "upper"))
    if is_jpeg:
        last = min(last + _JPEG_BLOCK_PX, height)  # these wait for bits, and the end mark brings them
        if last == height:
            says = f"the image file lacks its end: at most the last {_JPEG_BLOCK_PX} rows are missing"
            return Cut(image, 0, 1, says)
    return Cut(image, 0, last / height, _says(1 - last / height, "lower"))


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
