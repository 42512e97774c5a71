"""A page or an image frame drawn at the size that the model reads. Runs only inside the sandboxed process.

Size: the long side is at most `max_side_px`, both sides are multiples of 16 (the vision encoder's patch), so that the
model's own preprocessing never resamples. The content keeps its proportions, and white fills up to 15 px on the right
and at the bottom. Stretching instead (under 1 % on A4, but 16 % on a strip 50 px high) would bend the content
to save a column of patches which that preprocessing adds anyway.

    A4, 595.3 × 841.9 pt, at 1024:  scale 1.2163  →  content 725 × 1024  →  image 736 × 1024

A PDF page is drawn so that its long side is `max_side_px`; an image above that shrinks with Lanczos, and one below it
keeps its pixels. Pixels are counted before anything is drawn or decoded.

Over 300 lines: the sandboxed process imports this file and little else.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Protocol, TypeVar

import pymupdf as _pymupdf
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from pipeline.errors import DocumentRejected, PageFailed

pymupdf: Any = _pymupdf  # half annotated
mupdf: Any = _pymupdf.mupdf
_PDF_ERRORS = (mupdf.FzErrorBase, RuntimeError, ValueError, IndexError, MemoryError)
PATCH_PX = 16  # side of the vision encoder's patch
MAX_TEXT_CHARACTERS = 1_000_000  # of one page's text layer; a thick book has as many
MAX_WARNING_CHARACTERS = 2_000  # MuPDF can complain about every object of a page
_PLUGINS = (BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)
_FORMATS = {  # what Pillow may try for each kind; nothing else is ever parsed
    "png": ("PNG",),
    "jpeg": ("JPEG", "MPO"),  # MPO: the first picture of several in one JPEG file
    "tiff": ("TIFF",),
    "webp": ("WEBP",),
    "bmp": ("BMP",),
    "gif": ("GIF",),
}
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
TURNS = {  # EXIF orientation → what stands the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Rejection = TypeVar("Rejection", DocumentRejected, PageFailed)


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be drawn; each is the setting of the same name."""

    max_side_px: int
    max_pages: int
    max_page_pt: int
    max_image_pixels: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """One page: its picture and what is known about it."""

    mode: str  # RGB or L
    width_px: int  # both sides multiples of 16
    height_px: int
    pixels: bytes | memoryview  # rows from the top, without gaps
    text_layer: str | None  # None: the page carries none, as an image never does
    warnings: str  # what MuPDF mended or left out, one line each
    owner: object = None  # of the memory under `pixels`
    width_pt: float | None = None  # of the page as it is shown; None where the source has no physical size
    height_pt: float | None = None


class Opened(Protocol):
    """A document whose pages can be drawn in any order."""

    page_count: int

    def draw(self, page_index: int) -> Drawn:
        """Raises PageFailed."""


def open_document(path: str, kind: str, limits: Limits) -> Opened:
    """Open a file as the kind that its first bytes announced.

    Raises:
        DocumentRejected: `encrypted`, `damaged`, `empty` (no pages), `too-large` or `memory`.
    """
    document: Opened = PdfPages(path, limits) if kind == "pdf" else ImageFrames(path, kind, limits)
    if document.page_count < 1:
        raise DocumentRejected("the document has no pages", cause="empty")
    if document.page_count > limits.max_pages:
        over = f"over the limit of {limits.max_pages:,}; raise PAGEPACK_MAX_PAGES or split it"
        raise DocumentRejected(f"the document has {document.page_count:,} pages, {over}", cause="too-large")
    return document


def fit(width: float, height: float, max_side_px: int, *, enlarge: bool) -> tuple[float, int, int]:
    """Scale and content size in pixels that bring the long side to `max_side_px`, or leave a smaller one alone.

    Sizes are rounded up, except what is over by rounding error alone; no side falls below 1 px.
    """
    scale = max_side_px / max(width, height)
    if not enlarge:
        scale = min(scale, 1.0)
    width_px, height_px = (min(max(math.ceil(side * scale - 1e-3), 1), max_side_px) for side in (width, height))
    return scale, width_px, height_px


def padded_px(side_px: int) -> int:
    """The next multiple of 16."""
    return -(-side_px // PATCH_PX) * PATCH_PX


def pad(image: Image.Image) -> Image.Image:
    """White on the right and at the bottom, up to multiples of 16."""
    size = (padded_px(image.width), padded_px(image.height))
    if size == image.size:
        return image
    canvas = Image.new(image.mode, size, "white")
    canvas.paste(image, (0, 0))
    return canvas


def clean(text: str) -> str:
    """Text that UTF-8 and PostgreSQL can hold: no NUL, no lone surrogates; cut at MAX_TEXT_CHARACTERS."""
    return text[:MAX_TEXT_CHARACTERS].replace("\0", "").encode("utf-8", "ignore").decode()


class PdfPages:
    """Pages of a PDF, seen as a reader shows them: CropBox, /Rotate, annotations and form fields."""

    def __init__(self, path: str, limits: Limits) -> None:
        self._limits = limits
        pymupdf.TOOLS.reset_mupdf_warnings()
        try:
            self._document = pymupdf.open(path, filetype="pdf")
            if self._document.needs_pass:
                raise DocumentRejected("the PDF is encrypted; remove its password", cause="encrypted")
            self.page_count: int = self._document.page_count
            if self.page_count == 0 and self._document.is_repaired:
                raise DocumentRejected("the PDF is broken and no page of it could be recovered", cause="damaged")
        except DocumentRejected:
            raise
        except _PDF_ERRORS as error:
            raise translated(error, DocumentRejected, "the PDF cannot be opened") from error

    def draw(self, page_index: int) -> Drawn:
        pymupdf.TOOLS.reset_mupdf_warnings()
        try:
            page = self._document[page_index]
            rect = page.rect
            scale, width_px, height_px = self._fit(rect)
            # One interpretation of the page serves both the picture and the text.
            display_list = page.get_displaylist(annots=True)
            pixmap = _white_pixmap(padded_px(width_px), padded_px(height_px))
            device = mupdf.fz_new_draw_device(mupdf.FzMatrix(scale, 0, 0, scale, 0, 0), pixmap.this)
            everything = mupdf.FzRect(mupdf.FzRect.Fixed_INFINITE)
            mupdf.fz_run_display_list(display_list.this, device, mupdf.FzMatrix(), everything, mupdf.FzCookie())
            mupdf.fz_close_device(device)
            # What lies outside the page was drawn into the padding: a device with a smaller box than its pixmap's
            # (fz_new_draw_device_with_bbox) corrupts the heap in MuPDF 1.28.
            for margin in (
                mupdf.FzIrect(width_px, 0, pixmap.width, pixmap.height),
                mupdf.FzIrect(0, height_px, pixmap.width, pixmap.height),
            ):
                mupdf.fz_clear_pixmap_rect_with_value(pixmap.this, 255, margin)
            flags = pymupdf.TEXTFLAGS_TEXT & ~pymupdf.TEXT_PRESERVE_LIGATURES
            text = clean(pymupdf.TextPage(display_list.get_textpage(flags)).extractText())
        except PageFailed:
            raise
        except _PDF_ERRORS as error:
            raise translated(error, PageFailed, "the page cannot be rendered") from error
        warnings = clean(pymupdf.TOOLS.mupdf_warnings())[:MAX_WARNING_CHARACTERS]
        pixels: memoryview = pixmap.samples_mv  # no copy; it lives as long as its pixmap
        if warnings and not text.strip() and bytes(pixels).count(255) == len(pixels):
            raise PageFailed(f"nothing of the page could be drawn: {warnings[:300]}", cause="damaged")
        assert len(pixels) == pixmap.width * pixmap.height * 3, "rows without gaps"
        layer = text if text.strip() else None
        return Drawn(
            "RGB",
            pixmap.width,
            pixmap.height,
            pixels,
            layer,
            warnings,
            pixmap,
            float(rect.width),
            float(rect.height),
        )

    def _fit(self, rect: Any) -> tuple[float, int, int]:
        width_pt, height_pt = float(rect.width), float(rect.height)
        if not (0 < width_pt < math.inf and 0 < height_pt < math.inf) or rect.is_infinite:
            raise PageFailed(f"the page measures {width_pt:g} × {height_pt:g} pt: it has no area", cause="damaged")
        if max(width_pt, height_pt) > self._limits.max_page_pt:
            over = f"over the limit of {self._limits.max_page_pt:,} pt; raise PAGEPACK_MAX_PAGE_PT or remove the page"
            raise PageFailed(f"the page measures {width_pt:,.0f} × {height_pt:,.0f} pt, {over}", cause="too-large")
        return fit(width_pt, height_pt, self._limits.max_side_px, enlarge=True)


def _white_pixmap(width_px: int, height_px: int) -> Any:
    # As Page.get_pixmap makes it. pymupdf.Pixmap(csRGB, …) lacks the empty separations: black text then goes through
    # a profile, comes out tinted and takes ten times as long.
    box = mupdf.FzIrect(0, 0, width_px, height_px)
    pixmap = mupdf.fz_new_pixmap_with_bbox(pymupdf.csRGB.this, box, mupdf.FzSeparations(), 0)
    mupdf.fz_clear_pixmap_with_value(pixmap, 255)
    return pymupdf.Pixmap("raw", pixmap)


class ImageFrames:
    """An image file. Every frame of a TIFF is a page; of an animated GIF, WebP or PNG the first frame alone is,
    for the others show the same picture in motion."""

    def __init__(self, path: str, kind: str, limits: Limits) -> None:
        self._limits = limits
        Image.MAX_IMAGE_PIXELS = None  # counted below, against our own limit and before any pixel is decoded
        try:
            self._image: Image.Image = Image.open(path, formats=_FORMATS[kind])
            self.page_count: int = getattr(self._image, "n_frames", 1) if kind == "tiff" else 1
        except (UnidentifiedImageError, KeyError) as error:  # KeyError: a JPEG was none, and MPO has no plugin here
            fact = f"the {kind.upper()} image cannot be opened: no {kind.upper()} follows its first bytes"
            raise DocumentRejected(fact, cause="damaged") from error
        except Exception as error:
            raise translated(error, DocumentRejected, f"the {kind.upper()} image cannot be opened") from error
        if self.page_count == 1:  # else the one frame fails, not the document
            self._check_size(DocumentRejected)

    def draw(self, page_index: int) -> Drawn:
        try:
            self._image.seek(page_index)
            self._check_size(PageFailed)
            image = flatten(shrink(self._image, self._limits.max_side_px))
        except PageFailed:
            raise
        except Exception as error:  # Pillow's decoders raise whatever their parsing trips over
            raise translated(error, PageFailed, "the image cannot be decoded") from error
        image = pad(image)
        return Drawn(image.mode, image.width, image.height, image.tobytes(), None, "")

    def _check_size(self, error: type[DocumentRejected] | type[PageFailed]) -> None:
        width, height = self._image.size
        size = f"the image measures {width:,} × {height:,} px"
        if width < 1 or height < 1:
            raise error(f"{size}: it has no area", cause="damaged")
        if width * height > self._limits.max_image_pixels:
            over = f"over the limit of {self._limits.max_image_pixels:,} pixels; raise PAGEPACK_MAX_IMAGE_PIXELS"
            raise error(f"{size}, {over} or shrink it", cause="too-large")


def shrink(image: Image.Image, max_side_px: int) -> Image.Image:
    """Decode an image, no longer than `max_side_px` and standing upright, in a mode that can be resampled.

    JPEG decodes at 1/2, 1/4 or 1/8 where that is still twice the size wanted; `reducing_gap` does the like for others.
    """
    # Pillow turns TIFF when it loads it (TiffImageFile.load_end), and no other format.
    turn = None if image.format == "TIFF" else TURNS.get(image.getexif().get(0x0112, 1))
    _, width, height = fit(*image.size, max_side_px, enlarge=False)
    image.draft(None, (2 * width, 2 * height))  # None keeps the mode
    image.load()
    plain = resampled_mode(image)
    _, width, height = fit(*plain.size, max_side_px, enlarge=False)
    if plain.size != (width, height):
        plain = plain.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return plain if turn is None else plain.transpose(turn)


def resampled_mode(image: Image.Image) -> Image.Image:
    """Palette, 1-bit, 16-bit and float samples as 8-bit grey or colour, alpha kept.

    16-bit samples are divided by 257. 32-bit integers and floats have no agreed white, so their range is stretched.
    """
    mode = image.mode
    if mode in _SIXTEEN_BIT:
        grey = image.convert("I").point(lambda sample: sample * (1 / 257) + 0.5).convert("L")
        is_inverted = getattr(image, "tag_v2", {}).get(262) == 0  # WhiteIsZero, which Pillow minds at 8 bits only
        return ImageOps.invert(grey) if is_inverted else grey
    if mode in ("I", "F"):
        samples = image.convert("F")
        low, high = (float(end) for end in samples.getextrema())  # type: ignore[arg-type]
        step = 255 / (high - low) if high > low else 0.0
        return samples.point(lambda sample: sample * step + (0.5 - low * step)).convert("L")
    if mode in ("PA", "La", "RGBa") or (mode in ("P", "L", "RGB") and "transparency" in image.info):
        return image.convert("RGBA")
    if mode == "1":
        return image.convert("L")
    return image if mode in ("L", "LA", "RGB", "RGBA", "CMYK", "LAB") else image.convert("RGB")


def flatten(image: Image.Image) -> Image.Image:
    """RGB or L: transparency laid on white, CMYK and Lab through the profile of the file where it is usable.

    A profile of an RGB or grey file is left aside: it shifts colours a little and no letter.
    """
    if image.mode in ("LA", "RGBA"):
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    if image.mode not in ("CMYK", "LAB"):
        return image
    embedded = image.info.get("icc_profile")
    with suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):  # a damaged profile is no reason to lose a page
        if embedded or image.mode == "LAB":
            source = ImageCms.ImageCmsProfile(BytesIO(embedded)) if embedded else ImageCms.createProfile("LAB")
            turned = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if turned is not None:
                return turned
    return image.convert("RGB")


def translated(error: Exception, to: type[Rejection], fact: str) -> Rejection:
    """A decoder's exception as one of ours; `memory` where it says that it could get none."""
    text = clean(re.sub(r" '?/dev/fd/\d+'?", "", str(error))).strip() or type(error).__name__  # a path of ours
    is_memory = isinstance(error, MemoryError) or any(word in text.lower() for word in ("malloc", "out of memory"))
    return to(f"{fact}: {text[:300]}", cause="memory" if is_memory else "damaged")
