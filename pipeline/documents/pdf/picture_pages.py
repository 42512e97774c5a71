"""Pictures of an image file as pages of a PDF, each pixel as it is. Runs only inside the sandboxed process.

A JPEG goes in as the bytes that it is, turned by its page where EXIF says so. All else is decoded, and packed again
without loss: two colours as fax group 4, others as PNG packs them. Transparency is laid on paper and samples of 16 bits
become 8, as for the page that was read. What no strict decoder takes comes as far as it could be read.
"""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pymupdf as _pymupdf
from PIL import Image

from pipeline.documents.images.dots import dpi_of, stretch_of
from pipeline.documents.images.flatten import flatten, resampled_mode
from pipeline.documents.images.frames import ImageFrames
from pipeline.documents.images.tiff import TiffPages
from pipeline.documents.pages.drawn import Limits, translated
from pipeline.documents.pdf.mupdf import PDF_ERRORS
from pipeline.errors import PageFailed

pymupdf: Any = _pymupdf  # half annotated
mupdf: Any = _pymupdf.mupdf

_MOST_PT = 14_400  # of a side, in PDF
_UNKNOWN_PT = 842  # the long side of a picture that does not say how large it is: that of A4
_PLAIN = 1_000_000  # as detail: more pixels than any picture has along a side
_UPRIGHT = (1, 0, 0, 1, 0, 0)
_TURNED = {  # what stands a picture upright → where its unit square goes then
    Image.Transpose.FLIP_LEFT_RIGHT: (-1, 0, 0, 1, 1, 0),
    Image.Transpose.ROTATE_180: (-1, 0, 0, -1, 1, 1),
    Image.Transpose.FLIP_TOP_BOTTOM: (1, 0, 0, -1, 0, 1),
    Image.Transpose.TRANSPOSE: (0, -1, -1, 0, 1, 1),
    Image.Transpose.ROTATE_270: (0, -1, 1, 0, 0, 1),
    Image.Transpose.TRANSVERSE: (0, 1, 1, 0, 0, 0),
    Image.Transpose.ROTATE_90: (0, 1, -1, 0, 1, 0),
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A page that holds a picture and nothing else."""

    page: Any  # its dictionary
    shown_px: tuple[float, float]  # of the page in the image that was read, without its padding


class PicturePages:
    """Adds the pictures of a file to a PDF, one after another."""

    def __init__(self, pdf: Any, path: str, kind: str, limits: Limits, detail: str) -> None:
        """`pdf` is a `pymupdf.Document`; raises as `render.open_document`."""
        self._pdf, self._path, self._kind = pdf, path, kind
        self._padded = limits.padded
        self._drawn = _opened(path, kind, limits, detail)
        # No picture is enlarged, so such bounds leave each as it is.
        unbounded = replace(limits, max_side_px=_PLAIN, max_page_pixels=_PLAIN**2)
        self._whole = _opened(path, kind, unbounded, str(_PLAIN))
        self.page_count = self._drawn.page_count

    def add(self, page_index: int, page_px: tuple[int, int] | None, dpi: float | None) -> Picture:
        """`page_px` and `dpi` are of the image that was read, if one was.

        Raises:
            PageFailed: the picture cannot be decoded.
        """
        image, turn, reference = self._found(page_index)
        matrix = _TURNED[turn] if turn else _UPRIGHT
        is_across = matrix[0] == 0
        width_pt, height_pt, wide, tall = _sides(image)
        upright = image.size
        if is_across:
            width_pt, height_pt, wide, tall = height_pt, width_pt, tall, wide
            upright = (image.height, image.width)
        shown = self._shown_px(page_index, (upright[0] * wide, upright[1] * tall), page_px, dpi, image)
        reference = reference or _packed(self._pdf, image)
        content = self._pdf.get_new_xref()
        self._pdf.update_object(content, "<<>>")
        a, b, c, d, e, f = matrix
        placed = (a * width_pt, b * height_pt, c * width_pt, d * height_pt, e * width_pt, f * height_pt)
        numbers = " ".join(f"{number:.4f}" for number in placed)
        self._pdf.update_stream(content, f"q {numbers} cm /Picture Do Q".encode(), new=True)
        self._pdf.new_page(-1, width=width_pt, height=height_pt)
        native = mupdf.pdf_document_from_fz_document(self._pdf.this)
        page = mupdf.pdf_lookup_page_obj(native, self._pdf.page_count - 1)
        mupdf.pdf_dict_puts(page, "Contents", mupdf.pdf_new_indirect(native, content, 0))
        resources = mupdf.pdf_new_dict(native, 1)
        pictures = mupdf.pdf_new_dict(native, 1)
        mupdf.pdf_dict_puts(pictures, "Picture", mupdf.pdf_new_indirect(native, reference, 0))
        mupdf.pdf_dict_puts(resources, "XObject", pictures)
        mupdf.pdf_dict_puts(page, "Resources", resources)
        return Picture(page, shown)

    def _found(self, page_index: int) -> tuple[Image.Image, Image.Transpose | None, int | None]:
        """A picture, what stands it upright, and the number of its object where it went in as it is."""
        try:
            image, turn = self._whole.plain(page_index)
            if self._kind == "jpeg" and image.format == "JPEG" and page_index == 0:
                with suppress(*PDF_ERRORS), open(self._path, "rb") as file:
                    return image, turn, _as_it_is(self._pdf, file.read())
            image.load()
            return image, turn, None
        except (MemoryError, PageFailed):
            raise
        except Exception as error:  # Pillow's decoders raise whatever their parsing trips over
            try:
                return self._whole.decoded(page_index).picture, None, None
            except PageFailed:
                raise
            except Exception:
                raise translated(error, PageFailed, "the image cannot be decoded") from error

    def _shown_px(
        self,
        page_index: int,
        sides: tuple[float, float],
        page_px: tuple[int, int] | None,
        dpi: float | None,
        image: Image.Image,
    ) -> tuple[float, float]:
        """How large the picture is in the image that was read, which is padded to whole squares of its model's."""
        if page_px is None or tuple(self._padded(round(side)) for side in sides) == page_px:
            return sides
        own = dpi_of(image)
        if dpi and own:
            scale = (dpi / own) * (image.width * image.height / (sides[0] * sides[1])) ** 0.5
        else:
            with suppress(Exception):  # else as near as the padding lets it be known
                drawn = self._drawn.decoded(page_index).picture.size
                if (self._padded(drawn[0]), self._padded(drawn[1])) == page_px:
                    return drawn
            scale = min(page_px[0] / sides[0], page_px[1] / sides[1])
        return sides[0] * scale, sides[1] * scale


def _opened(path: str, kind: str, limits: Limits, detail: str) -> TiffPages | ImageFrames:
    return TiffPages(path, limits, detail) if kind == "tiff" else ImageFrames(path, kind, limits, detail)


def _sides(image: Image.Image) -> tuple[float, float, float, float]:
    """Of a picture as its pixels lie: in points; and how much wider and higher than a square each pixel is."""
    wide, tall = stretch_of(image)
    width, height = image.width * wide, image.height * tall
    dots = dpi_of(image)
    square = dots * (wide * tall) ** 0.5 if dots else max(width, height) * 72 / _UNKNOWN_PT
    points = 72 / square
    points *= min(1.0, _MOST_PT / (points * max(width, height)))
    return max(width * points, 3.0), max(height * points, 3.0), wide, tall


def _as_it_is(pdf: Any, data: bytes) -> int:
    native = mupdf.pdf_document_from_fz_document(pdf.this)
    image = mupdf.fz_new_image_from_buffer(mupdf.fz_new_buffer_from_copied_data(data))
    return int(mupdf.pdf_to_num(mupdf.pdf_add_image(native, image)))


def _packed(pdf: Any, image: Image.Image) -> int:
    """As an object of the PDF, of which the number is given."""
    if image.mode == "1":
        return _as_fax(pdf, image)
    if image.mode == "P" and "transparency" not in image.info:
        palette = image.getpalette("RGB") or []
        last, lookup = max(len(palette) // 3 - 1, 0), bytes(palette).hex()
        return _as_png(pdf, image, f"[/Indexed/DeviceRGB {last}<{lookup}>]", 1)
    plain = flatten(resampled_mode(image), [])
    return _as_png(pdf, plain, "/DeviceGray" if plain.mode == "L" else "/DeviceRGB", len(plain.getbands()))


def _as_fax(pdf: Any, image: Image.Image) -> int:
    out = io.BytesIO()
    # One strip, whose bytes are those of the picture.
    image.save(out, "TIFF", compression="group4", strip_size=image.width * image.height)
    tags = Image.open(out, formats=("TIFF",)).tag_v2  # type: ignore[attr-defined]
    offset, size = int(tags[273][0]), int(tags[279][0])
    is_black_one = int(tags[262]) == 0  # WhiteIsZero: a set bit is black
    parameters = (
        f"/DecodeParms<</K -1/Columns {image.width}/Rows {image.height}/BlackIs1 {str(not is_black_one).lower()}>>"
    )
    entries = f"/ColorSpace/DeviceGray/BitsPerComponent 1/Filter/CCITTFaxDecode{parameters}"
    return _image(pdf, image, entries, out.getvalue()[offset : offset + size])


def _as_png(pdf: Any, image: Image.Image, space: str, channels: int) -> int:
    out = io.BytesIO()
    image.save(out, "PNG", bits=8)
    data, at, packed = out.getvalue(), 8, b""
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + size]
        at += 12 + size
    parameters = f"/DecodeParms<</Predictor 15/Colors {channels}/BitsPerComponent 8/Columns {image.width}>>"
    return _image(pdf, image, f"/ColorSpace{space}/BitsPerComponent 8/Filter/FlateDecode{parameters}", packed)


def _image(pdf: Any, image: Image.Image, entries: str, data: bytes) -> int:
    xref = int(pdf.get_new_xref())
    sides = f"/Width {image.width}/Height {image.height}"
    pdf.update_object(xref, f"<</Type/XObject/Subtype/Image{sides}>>")
    native = mupdf.pdf_document_from_fz_document(pdf.this)
    reference = mupdf.pdf_new_indirect(native, xref, 0)
    pdf.update_object(xref, f"<</Type/XObject/Subtype/Image{sides}{entries}>>")
    mupdf.pdf_update_stream(native, reference, mupdf.fz_new_buffer_from_copied_data(data), 1)
    return xref
