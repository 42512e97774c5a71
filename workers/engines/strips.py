"""Detection on pages of any size: a large one is cut into strips that overlap, and what they find is put together.

Detection takes about 1 s of processor time and 170 MB of memory a megapixel, and RapidOCR's postprocessing keeps at
most 1,000 regions of an image. A receipt of 640 × 5,360 px, or a sheet of A1 at ten megapixels, has to be seen at its
own size all the same: shrunk to 1,024 px, it gave half of its lines or none. Recognition needs no strips, for it sees
one line at a time.

    rows     0 ├────────────────┤ 2,744                 a line in both: taken from where it is whole
                         2,616 ├────────────────┤ 5,360    cut in both (tall, slanting or sideways): joined

A strip is as wide as the page, so that no upright line is cut along its length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_PIXELS = 2 * 2**20  # detected in one piece: A4 at 170 dpi
OVERLAP_PX = 128  # lines up to this height are whole in one strip at least
MIN_STRIP_PX = 384  # of the widest pages
_EDGE_PX = 2  # a region that comes so near to a cut may go on beyond it
_SAME = 0.5  # so much of the smaller one lies in the other: it is the same line


def strips(height: int, width: int) -> list[tuple[int, int]]:
    """First row of each strip and the row after its last; one strip for a page that is small enough.

    >>> strips(1024, 736), strips(5360, 640)
    ([(0, 1024)], [(0, 2744), (2616, 5360)])
    """
    most = max(MAX_PIXELS // width, MIN_STRIP_PX)
    if height <= most:
        return [(0, height)]
    count = -(-(height - OVERLAP_PX) // (most - OVERLAP_PX))
    size = -(-(height + (count - 1) * OVERLAP_PX) // count)
    starts = [number * (height - size) // (count - 1) for number in range(count)]
    return [(start, start + size) for start in starts]


@dataclass(slots=True)
class _Region:
    quad: NDArray[np.float32]  # (4, 2): x, y
    score: float
    is_cut_above: bool
    is_cut_below: bool


class StripDetector:
    """RapidOCR's detector for images of any size; called as that is."""

    def __init__(self, detector: Any) -> None:
        self._detector = detector
        self.postprocess_op = detector.postprocess_op  # RapidOCR sets its thresholds

    def __call__(self, image: NDArray[np.uint8]) -> Any:
        import numpy as np

        height, width = image.shape[:2]
        cuts = strips(height, width)
        if len(cuts) == 1:
            return self._detector(image)
        regions: list[_Region] = []
        last: list[_Region] = []  # of the strip before
        for top, bottom in cuts:
            found = self._detector(np.ascontiguousarray(image[top:bottom]))
            new = []
            for box, score in zip(found.boxes if len(found) else (), found.scores or (), strict=True):
                quad = np.asarray(box, np.float32) + np.array([0, top], np.float32)
                ys = quad[:, 1]
                is_cut_above = top > 0 and ys.min() <= top + _EDGE_PX
                new.append(_Region(quad, score, is_cut_above, bottom < height and ys.max() >= bottom - _EDGE_PX))
            last, new = _merged(last, new, top)
            regions, last = regions + last, new
        regions += last
        if not regions:
            return type(found)()
        boxes = np.array([region.quad for region in regions], np.float32).round()
        return type(found)(image, self._detector.sorted_boxes(boxes), [region.score for region in regions])


def _merged(above: list[_Region], below: list[_Region], top: int) -> tuple[list[_Region], list[_Region]]:
    """Regions of a strip and of the next one, which begins at row `top`, without those that both have."""
    near = [region for region in above if region.quad[:, 1].max() > top]
    kept = []
    for region in below:
        for other in near if region.quad[:, 1].min() < top + OVERLAP_PX else ():
            if not _is_same(region, other, top):
                continue
            if other.is_cut_below and region.is_cut_above:
                region = _joined(other, region)
            elif not other.is_cut_below:
                break  # the strip above has it whole
            above = [one for one in above if one is not other]
            near = [one for one in near if one is not other]
        else:
            kept.append(region)
    return above, kept


def _is_same(one: _Region, other: _Region, top: int) -> bool:
    """Of two that are cut, only what lies in both strips is compared."""
    import cv2
    import numpy as np

    both, _ = cv2.intersectConvexConvex(one.quad, other.quad)
    if both <= 0:
        return False
    areas = []
    for quad in (one.quad, other.quad):
        left, right = quad[:, 0].min() - 1, quad[:, 0].max() + 1
        zone = np.array([[left, top], [right, top], [right, top + OVERLAP_PX], [left, top + OVERLAP_PX]], np.float32)
        areas.append(cv2.intersectConvexConvex(quad, zone)[0])
    return bool(both >= _SAME * min(areas))


def _joined(above: _Region, below: _Region) -> _Region:
    """One that lies around both."""
    import cv2
    import numpy as np

    corners = cv2.boxPoints(cv2.minAreaRect(np.concatenate([above.quad, below.quad])))
    by_x = sorted(corners, key=lambda corner: corner[0])
    (left_top, left_bottom), (right_top, right_bottom) = (
        sorted(pair, key=lambda corner: corner[1]) for pair in (by_x[:2], by_x[2:])
    )
    quad = np.array([left_top, right_top, right_bottom, left_bottom], np.float32)
    return _Region(quad, max(above.score, below.score), above.is_cut_above, below.is_cut_below)
