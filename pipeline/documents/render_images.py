"""Frames of an image file, decoded by Pillow. Runs only inside the sandboxed process."""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO

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

from pipeline.documents.drawn import Drawn, Limits, fit, padded_px, translated
from pipeline.documents.image_formats import TURNED_ALREADY, formats_of
from pipeline.errors import DocumentRejected, PageFailed

_PLUGINS = (BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)
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


class ImageFrames:
    """An image file. Every frame of a TIFF is a page; of an animated GIF, WebP or PNG the first frame alone is,
    for the others show the same picture in motion."""

    def __init__(self, path: str, kind: str, limits: Limits) -> None:
        self._limits = limits
        Image.MAX_IMAGE_PIXELS = None  # counted below, against our own limit and before any pixel is decoded
        try:
            self._image: Image.Image = Image.open(path, formats=formats_of(kind))
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
    # Pillow turns TIFF when it loads it (TiffImageFile.load_end), and no other format of its own.
    turn = None if image.format in TURNED_ALREADY else TURNS.get(image.getexif().get(0x0112, 1))
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


def pad(image: Image.Image) -> Image.Image:
    """White on the right and at the bottom, up to multiples of 16."""
    size = (padded_px(image.width), padded_px(image.height))
    if size == image.size:
        return image
    canvas = Image.new(image.mode, size, "white")
    canvas.paste(image, (0, 0))
    return canvas
