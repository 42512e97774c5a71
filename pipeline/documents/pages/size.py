"""At what size a page is drawn: so that its small print can be read, and no larger.

    auto   as `page`, where small print is ENOUGH_PX high then; else it becomes TARGET_PX high
    page   the long side is that of the model's largest image: 1,024 px (`raster.py`)
    N      the long side is N px

Always within the bounds of the settings, in side and in area, and no image file is enlarged. The area counts: a receipt
of 640 × 5,360 px has a long side, and fewer pixels than A4 at 200 dpi.

    A4, 10 pt:   12 px at the size of `page`: that size
    A4,  7 pt:   8.5 px; 14 px want 2 px a point  →  1,191 × 1,684 px

Both sides of the picture are multiples of the square that is one token of the model's (16 px, the vision encoder's
patch), so that the model's own preprocessing never resamples. The content keeps its proportions, and white fills what
is left on the right and at the bottom, up to 15 px. Stretching instead (under 1 % on A4, but 16 % on a strip 50 px
high) would bend the content to save a column of patches which that preprocessing adds anyway.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.documents.pages.drawn import Limits
from schemas.review import LEGIBLE_PX

# Drawn pages of 13 kinds were read at 7 to 16 px: from 10 px on as well as at 16, under 9 px words are lost. Scans of
# poor print want a little more (docs/detail.md).
TARGET_PX = 14
ENOUGH_PX = 10.5  # at the size of `page`: a page that is larger costs more
BLANK_PIXELS = 1024 * 720  # A4 at 1,024 px, where there is no ink
UNKNOWN_PIXELS = 2_000_000  # where there is ink, and nothing like print


@dataclass(frozen=True, slots=True)
class Size:
    """Pixels for each unit of the source (a point, a pixel of an image file), and sides of the content in pixels."""

    scale: float
    width_px: int
    height_px: int


def choose_size(
    width: float,
    height: float,
    detail: str,
    limits: Limits,
    *,
    print_size: float | None,
    least_pixels: int = BLANK_PIXELS,
    sharp: float = math.inf,
    enlarges: bool = True,
) -> Size:
    """For a page of these sides, whose small print is so high, all in the source's own unit.

    Where no print was found, `auto` gives `least_pixels`. It draws no larger than `sharp`, the scale at which a scan
    has all of its own pixels, unless `page` does.
    """
    whole = limits.raster.side_px / max(width, height)
    if detail == "auto" and print_size is not None and print_size * whole >= ENOUGH_PX:
        wanted = whole
    elif detail == "auto":
        wanted = math.sqrt(least_pixels / (width * height)) if print_size is None else TARGET_PX / print_size
        wanted = max(whole, min(wanted, sharp))
    else:
        wanted = whole if detail == "page" else int(detail) / max(width, height)
    if not enlarges:
        wanted = min(wanted, 1.0)
    return sized(width, height, min(wanted, bound(width, height, limits)), limits)


def largest(width: float, height: float, limits: Limits) -> Size:
    """Of an image file, as many of its pixels as the settings allow."""
    return sized(width, height, min(bound(width, height, limits), 1.0), limits)


def bound(width: float, height: float, limits: Limits) -> float:
    """The largest scale that the settings allow."""
    return min(limits.whole_side_px / max(width, height), math.sqrt(limits.max_page_pixels / (width * height)))


def sized(width: float, height: float, scale: float, limits: Limits) -> Size:
    """Sides are rounded up, except what is over by rounding error alone; none falls below 1 px."""
    width_px, height_px = (
        min(max(math.ceil(side * scale - 1e-3), 1), limits.whole_side_px) for side in (width, height)
    )
    return Size(scale, width_px, height_px)


def too_small(print_px: float | None, size: Size, width: float, height: float, detail: str, limits: Limits) -> str:
    """A warning where the print of a page drawn so cannot be read; else nothing."""
    if print_px is None or print_px >= LEGIBLE_PX:
        return ""
    if size.scale >= 0.99 * bound(width, height, limits):
        way_out = "raise PAGEPACK_MAX_SIDE_PX and PAGEPACK_MAX_PAGE_PIXELS"
    elif detail != "auto":
        way_out = f"--detail {detail} draws it so; --detail auto draws it larger where it can"
    else:
        way_out = "the scan has no more pixels; scan it at a higher resolution"
    return f"the small print is {print_px:.0f} px high in the page's image, too small to be read well: {way_out}"
