"""Which way up a page lies, from the lines that were found on it: a few of them are read both ways.

The detector finds lines whichever way a page is turned. Their boxes say whether they run across or along it; the
recognizer says which way up they stand, for it is sure of print that stands right (0.98 of 1) and makes little of print
on its head (0.45 to 0.65). A page that lies right pays nothing: the lines tried are lines of the page, read once.
A classifier of whole pages errs on pages of few words; it is asked where no way makes sense (`whole_page.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from pipeline.layout.lines import CJK
from workers.engines.regions import Reading, Region, letters

_NUM_TRIED = 6
_ENOUGH, _PLENTY = 3, 0.95  # so many lines with so much sense say it as well
# Above this a page lies right, and nothing else is tried. Small print that lies right has 0.9 and more.
_SOUND = 0.9
# A page is turned only where that makes sense of it, and clearly more than what it makes as it lies.
_SENSE, _GAIN = 0.75, 0.12
# Lines that run the other way count as a witness where there are so many of them, by length.
_WITNESSES = 0.2


class Turn(IntEnum):
    """Quarter turns counter-clockwise, as `numpy.rot90` counts them, that set the page upright."""

    NONE = 0
    LEFT = 1
    HALF = 2
    RIGHT = 3


Read = Callable[[Region, Turn], Reading]


@dataclass(frozen=True, slots=True)
class Orientation:
    turn: Turn
    is_in_doubt: bool = False
    """Most lines run along the page, and no way to turn it makes sense of them."""
    is_sound: bool = False
    """The lines make sound sense so, and not only more than in another way."""
    makes_sense: bool = False
    """They make as much sense so as a page must that is turned."""


def find_orientation(
    regions: Sequence[Region], read: Read, begin: Read | None = None, most_heights: float = math.inf
) -> Orientation:
    """`read` reads a region after it was turned, at the cost of one call of the recognizer.

    Of lines that are only to say how they stand, `begin` reads no more than their beginnings, `most_heights` times as
    long as high. A sideways table on an upright page does not turn it: the lines that are longer in sum decide.
    """
    along = [region for region in regions if region.runs_along]
    across = [region for region in regions if region.runs_across]
    if not along and not across:  # a letter or two: their boxes say nothing of how the line runs
        along = across = list(regions)
    lies_turned = _length_px(along) > _length_px(across)
    axes = [(across, (Turn.NONE, Turn.HALF)), (along, (Turn.LEFT, Turn.RIGHT))]
    turn, sense = _most_sense(axes[::-1] if lies_turned else axes, begin or read, most_heights)
    if turn is None:
        return Orientation(Turn.NONE, is_in_doubt=lies_turned)
    is_sound = sense >= _SOUND
    if turn == Turn.LEFT and _is_vertical_writing(along, read):
        return Orientation(Turn.NONE, is_sound=is_sound)
    return Orientation(turn, is_sound=is_sound, makes_sense=sense >= _SENSE)


def _most_sense(
    axes: Sequence[tuple[list[Region], tuple[Turn, Turn]]], read: Read, most_heights: float
) -> tuple[Turn | None, float]:
    """The turn that makes sense of the lines of an axis, the likelier of which comes first, and how much; None where
    none does."""
    likely, (first, _) = axes[0]
    senses: dict[Turn, float] = {}
    for lines, turns in axes:
        if _length_px(lines) < _WITNESSES * _length_px(likely):
            continue
        for turn in turns:
            senses[turn] = _sense(lines, read, turn, most_heights)
            if turn == first and senses[turn] >= _SOUND:
                return turn, senses[turn]
        if max(senses.values()) >= _SOUND:
            break
    best = max(senses, key=lambda turn: senses[turn])
    if best == Turn.NONE:
        return best, senses[best]
    other = max((sense for turn, sense in senses.items() if turn != best), default=0.0)
    # Of the two ways to hold an axis one is right; a line of the other axis must say more.
    needed = min(_GAIN, 0.5 * (1 - other)) if best in axes[0][1] else _GAIN
    return (best if senses[best] >= max(_SENSE, other + needed) else None), senses[best]


def _is_vertical_writing(along: Sequence[Region], read: Read) -> bool:
    """Chinese or Japanese whose signs stand upright below each other: the recognizer reads such a line on its side, as
    it was taught to. Signs one by one tell it from a turned page: there they lie with their heads to the right, which
    it was not taught. The line is read whole, for its signs are found by their number."""
    region = max(along, key=lambda region: region.length_px)
    text = read(region, Turn.LEFT).text
    if 2 * len(CJK.findall(text)) < len(text) or len(text) < 2:
        return False
    signs = list(zip(region.pieces(len(text)), text, strict=False))
    middle = signs[max(0, len(signs) // 2 - _NUM_TRIED) :][: 2 * _NUM_TRIED]  # a box is too long at its ends
    are_read = [read(sign, Turn.NONE).text == char for sign, char in middle]
    return 2 * sum(are_read) > len(are_read)


def _length_px(regions: Sequence[Region]) -> float:
    return sum(region.length_px for region in regions)


def _sense(regions: Sequence[Region], read: Read, turn: Turn, most_heights: float) -> float:
    """How much sense the longest lines make, 0 to 1: confidence, less where few letters came out of much line.

    Where the first `_ENOUGH` make plenty of it, the others are not read.
    """
    tried = sorted(regions, key=lambda region: -region.length_px)[:_NUM_TRIED]
    weight = sense = 0.0
    for number, region in enumerate(tried):
        if number >= _ENOUGH and sense >= _PLENTY * weight:
            break
        length, (text, confidence) = min(region.length_in_heights, most_heights), read(region, turn)
        if turn and len(regions) == 1 and len(text) < 2:
            return 0.0  # one letter alone looks like another one that is turned
        weight += length
        sense += length * confidence * min(1.0, letters(text) / length)
    return sense / weight if weight else 0.0
