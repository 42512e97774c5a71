"""A large page is detected in strips, and each line of it comes out once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from workers.engines import strips as module
from workers.engines.strips import MIN_STRIP_PX, OVERLAP_PX, StripDetector, strips


@pytest.mark.parametrize(
    ("height", "width"),
    [(1024, 736), (1664, 1184), (5360, 640), (16_384, 512), (3824, 2704), (640, 8192), (2500, 8192), (16, 16_384)],
)
def test_strips_cover_the_page_and_overlap(height: int, width: int) -> None:
    cuts = strips(height, width)
    assert cuts[0][0] == 0 and cuts[-1][1] == height
    assert all(before[1] - after[0] >= OVERLAP_PX for before, after in pairwise(cuts))
    most = max(module.MAX_PIXELS, MIN_STRIP_PX * width)
    assert all((bottom - top) * width <= most for top, bottom in cuts)
    assert (len(cuts) == 1) == (height * width <= most)


@dataclass
class Found:
    """As RapidOCR's TextDetOutput."""

    img: Any = None
    boxes: NDArray[np.float32] | None = None
    scores: list[float] | None = None

    def __len__(self) -> int:
        return 0 if self.boxes is None else len(self.boxes)


@dataclass
class InkDetector:
    """Finds the upright boxes around the marks of each value above 0, as far as its image shows them."""

    postprocess_op: object = None
    heights: list[int] = field(default_factory=list)

    def __call__(self, image: NDArray[np.uint8]) -> Found:
        self.heights.append(len(image))
        boxes = []
        for value in np.unique(image[image > 0]):
            rows, columns = (image[:, :, 0] == value).any(axis=1).nonzero()[0], (image[:, :, 0] == value).any(0)
            left, right = columns.nonzero()[0][[0, -1]]
            top, bottom = rows[[0, -1]]
            boxes.append([[left, top], [right, top], [right, bottom], [left, bottom]])
        return Found(image, np.array(boxes, np.float32), [0.9] * len(boxes)) if boxes else Found()

    def sorted_boxes(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        return boxes[np.argsort(boxes[:, 0, 1], kind="stable")]


def detect(page: NDArray[np.uint8]) -> tuple[list[tuple[int, ...]], list[int]]:
    detector = InkDetector()
    found = StripDetector(detector)(np.repeat(page[:, :, None], 3, axis=2))
    boxes = () if found.boxes is None else found.boxes
    return [(*map(int, box.min(axis=0)), *map(int, box.max(axis=0))) for box in boxes], detector.heights


def test_lines_at_every_height_come_out_once_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 400 * 600)
    page = np.zeros((2400, 400), np.uint8)
    lines = [(10 + 7 * (n % 3), top, 380, top + 22) for n, top in enumerate(range(5, 2370, 29))]
    for value, (left, top, right, bottom) in enumerate(lines, start=1):
        page[top : bottom + 1, left : right + 1] = value
    boxes, heights = detect(page)
    assert boxes == lines
    assert len(heights) > 3 and max(heights) <= 600


def test_what_is_taller_than_the_overlap_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 400 * 600)
    page = np.zeros((2400, 400), np.uint8)
    page[300:1500, 20:60] = 1  # a sideways line over several strips
    page[500:700, 80:390] = 2  # a headline on a cut
    boxes, _ = detect(page)
    for box, wanted in zip(boxes, [(20, 300, 59, 1499), (80, 500, 389, 699)], strict=True):
        assert all(math.isclose(a, b, abs_tol=1) for a, b in zip(box, wanted, strict=True)), (box, wanted)


def test_blank_page_has_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 400 * 600)
    boxes, heights = detect(np.zeros((1600, 400), np.uint8))
    assert not boxes and len(heights) == len(strips(1600, 400)) > 1
