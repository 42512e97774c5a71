"""A PDF page's own text as it reads: its lines, as MuPDF finds them, become lines as an engine finds them.

MuPDF ends a line where more than 0.8 of the font's size are white, so that each cell of a row is a line; vertical
writing is a line a letter. Its boxes reach from the highest to the lowest letter of the font, which some fonts say
wrong: here a line is as high as a detector finds it, by the size of its font. Where most lines run another way than to
the right, the page is turned.

The order of the file is kept where it can be the one in which the page is read (`given_order`).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

from pipeline.layout.lines import BOX_HEIGHT, Line, Point, Quad
from pipeline.layout.reading_order import text_in_reading_order
from pipeline.layout.rulings import Ruling, Rulings

StoredLine = Sequence[float | None]
"""[left, top, right, bottom] in pixels; then the size of its font; then in how many degrees counter-clockwise it reads
where that is not to the right, or null for vertical writing. An older pagepack stored the box alone."""


class Found(TypedDict):
    """What is known of a page whose text is its own, as it is stored."""

    lines: Sequence[StoredLine]
    level: Sequence[Sequence[float]]
    """Rulings, each [at, start, end]; and `upright`."""
    upright: Sequence[Sequence[float]]


MAX_LINES = 6_000  # of a page that is put in order: half a second; more are given as they lie in the file
_MARGIN = 0.1 * BOX_HEIGHT  # so far a detector's box reaches beyond the letters, and `lines.lay_out` cuts it back
_ANGLE = 5  # degrees by which lines may differ that run one way
_CELL_GAP = 0.8  # of the size, from which on MuPDF ends a line
_LETTER_GAP = 0.3  # of the size, between the letters of vertical writing

_SOFT = "\u00ad"
# Indic scripts and their neighbours: a vowel sign begins no word, and one that is written before its letter is drawn a
# step back, where MuPDF begins a line.
_INDIC = "".join(map(chr, (*range(0x900, 0xE00), *range(0x1000, 0x10A0), *range(0x1780, 0x1800))))
_SIGNS = "".join(letter for letter in _INDIC if unicodedata.category(letter).startswith("M"))
_TORN = re.compile(rf"(?<=\w)\s+(?=[{_SIGNS}])")
_BROKEN = re.compile(rf"(?<=[^\W\d_])([-{_SOFT}]) ?\n(?=([^\W\d_]))")


@dataclass(frozen=True, slots=True)
class _Piece:
    """A line as MuPDF has it."""

    number: int
    text: str
    left: float
    top: float
    right: float
    bottom: float
    size: float | None
    direction: int
    is_vertical: bool

    @classmethod
    def of(cls, number: int, text: str, line: StoredLine) -> _Piece:
        left, top, right, bottom = (float(side or 0) for side in line[:4])
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        size = line[4] if len(line) > 4 else None
        direction = line[5] if len(line) > 5 else 0
        return cls(number, text, left, top, right, bottom, size or None, int(direction or 0), direction is None)


def own_text(text: str, found: Found | None) -> str:
    """The text of a page's layer, each of whose lines is ended by a line break.

    As it lies in the file, but with whole words, where not every line is known.
    """
    lines = found["lines"] if found else []
    texts = text.split("\n")[:-1]
    if not found or len(texts) != len(lines) or len(lines) > MAX_LINES:
        return whole_words(text)
    each = enumerate(zip(texts, lines, strict=True))
    pieces = _with_whole_columns(
        _with_signs([_Piece.of(number, said, line) for number, (said, line) in each if said.strip()])
    )
    if not pieces:
        return ""
    page = _direction_of(pieces)
    level: list[_Piece] = []
    tilted: list[_Piece] = []
    for piece in pieces:
        is_level = piece.is_vertical or _off_quarter(piece.direction - page) <= _ANGLE
        (level if is_level else tilted).append(piece)
    quads = [_turned(_quad(piece), page) for piece in level]
    # After a turn all would lie left of the page, or above it.
    left, top = (min(corner[i] for quad in quads for corner in quad) for i in (0, 1)) if page else (0.0, 0.0)
    set_ = [_line(piece, quad, page, left, top) for piece, quad in zip(level, quads, strict=True)]
    read = text_in_reading_order(set_, rulings=_rulings(found, page, left, top), is_given=True)
    # What is tilted, as a watermark or the names of an axis, is read after all else.
    return "\n\n".join([read, *(piece.text.strip() for piece in tilted)]).replace(_SOFT, "")


def _with_signs(pieces: list[_Piece]) -> list[_Piece]:
    """Words whole that MuPDF tore at a vowel sign; between words it has a space."""
    whole: list[_Piece] = []
    for piece in pieces:
        if whole and _goes_on(whole[-1], piece):
            before = whole[-1]
            left, top = min(before.left, piece.left), min(before.top, piece.top)
            right, bottom = max(before.right, piece.right), max(before.bottom, piece.bottom)
            text = before.text.rstrip() + piece.text
            whole[-1] = replace(before, text=text, left=left, top=top, right=right, bottom=bottom)
        else:
            whole.append(piece)
    return whole


def _goes_on(before: _Piece, piece: _Piece) -> bool:
    if piece.text[0] not in _INDIC or before.top >= piece.bottom or piece.top >= before.bottom:
        return False
    return piece.text[0] in _SIGNS or (
        before.text[-1] in _INDIC and piece.left - before.right < _CELL_GAP * _size(piece)
    )


def _with_whole_columns(pieces: list[_Piece]) -> list[_Piece]:
    """The letters of vertical writing, put together where they stand below each other."""
    letters = sorted((piece for piece in pieces if piece.is_vertical), key=lambda one: (-_middle(one), one.top))
    columns: list[list[_Piece]] = []
    for letter in letters:
        if columns and abs(_middle(letter) - _middle(columns[-1][0])) < 0.25 * _size(letter):
            columns[-1].append(letter)
        else:
            columns.append([letter])
    whole: list[_Piece] = []
    for column in columns:
        last: _Piece | None = None
        for letter in sorted(column, key=lambda one: one.top):
            if last is not None and letter.top - last.bottom < _LETTER_GAP * _size(letter):
                number, bottom = min(last.number, letter.number), max(last.bottom, letter.bottom)
                last = replace(last, number=number, text=last.text + letter.text, bottom=bottom)
                whole[-1] = last
            else:
                last = letter
                whole.append(last)
    return [piece for piece in pieces if not piece.is_vertical] + whole


def _middle(piece: _Piece) -> float:
    return (piece.left + piece.right) / 2


def _size(piece: _Piece) -> float:
    return piece.size or min(piece.right - piece.left, piece.bottom - piece.top) / BOX_HEIGHT


def _direction_of(pieces: Sequence[_Piece]) -> int:
    """The way in which most of the text runs; to the right where it is vertical writing."""
    length: Counter[int] = Counter()
    for piece in pieces:
        length[piece.direction] += len(piece.text.strip())
    around = {one: sum(length[other % 360] for other in range(one - _ANGLE, one + _ANGLE + 1)) for one in length}
    return max(length, key=lambda one: (around[one], length[one]))


def _off_quarter(degrees: int) -> int:
    return min(degrees % 90, -degrees % 90)


def _quad(piece: _Piece) -> Quad:
    """Around it as it runs: clockwise from its own top left."""
    width, height = piece.right - piece.left, piece.bottom - piece.top
    x, y = _middle(piece), (piece.top + piece.bottom) / 2
    if piece.size is None:
        left, top, right, bottom = piece.left, piece.top, piece.right, piece.bottom
        return (left, top), (right, top), (right, bottom), (left, bottom)
    thick, margin = BOX_HEIGHT * piece.size / 2, _MARGIN * piece.size
    if piece.is_vertical:
        along = height / 2 + margin
        return ((x - thick, y - along), (x + thick, y - along), (x + thick, y + along), (x - thick, y + along))
    angle = math.radians(piece.direction)
    cosine, sine = math.cos(angle), math.sin(angle)
    if abs(cosine) >= abs(sine):
        length = (width - 2 * thick * abs(sine)) / abs(cosine)
    else:
        length = (height - 2 * thick * abs(cosine)) / abs(sine)
    along = max(length, piece.size / 2) / 2 + margin
    corners = ((-along, -thick), (along, -thick), (along, thick), (-along, thick))
    a, b, c, d = ((x + u * cosine + v * sine, y + v * cosine - u * sine) for u, v in corners)
    return a, b, c, d


def _turned(quad: Quad, degrees: int) -> Quad:
    """On a page that is turned clockwise by so much around its top left corner, and then runs to the right."""
    if not degrees:
        return quad
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    a, b, c, d = ((x * cosine - y * sine, x * sine + y * cosine) for x, y in quad)
    return a, b, c, d


def _line(piece: _Piece, quad: Quad, page: int, left: float, top: float) -> Line:
    turn = 0 if piece.is_vertical else -round((piece.direction - page) / 90) % 4
    a, b, c, d = quad
    if turn:  # corners of a line go round from the page's top left, whichever way it reads
        a, b, c, d = ((a, b, c, d), (d, a, b, c), (c, d, a, b), (b, c, d, a))[turn]
    moved = ((x - left, y - top) for x, y in (a, b, c, d))
    a, b, c, d = moved
    return Line((a, b, c, d), piece.text, turn=turn, number=piece.number)


def _rulings(found: Found, page: int, left: float, top: float) -> Rulings:
    if page % 90:
        return Rulings()  # they are level or upright on the page as it lies
    ends: list[tuple[Point, Point]] = [((start, at), (end, at)) for at, start, end in found["level"]]
    ends += [((at, start), (at, end)) for at, start, end in found["upright"]]
    level, upright = [], []
    for start, end in ends:
        (x0, y0), (x1, y1), _, _ = _turned((start, end, start, end), page)
        if abs(x1 - x0) >= abs(y1 - y0):
            level.append(Ruling(y0 - top, min(x0, x1) - left, max(x0, x1) - left))
        else:
            upright.append(Ruling(x0 - left, min(y0, y1) - top, max(y0, y1) - top))
    return Rulings(sorted(level), sorted(upright))


def whole_words(text: str) -> str:
    """Words joined across a line's end, as where a page is read: a compound broken at its own hyphen loses it. Soft
    hyphens, which nobody sees within a line, go."""
    return _BROKEN.sub(_joined, _TORN.sub("", text)).replace(_SOFT, "")


def _joined(broken: re.Match[str]) -> str:
    hyphen, following = broken.groups()
    if hyphen == _SOFT or following.islower():
        return ""
    return hyphen if following.isupper() else broken[0]  # other scripts have no hyphen of ours
