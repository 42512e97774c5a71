"""What Pillow may try for each kind of image; nothing else is ever parsed. Runs only inside the sandboxed process.

HEIC and JPEG XL are decoded by packages of their own (pi-heif, which only reads, and pillow-jxl-plugin), which are
loaded when the first such file comes.
"""

from __future__ import annotations

import importlib

_FORMATS = {
    "png": ("PNG",),
    "jpeg": ("JPEG", "MPO"),  # MPO: the first picture of several in one JPEG file
    "tiff": ("TIFF",),
    "webp": ("WEBP",),
    "bmp": ("BMP",),
    "gif": ("GIF",),
    "pnm": ("PPM",),
    "jp2": ("JPEG2000",),
    "avif": ("AVIF",),
    "heic": ("HEIF",),
    "jxl": ("JXL",),
}
_PLUGINS = {
    "pnm": "PIL.PpmImagePlugin",
    "jp2": "PIL.Jpeg2KImagePlugin",
    "avif": "PIL.AvifImagePlugin",
    "heic": "pi_heif",
    "jxl": "pillow_jxl",
}
TURNED_ALREADY = ("TIFF", "HEIF", "JXL")
"""Formats that their decoders stand upright themselves, whatever EXIF says."""


def formats_of(kind: str) -> tuple[str, ...]:
    """Pillow's names for a kind; what decodes it is loaded now."""
    if kind in _PLUGINS:
        plugin = importlib.import_module(_PLUGINS[kind])
        if kind == "heic":
            plugin.register_heif_opener()
    return _FORMATS[kind]
