"""How high the small print of a page is: from the sizes of the text that it carries, or from a look at its pixels.

*Height* means the font size: twice the height of an x, 1.4 times that of a capital.

The look takes the page's pieces of ink apart, each with all the ink that it touches (connected components). A letter is
one that is neither long nor solid: rules, specks, dots and the grains of a picture fall out. Its longer side says how
large it is whichever way it lies, so a page on its side, or a skewed one, looks like any other. In print nearly half of
all letters by that side are as high as an x, and so is the eighth part of them from below.

It begins at two megapixels, and comes closer while what is too small to be told from specks outnumbers the letters.

    120 drawn pages of 20 kinds   within 20 % of the true size, but for five
    one look                      10 ms of processor time; 20 to 60 where it comes closer

Pillow and NumPy alone, and NumPy only where a page is looked at, for the sandboxed process imports little.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageChops, ImageFilter

from pipeline.documents.pages.ink_blobs import joined_runs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SMALL_PART = 0.05  # of a text's characters are smaller still: exponents, the marks of footnotes
_LEAST_OF_SIDE = 0.001  # of the page's long side: what is smaller is there for machines

_LOOK_PIXELS = 2_200_000  # print that can be read is 12 to 40 px high at A4
MOST_LOOK_PIXELS = 20_000_000
_MOST_RUNS = 1_000_000  # a dense page has 150,000 runs of ink; what has more is grain, and would take much memory
_FAINT = 16  # of 255: less is no ink
_INK = 0.4, 0.2, 0.1  # of the strongest contrast; less closes the gaps between letters, more thins them
_STRONGEST = 0.0001  # of the page's pixels have it: a word of 9 pt on A4 is three times as much
_LEAST_LETTER_PX = 5  # lower, a letter has no shape that tells it from a speck
_SURE_LETTER_PX = 6
_LONGEST = 3.2  # times its width: an l or a bracket, also two letters that touch
_FILLED = 0.12, 0.8  # of its box: a thin frame has less, a dot or a bar more
_LEAST_LETTERS, _MANY_LETTERS = 4, 100  # a word, a paragraph
_MOST_PARTS, _LEAST_PART_PX = 12, 64  # of the page's width and of its height; a part holds many letters
_SCREEN = 0.55  # of a part is squares around letters: 0.35 in print, 0.65 in the dots of a printed picture
_GRAIN = 0.3  # of a part, and more specks than letters: noise
_FEW_LETTERS, _MANY_SPECKS = 8, 0.005  # specks for each letter, and for each pixel: fine dots; leaders have 0.003
_LETTERS_OF_SPECKS = 0.04  # fewer letters are specks that touch; a table of contents has 0.08, with its dots
_LARGE_PX = 64
_FAR = 6
_SMALL_LETTERS = 0.12  # of all letters, by size
_MOST_WEIGHT = 3.0  # of a letter, in usual ones: a title's do not outvote a page's
_HEIGHT_OF_X = 1.9  # the font size, in heights of an x
_THINNED_PX = 0.3  # by the threshold


class Look(NamedTuple):
    """What a look at a picture found."""

    size: float | None
    """The font size of the small print in px; None where nothing looks like print."""
    has_ink: bool
    is_sure: bool
    """Coming closer would show no smaller print."""


def size_of_text(lines: Iterable[tuple[float, float]], long_side: float) -> float | None:
    """The font size of the small print, from (font size, length) of each line; None where there is none.

    A line weighs as much as it has characters, which is as its length over its font size.
    """
    weights: dict[float, float] = defaultdict(float)
    for size, length in lines:
        if size >= long_side * _LEAST_OF_SIDE and length > 0:
            weights[size] += length / size
    rest = _SMALL_PART * sum(weights.values())
    for size in sorted(weights):
        rest -= weights[size]
        if rest <= 0:
            return size
    return None


def look_at(picture: Image.Image) -> Look:
    """At a picture in L, as closely as it takes; none of more than MOST_LOOK_PIXELS."""
    factor = max(1, math.ceil(math.sqrt(picture.width * picture.height / _LOOK_PIXELS)))
    look = Look(None, False, True)
    while picture.width * picture.height <= MOST_LOOK_PIXELS * factor * factor:
        closer = _look(picture.reduce(factor) if factor > 1 else picture)
        size = look.size if closer.size is None else closer.size * factor
        look = Look(size, look.has_ink or closer.has_ink, closer.is_sure)
        if look.is_sure or factor == 1:
            break
        factor = (factor + 1) // 2
    if look.size is None and not look.is_sure and picture.width * picture.height <= _LOOK_PIXELS:
        # Letters under 5 px high have no shape; twice as large they show that there is print, and that it is too small.
        larger = _look(picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.BICUBIC))
        look = look if larger.size is None else look._replace(size=larger.size / 2)
    if look.size is None and look.has_ink:  # letters of a hand's height are seen from afar
        far = _look(picture.reduce(_FAR * factor))
        look = look._replace(size=None if far.size is None else far.size * _FAR * factor)
    return look


def _look(grey: Image.Image) -> Look:
    """Where there are few letters, a weaker ink may show more: a dark stamp or edge made faint print seem none."""
    if min(grey.size) < 8:
        return Look(None, False, True)
    contrast, strongest = _contrast(grey)
    most, found = -1, Look(None, False, True)
    for share in _INK:
        threshold = max(_FAINT, int(share * strongest))
        num_letters, num_small, look = _letters(contrast.point([255 * (value > threshold) for value in range(256)]))
        if num_letters > most:
            most, found = num_letters, look
        if max(num_letters, num_small) >= _MANY_LETTERS or threshold == _FAINT:
            break
    return found


def _letters(ink: Image.Image) -> tuple[int, int, Look]:
    """How many there are, and how many specks; and what they say. `ink` is 255 or 0."""
    import numpy as np

    found = _components(np.asarray(ink) > 0)
    if found is None:
        return 0, _MOST_RUNS, Look(None, True, True)
    left, top, width, height, area = found
    longer, shorter = np.maximum(width, height), np.minimum(width, height)
    filled = area / (width * height)
    is_compact = (longer > 1) & (longer <= _LONGEST * shorter)
    is_small = longer < _LEAST_LETTER_PX
    is_letter = is_compact & ~is_small & (filled > _FILLED[0]) & (filled < _FILLED[1])
    num_small = int((is_small & (longer > 1)).sum())
    has_ink = int(is_letter.sum()) + num_small > 3 * _LEAST_LETTERS or not is_small.all()
    # Parts of the page that are full of little squares are no print.
    columns, rows = (min(_MOST_PARTS, max(1, side // _LEAST_PART_PX)) for side in ink.size)
    across, down = (left + width // 2) * columns // ink.width, (top + height // 2) * rows // ink.height
    part, num_parts = down * columns + across, rows * columns
    squares = np.where(is_compact & (longer < _LARGE_PX), longer, 0) ** 2
    part_pixels = ink.width * ink.height / num_parts
    density = np.bincount(part, squares, num_parts) / part_pixels
    specks, letters = np.bincount(part, is_small, num_parts), np.bincount(part, is_letter, num_parts)
    is_grain = (density > np.where(specks > letters, _GRAIN, _SCREEN)) | (
        (specks > _FEW_LETTERS * letters) & (specks > _MANY_SPECKS * part_pixels)
    )
    is_letter &= ~is_grain[part]
    sizes = np.sort(longer[is_letter])
    if len(sizes) < max(_LEAST_LETTERS, _LETTERS_OF_SPECKS * num_small):
        return 0, num_small, Look(None, has_ink, num_small < _LEAST_LETTERS)
    weights = np.minimum(sizes, _MOST_WEIGHT * np.median(sizes)).cumsum()
    x_height = float(sizes[np.searchsorted(weights, _SMALL_LETTERS * weights[-1])])
    is_sure = x_height >= _SURE_LETTER_PX and num_small <= len(sizes)
    return len(sizes), num_small, Look((x_height + _THINNED_PX) * _HEIGHT_OF_X, has_ink, is_sure)


def _contrast(grey: Image.Image) -> tuple[Image.Image, int]:
    """How far each pixel is from its surroundings, darker or lighter; and what the strongest are."""
    ground = grey.reduce(4).filter(ImageFilter.BoxBlur(6)).resize(grey.size, Image.Resampling.BILINEAR)
    contrast = ImageChops.difference(grey, ground)
    strongest, counts = 255, contrast.histogram()
    rest = int(_STRONGEST * grey.width * grey.height) - counts[255]
    while rest > 0 and strongest > 0:
        strongest -= 1
        rest -= counts[strongest]
    return contrast, strongest


def _components(ink: NDArray[np.bool_]) -> tuple[NDArray[np.int64], ...] | None:
    """Left sides, tops, widths, heights and areas of what touches, also by its corners; None for grain."""
    import numpy as np

    stride = ink.shape[1] + 2
    padded = np.zeros((ink.shape[0] + 2, stride), np.int8)
    padded[1:-1, 1:-1] = ink
    steps = np.diff(padded.ravel())
    starts, ends = np.flatnonzero(steps == 1) + 1, np.flatnonzero(steps == -1) + 1
    if len(starts) > _MOST_RUNS:
        return None
    if not len(starts):
        return (starts,) * 5
    root = joined_runs(starts, ends, stride)
    order = np.argsort(root, kind="stable")
    heads = np.flatnonzero(np.diff(root[order], prepend=-1))
    rows, columns = np.divmod(starts - stride - 1, stride)
    lengths = ends - starts
    left, top = np.minimum.reduceat(columns[order], heads), rows[order][heads]
    width = np.maximum.reduceat((columns + lengths)[order], heads) - left
    height = np.maximum.reduceat(rows[order], heads) + 1 - top
    return left, top, width, height, np.add.reduceat(lengths[order], heads)
