"""What is made of the text that a PDF page carries where it is the answer: words that were broken are whole."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SOFT = "\u00ad"
_BROKEN = re.compile(rf"(?<=[^\W\d_])([-{_SOFT}]) ?\n(?=([^\W\d_]))")


def whole_words(text: str) -> str:
    """Words joined across a line's end, as where a page is read: a compound broken at its own hyphen loses it. Soft
    hyphens, which nobody sees within a line, go."""
    return _BROKEN.sub(_joined, text).replace(_SOFT, "")


def _joined(broken: re.Match[str]) -> str:
    hyphen, following = broken.groups()
    if hyphen == _SOFT or following.islower():
        return ""
    return hyphen if following.isupper() else broken[0]  # other scripts have no hyphen of ours


def lines_of(text: str, boxes: Sequence[Sequence[int]]) -> list[list[int | str | None]]:
    """As engines leave them in an answer's details, without a confidence; none where some line has no box."""
    lines = text.split("\n")[:-1]
    if len(lines) != len(boxes):
        return []
    return [[*box, None, line.strip()] for box, line in zip(boxes, lines, strict=True) if line.strip()]
