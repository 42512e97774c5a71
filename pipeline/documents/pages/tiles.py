"""How a page larger than the model's largest image is cut: the whole page, shrunk, and tiles of it that overlap.

The table of positions ends at 1,024 px a side (that of Mistral Small 3.x and Ministral 3 at 1,540). A page that needs
more goes into one prompt as several images: the whole page for its layout, then tiles at the page's own size for the
letters, row by row. The model answers once, so a line that a cut runs through is still written as one line, and columns
keep their order.

    1,456 × 2,048 px   whole 736 × 1,024, tiles in 3 rows of 2, each 800 × 768 px:
    x 0 … 800, 656 … 1,456        y 0 … 768, 640 … 1,408, 1,280 … 2,048

Neighbours share OVERLAP_PX at least, so that each word and each line of small print is whole in one tile; larger print
is read in the whole page. Tiles are equal, and their sides multiples of the model's square, so nothing is resampled:
where the page's own sides are none, as it was drawn for another model, white fills them up.

A tile costs what any image costs, (width / 16 + 1) × height / 16 tokens for Pixtral. What is over `most_tokens` in all
is shrunk until it is not: A1 at 10 pt comes to 12 px of print, a page of thousands of tiles to a few.

A page that is not much larger may go whole, shrunk alone. Page images are drawn so that small print is 14 px high; of
1,365 px, shrunk to 1,024, it is 10.5 px high, as on pages that are drawn so. There tiles would make it 2.9 times the
tokens. Which size trained weights need is not known: none were at hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MOST_TOKENS = 32_768  # of all images of a page: eight of the largest
OVERLAP_PX = 128  # a word of ten letters at 12 px each, four lines of small print
SHRINKS_BY = 4 / 3  # at most, where tiles would do
_STEP = 0.97  # how finely the size of a page that is over the bound is looked for

Size = tuple[int, int]  # width, height
Box = tuple[int, int, int, int]  # first column, first row, the column and the row after the last


@dataclass(frozen=True, slots=True)
class Tiling:
    """A page as several images."""

    page: Size  # as it is stored
    whole: Size  # of the whole page's image
    scaled: Size  # that it is brought to before it is cut
    rows: int = 0
    columns: int = 0
    boxes: tuple[Box, ...] = ()  # of the tiles on the page so scaled, row by row; none where the whole page does

    @property
    def sizes(self) -> list[Size]:
        """Of each image."""
        return [self.whole, *((right - left, bottom - top) for left, top, right, bottom in self.boxes)]

    def on_page(self) -> list[list[int]]:
        """The tiles' boxes in pixels of the page as it is stored."""
        scale, ends = scale_within(self.page, self.scaled), self.page * 2
        return [[min(round(side / scale), end) for side, end in zip(box, ends, strict=True)] for box in self.boxes]


def plan_tiles(
    width: int, height: int, *, side: int, cell: int, most_tokens: int = MOST_TOKENS, tiled_from: int = 0
) -> Tiling | None:
    """The images of a page of `width` × `height` px; None where it is one image as it is.

    `side` is the longest side of an image, `cell` that of the square which is one token. `most_tokens` holds one image
    of `side` at least. Where `tiled_from` is over `side`, pages up to it go whole.
    """
    if max(width, height) <= side:
        return None
    side -= side % cell
    whole = _cells(width, height, side / max(width, height), cell)
    left = most_tokens - num_tokens([whole], cell)
    scale, scaled = 1.0, _cells(width, height, 1.0, cell)
    while max(scaled) > max(side, tiled_from):
        columns, rows = (_spans(length, side, cell) for length in scaled)
        boxes = tuple((x, y, right, bottom) for y, bottom in rows for x, right in columns)
        tiling = Tiling((width, height), whole, scaled, len(rows), len(columns), boxes)
        if num_tokens(tiling.sizes[1:], cell) <= left:
            return tiling
        scale *= _STEP
        scaled = _cells(width, height, scale, cell)
    return Tiling((width, height), whole, whole)


def scale_within(page: Size, size: Size) -> float:
    """The largest up to 1 at which the page lies within `size`; white fills the rest, less than a cell on one side."""
    return min(1.0, *(inside / whole for whole, inside in zip(page, size, strict=True)))


def num_tokens(sizes: Iterable[Size], cell: int) -> int:
    """Of images of these sizes, with their breaks and ends."""
    return sum((-(-width // cell) + 1) * -(-height // cell) for width, height in sizes)


def _cells(width: int, height: int, scale: float, cell: int) -> Size:
    """The page's sides by `scale`, up to whole cells."""
    return -(-max(round(width * scale), 1) // cell) * cell, -(-max(round(height * scale), 1) // cell) * cell


def _spans(length: int, side: int, cell: int) -> list[tuple[int, int]]:
    """Equal spans of at most `side` that cover `length` and overlap; one span where that does.

    >>> _spans(2048, 1024, 16), _spans(640, 1024, 16)
    ([(0, 768), (640, 1408), (1280, 2048)], [(0, 640)])
    """
    if length <= side:
        return [(0, length)]
    count = -(-(length - OVERLAP_PX) // (side - OVERLAP_PX))
    size = -(-(length + (count - 1) * OVERLAP_PX) // (count * cell)) * cell
    starts = [number * (length - size) // (count - 1) for number in range(count)]
    return [(start, start + size) for start in starts]
