"""Short cells of a block that lies on its side."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from workers.engines.page_lines import read_lines
from workers.engines.regions import Models, Reading, Region


class NineOnItsSide:
    """Finds long lines that run along the page, and one square cell; reads a long line surely in one direction, and the
    cell as surely as 6 in the other."""

    reads_greek = False

    def __init__(self, corner: tuple[int, int]) -> None:
        self._corner = corner  # where the mark of a piece stands when it is read right

    def find(self, pixels: NDArray[np.uint8]) -> list[Region]:
        lying = [(100 + 60 * at, 50, 130 + 60 * at, 400) for at in range(4)]
        upright = [(20, 420 + 40 * at, 480, 445 + 40 * at) for at in range(8)]
        regions = []
        for number, (x0, y0, x1, y1) in enumerate([(165, 200, 190, 222), *lying, *upright]):
            image = np.zeros((y1 - y0, x1 - x0, 3), np.uint8)
            image[:, :, 1] = number
            image[0, 0, 0] = 255
            regions.append(Region(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), image))
        return regions

    def read(self, image: NDArray[np.uint8]) -> Reading:
        number, is_right, is_as_given = image[0, 0, 1], image[(*self._corner, 0)] == 255, image[0, 0, 0] == 255
        if number == 0:
            return Reading("o", 0.7) if is_as_given else Reading("9", 0.99) if is_right else Reading("6", 0.999)
        if is_right if number < 5 else is_as_given:
            return Reading("a line of print that is long enough", 0.99)
        return Reading("ll", 0.6)


@pytest.mark.parametrize("corner", [(-1, 0), (0, -1)])
def test_a_digit_lies_as_the_lines_around_it_do(corner: tuple[int, int]) -> None:
    models: Any = NineOnItsSide(corner)
    pixels = np.full((800, 500, 3), 255, np.uint8)
    pixels[50:400, 100:310:7] = 0
    found = read_lines(cast(Models, models), pixels, lambda: False)
    assert "9" in [line.text for line in found.lines] and not found.turn
