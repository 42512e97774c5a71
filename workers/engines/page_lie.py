"""How a page lies, by a look before a model that sees pictures reads it: which way up, and how far askew.

The CPU engine finds that out while it reads (`orientation.py`); what stands here looks for the same in a smaller
picture, with the models of RapidOCR's wheel: the detector finds the lines, and the beginnings of a few are read each
way. Slight angles are those of the lines. Where no way makes sound sense, as in a script that those models do not read,
the page as a whole says how it lies (`whole_page.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from pipeline.layout.lines import Line, Quad
from workers.engines.ink import find_ink
from workers.engines.orientation import Turn, find_orientation
from workers.engines.page_lines import find_regions
from workers.engines.regions import Models, Reading, Region
from workers.engines.whole_page import turn_of_whole_page

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LOOK_PIXELS = 400_000  # A4 at 750 px: print of 8 pt is 7 px high, enough to find its lines
_CLOSE_PIXELS = 2_400_000  # where that says too little: lines of small print run into each other
_MOST_HEIGHTS = 8.0  # of a line's beginning: some words say which way up they stand as well as all of them
_TRIED, _LETTERS, _CAPITALS = 4, 10, 0.9  # of the letters that are read in so many lines, this part
_LEAST_SKEW = 1.0  # degrees; models read what is askew by less as well
_MOST_SKEW = 15.0
_LEAST_LINES = 3  # that say so, each
_LONG = 5  # times as long as high, and with the others
_AGREED, _STRAY = 0.6, 0.75  # in this part of their lengths, to so many degrees


class Lie(NamedTuple):
    """How a page lies: quarter turns that set it upright, then degrees clockwise that set its lines level."""

    turn: Turn = Turn.NONE
    skew: float = 0.0

    @property
    def angle(self) -> float:
        """Degrees clockwise by which the picture is turned, 0 to 360."""
        return round((-90 * self.turn + self.skew) % 360, 2)


def find_lie(models: Models, pixels: NDArray[np.uint8]) -> Lie:
    """Of a page in RGB. 0.3 s of processor time, and up to 2 s where that misses small print, as of newspapers."""
    told: Turn | None = None
    is_sound = False
    for most_pixels in (_LOOK_PIXELS, _CLOSE_PIXELS):
        look = _look(models, pixels, most_pixels)
        if look.is_sound:
            told, is_sound = look.turn, True
        elif told is None and look.regions:
            told = turn_of_whole_page(pixels)
        are_few = 0 < len(look.regions) < _LEAST_LINES  # as a headline, or a stamp, over small print that it missed
        if (told is not None and not are_few) or pixels.shape[0] * pixels.shape[1] <= most_pixels:
            break
    turn = look.turn if told is None else told
    if turn == Turn.HALF and not is_sound and (look.reads_as_it_lies or _reads_as_capitals(look)):
        turn = Turn.NONE  # Hebrew
    skew = -_slope([_turned(region.quad, turn, look.shape) for region in look.regions])
    return Lie(turn, skew if abs(skew) >= _LEAST_SKEW else 0.0)


class _Look(NamedTuple):
    """What lines were found in a picture of that shape, and which way they make most sense."""

    regions: list[Region]
    shape: tuple[int, ...]
    turn: Turn
    is_sound: bool
    """They make sound sense so. Blank paper does."""
    reads_as_it_lies: bool = False
    """They make much sense so, without a turn."""
    lines: _Lines | None = None


def _look(models: Models, pixels: NDArray[np.uint8], most_pixels: int) -> _Look:
    """In a picture of so many pixels."""
    import cv2
    import numpy as np

    height, width = pixels.shape[:2]
    small, scale = pixels, min(1.0, math.sqrt(most_pixels / (height * width)))
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    regions = find_regions(models, small)
    if not regions:
        return _Look([], small.shape, Turn.NONE, find_ink(small) is None)
    lines = _Lines(models, pixels, scale)
    orientation = find_orientation(regions, lines.read, lines.begin, _MOST_HEIGHTS)
    reads_as_it_lies = orientation.turn == Turn.NONE and orientation.makes_sense
    return _Look(regions, small.shape, orientation.turn, orientation.is_sound, reads_as_it_lies, lines)


def _reads_as_capitals(look: _Look) -> bool:
    """On its head, as Hebrew does, which the model of whole pages then holds for upright."""
    longest = sorted(look.regions, key=lambda region: -region.length_px)[:_TRIED]
    texts = [look.lines.begin(region, Turn.HALF).text for region in longest] if look.lines is not None else []
    letters = [char for text in texts for char in text if char.isascii() and char.isalpha()]
    return len(letters) >= _LETTERS and sum(map(str.isupper, letters)) >= _CAPITALS * len(letters)


def _slope(lines: Sequence[Line]) -> float:
    """Degrees clockwise by which most lines run down, by their lengths; 0 where they do not agree."""
    found = []
    for line in lines:
        (ax, ay), (bx, by), _, (dx, dy) = line.quad
        width = math.hypot(bx - ax, by - ay)
        if width > _LONG * math.hypot(dx - ax, dy - ay):
            found.append((math.degrees(math.atan2(by - ay, bx - ax)), width * width))
    if len(found) < _LEAST_LINES:
        return 0.0
    found.sort()
    passed = list(accumulate(weight for _, weight in found))
    middle = next(slope for (slope, _), end in zip(found, passed, strict=True) if 2 * end >= passed[-1])
    agreed = sum(weight for slope, weight in found if abs(slope - middle) <= _STRAY)
    return middle if agreed >= _AGREED * passed[-1] and abs(middle) <= _MOST_SKEW else 0.0


class _Lines:
    """Those that were found in a smaller picture, read in the large one."""

    def __init__(self, models: Models, pixels: NDArray[np.uint8], scale: float) -> None:
        self._models, self._pixels, self._scale = models, pixels, scale

    def read(self, region: Region, turn: Turn) -> Reading:
        return self._models.read(self._turned(region, turn))

    def begin(self, region: Region, turn: Turn) -> Reading:
        line = self._turned(region, turn)
        return self._models.read(line[:, : round(_MOST_HEIGHTS * len(line))])

    def _turned(self, region: Region, turn: Turn) -> NDArray[np.uint8]:
        import numpy as np

        return np.rot90(self._cut(region), turn)

    def _cut(self, region: Region) -> NDArray[np.uint8]:
        """As the line stands on the page, in BGR."""
        import cv2
        import numpy as np

        width, height = (max(1, round(side / self._scale)) for side in (region.width_px, region.height_px))
        stands = np.array(region.quad, np.float32) / self._scale
        cut = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
        matrix = cv2.getPerspectiveTransform(stands, cut)
        edge = cv2.BORDER_REPLICATE
        line = cv2.warpPerspective(self._pixels, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=edge)
        return np.asarray(line[:, :, ::-1], np.uint8)


def _turned(quad: Quad, turn: Turn, shape: tuple[int, ...]) -> Line:
    """A line as it stands on the page after that was turned; its corners run from its own top left on."""
    height, width = shape[:2]
    corners = list(quad)
    if turn == Turn.LEFT:
        corners = [(y, width - x) for x, y in corners]
    elif turn == Turn.HALF:
        corners = [(width - x, height - y) for x, y in corners]
    elif turn == Turn.RIGHT:
        corners = [(height - y, x) for x, y in corners]
    a, b, c, d = corners[turn:] + corners[:turn]
    return Line((a, b, c, d), "")
