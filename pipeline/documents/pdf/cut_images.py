"""Images of a PDF page that MuPDF complained of: cut, or packed otherwise than their dictionary says.

What lacks at an image's end MuPDF draws black, and what lacks of a mask hides the image. Here the missing part becomes
white and is said, a mask that is cut is left out, a JPEG 2000 goes on in zeros, and the parameters of a fax are tried
until it decodes. All of that in memory alone; the page is then drawn once more.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pymupdf as _pymupdf

from pipeline.documents.images.cut_jp2 import made_whole
from pipeline.documents.pdf.images import components_of, filters_of, images_of, size_of

pymupdf: Any = _pymupdf
mupdf: Any = _pymupdf.mupdf
SPEAKS_OF_IMAGES = re.compile("padding truncated image|unknown filter|faxd|JPX|end of data|zlib error")
_FAX, _JPX = ("CCITTFaxDecode", "CCF"), ("JPXDecode",)
_OTHERS = ("DCTDecode", "DCT", "JBIG2Decode")  # which end as their decoders say
_KNOWN = (*_FAX, *_JPX, *_OTHERS, "FlateDecode", "Fl", "LZWDecode", "LZW", "RunLengthDecode", "RL")
_PLAIN = ("ASCIIHexDecode", "AHx", "ASCII85Decode", "A85", "Crypt", "BrotliDecode")
_LEAST = 0.02  # of an image that is worth showing
_TRIED = (-1, 0, 4)  # of fax: group 4, group 3 in one and in two dimensions
_HIDDEN = "the page's image is hidden throughout, which cannot be meant: it is drawn as if it were not"
_PRINT = 60  # of 255: the contrast of print
_ERRORS = (mupdf.FzErrorBase, RuntimeError, ValueError)


def mend_cut_images(page: Any, known: dict[int, str], max_pixels: int) -> list[str]:
    """Mend the images of a page, a dictionary, that can be mended; what was done, in words.

    `known` is that of `mend_images`: another page that shows the image says so, too, for MuPDF complains no more.
    """
    notes: list[str] = []
    for image in images_of(page):
        width, height = size_of(image)
        if not 0 < width * height <= max_pixels:
            continue
        try:
            done = [*_without_cut_mask(image, max_pixels), *_mended(image)]
        except _ERRORS:  # the page stays as it is, with what MuPDF said of it
            continue
        if done:
            number = mupdf.pdf_to_num(image)
            known[number] = "\n".join(filter(None, (known.get(number), *done)))
            notes.append(known[number])
    if notes:
        pymupdf.TOOLS.store_shrink(100)
    return list(dict.fromkeys(notes))


def _mended(image: Any) -> list[str]:
    filters = filters_of(image)
    if filters and filters[-1] in _JPX:
        whole = made_whole(_bytes_of(mupdf.pdf_load_raw_stream(image))) if len(filters) == 1 else None
        if whole is None:
            return []
        _replace(image, whole, is_packed=True)
        return ["an image of the page ends early: its picture is coarse, and parts may be missing"]
    if filters and filters[-1] in _OTHERS:
        return []
    if filters and filters[-1] in _FAX and (note := _mended_fax(image)):
        return [note]
    missing, filling = _missing(image), _white(image)
    if missing is None:
        return []
    data, wanted = missing
    unknown = [name for name in filters if name not in (*_KNOWN, *_PLAIN)]
    if filling is not None and (unknown or len(data) < _LEAST * wanted):  # black: where it is the page, that fails
        _replace(image, bytes([filling[0] ^ 0xFF]) * wanted, is_packed=False)
        if unknown:
            return [f"an image of the page is packed with {unknown[0][:40]}, which nobody knows, and is black"]
        return ["an image of the page ends where it begins: nothing of the picture is there, and it is black"]
    share = f"{max(100 * (1 - len(data) / wanted), 0.1):.{0 if len(data) < 0.9 * wanted else 1}f} %"
    if filling is None:
        return [f"an image of the page ends early: {share} of the picture is missing"]
    _replace(image, data + filling * (wanted - len(data)), is_packed=False)
    return [f"an image of the page ends early: {share} of the picture is missing, and is drawn white"]


@contextmanager
def without_what_hides(page: Any, document: Any, max_pixels: int) -> Iterator[list[str]]:
    """Show the one image of a page that came out white, where a mask or a table of shades hides all that is in it.

    In the block alone: on another page the image may rightly be hidden.
    """
    images = list(images_of(page))
    hides: dict[str, Any] = {}
    if len(images) == 1 and 0 < math.prod(size_of(images[0])) <= max_pixels:
        hides = {name: mupdf.pdf_dict_gets(images[0], name) for name in ("SMask", "Mask", "Decode")}
        hides = {name: value for name, value in hides.items() if not mupdf.pdf_is_null(value)}
    if not hides:
        yield []
        return
    for name in hides:
        mupdf.pdf_dict_dels(images[0], name)
    pymupdf.TOOLS.store_shrink(100)  # where MuPDF keeps what it decoded before
    try:
        yield [_HIDDEN] if _has_print(document, images[0]) else []
    finally:
        for name, value in hides.items():
            mupdf.pdf_dict_puts(images[0], name, value)
        pymupdf.TOOLS.store_shrink(100)


def _has_print(document: Any, image: Any) -> bool:
    try:
        shades = pymupdf.Pixmap(pymupdf.csGRAY, pymupdf.Pixmap(document, mupdf.pdf_to_num(image))).samples
    except _ERRORS:
        return False
    return bool(max(shades) - min(shades) >= _PRINT)


def _without_cut_mask(image: Any, max_pixels: int) -> list[str]:
    mask = mupdf.pdf_dict_gets(image, "SMask")
    if not mupdf.pdf_is_stream(mask):
        return []
    width, height = size_of(mask)
    last = filters_of(mask)[-1:]
    is_cut = width * height <= 0
    if not is_cut and width * height <= max_pixels and (not last or last[0] not in (*_JPX, *_OTHERS)):
        is_cut = _missing(mask, least=0) is not None
    if not is_cut:
        return []
    mupdf.pdf_dict_dels(image, "SMask")
    return ["the mask of an image ends early: the image is drawn without it"]


def _missing(image: Any, least: int = 1) -> tuple[bytes, int] | None:
    """The samples of an image that has fewer than it says, and how many bytes these should be; None of another, and
    where there are not even `least`."""
    width, height = size_of(image)
    bits = mupdf.pdf_to_int(mupdf.pdf_dict_gets(image, "BitsPerComponent"))
    if mupdf.pdf_to_bool(mupdf.pdf_dict_gets(image, "ImageMask")):
        bits = 1
    wanted = (width * components_of(image) * bits + 7) // 8 * height
    if not wanted:
        return None
    data = _bytes_of(mupdf.fz_read_all(mupdf.fz_open_null_filter(mupdf.pdf_open_stream(image), wanted, 0), 0))
    return (data, wanted) if least <= len(data) < wanted else None


def _white(image: Any) -> bytes | None:
    """A byte of samples of white; None where that takes more than a look."""
    if mupdf.pdf_to_bool(mupdf.pdf_dict_gets(image, "ImageMask")):  # which paints where its samples are 0
        first = mupdf.pdf_array_get(mupdf.pdf_dict_gets(image, "Decode"), 0)
        return b"\0" if mupdf.pdf_to_real(first) == 1 else b"\xff"
    if not mupdf.pdf_is_null(mupdf.pdf_dict_gets(image, "Decode")):
        return None
    space = mupdf.pdf_dict_gets(image, "ColorSpace")
    kind = mupdf.pdf_to_name(mupdf.pdf_array_get(space, 0) if mupdf.pdf_is_array(space) else space)
    if kind in ("DeviceGray", "DeviceRGB", "CalGray", "CalRGB", "G", "RGB"):
        return b"\xff"
    if kind == "ICCBased":
        return {1: b"\xff", 3: b"\xff", 4: b"\0"}.get(components_of(image))
    return b"\0" if kind in ("DeviceCMYK", "CMYK") else None


def _mended_fax(image: Any) -> str:
    """Try how it may have been packed, if it does not decode as it says; nothing where no way does."""
    width, height = size_of(image)
    if _decodes(image):
        return ""
    named = "DecodeParms" if not mupdf.pdf_is_null(mupdf.pdf_dict_gets(image, "DecodeParms")) else "DP"
    stated = mupdf.pdf_dict_gets(image, named)
    if mupdf.pdf_is_array(stated):
        return ""
    kept = mupdf.pdf_copy_dict(stated) if mupdf.pdf_is_dict(stated) else None
    tried = mupdf.pdf_new_dict(mupdf.pdf_get_bound_document(image), 4) if kept is None else mupdf.pdf_copy_dict(stated)
    name = named if kept is not None else "DecodeParms"
    mupdf.pdf_dict_puts(tried, "Columns", mupdf.pdf_new_int(width))
    mupdf.pdf_dict_puts(tried, "Rows", mupdf.pdf_new_int(height))
    mupdf.pdf_dict_puts(image, name, tried)
    for way in dict.fromkeys((mupdf.pdf_to_int(mupdf.pdf_dict_gets(stated, "K")), *_TRIED)):
        mupdf.pdf_dict_puts(tried, "K", mupdf.pdf_new_int(way))
        if _decodes(image):
            return "a fax in the page is packed otherwise than it says: it is drawn as it decodes"
    if kept is None:
        mupdf.pdf_dict_dels(image, name)
    else:
        mupdf.pdf_dict_puts(image, name, kept)
    return ""


def _decodes(image: Any) -> bool:
    width, height = size_of(image)
    wanted = (width + 7) // 8 * height
    pymupdf.TOOLS.reset_mupdf_warnings()
    try:
        data = _bytes_of(mupdf.fz_read_all(mupdf.fz_open_null_filter(mupdf.pdf_open_stream(image), wanted, 0), 0))
    except _ERRORS:
        return False
    return len(data) == wanted and "faxd" not in pymupdf.TOOLS.mupdf_warnings()


def _replace(image: Any, data: bytes, *, is_packed: bool) -> None:
    document = mupdf.pdf_get_bound_document(image)
    mupdf.pdf_update_stream(document, image, mupdf.fz_new_buffer_from_copied_data(data), int(is_packed))


def _bytes_of(buffer: Any) -> bytes:
    return mupdf.fz_buffer_extract_copy(buffer)  # type: ignore[no-any-return]
