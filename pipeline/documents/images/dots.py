"""How close the dots of a picture lie, whether they are square, and how they stand, as its file says it."""

from __future__ import annotations

import math
import warnings
from contextlib import suppress

from PIL import Image

from pipeline.documents.images.formats import TURNED_ALREADY

TURNS = {  # EXIF orientation → what stands the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def dpi_of(image: Image.Image) -> float:
    """As the file says it, the mean of both directions; 0 where it does not, or says nonsense."""
    try:
        across, down = (float(value) for value in image.info.get("dpi", (0, 0)))
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0
    return math.sqrt(across * down) if min(across, down) > 1 and max(across, down) < 100_000 else 0.0


def stretch_of(image: Image.Image) -> tuple[float, float]:
    """What makes the pixels square: (1, 204 / 98) for a fax of standard resolution, so that no detail is lost.

    A shape beyond 1 to 4 is no shape but a mistake.
    """
    for name in ("dpi", "resolution", "aspect"):
        if name in image.info:
            with suppress(TypeError, ValueError, ZeroDivisionError):
                across, down = (float(value) for value in image.info[name])
                if image.format == "TIFF" and image.getexif().get(0x0112, 1) in (5, 6, 7, 8):
                    across, down = down, across  # the tags speak of the picture as it was before Pillow turned it
                shape = across / down
                if 1 / 4 <= shape <= 4 and abs(shape - 1) > 0.1:
                    return (1.0, shape) if shape > 1 else (1 / shape, 1.0)
            break
    return 1.0, 1.0


def turn_of(image: Image.Image, notes: list[str]) -> Image.Transpose | None:
    # Pillow turns TIFF when it loads it (TiffImageFile.load_end), and no other format of its own.
    if image.format in TURNED_ALREADY:
        return None
    orientation = None
    if image.format == "PNG":  # looks for it behind the picture: that one is damaged is not to be swallowed here
        image.load()
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)  # all that Pillow says of a directory outside its data
            orientation = image.getexif().get(0x0112)
        is_broken = bool(said) and orientation is None
    except Exception:  # whatever the parsing of strangers' bytes trips over
        is_broken = "exif" in image.info  # else Pillow only looked for it, behind a picture that is cut
    if is_broken:
        notes.append("the EXIF data are broken: should the picture be turned, nobody knows")
    return TURNS.get(orientation) if orientation is not None else None
