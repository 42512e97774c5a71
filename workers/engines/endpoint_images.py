"""A page's pixels as a server gets them: one image as large as the model takes it, or the whole page and its tiles."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from pipeline.documents.pages.tiles import Tiling

Format = Literal["png", "jpeg"]
_JPEG_QUALITY = 90
_CELL_PX = 16  # of Pixtral


class PageImages(NamedTuple):
    """In the order in which they stand in the message; `tiling` where there is more than one, or it is shrunk so."""

    images: list[bytes]
    tiling: Tiling | None = None


def images_of(
    pixels: NDArray[np.uint8], form: Format, *, max_side_px: int | None, max_pixels: int | None, is_tiled: bool
) -> PageImages:
    """`max_side_px` and `max_pixels` bound each image; None does not."""
    from PIL import Image

    if is_tiled and max_side_px is not None:
        from pipeline.documents.pages.tiles import SHRINKS_BY, plan_tiles
        from workers.pixtral.text.tile_images import cut

        height, width = pixels.shape[:2]
        tiling = plan_tiles(width, height, side=max_side_px, cell=_CELL_PX, tiled_from=round(SHRINKS_BY * max_side_px))
        if tiling is not None:
            return PageImages([_encoded(image, form) for image in cut(pixels, tiling)], tiling)
    return PageImages([_encoded(_shrunk(Image.fromarray(pixels), max_side_px, max_pixels), form)])


def _shrunk(image: Image.Image, max_side_px: int | None, max_pixels: int | None) -> Image.Image:
    from PIL import Image

    scale = min(
        1.0,
        max_side_px / max(image.size) if max_side_px is not None else 1.0,
        math.sqrt(max_pixels / (image.width * image.height)) if max_pixels is not None else 1.0,
    )
    if scale == 1.0:
        return image
    size = (max(1, math.floor(image.width * scale)), max(1, math.floor(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _encoded(image: Image.Image, form: Format) -> bytes:
    from pipeline.blobs import png

    image = png.canonical(image)
    if form == "png":
        return png.encode(image)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_JPEG_QUALITY)
    return out.getvalue()
