"""Whether anything but paper is on a page, and where: for pages on which the detector finds no line.

The detector overlooks a word or two alone on a large sheet, and finds them in the piece of the page that holds ink.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CONTRAST = 48  # grey levels between ink and paper, after a blur that takes a scanner's noise away
_LEAST_AREA_PX = 12  # a speck of dust is less
_LEAST_SHARE = 0.0001  # of the page: a word of 9 pt on A4 is 0.0003, two specks are less than 0.00003


class Ink(NamedTuple):
    """Where it is; right and bottom are one past the last pixel."""

    left: int
    top: int
    right: int
    bottom: int

    def is_small_on(self, shape: tuple[int, ...]) -> bool:
        """Less than half of the page."""
        return 2 * (self.right - self.left) * (self.bottom - self.top) < shape[0] * shape[1]


def find_ink(pixels: NDArray[np.uint8]) -> Ink | None:
    """The box around what is drawn on the page, None where it is blank. What touches an edge is the scanner's."""
    import cv2
    import numpy as np

    grey = cv2.blur(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (3, 3))
    paper = int(np.median(grey))
    marks = (cv2.absdiff(grey, np.full_like(grey, paper)) >= _CONTRAST).astype(np.uint8)
    height, width = marks.shape
    _, _, boxes, _ = cv2.connectedComponentsWithStats(marks, connectivity=8)
    left, top, right, bottom, area = (*boxes[1:, :2].T, *(boxes[1:, :2] + boxes[1:, 2:4]).T, boxes[1:, 4])
    is_ink = (area >= _LEAST_AREA_PX) & (left > 0) & (top > 0) & (right < width) & (bottom < height)
    if area[is_ink].sum() < _LEAST_SHARE * width * height:
        return None
    return Ink(
        *(int(side) for side in (left[is_ink].min(), top[is_ink].min(), right[is_ink].max(), bottom[is_ink].max()))
    )
