"""How close the dots of a picture lie, and whether they are square, as its file says it."""

from __future__ import annotations

import math
from contextlib import suppress

from PIL import Image


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
