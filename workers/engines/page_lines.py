"""A page's lines: found, the page set upright, each line read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING
from unicodedata import normalize

from pipeline.layout.lines import Line, find_angle
from pipeline.layout.rulings import Rulings, find_rulings
from workers.engines.dashes import find_dashes, plain_dashes
from workers.engines.ink import Ink, find_ink
from workers.engines.orientation import Orientation, Turn, find_orientation
from workers.engines.parted import parted
from workers.engines.regions import Models, Reading, Region, letters
from workers.engines.scripts import is_unread_script

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Less sure is as good as nothing; RapidOCR's own limit.
_LEAST_CONFIDENCE = 0.5
_SURE = 0.9
# So many lines that run along the page are a block of their own.
_LEAST_LYING = 4
# From one digit to the one below, in widths of the column; along a line it is 0.6 of its height.
_LEAST_STEP = 0.8


@dataclass(frozen=True, slots=True)
class PageLines:
    """What was read; all places in pixels of the page after it was turned."""

    lines: list[Line]
    turn: Turn = Turn.NONE
    is_turn_in_doubt: bool = False
    unread: list[Region] = field(default_factory=list)
    """Found and looked at, and short; nothing that could be trusted came out."""
    foreign: list[Region] = field(default_factory=list)
    """Likewise, and long enough to be known as a line in a script that is not read."""
    not_reached: list[Region] = field(default_factory=list)
    """Found, and not looked at before time was over."""
    is_late: bool = False
    is_blank: bool = False
    rulings: Rulings | None = None
    """Those of the page; None where they were not looked for."""


def read_lines(models: Models, pixels: NDArray[np.uint8], is_late: Callable[[], bool]) -> PageLines:
    """From the top down; where `is_late` says so between two calls of a model, with the lines that are read."""
    import numpy as np

    if is_late():
        return PageLines([], is_late=True)
    page = _Page(models, pixels, is_late)
    try:
        found = find_orientation(page.regions, page.read)
        if found.turn:
            page.check()
            page = _Page(models, np.rot90(pixels, found.turn), is_late)
    except Late:
        return PageLines([], not_reached=page.regions, is_late=True)
    return page.lines(found)


def find_regions(models: Models, pixels: NDArray[np.uint8]) -> list[Region]:
    """A page's lines, where they stand as it lies."""
    return _Page(models, pixels, lambda: False).regions


class Late(Exception):
    """Time is over."""


class _Page:
    def __init__(self, models: Models, pixels: NDArray[np.uint8], is_late: Callable[[], bool]) -> None:
        self._pixels = pixels
        self.regions = models.find(pixels)
        if not self.regions and (ink := self._ink) and ink.is_small_on(pixels.shape):
            self.regions = models.find_within(pixels, ink)
        self._models = models
        self._is_late = is_late
        self._readings: dict[tuple[Region, Turn], Reading] = {}

    @cached_property
    def _ink(self) -> Ink | None:
        return find_ink(self._pixels)

    def check(self) -> None:
        if self._is_late():
            raise Late

    def read(self, region: Region, turn: Turn) -> Reading:
        if (reading := self._readings.get((region, turn))) is None:
            self.check()
            reading = self._readings[region, turn] = self._models.read(region.turned(turn))
        return reading

    def lines(self, orientation: Orientation) -> PageLines:
        lines: list[Line] = []
        unread: list[Region] = []
        foreign: list[Region] = []
        rulings = self._rulings()
        self.regions = parted(self.regions, rulings)
        try:
            self.regions = [part for region in self.regions for part in self._apart(region)]
            for region in self.regions:
                reading, turn = self._read_best(region)
                if is_unread_script(region, reading, _LEAST_CONFIDENCE, self._models.reads_greek):
                    foreign.append(region)
                elif reading.text and reading.confidence >= _LEAST_CONFIDENCE:
                    lines.append(Line(region.quad, reading.text, reading.confidence, turn))
                else:
                    unread.append(region)
        except Late:
            pass
        if not lines and self._ink is None:  # what was found is the edge of the paper, or of RapidOCR's padding
            return PageLines([], is_blank=True)
        late = self.regions[len(lines) + len(unread) + len(foreign) :]
        if not late:
            lines = plain_dashes(lines)
            lines += [Line(quad, "-") for quad in find_dashes(self._pixels, lines)]
        return PageLines(
            lines,
            orientation.turn,
            orientation.is_in_doubt,
            unread=unread,
            foreign=foreign,
            not_reached=late,
            is_late=bool(late),
            rulings=rulings,
        )

    def _rulings(self) -> Rulings:
        if not self.regions:
            return Rulings()
        height = median(min(region.width_px, region.height_px) for region in self.regions)
        return find_rulings(self._pixels, find_angle([Line(region.quad, "") for region in self.regions]), height)

    def _apart(self, region: Region) -> list[Region]:
        """Digits that stand upright below each other are numbers in the rows of a table, not one that runs down the
        page: such a one would be shorter, and its digits would lie on their sides."""
        if not region.runs_along:
            return [region]
        text = normalize("NFKC", self._read_best(region)[0].text)
        if len(text) < 2 or not text.isdecimal() or region.length_in_heights < _LEAST_STEP * len(text):
            return [region]
        digits = region.pieces(len(text))
        read = [normalize("NFKC", self.read(digit, Turn.NONE).text) for digit in digits]
        are_read = [one == digit for one, digit in zip(read, text, strict=False)]
        return digits if 2 * sum(are_read) > len(text) else [region]

    def _read_best(self, region: Region) -> tuple[Reading, Turn]:
        """A line that runs along the page may run up or down it; what is as high as wide, as its neighbours do."""
        if region.runs_along:
            left = self.read(region, Turn.LEFT)
            if left.confidence >= _SURE and letters(left.text) >= region.length_in_heights:
                return left, Turn.LEFT
            turns = [Turn.LEFT, Turn.RIGHT]
        elif not region.runs_across and self._is_among_lying(region):
            turns = [Turn.NONE, Turn.LEFT, Turn.RIGHT]
        else:
            turns = [Turn.NONE]
        readings = [(self.read(region, turn), turn) for turn in turns]
        best = max(readings, key=lambda one: one[0].confidence)
        if best[1] and not region.runs_along:  # 6 and 9 are as sure either way up
            usual = self._usual_turn(region)
            return next((one for one in readings if one[1] == usual and one[0].confidence >= _SURE), best)
        return best

    def _usual_turn(self, region: Region) -> Turn:
        """That of the lying line that is nearest to it."""
        x, y = region.centre
        lying = [other for other in self.regions if other.runs_along]
        nearest = min(lying, key=lambda other: abs(other.centre[0] - x) + abs(other.centre[1] - y))
        return self._read_best(nearest)[1]

    def _is_among_lying(self, region: Region) -> bool:
        """Of a block that lies on its side, as the short cells of a sideways table are."""
        lying = [other for other in self.regions if other.runs_along]
        if len(lying) < _LEAST_LYING:
            return False
        x, y = region.centre
        xs, ys = zip(*(corner for other in lying for corner in other.quad), strict=True)
        return bool(min(xs) < x < max(xs) and min(ys) < y < max(ys))
