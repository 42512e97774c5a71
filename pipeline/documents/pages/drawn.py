"""A drawn page, and its decoder's errors as ours: what all kinds share. Its size is chosen in `size.py`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pipeline.documents.pages.raster import PIXTRAL, Raster
from pipeline.errors import DocumentRejected, PageFailed

WHITEST = 240  # a picture whose one colour is lighter is blank paper
_EDGE_PX = 2  # at the edge of a picture, where it is mixed with what lies around it
MAX_TEXT_CHARACTERS = 1_000_000  # of one page's text layer; a thick book has as many
Rejection = TypeVar("Rejection", DocumentRejected, PageFailed)


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be drawn: settings by their names, and what the model takes that will read it."""

    max_side_px: int
    max_pages: int
    max_page_pt: int
    max_image_pixels: int
    all_frames: bool = False
    max_page_pixels: int = 2**24
    raster: Raster = PIXTRAL

    @property
    def whole_side_px(self) -> int:
        """The longest side at most, in whole squares of the model's."""
        return self.max_side_px - self.max_side_px % self.raster.cell_px

    def padded(self, side_px: int) -> int:
        """The next multiple of the model's square."""
        return -(-side_px // self.raster.cell_px) * self.raster.cell_px


@dataclass(frozen=True, slots=True)
class Drawn:
    """One page: its picture and what is known about it."""

    mode: str  # RGB or L
    width_px: int  # both sides multiples of the model's square
    height_px: int
    pixels: bytes | memoryview  # rows from the top, without gaps
    text_layer: str | None  # None: the page carries none, as an image never does
    warnings: str  # what MuPDF mended or left out, one line each
    owner: object = None  # of the memory under `pixels`
    width_pt: float | None = None  # of the page as it is shown; None where the source has no physical size
    height_pt: float | None = None
    # of `text_lines.text_lines`, where the page carries text
    text_lines: tuple[list[list[float | None]], bool] | None = None
    dpi: float | None = None  # at which it was drawn; None where the source has no physical size
    print_px: float | None = None  # font size of the small print in the picture; None where none was found
    strokes: tuple[list[list[int]], list[list[int]]] | None = None  # of `strokes.py`, where the page carries text


class Opened(Protocol):
    """A document whose pages can be drawn in any order."""

    page_count: int

    def draw(self, page_index: int) -> Drawn:
        """Raises PageFailed."""


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

    Most pictures are told apart at one of 64 places; only one that is not costs a comparison of all rows, 1 ms of A4.
    """
    colour = bytes(pixels[:3])
    for step in range(64):
        x, y = (step * 37 % 64) * width_px // 64, step * height_px // 64
        at = (y * stride_px + x) * 3
        if pixels[at : at + 3] != colour:
            return None
    row = colour * width_px
    for y in range(height_px):
        if bytes(pixels[y * stride_px * 3 : (y * stride_px + width_px) * 3]) != row:  # bytes: a view compares slowly
            return None
    return tuple(colour)


def colour_in_white(
    pixels: memoryview, stride_px: int, width_px: int, height_px: int, box: tuple[int, int, int, int]
) -> tuple[int, ...] | None:
    """The one colour inside a box of an RGB picture that is white around it; None for any other, and for a small box.

    `box` is left, top, right and bottom. What lies at its edges, mixed of both, is not looked at.
    """
    left, top, right, bottom = box
    if 2 * (right - left) * (bottom - top) < width_px * height_px:
        return None
    white = b"\xff" * 3 * width_px
    inside: bytes | None = None
    # The middle first: nearly every picture differs there.
    for y in sorted(range(height_px), key=lambda y: abs(2 * y - top - bottom)):
        row = bytes(pixels[y * stride_px * 3 : (y * stride_px + width_px) * 3])
        if top + _EDGE_PX <= y < bottom - _EDGE_PX:
            within = row[3 * (left + _EDGE_PX) : 3 * (right - _EDGE_PX)]
            inside = within[:3] * (len(within) // 3) if inside is None else inside
            beside = row[: 3 * max(left - _EDGE_PX, 0)] + row[3 * (right + _EDGE_PX) :]
            if within != inside or beside != white[: len(beside)]:
                return None
        elif not top - _EDGE_PX <= y < bottom + _EDGE_PX and row != white:
            return None
    return tuple(inside[:3]) if inside else None


def is_white(colour: tuple[int, ...]) -> bool:
    """Blank paper, as scanners and programs make it."""
    return min(colour) >= WHITEST
