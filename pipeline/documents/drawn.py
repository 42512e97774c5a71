"""A drawn page, the size at which it is drawn, and its decoder's errors as ours: what all kinds share.

Size: the long side is at most `max_side_px`, both sides are multiples of 16 (the vision encoder's patch), so that the
model's own preprocessing never resamples. The content keeps its proportions, and white fills up to 15 px on the right
and at the bottom. Stretching instead (under 1 % on A4, but 16 % on a strip 50 px high) would bend the content
to save a column of patches which that preprocessing adds anyway.

    A4, 595.3 × 841.9 pt, at 1024:  scale 1.2163  →  content 725 × 1024  →  image 736 × 1024

A PDF page is drawn so that its long side is `max_side_px`; an image above that shrinks with Lanczos, and one below it
keeps its pixels. Pixels are counted before anything is drawn or decoded.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pipeline.errors import DocumentRejected, PageFailed

PATCH_PX = 16  # side of the vision encoder's patch
WHITEST = 240  # a picture whose one colour is lighter is blank paper
MAX_TEXT_CHARACTERS = 1_000_000  # of one page's text layer; a thick book has as many
Rejection = TypeVar("Rejection", DocumentRejected, PageFailed)


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be drawn; each is the setting of the same name."""

    max_side_px: int
    max_pages: int
    max_page_pt: int
    max_image_pixels: int
    all_frames: bool = False


@dataclass(frozen=True, slots=True)
class Drawn:
    """One page: its picture and what is known about it."""

    mode: str  # RGB or L
    width_px: int  # both sides multiples of 16
    height_px: int
    pixels: bytes | memoryview  # rows from the top, without gaps
    text_layer: str | None  # None: the page carries none, as an image never does
    warnings: str  # what MuPDF mended or left out, one line each
    owner: object = None  # of the memory under `pixels`
    width_pt: float | None = None  # of the page as it is shown; None where the source has no physical size
    height_pt: float | None = None
    text_lines: tuple[list[list[int]], bool] | None = None  # of `text_lines.text_lines`, where the page carries text


class Opened(Protocol):
    """A document whose pages can be drawn in any order."""

    page_count: int

    def draw(self, page_index: int) -> Drawn:
        """Raises PageFailed."""


def fit(width: float, height: float, max_side_px: int, *, enlarge: bool) -> tuple[float, int, int]:
    """Scale and content size in pixels that bring the long side to `max_side_px`, or leave a smaller one alone.

    Sizes are rounded up, except what is over by rounding error alone; no side falls below 1 px.
    """
    scale = max_side_px / max(width, height)
    if not enlarge:
        scale = min(scale, 1.0)
    width_px, height_px = (min(max(math.ceil(side * scale - 1e-3), 1), max_side_px) for side in (width, height))
    return scale, width_px, height_px


def padded_px(side_px: int) -> int:
    """The next multiple of 16."""
    return -(-side_px // PATCH_PX) * PATCH_PX


def clean(text: str) -> str:
    """Text that UTF-8 and PostgreSQL can hold: no NUL, no lone surrogates; cut at MAX_TEXT_CHARACTERS."""
    return text[:MAX_TEXT_CHARACTERS].replace("\0", "").encode("utf-8", "ignore").decode()


def without_paths(text: str) -> str:
    """A decoder's words without the name by which this process knows the file."""
    return re.sub(r" ?(['\"<(]?)/(?:dev|proc/self)/fd/\d+['\">)]?", "", text)


def translated(error: Exception, to: type[Rejection], fact: str) -> Rejection:
    """A decoder's exception as one of ours; `memory` where it says that it could get none."""
    text = without_paths(clean(str(error))).strip() or type(error).__name__
    is_memory = isinstance(error, MemoryError) or any(word in text.lower() for word in ("malloc", "out of memory"))
    return to(f"{fact}: {text[:300]}", cause="memory" if is_memory else "damaged")


def colour_of(pixels: memoryview, stride_px: int, width_px: int, height_px: int) -> tuple[int, ...] | None:
    """The one colour of an RGB picture, or None where it has several; the padding is not looked at.

    Most pictures are told apart at one of 64 places; only one that is not costs a comparison of all rows, 0.2 ms.
    """
    colour = bytes(pixels[:3])
    for step in range(64):
        x, y = (step * 37 % 64) * width_px // 64, step * height_px // 64
        at = (y * stride_px + x) * 3
        if pixels[at : at + 3] != colour:
            return None
    row = colour * width_px
    for y in range(height_px):
        if pixels[y * stride_px * 3 : (y * stride_px + width_px) * 3] != row:
            return None
    return tuple(colour)


def is_white(colour: tuple[int, ...]) -> bool:
    """Blank paper, as scanners and programs make it."""
    return min(colour) >= WHITEST
