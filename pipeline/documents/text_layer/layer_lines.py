"""A line of a PDF page's own text, as the sandboxed process sends it: [left, top, right, bottom, marks, font size], and
where it does not run to the right the direction as a seventh."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

MAX_LINES = 20_000  # of a page; no more are sent or judged. The densest public sheet has some thousands
UPRIGHT, TILTED, UNDRAWN, COVERED, BLANK, CONTRADICTED = (1 << bit for bit in range(6))
DOWNWARDS = None  # the direction of vertical writing, whose letters stand upright below each other


@dataclass(frozen=True, slots=True)
class LayerLine:
    """Its box is not turned, and in pixels of the page's picture."""

    left: int
    top: int
    right: int
    bottom: int
    is_upright: bool = False  # it runs from the top to the bottom, or back
    is_tilted: bool = False  # its box is far larger than it
    is_drawn: bool = True
    is_covered: bool = False  # by a picture that was drawn later
    is_blank: bool = False  # nothing but spaces
    is_contradicted: bool = False  # the glyphs of its page are of other widths than its letters
    size: float = 0.0  # of its font, as its first character has it; 0 where it is not known
    direction: int | None = 0  # degrees counter-clockwise in which it reads, or DOWNWARDS

    @classmethod
    def received(cls, sent: Sequence[float | None]) -> Self:
        """Raises ValueError, TypeError or OverflowError where it is no line."""
        left, top, right, bottom, marks = (int(value) for value in sent[:5])  # type: ignore[arg-type]
        size = float(sent[5] or 0)
        if not 0 <= size < math.inf:
            raise ValueError(f"a font of {size} px")
        direction = sent[6] if len(sent) > 6 else 0
        return cls(
            left,
            top,
            right,
            bottom,
            is_upright=bool(marks & UPRIGHT),
            is_tilted=bool(marks & TILTED),
            is_drawn=not marks & UNDRAWN,
            is_covered=bool(marks & COVERED),
            is_blank=bool(marks & BLANK),
            is_contradicted=bool(marks & CONTRADICTED),
            size=size,
            direction=None if direction is DOWNWARDS else int(direction) % 360,
        )

    @property
    def stored(self) -> list[float | None]:
        """[left, top, right, bottom, font size], and the direction where it does not read to the right: what is known
        of it once it was judged."""
        known: list[float | None] = [self.left, self.top, self.right, self.bottom, self.size]
        return known if self.direction == 0 else [*known, self.direction]

    @property
    def length(self) -> int:
        return self.bottom - self.top if self.is_upright else self.right - self.left

    @property
    def thickness(self) -> int:
        return self.right - self.left if self.is_upright else self.bottom - self.top
