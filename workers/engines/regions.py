"""Where the detector sees lines of text on a page, and what the recognizer makes of each."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.layout.lines import Point, Quad
from workers.engines.ink import Ink

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# From here on a box's longer side says how its line runs.
_ELONGATED = 1.5


class Reading(NamedTuple):
    text: str
    confidence: float


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A box around a line of text; `quad` in pixels of the page, clockwise from its top left as it stands there."""

    quad: Quad
    image: NDArray[np.uint8]
    """Cut out, in BGR."""
    laid: int = 0
    """The image was turned counter-clockwise by so many quarters, as RapidOCR does where one is higher than wide."""

    def turned(self, turn: int) -> NDArray[np.uint8]:
        """As it stands on the page after that is turned by so many quarters counter-clockwise."""
        import numpy as np

        return np.rot90(self.image, turn - self.laid)

    def pieces(self, count: int) -> list[Region]:
        """So many of equal height, from its top down as it stands on the page."""
        (x0, y0), (x1, y1), (x2, y2), (x3, y3) = self.quad
        image = self.turned(0)
        cuts = [(i / count, (i + 1) / count) for i in range(min(count, image.shape[0]))]

        def at(share: float) -> tuple[Point, Point]:
            return (x0 + share * (x3 - x0), y0 + share * (y3 - y0)), (x1 + share * (x2 - x1), y1 + share * (y2 - y1))

        return [
            Region((*at(top), at(end)[1], at(end)[0]), image[int(top * len(image)) : int(end * len(image))])
            for top, end in cuts
        ]

    @property
    def width_px(self) -> float:
        return max(math.dist(self.quad[0], self.quad[1]), math.dist(self.quad[2], self.quad[3]))

    @property
    def height_px(self) -> float:
        return max(math.dist(self.quad[0], self.quad[3]), math.dist(self.quad[1], self.quad[2]))

    @property
    def centre(self) -> Point:
        xs, ys = zip(*self.quad, strict=True)
        return sum(xs) / 4, sum(ys) / 4

    @property
    def runs_along(self) -> bool:
        """The line runs up or down the page."""
        return self.height_px >= _ELONGATED * self.width_px

    @property
    def runs_across(self) -> bool:
        return self.width_px >= _ELONGATED * self.height_px

    @property
    def length_px(self) -> float:
        return length_px(self.quad)

    @property
    def length_in_heights(self) -> float:
        """How long the line is for the height of its letters: at least 1."""
        return self.length_px / max(1.0, min(self.width_px, self.height_px))


class Models:
    """RapidOCR's detector and recognizer, one call each at a time; may be used by many threads."""

    def __init__(self, reader: Any, *, reads_greek: bool = False) -> None:
        """`reader` is a loaded `rapidocr.RapidOCR`."""
        self._reader = reader
        self.reads_greek = reads_greek

    def find(self, pixels: NDArray[np.uint8]) -> list[Region]:
        """Regions from the top; pixels are RGB."""
        import numpy as np
        from rapidocr.main import RapidOCRError
        from rapidocr.utils.process_img import map_boxes_to_original

        image, done_to_it = self._reader.preprocess_img(np.ascontiguousarray(pixels[:, :, ::-1]))
        try:
            images, found = self._reader.detect_and_crop(image, done_to_it)
        except RapidOCRError:  # its word for: nothing is there
            return []
        boxes = map_boxes_to_original(found.boxes, done_to_it, *pixels.shape[:2])
        return [_region(_quad(box), cut) for box, cut in zip(boxes, images, strict=True)]

    def find_within(self, pixels: NDArray[np.uint8], ink: Ink) -> list[Region]:
        """Likewise in the piece of the page that holds ink, with paper around it as high as a line may be."""
        margin = max(32, min(ink.right - ink.left, ink.bottom - ink.top))
        left, top = max(0, ink.left - margin), max(0, ink.top - margin)
        piece = pixels[top : ink.bottom + margin, left : ink.right + margin]
        return [
            replace(region, quad=_quad([(x + left, y + top) for x, y in region.quad])) for region in self.find(piece)
        ]

    def read(self, image: NDArray[np.uint8]) -> Reading:
        """One line, which runs from left to right in `image`."""
        import numpy as np
        from rapidocr.ch_ppocr_rec import TextRecInput

        found = self._reader.text_rec(TextRecInput(img=[np.ascontiguousarray(image)], return_word_box=False))
        return Reading(found.txts[0].strip(), float(found.scores[0]))


def _region(quad: Quad, image: NDArray[np.uint8]) -> Region:
    region = Region(quad, image)
    laid = region.height_px > region.width_px and image.shape[1] > image.shape[0]
    # RapidOCR takes the left one of the upper corners for the first; of a steep line that is neither quite upright,
    # both upper corners lie to the right of both lower ones, or to the left.
    first = max(range(4), key=lambda corner: _slope(quad[corner], quad[(corner + 1) % 4]))
    a, b, c, d = quad[first:] + quad[:first]
    return Region((a, b, c, d), image, (laid - first) % 4)


def _slope(start: Point, end: Point) -> float:
    """1 for an edge that runs to the right, 0 up or down, -1 to the left."""
    return (end[0] - start[0]) / max(math.dist(start, end), 1e-6)


def _quad(box: Any) -> Quad:
    a, b, c, d = ((float(x), float(y)) for x, y in box)
    return a, b, c, d


def length_px(quad: Quad) -> float:
    """The longer side."""
    return max(math.dist(quad[i], quad[i - 1]) for i in range(4))


def letters(text: str) -> float:
    """How many letters' room a text takes: those of full width, as Chinese ones, count for two, and spaces not."""
    return sum(2.0 if unicodedata.east_asian_width(char) in "WF" else 1.0 for char in text if not char.isspace())
