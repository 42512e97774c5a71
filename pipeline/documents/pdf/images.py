"""Images of a PDF page whose dictionary contradicts their data, mended before MuPDF draws them.

A JPEG says itself how many components it has and how large it is. MuPDF believes the dictionary: it takes three
components for one and draws noise, or one for three and draws a third of the page in colours and the rest black,
without a word. pdfium leaves such an image white. What the data say is put into the dictionary, in memory alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pymupdf as _pymupdf

mupdf: Any = _pymupdf.mupdf
_MOST_OBJECTS = 500  # of one page; looking at each costs some 50 µs, and once for its document
_MOST_MARKERS = 200  # before the header of a JPEG
_SPACES = {1: "DeviceGray", 3: "DeviceRGB", 4: "DeviceCMYK"}
_NO_HEADERS = (0xFFC4, 0xFFC8, 0xFFCC)  # among the marks of headers
_ADOBE_BYTES = 5


def images_of(page: Any) -> Iterator[Any]:
    """Dictionaries of the images that a page, a dictionary, may show, in its forms too; each has a number."""
    waiting = [mupdf.pdf_dict_get_inheritable(page, mupdf.pdf_new_name("Resources"))]
    seen: set[int] = set()
    while waiting:
        objects = mupdf.pdf_dict_gets(waiting.pop(), "XObject")
        for index in range(min(mupdf.pdf_dict_len(objects), _MOST_OBJECTS)):
            found = mupdf.pdf_dict_get_val(objects, index)
            number = mupdf.pdf_to_num(found)
            if not number or number in seen:
                continue
            if len(seen) == _MOST_OBJECTS:
                return
            seen.add(number)
            subtype = mupdf.pdf_to_name(mupdf.pdf_dict_gets(found, "Subtype"))
            if subtype == "Image":
                yield found
            elif subtype == "Form":
                waiting.append(mupdf.pdf_dict_gets(found, "Resources"))


def filters_of(image: Any) -> list[str]:
    """Names of the filters of a stream, the first to be undone first."""
    named = mupdf.pdf_dict_gets(image, "Filter")
    if mupdf.pdf_is_array(named):
        return [mupdf.pdf_to_name(mupdf.pdf_array_get(named, index)) for index in range(mupdf.pdf_array_len(named))]
    return [mupdf.pdf_to_name(named)] if mupdf.pdf_is_name(named) else []


def size_of(image: Any) -> tuple[int, int]:
    """Width and height in pixels, as the dictionary says them."""
    width, height = (mupdf.pdf_to_int(mupdf.pdf_dict_gets(image, name)) for name in ("Width", "Height"))
    return width, height


def components_of(image: Any) -> int:
    """How many numbers a pixel has, as the dictionary says it; 0 where it does not, or says nonsense."""
    if mupdf.pdf_to_bool(mupdf.pdf_dict_gets(image, "ImageMask")):
        return 1
    space = mupdf.pdf_dict_gets(image, "ColorSpace")
    if mupdf.pdf_is_null(space):
        return 0
    name = mupdf.pdf_to_name(space)
    for number, known in _SPACES.items():
        if name == known:
            return number
    try:
        return int(mupdf.fz_colorspace_n(mupdf.pdf_load_colorspace(space)))
    except (mupdf.FzErrorBase, RuntimeError):
        return 0


def mend_images(page: Any, known: dict[int, str], max_pixels: int) -> list[str]:
    """Mend the images of a page; what was mended, in words. `known`: what was found in this document until now."""
    notes = []
    for image in images_of(page):
        number = mupdf.pdf_to_num(image)
        if number not in known:
            known[number] = _mended(image, max_pixels)
        notes.append(known[number])
    return [note for note in dict.fromkeys(notes) if note]


def _mended(image: Any, max_pixels: int) -> str:
    filters = filters_of(image)
    if filters not in (["DCTDecode"], ["DCT"]):
        return "" if "JPXDecode" in filters else _with_colours(image, max_pixels)
    header = _header_of_jpeg(image)
    if header is None:
        return ""
    components, width, height, is_adobe = header
    notes = []
    is_mask = mupdf.pdf_to_bool(mupdf.pdf_dict_gets(image, "ImageMask"))
    stated = 0 if is_mask else components_of(image)
    if stated != components and components in _SPACES:
        mupdf.pdf_dict_puts(image, "ColorSpace", mupdf.pdf_new_name(_SPACES[components]))
        for name in ("ImageMask", "Decode"):
            mupdf.pdf_dict_dels(image, name)
        mupdf.pdf_dict_puts(image, "BitsPerComponent", mupdf.pdf_new_int(8))
        if is_adobe and components == 4:  # whose programs store ink upside down
            inverted = mupdf.pdf_new_array(mupdf.pdf_get_bound_document(image), 8)
            for value in (1, 0) * 4:
                mupdf.pdf_array_push_int(inverted, value)
            mupdf.pdf_dict_puts(image, "Decode", inverted)
        said = f"{stated} components" if stated > 1 else "1 component" if stated else "no colours"
        notes.append(f"{said}, and its JPEG has {components}")
    if height and (width, height) != size_of(image):
        for name, side in (("Width", width), ("Height", height)):
            mupdf.pdf_dict_puts(image, name, mupdf.pdf_new_int(side))
        notes.append(f"another size than its JPEG's {width:,} × {height:,} px")
    if not notes:
        return ""
    return f"an image of the page is said to have {' and '.join(notes)}: it is drawn as its JPEG says"


def _with_colours(image: Any, max_pixels: int) -> str:
    """Give an image that names no colours those that its data suffice for."""
    if mupdf.pdf_to_bool(mupdf.pdf_dict_gets(image, "ImageMask")):
        return ""
    if not mupdf.pdf_is_null(mupdf.pdf_dict_gets(image, "ColorSpace")):
        return ""
    width, height = size_of(image)
    bits = mupdf.pdf_to_int(mupdf.pdf_dict_gets(image, "BitsPerComponent"))
    if not 0 < width * height <= max_pixels or bits not in (1, 2, 4, 8, 16):
        return ""
    sizes = {(width * number * bits + 7) // 8 * height: number for number in _SPACES}
    try:
        data = mupdf.fz_open_null_filter(mupdf.pdf_open_stream(image), 2 * max(sizes), 0)
        number = sizes.get(mupdf.fz_buffer_storage(mupdf.fz_read_all(data, 0))[0])
    except (mupdf.FzErrorBase, RuntimeError):
        return ""
    if number is None:
        return ""
    mupdf.pdf_dict_puts(image, "ColorSpace", mupdf.pdf_new_name(_SPACES[number]))
    return f"an image of the page names no colours: it is drawn as {_SPACES[number]}, as its data suffice for"


def _header_of_jpeg(image: Any) -> tuple[int, int, int, bool] | None:
    """Components, width, height, and whether Adobe's mark is there; None where the data begin as no JPEG does."""
    is_adobe = False
    try:
        data = mupdf.pdf_open_raw_stream(image)
        if mupdf.fz_read_uint16(data) != 0xFFD8:
            return None
        for _ in range(_MOST_MARKERS):
            mark, length = mupdf.fz_read_uint16(data), mupdf.fz_read_uint16(data) - 2
            if mark < 0xFFC0 or mark == 0xFFDA or length < 0:
                return None
            if mark < 0xFFD0 and mark not in _NO_HEADERS:
                mupdf.fz_read_byte(data)
                height, width = mupdf.fz_read_uint16(data), mupdf.fz_read_uint16(data)
                components = mupdf.fz_read_byte(data)
                return (components, width, height, is_adobe) if width else None
            if mark == 0xFFEE and length > _ADOBE_BYTES:
                is_adobe |= bytes(mupdf.fz_read_byte(data) for _ in range(_ADOBE_BYTES)) == b"Adobe"
                length -= _ADOBE_BYTES
            mupdf.fz_skip(data, length)
    except (mupdf.FzErrorBase, RuntimeError, ValueError):  # it ends before
        pass
    return None
