"""A page image's one form: what is hashed, stored and read again, pixel for pixel."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib

from PIL import Image, ImageChops

from pipeline.errors import PageFailed


def canonical(image: Image.Image) -> Image.Image:
    """The form that is hashed and stored: `L` if all three channels are equal everywhere, else `RGB`."""
    if image.mode == "L":
        return image
    red, green, blue = image.split()
    has_colour = ImageChops.difference(red, green).getbbox() or ImageChops.difference(green, blue).getbbox()
    return image if has_colour else red


def hash_pixels(image: Image.Image) -> str:
    """SHA-256 in hex over mode, size and pixels of a canonical image."""
    digest = hashlib.sha256(f"{image.mode} {image.width}x{image.height}\n".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def encode(image: Image.Image) -> bytes:
    """A canonical image as it is stored: PNG, zlib level 1, rows unfiltered.

    Pillow filters each row for `L` and `RGB`: on text that takes 2.6 × as long and gives more bytes, not fewer
    (benchmarks/bench_formats.py).
    """
    channels = len(image.getbands())
    pixels, stride = image.tobytes(), image.width * channels
    rows = b"".join([b"\0" + pixels[start : start + stride] for start in range(0, len(pixels), stride)])
    header = struct.pack("!IIBBBBB", image.width, image.height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack("!I", len(data)) + name + data + struct.pack("!I", zlib.crc32(name + data)) for name, data in chunks
    )


def load(data: bytes) -> Image.Image:
    """The canonical image that `encode` wrote.

    Raises:
        PageFailed: `image-damaged`.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG",))
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PageFailed(f"the stored page image cannot be decoded: {error}", cause="image-damaged") from error
    if image.mode not in ("L", "RGB"):
        raise PageFailed(f"the stored page image has mode {image.mode}", cause="image-damaged")
    return image
