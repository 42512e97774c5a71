"""Whether two LaTeX formulas look alike: matplotlib's mathtext draws both, and glyphs are held against glyphs.

One formula is found in another where all its glyphs and bars stand there, as large and as they stand to each other:
`3x^2` in `\\int_a^b 3x^{2}\\,dx`. What says the same otherwise (`\\frac{a}{b}`, `\\dfrac ab`) is drawn alike. Mathtext
knows a part of LaTeX, no matrices and no alignments; what it cannot draw, nobody here can judge.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

_SPACES = re.compile(r"\\[,;:!> ]|~|\\(quad|qquad|displaystyle|textstyle|limits|nolimits|nonumber)(?![a-zA-Z])")
_LEFT_OUT = re.compile(r"\\(label|tag)\{[^{}]*\}")
_SAME = {r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\text": r"\mathrm", r"\lVert": r"\Vert", r"\rVert": r"\Vert"}
_SAME_NAMES = re.compile("|".join(f"{re.escape(name)}(?![a-zA-Z])" for name in _SAME))
_SIZE = 100.0  # points; glyphs may stand a fiftieth of it apart
_NEAR = 2.0


class Mark(NamedTuple):
    """A glyph by its font, number and size, or a bar; and where it stands."""

    glyph: str
    size: float
    x: float
    y: float


@lru_cache(maxsize=4096)
def drawn(formula: str) -> tuple[Mark, ...] | None:
    """Its marks from left to right; None where mathtext cannot draw it, or is not installed."""
    try:
        from matplotlib.font_manager import FontProperties
        from matplotlib.textpath import text_to_path
    except ImportError:
        return None
    text = _SPACES.sub(" ", _LEFT_OUT.sub("", formula)).replace("$", "")
    text = re.sub(r"\s*([_^])\s*", r"\1", " ".join(text.split()))  # mathtext would raise the space
    text = _SAME_NAMES.sub(lambda found: _SAME[found[0]], text)
    if not text or len(text) > 5_000:
        return None
    try:
        glyphs, _, bars = text_to_path.get_glyphs_mathtext(FontProperties(size=_SIZE), f"${text}$")
    except (ValueError, RuntimeError, RecursionError):
        return None
    marks = [Mark(str(glyph), float(size), float(x), float(y)) for glyph, x, y, size in glyphs]
    marks += [Mark("bar", 0.0, *(float(at) for at in corners[0])) for corners, _ in bars]
    return tuple(sorted(marks, key=lambda mark: (mark.x, mark.y))) or None


def is_within(wanted: tuple[Mark, ...], other: tuple[Mark, ...]) -> bool:
    first = wanted[0]
    return any(_fits(wanted, other, one.x - first.x, one.y - first.y) for one in other if _is_same(first, one))


def _is_same(one: Mark, other: Mark) -> bool:
    return one.glyph == other.glyph and abs(one.size - other.size) < 0.01


def _fits(wanted: tuple[Mark, ...], other: tuple[Mark, ...], right: float, up: float) -> bool:
    return all(
        any(
            _is_same(mark, one) and abs(mark.x + right - one.x) < _NEAR and abs(mark.y + up - one.y) < _NEAR
            for one in other
        )
        for mark in wanted
    )
