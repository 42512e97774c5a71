"""From a sheet to the picture that a scanner, a camera or a fax makes of it."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.quality.paper import Sheet, pymupdf


@dataclass(frozen=True)
class Look:
    """How a sheet is taken up; the defaults are a clean scan."""

    dpi: int = 200
    turn: int = 0  # quarter turns clockwise by which the picture lies wrong: 90, 180 or 270
    skew: float = 0.0  # degrees, counter-clockwise
    blur: float = 0.0  # standard deviation, px
    noise: float = 0.0  # standard deviation, of 255
    shade: float = 0.0  # how much darker the right edge is, of 255
    jpeg: int = 0  # quality; 0 is PNG
    fax: bool = False  # one bit a pixel
    in_pdf: bool = False  # as the only content of a PDF page


def born_digital(sheet: Sheet, order: str, seed: int) -> bytes:
    """A PDF that carries the sheet's text, whose lines the file gives in this order: `drawn`, as whoever sets a page
    does, `rows`, from the top through all columns, or `shuffled`."""
    page, lines = sheet.page, list(sheet.lines)
    if order == "rows":
        lines.sort(key=lambda line: line[:2])
    elif order == "shuffled":
        random.Random(seed).shuffle(lines)
    if order == "drawn":
        return bytes(page.parent.tobytes(garbage=3, deflate=True, no_new_id=True))
    streams = [stream for _, _, some in lines for stream in some]
    others = [stream for stream in page.get_contents() if stream not in set(streams)]
    document = page.parent
    document.xref_set_key(page.xref, "Contents", f"[{' '.join(f'{stream} 0 R' for stream in others + streams)}]")
    return bytes(document.tobytes(garbage=3, deflate=True, no_new_id=True))


def take(sheet: Sheet, look: Look, seed: int) -> tuple[bytes, str]:
    """The file's bytes and its ending. The same seed gives the same bytes."""
    pixmap = sheet.page.get_pixmap(dpi=look.dpi, colorspace=pymupdf.csGRAY)
    image = Image.frombytes("L", (pixmap.width, pixmap.height), pixmap.samples)
    if look.skew:
        image = image.rotate(look.skew, Image.Resampling.BICUBIC, expand=True, fillcolor=255)
    if look.turn:
        image = image.rotate(-look.turn, expand=True)
    if look.blur:
        image = image.filter(ImageFilter.GaussianBlur(look.blur))
    if look.noise or look.shade:
        rng = np.random.default_rng(seed)
        light = np.asarray(image, np.float32) * (235 / 255) + 12
        light += rng.normal(0, 1, light.shape).astype(np.float32) * look.noise
        light -= np.linspace(0, look.shade, light.shape[1], dtype=np.float32)
        image = Image.fromarray(np.clip(light, 0, 255).astype(np.uint8))
    if look.fax:
        image = image.point(lambda value: 255 * (value > 150)).convert("1")
    data, dpi = io.BytesIO(), (look.dpi, look.dpi)
    if look.jpeg:
        image.convert("RGB").save(data, "JPEG", quality=look.jpeg, dpi=dpi)
    else:
        image.save(data, "PNG", compress_level=3, dpi=dpi)
    if not look.in_pdf:
        return data.getvalue(), "jpg" if look.jpeg else "png"
    document = pymupdf.open()
    page = document.new_page(width=image.width * 72 / look.dpi, height=image.height * 72 / look.dpi)
    page.insert_image(page.rect, stream=data.getvalue())
    return document.tobytes(garbage=3, deflate=True, no_new_id=True), "pdf"
