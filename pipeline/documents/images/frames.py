"""Frames of an image file other than TIFF, decoded by Pillow, and what makes a page of a picture of any kind.

Runs only inside the sandboxed process.
"""

from __future__ import annotations

import io
import math
from contextlib import nullcontext, suppress
from dataclasses import dataclass

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from pipeline.documents.images.cut import decode_cut, ends_early, lenient, made_up_rows
from pipeline.documents.images.dots import dpi_of, stretch_of, turn_of
from pipeline.documents.images.flatten import WHITE, flatten, resampled_mode
from pipeline.documents.images.formats import formats_of
from pipeline.documents.images.mend_jpeg import mended, why_not_decoded
from pipeline.documents.images.second_decoder import KINDS, decode_by_mupdf, size_by_mupdf
from pipeline.documents.pages.drawn import Drawn, Limits, clean, is_white, translated, without_paths
from pipeline.documents.pages.print_size import MOST_LOOK_PIXELS, Look, look_at
from pipeline.documents.pages.size import BLANK_PIXELS, UNKNOWN_PIXELS, choose_size, largest, too_small
from pipeline.errors import DocumentRejected, PageFailed

_PLUGINS = (BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)
_WHY_NOT = {"avif": ends_early, "heic": ends_early, "jpeg": why_not_decoded}


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A decoded picture, upright and with square pixels, in a mode that can be resampled; and what is known of it."""

    picture: Image.Image
    dpi: float | None
    print_px: float | None  # font size of its small print


class ImageFrames:
    """An image file other than TIFF. Of an animated GIF, WebP or PNG and of several pictures in one JPEG file the first
    alone is a page, for the others mostly show it in motion, unless `all_frames` asks for them."""

    def __init__(self, path: str, kind: str, limits: Limits, detail: str = "auto") -> None:
        self._path, self._kind, self._limits, self._detail = path, kind, limits, detail
        self._notes: list[str] = []
        self._is_lenient = False
        Image.MAX_IMAGE_PIXELS = None  # counted below, against our own limit and before any pixel is decoded
        try:
            self._image = self._open()
            self._frames = self._count_frames()
        except DocumentRejected:
            raise
        except (UnidentifiedImageError, KeyError) as error:  # KeyError: a JPEG was none, and MPO has no plugin here
            fact = f"the {kind.upper()} image cannot be opened"
            reason = (kind in _WHY_NOT and _WHY_NOT[kind](path)) or f"no {kind.upper()} follows its first bytes"
            raise DocumentRejected(f"{fact}: {reason}", cause="damaged") from error
        except Exception as error:
            if kind in ("jxl", "webp") and not isinstance(error, MemoryError):  # their words speak of their own objects
                reason = ends_early(path) or "its picture is cut or damaged"
                reason = f"the {kind.upper()} image cannot be opened: {reason}"
                raise DocumentRejected(reason, cause="damaged") from error
            raise translated(error, DocumentRejected, f"the {kind.upper()} image cannot be opened") from error
        self.page_count = self._frames if limits.all_frames else 1
        if self.page_count == 1:  # else the one frame fails, not the document
            check_size(self._image.size, limits, DocumentRejected)

    def draw(self, page_index: int) -> Drawn:
        notes = list(self._notes)
        try:
            shrunk = self._decode(page_index, notes)
            image = flatten(shrunk.picture, notes)
            if self.page_count < self._frames:
                blank = ", and a blank one," if colour_of_picture(image) else ""
                notes.append(f"the first of {self._frames:,} frames{blank} is read; PAGEPACK_ALL_FRAMES=1 reads all")
            return finished(image, shrunk, notes, self._limits)
        except PageFailed:
            raise
        except Exception as error:  # Pillow's decoders raise whatever their parsing trips over
            raise translated(error, PageFailed, "the image cannot be decoded") from error

    def plain(self, page_index: int) -> tuple[Image.Image, Image.Transpose | None]:
        """A frame that is not decoded yet, strictly opened, and what stands it upright. Raises whatever Pillow does."""
        image = Image.open(self._path, formats=formats_of(self._kind))
        image.seek(page_index)
        check_size(image.size, self._limits, PageFailed)
        return image, turn_of(image, [])

    def decoded(self, page_index: int) -> Shrunk:
        """As it is drawn. Raises whatever Pillow does."""
        return self._decode(page_index, [])

    def _open(self) -> Image.Image:
        """Strictly, else leniently with a note of what is wrong beside the picture."""
        try:
            return Image.open(self._path, formats=formats_of(self._kind))
        except Exception as error:
            with lenient():
                try:
                    image = Image.open(self._path, formats=formats_of(self._kind))
                except Exception:
                    other = self._by_mupdf(DocumentRejected) or self._cut_webp() or self._mended_jpeg(self._notes)
                    if other is None:
                        raise error from None
                    if self._kind == "png":
                        self._notes.append("the PNG file is damaged at its beginning: its picture may be another one")
                    return other
            self._is_lenient = True
            part = f"a part of the {self._kind.upper()} file beside its picture"
            self._notes.append(f"{part} is damaged or too large, and is left out")
            return image

    def _by_mupdf(self, error: type[DocumentRejected] | type[PageFailed]) -> Image.Image | None:
        """The picture by the other decoder, where that may know more; None where it does not."""
        size = size_by_mupdf(self._path) if self._kind in KINDS else None
        if size is None:
            return None
        check_size(size, self._limits, error)
        try:
            return decode_by_mupdf(self._path)
        except MemoryError:
            raise
        except Exception:  # MuPDF's errors have no common root; Pillow's is told
            return None

    def _cut_webp(self) -> Image.Image | None:
        """What there is of a WebP, which is refused when it is opened, not when it is decoded."""
        if self._kind != "webp":
            return None
        cut = decode_cut(self._path, formats_of(self._kind), 0, self._check_size)
        if cut is not None:
            self._notes.append(cut.says)
        return cut.image if cut is not None else None

    def _mended_jpeg(self, notes: list[str]) -> Image.Image | None:
        """A JPEG with what is broken before its picture left out, opened; None where it is none, or all is sound."""
        found = mended(self._path) if self._kind == "jpeg" else None
        if found is None:
            return None
        with lenient():
            image = Image.open(io.BytesIO(found[0]), formats=formats_of(self._kind))
        notes.append(found[1])
        self._is_lenient = True
        return image

    def _check_size(self, size: tuple[int, int]) -> None:
        check_size(size, self._limits, DocumentRejected)

    def _count_frames(self) -> int:
        try:
            count = int(getattr(self._image, "n_frames", 1))
        except Exception as error:
            self._notes.append(f"the frames after the first cannot be read: {error}")
            count = 1
        finally:
            self._image.seek(0)
        types = [
            entry.get("Attribute", {}).get("MPType", "")
            for entry in self._image.__dict__.get("mpinfo", {}).get(0xB002, [])
        ]
        return count - sum("Thumbnail" in name for name in types)

    def _decode(self, page_index: int, notes: list[str]) -> Shrunk:
        """A frame, upright and no larger than asked for; a damaged one as far as it goes."""
        try:
            with lenient() if self._is_lenient else nullcontext():
                self._image.seek(page_index)
                check_size(self._image.size, self._limits, PageFailed)
                return shrink(self._image, self._detail, self._limits, notes)
        except (PageFailed, MemoryError):
            raise
        except Exception as error:
            if (whole := self._mended_jpeg(notes)) is not None:
                return shrink(whole, self._detail, self._limits, notes)
            cut = None
            with suppress(Exception):  # of two errors the first is told
                cut = decode_cut(self._path, formats_of(self._kind), page_index, self._check_size)
            if cut is None:
                other = self._by_mupdf(PageFailed)
                if other is not None:
                    return shrink(other, self._detail, self._limits, notes)
                if self._kind in _WHY_NOT and (why := _WHY_NOT[self._kind](self._path)):
                    raise PageFailed(f"the image cannot be decoded: {why}", cause="damaged") from error
                raise
            notes.append(cut.says)
            return shrink(cut.image, self._detail, self._limits, notes, (cut.first_row, cut.last_row))


def check_size(size: tuple[int, int], limits: Limits, error: type[DocumentRejected] | type[PageFailed]) -> None:
    """Raises `error` where a picture has no area or more pixels than may be decoded."""
    width, height = size
    fact = f"the image measures {width:,} × {height:,} px"
    if width < 1 or height < 1:
        raise error(f"{fact}: it has no area", cause="damaged")
    if width * height > limits.max_image_pixels:
        over = f"over the limit of {limits.max_image_pixels:,} pixels; raise PAGEPACK_MAX_IMAGE_PIXELS"
        raise error(f"{fact}, {over} or shrink it", cause="too-large")


def finished(image: Image.Image, shrunk: Shrunk, notes: list[str], limits: Limits) -> Drawn:
    """A picture in RGB or L, made of one that was decoded, as a page.

    Raises:
        PageFailed: it is one colour, and no blank paper.
    """
    colour = colour_of_picture(image)
    if colour is not None and not is_white(colour):
        shown = "#" + "".join(f"{value:02x}" for value in colour)
        raise PageFailed(f"the picture is one colour, {shown}: there is nothing to read", cause="damaged")
    image = pad(image, limits)
    warnings = without_paths(clean("\n".join(notes)))
    pixels = image.tobytes()
    return Drawn(image.mode, *image.size, pixels, None, warnings, dpi=shrunk.dpi, print_px=shrunk.print_px)


def shrink(
    image: Image.Image, detail: str, limits: Limits, notes: list[str], decoded: tuple[float, float] = (0.0, 1.0)
) -> Shrunk:
    """Decode an image, no larger than its print needs.

    JPEG decodes at 1/2, 1/4 or 1/8 where that is still twice the size wanted, or all that the bounds allow;
    `reducing_gap` does the like for others. `decoded` are the shares of the height between which there is a picture:
    the rest is drawn white.
    """
    turn = turn_of(image, notes)
    wide, tall = stretch_of(image)
    area = image.width * image.height
    most = choose_size(image.width * wide, image.height * tall, detail, limits, print_size=None, enlarges=False)
    if detail == "auto":
        most = largest(image.width * wide, image.height * tall, limits)
    spare = 1 if detail == "auto" else 2
    image.draft(None, (math.ceil(spare * most.width_px / wide), math.ceil(spare * most.height_px / tall)))  # its mode
    image.load()
    decoded = decoded if decoded != (0.0, 1.0) else (0.0, made_up_rows(image, notes))
    plain = resampled_mode(image)
    if decoded != (0.0, 1.0):
        plain = plain.copy()
        for first, last in ((0.0, decoded[0]), (decoded[1], 1.0)):
            plain.paste(WHITE[plain.mode], (0, round(plain.height * first), plain.width, round(plain.height * last)))
    sides = plain.width * wide, plain.height * tall
    look = _look_at(plain, sides)
    size = choose_size(
        *sides,
        detail,
        limits,
        print_size=look.size,
        least_pixels=UNKNOWN_PIXELS if look.has_ink else BLANK_PIXELS,
        enlarges=False,
    )
    if plain.size != (size.width_px, size.height_px):
        plain = plain.resize((size.width_px, size.height_px), Image.Resampling.LANCZOS, reducing_gap=2.0)
    print_px = None if look.size is None else look.size * size.scale
    notes += filter(None, [too_small(print_px, size, *sides, detail, limits)])
    dpi = dpi_of(image) * math.sqrt(plain.width * plain.height / area)
    return Shrunk(plain if turn is None else plain.transpose(turn), dpi or None, print_px)


def _look_at(plain: Image.Image, sides: tuple[float, float]) -> Look:
    """`look_at`, of a picture of any mode that has these sides once its pixels are square."""
    factor = math.ceil(math.sqrt(sides[0] * sides[1] / MOST_LOOK_PIXELS))
    seen = flatten(plain.reduce(factor) if factor > 1 else plain, [])
    square = (max(round(sides[0] / factor), 1), max(round(sides[1] / factor), 1))
    grey = seen if seen.mode == "L" else seen.convert("L")
    if abs(square[0] * grey.height / (square[1] * grey.width) - 1) > 0.05:
        grey = grey.resize(square, Image.Resampling.BILINEAR)
    look = look_at(grey)
    return look if look.size is None else look._replace(size=look.size * factor)


def colour_of_picture(image: Image.Image) -> tuple[int, ...] | None:
    """The one colour of a picture in RGB or L, or None where it has several."""
    if image.getpixel((0, 0)) != image.getpixel((image.width // 2, image.height // 2)):
        return None  # most pictures, without looking at every pixel
    histograms = [band.histogram() for band in image.split()]
    if any(max(histogram) < image.width * image.height for histogram in histograms):
        return None
    colour = tuple(histogram.index(max(histogram)) for histogram in histograms)
    return colour if len(colour) == 3 else colour * 3


def pad(image: Image.Image, limits: Limits) -> Image.Image:
    """White on the right and at the bottom, up to multiples of the model's square."""
    size = (limits.padded(image.width), limits.padded(image.height))
    if size == image.size:
        return image
    canvas = Image.new(image.mode, size, "white")
    canvas.paste(image, (0, 0))
    return canvas
