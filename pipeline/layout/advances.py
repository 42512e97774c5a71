"""Letters of a line as they stand on the page, and how wide each is: what divides a line's box among its words.

No font is known of a scan. The widths are those of Helvetica where it has the letter (Adobe's public metrics), and one
of a few elsewhere. A line's own box then sets the scale, so only their proportions count: of print in Times, DejaVu
or Courier most words come out within a tenth of an em.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

STEP = 50
"""Widths are multiples of it, in thousandths of an em."""

_MOST_MARKS = 16  # on a letter: a table of a PDF holds so many, and no script has as many
_JOINERS = "\u200c\u200d"
_WIDE = 1000
_ASCII = (  # from the space to the tilde
    "278 278 355 556 556 889 667 191 333 333 389 584 278 333 278 278 556 556 556 556 556 556 556 556 556 556 278 "
    "278 584 584 584 556 1015 667 667 722 722 667 611 778 722 278 500 667 556 833 722 778 667 778 722 667 611 722 "
    "667 944 667 667 611 278 278 278 469 556 333 556 556 500 556 556 278 556 556 222 222 500 222 833 556 556 556 "
    "556 333 500 278 556 500 722 500 500 500 334 260 334 584 "
)
_WIDTHS = dict(zip(map(chr, range(0x20, 0x7F)), map(int, _ASCII.split()), strict=True))
_OF_CATEGORY = {"Lu": 690, "Ll": 540, "Lt": 690, "Lm": 400, "Lo": 560, "Nd": 556, "Po": 300, "Pd": 560, "Zs": 278}
_STRONG = {"L": "L", "R": "R", "AL": "R", "EN": "N", "AN": "N"}
_SPACE = re.compile(r"\s")


def clusters(text: str) -> list[str]:
    """Letters with the marks that stand on them; control characters are left out."""
    if text.isascii() and text.isprintable():
        return list(text)
    found: list[str] = []
    for character in text:
        category = unicodedata.category(character)
        if category in ("Cc", "Cs", "Cn"):
            character = " " if _SPACE.match(character) else ""
        if not character:
            continue
        joins = found and found[-1][-1] == "\u200d" and not _SPACE.match(character)
        is_mark = category[0] == "M" or character in _JOINERS
        if found and (joins or is_mark) and not _SPACE.match(found[-1]) and len(found[-1]) < _MOST_MARKS:
            found[-1] += character
        else:
            found.append(character)
    return found


@lru_cache(1 << 14)
def advance(cluster: str) -> int:
    """Width in thousandths of an em."""
    first = cluster[0]
    width = _WIDTHS.get(first)
    if width is None:
        plain = unicodedata.normalize("NFD", first)[0]
        width = _WIDTHS.get(plain)
    if width is None:
        if unicodedata.east_asian_width(first) in "WF":
            width = _WIDE
        else:
            category = unicodedata.category(first)
            width = _OF_CATEGORY.get(category, 500) if category[0] not in "MC" else STEP
    return max(round(width / STEP), 1) * STEP


def visual_order(letters: Sequence[str]) -> list[int]:
    """Which of them stands first on the left, second, and so on.

    The bidirectional algorithm of Unicode (UAX 9) without its embeddings: a line runs the way of its first letter; what
    runs the other way is a run of its own, and so is a number among Arabic or Hebrew.

        logical  א ב ␣ 1 2 ␣ ג      on the page, from the left  ג ␣ 1 2 ␣ ב א
    """
    if all(letter <= "\u0590" for letter in letters):  # before the first that runs to the left
        return list(range(len(letters)))
    classes = [unicodedata.bidirectional(letter[0]) for letter in letters]
    kinds = [_STRONG.get(name, "") for name in classes]
    for at in range(1, len(kinds) - 1):
        if classes[at] in ("CS", "ES") and kinds[at - 1] == kinds[at + 1] == "N":
            kinds[at] = "N"
    if "R" not in kinds:
        return list(range(len(letters)))
    base = 1 if next(kind for kind in kinds if kind in ("L", "R")) == "R" else 0
    levels = _levels(kinds, base)
    order = list(range(len(letters)))
    for level in range(max(levels), 0, -1):
        at = 0
        while at < len(order):
            end = at
            while end < len(order) and levels[order[end]] >= level:
                end += 1
            if end > at:
                order[at:end] = order[at:end][::-1]
            at = end + 1
    return order


def _levels(kinds: Sequence[str], base: int) -> list[int]:
    """0 from left to right in a line that runs so, 1 from right to left, 2 from left to right within that."""
    levels = [base] * len(kinds)
    before, strong = "", "R" if base else "L"
    undecided: list[int] = []  # letters without a direction: between two of one direction they go with these
    for at, kind in enumerate(kinds):
        if not kind:
            undecided.append(at)
            continue
        strong = kind if kind != "N" else strong
        as_strong = strong if kind == "N" else kind
        level = 1 if kind == "R" else 2 * base if strong == "L" else 2
        if before == as_strong:
            for other in undecided:
                levels[other] = 1 if before == "R" else 2 * base
        levels[at] = level
        undecided, before = [], as_strong
    return levels
