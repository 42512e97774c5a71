"""Whether the widths of a page's glyphs contradict what its fonts say that they mean. Runs only inside the sandbox.

A font that names wrong letters is caught by its words where those are Latin (`judge.py`). Of two other scripts the
widths tell:

    ideographs and Hangul   are as wide as high in every font, 1 em, condensed 0.8; a Latin letter is half of that
    digits                  of one kind have one width in a font; where m and i are both called 4, 4 has two

Only pages that are written so are looked at, a few hundred glyphs of each, 2 µs a glyph.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from statistics import median
from typing import Any

from pipeline.documents.text_layer.text_lines import TextLines

_MOST_GLYPHS = 400
_MOST_OF_LINE = 40
_LEAST_IDEOGRAPHS, _NARROW = 20, 0.7  # em
_LEAST_DIGITS, _DIGITS_SHARE = 60, 0.7  # of the signs of a page
_LEAST_OF_KIND = 4  # times that a digit stands in a font, before its widths tell
_APART = 0.04  # em


def contradict(text: str, found: TextLines) -> bool:
    """Of a page's text and the lines that it was found in."""
    signs = sum(map(len, text.split()))
    wide = sum(map(_is_wide, text)) if not text.isascii() else 0
    if wide >= _LEAST_IDEOGRAPHS and 2 * wide > signs:
        widths = [width for sign, width, _ in _glyphs(found) if _is_wide(sign)]
        return len(widths) >= _LEAST_IDEOGRAPHS and median(widths) < _NARROW
    digits = sum(text.count(digit) for digit in "0123456789")
    return digits >= _LEAST_DIGITS and digits > _DIGITS_SHARE * signs and _digits_differ(found)


def _digits_differ(found: TextLines) -> bool:
    """Do most digits have several widths in one font? Two fonts and sizes are told apart; a font with old and new
    figures has two of each, and these differ for few."""
    kinds: dict[tuple[int, float, str], list[float]] = defaultdict(list)
    for sign, width, font in _glyphs(found):
        if "0" <= sign <= "9":
            kinds[(*font, sign)].append(width)
    known = [widths for widths in kinds.values() if len(widths) >= _LEAST_OF_KIND]
    differ = sum(max(widths) - min(widths) > _APART for widths in known)
    return len(known) >= 4 and 2 * differ > len(known)


def _glyphs(found: TextLines) -> Iterator[tuple[str, float, tuple[int, float]]]:
    """Sign, width in em, and font with its size; not of lines that run downwards."""
    left = _MOST_GLYPHS
    for handle, direction in zip(found.handles, found.directions, strict=True):
        if direction is None:
            continue
        glyph: Any = handle.first_char
        for _ in range(min(_MOST_OF_LINE, left)):
            if glyph is None:
                break
            quad, size = glyph.quad, glyph.size
            if size > 0:
                width = math.hypot(quad.lr.x - quad.ll.x, quad.lr.y - quad.ll.y) / size
                yield chr(glyph.c), width, (int(glyph.font.this), round(size, 2))
            glyph, left = glyph.next, left - 1
        if left <= 0:
            return


def _is_wide(sign: str) -> bool:
    return "\u4e00" <= sign <= "\u9fff" or "\uac00" <= sign <= "\ud7a3"
