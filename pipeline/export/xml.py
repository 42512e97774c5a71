"""What hOCR, ALTO and PAGE XML share: escaping, boxes in whole pixels, the parts of a page with their ids."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

from pipeline.export.blocks import blocks_of
from pipeline.export.placed import PlacedPage
from pipeline.layout.lines import Point
from pipeline.layout.words import PlacedLine, around, words_of

Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML 1.0, section 2.2


@dataclass(frozen=True, slots=True)
class WordBox:
    id: str
    text: str
    box: Box
    points: str
    """Its corners, as `x,y x,y x,y x,y`."""


@dataclass(frozen=True, slots=True)
class LineBox:
    id: str
    text: str
    box: Box
    points: str
    angle: float
    """Degrees counter-clockwise in which it reads, from 0 to under 360."""
    confidence: float | None
    words: Sequence[WordBox]


@dataclass(frozen=True, slots=True)
class Block:
    id: str
    box: Box
    lines: Sequence[LineBox]

    @property
    def angle(self) -> float:
        """In which its lines read, where all of them do; else 0."""
        angles = {line.angle for line in self.lines}
        return angles.pop() if len(angles) == 1 else 0.0


def blocks(page: PlacedPage) -> Iterator[Block]:
    """In reading order; nothing where it is not known where the text stands."""
    limit = page.shown_px
    number = 0
    for index, lines in enumerate(blocks_of(page.text or "", page.lines), 1):
        boxes = []
        for line in lines:
            number += 1
            found = _line(line, f"line_{page.page_number}_{number}", limit)
            boxes += [found] if found.words else []  # of what has no letter nothing is kept
        if not boxes:
            continue
        left, top, right, bottom = zip(*(one.box for one in boxes), strict=True)
        yield Block(f"block_{page.page_number}_{index}", (min(left), min(top), max(right), max(bottom)), boxes)


def _line(line: PlacedLine, line_id: str, limit: tuple[int, int]) -> LineBox:
    words = [
        WordBox(
            f"{line_id.replace('line', 'word')}_{number}", word.text, _box(word.quad, limit), _points(word.quad, limit)
        )
        for number, word in enumerate(words_of(line), 1)
    ]
    box, points = _box(line.quad, limit), _points(line.quad, limit)
    return LineBox(line_id, line.text, box, points, line.angle, line.confidence, words)


def _box(corners: Sequence[Point], limit: tuple[int, int]) -> Box:
    """On the page, and of at least one pixel."""
    left, top, right, bottom = around(corners)
    x0, y0 = (min(max(round(side), 0), most - 1) for side, most in ((left, limit[0]), (top, limit[1])))
    x1, y1 = (
        min(max(round(side), least + 1), most) for side, least, most in ((right, x0, limit[0]), (bottom, y0, limit[1]))
    )
    return x0, y0, x1, y1


def _points(corners: Sequence[Point], limit: tuple[int, int]) -> str:
    on_page = ((min(max(round(x), 0), limit[0]), min(max(round(y), 0), limit[1])) for x, y in corners)
    return " ".join(f"{x},{y}" for x, y in on_page)


def text(value: str) -> str:
    """As the content of an element."""
    return _allowed(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;")


def attribute(value: str) -> str:
    """With its quotes."""
    return quoteattr(_allowed(value), {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})


def comment(value: str) -> str:
    return f"<!-- {re.sub('-{2,}', '-', text(value)).strip('-')} -->"


def not_read(page: PlacedPage) -> str:
    """Why a page has no text, for people."""
    return f"not read ({page.cause or 'waiting'}): {page.reason or 'not read yet'}"


def _allowed(value: str) -> str:
    return _FORBIDDEN.sub("", value)
