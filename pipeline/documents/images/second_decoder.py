"""Pictures that Pillow does not decode and MuPDF does: BMP with odd bit fields, palettes or headers, some JPEG 2000,
PNG whose first sum is wrong.
"""

from __future__ import annotations

from typing import Any

import pymupdf as _pymupdf
from PIL import Image

pymupdf: Any = _pymupdf
KINDS = ("bmp", "jp2", "png")  # of the others it reads no more than Pillow


def size_by_mupdf(path: str) -> tuple[int, int] | None:
    """Width and height as the header says them, before anything is decoded; None where it is none that MuPDF knows."""
    try:
        image = pymupdf.mupdf.fz_new_image_from_file(path)
        return int(image.w()), int(image.h())
    except Exception:  # its errors have no common root
        return None


def decode_by_mupdf(path: str) -> Image.Image:
    """The picture, as L or RGB, with its transparency. Raises what MuPDF raises."""
    pixmap = pymupdf.Pixmap(path)
    if pixmap.colorspace is None or pixmap.colorspace.n not in (1, 3):
        pixmap = pymupdf.Pixmap(pymupdf.csRGB, pixmap)
    mode = {1: "L", 3: "RGB"}[pixmap.colorspace.n] + ("A" if pixmap.alpha else "")
    return Image.frombytes(mode, (pixmap.width, pixmap.height), pixmap.samples)
