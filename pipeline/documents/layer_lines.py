"""A line of a PDF page's own text, as the sandboxed process sends it: [left, top, right, bottom, marks]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

MAX_LINES = 20_000  # of a page; no more are sent or judged. The densest public sheet has some thousands
UPRIGHT, TILTED, UNDRAWN, COVERED, BLANK = (1 << bit for bit in range(5))


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

    @classmethod
    def received(cls, sent: Sequence[int]) -> Self:
        """Raises ValueError or TypeError where it is no line."""
        left, top, right, bottom, marks = map(int, sent)
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
        )

    @property
    def length(self) -> int:
        return self.bottom - self.top if self.is_upright else self.right - self.left

    @property
    def thickness(self) -> int:
        return self.right - self.left if self.is_upright else self.bottom - self.top
