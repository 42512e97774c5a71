"""A WebP file that is cut or damaged, as far as it goes: by libwebp's own incremental decoder.

Pillow hands libwebp the whole file, and libwebp refuses one that is not whole. The same library, which Pillow's wheel
carries, also takes a picture bit by bit and says how many rows are done. Of an animation the first frame is taken.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

_IN_FRAME = 16  # bytes of an animation's frame before its own chunks: place, size, duration
_OPAQUE_RGBA = 1  # MODE_RGBA of WEBP_CSP_MODE, in libwebp's decode.h


def decode_cut_webp(path: str, check_size: Callable[[tuple[int, int]], None]) -> tuple[Image.Image, int, bool] | None:
    """The picture, white where nothing was decoded; how many rows were; and whether others follow it in the file. None
    where there is none.

    `check_size` may raise, before anything is decoded.
    """
    library = _libwebp()
    file = Path(path).read_bytes()
    data = _still(file)
    width, height = ctypes.c_int(), ctypes.c_int()
    if library is None or not library.WebPGetInfo(data, len(data), ctypes.byref(width), ctypes.byref(height)):
        return None
    check_size((width.value, height.value))
    decoder = library.WebPINewRGB(_OPAQUE_RGBA, None, 0, 0)
    if not decoder:
        raise MemoryError
    try:
        library.WebPIAppend(decoder, data, len(data))
        rows, stride = ctypes.c_int(), ctypes.c_int()
        sides = ctypes.byref(width), ctypes.byref(height)
        pixels = library.WebPIDecGetRGB(decoder, ctypes.byref(rows), *sides, ctypes.byref(stride))
        if not pixels or rows.value < 1:
            return None
        size = (width.value, rows.value)
        taken = ctypes.string_at(pixels, stride.value * rows.value)
        picture = Image.frombytes("RGBA", size, taken, "raw", "RGBA", stride.value, 1)
    finally:
        library.WebPIDelete(decoder)
    has_alpha = picture.getchannel("A").getextrema() != (255, 255)
    whole = Image.new("RGBA" if has_alpha else "RGB", (width.value, height.value), "white")
    whole.paste(picture if has_alpha else picture.convert("RGB"))
    return whole, rows.value, data is not file


def _still(data: bytes) -> bytes:
    """The first frame of an animation as a file of its own; any other file as it is."""
    at = data.find(b"ANMF", 0, 1 << 20)
    if data[12:16] != b"VP8X" or not len(data) > 20 or not data[20] & 2 or at < 0:
        return data
    size = int.from_bytes(data[at + 4 : at + 8], "little")
    frame = data[at + 8 + _IN_FRAME : at + 8 + size]
    missing = max(0, size - _IN_FRAME - len(frame))  # said in the header, so that it is waited for
    body = b"WEBP" + frame
    if frame[:4] == b"ALPH":  # a picture with an alpha channel needs the header that says so
        sides = data[at + 8 + 6 : at + 8 + 12]
        body = b"WEBPVP8X" + (10).to_bytes(4, "little") + bytes([0x10, 0, 0, 0]) + sides + frame
    return b"RIFF" + (len(body) + missing).to_bytes(4, "little") + body


@cache
def _libwebp() -> Any | None:
    """Pillow's module leads to the library that it is linked with, whatever that is called; None where it does not."""
    try:
        from PIL import _webp

        library = ctypes.CDLL(_webp.__file__)
        pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        library.WebPGetInfo.argtypes = [ctypes.c_char_p, size, pointer, pointer]
        library.WebPINewRGB.argtypes, library.WebPINewRGB.restype = [number, pointer, size, number], pointer
        library.WebPIAppend.argtypes = [pointer, ctypes.c_char_p, size]
        library.WebPIDecGetRGB.argtypes, library.WebPIDecGetRGB.restype = [pointer] * 5, pointer
        library.WebPIDelete.argtypes, library.WebPIDelete.restype = [pointer], None
    except (ImportError, OSError, AttributeError):
        return None
    return library
