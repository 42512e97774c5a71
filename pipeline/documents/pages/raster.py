"""What a model takes as a page's image, and how a document remembers for which it was drawn.

Pixtral 12B takes 1,024 px a side at most, in squares of 16 px. Mistral Small 3.x and Ministral 3 take 1,540 px, and
four patches of 14 px are one token: squares of 28 px. A page that is drawn so needs no resampling, not by a pixel:
that would blur its print.

A batch that names such a model keeps it behind its `detail`, and so does each document that is drawn for it, as all
pages of a document, and one that is drawn again, are drawn alike:

    auto             for Pixtral, for engines that take any image, and where nobody knows yet who will read
    auto 1540/28     for a model of that longest side, and of that square
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.settings import Settings

MOST_CELL_PX = 64  # a larger square is nobody's; page images have room for its white
MOST_SIDE_PX = 32_768  # as of PAGEPACK_MAX_SIDE_PX


@dataclass(frozen=True, slots=True)
class Raster:
    """The defaults are Pixtral's, and everybody's who takes any size."""

    side_px: int = 1024  # of the largest image, in whole squares
    cell_px: int = 16  # of the square which is one token


PIXTRAL = Raster()


def raster_of(settings: Settings) -> Raster:
    """What the settings' model takes; the default where they name none, or one that its engine will refuse."""
    if settings.model is None or settings.engine not in ("auto", "pixtral"):
        return PIXTRAL
    try:
        params = json.loads((settings.model / "params.json").read_text(encoding="utf-8"))
        return read_raster(params["vision_encoder"])
    except (OSError, ValueError, KeyError, TypeError):
        return PIXTRAL


def read_raster(vision: dict[str, Any]) -> Raster:
    """By the `vision_encoder` of a params.json. Raises KeyError, TypeError or ValueError: it has none that serves."""
    cell = int(vision["patch_size"]) * int(vision.get("spatial_merge_size") or 1)
    side = min(int(vision["image_size"]), MOST_SIDE_PX)
    side = min(side, int(vision.get("max_image_size") or side))
    if not 0 < cell <= MOST_CELL_PX or side < cell:
        raise ValueError(f"images of {side} px in squares of {cell} px")
    return Raster(side - side % cell, cell)


def drawn_for(settings: Settings, detail: str | None = None) -> str:
    """A detail (default: the settings') with what their model takes behind it."""
    raster = raster_of(settings)
    words = detail or settings.detail
    return words if raster == PIXTRAL else f"{words} {raster.side_px}/{raster.cell_px}"


def parted(detail: str) -> tuple[str, Raster]:
    """What `drawn_for` joined."""
    words, _, raster = detail.partition(" ")
    side, _, cell = raster.partition("/")
    return words, Raster(int(side), int(cell)) if raster else PIXTRAL
