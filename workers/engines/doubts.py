"""Whether what was read of a page is worth a person's look, and whether anything was read at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.layout.lines import Line
from schemas.review import ReviewReason
from workers.engines.page_lines import PageLines
from workers.engines.regions import Region, length_px
from workers.engines.scripts import known_letters

# So much of all lines, by length, is more than a smudge, a signature or a word of another script.
_UNREAD_SHARE = 0.1
_FEW_LETTERS = 0.1  # for a line height of what was not read: the page's number, a year
_PARTLY_FOREIGN = 0.2  # of all lines, by length: a line that was read without being sure is in that script too
_SURE = 0.85  # sound print of a page in two scripts is read at 0.95 and more
_LEAST_UNREAD = 10.0  # line heights: less may be the texture of a picture
# Of no line more, and of all in the mean: Thai, Lao, Telugu, Sinhala and Ethiopic come out as letters at 0.55 to 0.68,
# and print that can just be read, in blur and noise, at 0.8.
_MOST_OF_NOISE, _MEAN_OF_NOISE = 0.9, 0.7


class Doubt(NamedTuple):
    reason: ReviewReason
    score: float
    """How much the page is worth a look, from 0 to 1."""


def doubt_of(page: PageLines, sound_confidence: float) -> Doubt | None:
    """The gravest; the words stand in the order of `ReviewReason`."""
    if not page.lines and not page.is_blank and not page.is_late:
        return Doubt(ReviewReason.EMPTY, 1.0)
    if (share := _share(page.foreign, page)) >= _UNREAD_SHARE:
        return Doubt(ReviewReason.UNREAD_SCRIPT, share)
    if page.is_late:
        return Doubt(ReviewReason.DEADLINE, _share(page.not_reached, page) if page.lines else 1.0)
    if (share := _share(page.foreign + page.unread, page)) >= _UNREAD_SHARE:
        return Doubt(ReviewReason.UNREAD_REGIONS, share)
    confidence = confidence_of(page.lines)
    if confidence is not None and confidence < sound_confidence:
        return Doubt(ReviewReason.LOW_CONFIDENCE, min(1.0, 2 * (1 - confidence)))
    return Doubt(ReviewReason.TURN_IN_DOUBT, 0.5) if page.is_turn_in_doubt else None


def is_unreadable(page: PageLines) -> bool:
    """All that is on the page is in scripts that the engine does not read: what it made out says nothing."""
    foreign = sum(region.length_in_heights for region in page.foreign)
    if not page.is_late and _is_noise(page.lines) and foreign + _length(page.lines) >= _LEAST_UNREAD:
        return True
    least = _SURE if _share(page.foreign, page) >= _PARTLY_FOREIGN else 0.0
    read = sum(known_letters(line.text) for line in page.lines if line.confidence >= least)
    return not page.is_late and foreign >= _LEAST_UNREAD and read < _FEW_LETTERS * foreign


def _is_noise(lines: Sequence[Line]) -> bool:
    confidence = confidence_of(lines)
    is_low = confidence is not None and confidence < _MEAN_OF_NOISE
    return is_low and max(line.confidence for line in lines) < _MOST_OF_NOISE


def _length(lines: Sequence[Line]) -> float:
    """In line heights."""
    return sum(
        length_px(quad) / max(1.0, min(math.dist(quad[0], quad[1]), math.dist(quad[1], quad[2])))
        for quad in (line.quad for line in lines)
    )


def confidence_of(lines: Sequence[Line]) -> float | None:
    """Mean over characters; None where there is none."""
    weight = sum(len(line.text) for line in lines)
    return sum(line.confidence * len(line.text) for line in lines) / weight if weight else None


def _share(some: Sequence[Region], page: PageLines) -> float:
    """Of the length of all lines that were found."""
    rest = page.foreign + page.unread + page.not_reached
    length = sum(region.length_px for region in rest) + sum(length_px(line.quad) for line in page.lines)
    return sum(region.length_px for region in some) / length if length else 0.0
