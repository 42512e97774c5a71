"""Whether the text that a PDF page carries is what the page shows.

Four things go wrong. The characters are unknown or wrong, because a font does not say what its glyphs mean. The text
is not drawn: somebody's OCR over a scan, as good or bad as that was, which nobody can tell without reading the page. It
is drawn and then hidden. Or it is a stub: a stamp, a page number, a fax header on a page that is a picture.

A stub is told by the picture of the page, whatever drew it: scans, outlines and figures alike. Print has corners and
curves, where brightness jumps both to the right and downwards; rules, bars and soft pictures have few. Counted so, a
line of print has about 1.3 such pixels for each pixel of its length, at any size (1.0 to 2.3 over the lines of 80
public pages). What lies outside the lines of the layer is print that it lacks: on these pages at most 0.11 of all, on
a stamped scan 0.95. Photographs may count as print; their pages are read, which costs time and loses nothing.

The sandboxed process says where the lines lie (`text_lines.py`); they are judged here, beside the drawing of the next
page, on the picture as it is stored.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence

from PIL import Image, ImageChops, ImageDraw

from pipeline.documents.text_layer.layer_lines import MAX_LINES, LayerLine
from pipeline.documents.text_layer.letter_shares import is_of_no_language
from schemas.text_layers import Verdict

_LOOKED_AT_PX = 1_024  # a picture is at least halved, and to this: print stays print, and costs a quarter
_LINES_LOOKED_AT = 50  # for what is hidden; of more, as many at even distances

_MAX_GARBLED = 0.02  # of the words; a formula's odd signs stand alone and count for nothing
_MAX_UNKNOWN = 0.3  # of the characters
_VOWELS = (0.2, 0.75)  # of the letters of Latin words, at least and at most: 0.35 to 0.48 in languages, 0.15 if shifted
_MIN_LETTERS = 200  # before vowels tell anything
_FEW_LETTERS, _FEW_VOWELS = 60, (0.1, 0.85)  # of a short text, they tell only what no chance makes: four deviations
_MIN_SIGNS, _MIN_WORDLY = 40, 0.4  # of so many signs, that part at least are letters and digits: 0.9 in print
_MAX_INVISIBLE = 0.05  # of the length of all lines
_MAX_HIDDEN = 0.05
_MAX_MISSING = 0.15  # of the print of the page

_JUMP = 40  # of 255: the contrast of print, halved
_TRACE = 12  # the faintest grey on white that somebody may read
_LARGE_PX = 24  # of the halved picture: so thick is a line in which others fit
_MOST_A_PX = 4.0  # of print in a line, for each pixel of its length; more is print that it lies on
_USUAL_A_PX = 1.3

_UNKNOWN = re.compile("[\0-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\ue000-\uf8ff\ufffd\U000f0000-\U0010ffff]")
_WORD = re.compile(r"[^\t\n\r \xa0\u2000-\u200b\u3000]+")
_BULLET = re.compile("^[\ue000-\uf8ff\ufffd]")  # private use, as the sign fonts of office programs have it
_REPEATED = re.compile(r"(.)\1+")
_LATIN_WORD = re.compile("[A-Za-z]{3,}")


def judge(text: str, lines: Sequence[LayerLine], picture: Image.Image | None, *, is_known: bool = False) -> Verdict:
    """Of a page's text that is not blank. Costs 1 to 2 ms at 1,024 px, most of it for the picture.

    No picture: the page is known to hold text and rules alone, so that nothing else is printed, and nothing hidden.
    `is_known`: no font stands between the letters and their meaning, whatever the words look like.
    """
    if not is_known and (is_garbled(text) or any(line.is_contradicted for line in lines)):
        return Verdict.GARBLED
    if len(lines) > MAX_LINES:
        return Verdict.UNJUDGED
    length = sum(line.length for line in lines)
    if sum(line.length for line in lines if not line.is_drawn) > _MAX_INVISIBLE * length:
        return Verdict.INVISIBLE
    if picture is None:
        return Verdict.SOUND
    hidden, missing = _compare(lines, picture)
    if hidden > _MAX_HIDDEN * length:
        return Verdict.COVERED
    return Verdict.STUB if missing > _MAX_MISSING else Verdict.SOUND


def is_garbled(text: str) -> bool:
    """Whether words hold characters that mean nothing, or letters are not those of any language in Latin script."""
    if unknown := len(_UNKNOWN.findall(text)):
        words = _WORD.findall(text)
        bad = sum(len(word) > 1 and _UNKNOWN.search(_BULLET.sub("", word)) is not None for word in words)
        if unknown > _MAX_UNKNOWN * sum(map(len, words)) or bad > _MAX_GARBLED * len(words):
            return True
    latin = _LATIN_WORD.findall(unicodedata.normalize("NFD", text).lower())
    letters = "".join(latin)
    bounds = _VOWELS if len(letters) >= _MIN_LETTERS else _FEW_VOWELS
    least, most = (share * len(letters) for share in bounds)
    if len(letters) >= _FEW_LETTERS and not least <= sum(map(letters.count, "aeiouy")) <= most:
        return True
    if is_of_no_language(set(latin)):
        return True
    signs = _REPEATED.sub(r"\1", "".join(_WORD.findall(text)))  # leaders and rules of dashes are one
    wordly = sum(
        sign.isalnum() or unicodedata.combining(sign) > 0 or unicodedata.category(sign) == "Mc" for sign in signs
    )
    return len(signs) >= _MIN_SIGNS and wordly < _MIN_WORDLY * len(signs)


def _compare(lines: Sequence[LayerLine], picture: Image.Image) -> tuple[float, float]:
    """How much of the lines, in pixels of length, is hidden; which share of the page's print lies outside them."""
    factor = max(2, math.ceil(max(picture.size) / _LOOKED_AT_PX))
    print_ = _print_of(picture.convert("L").reduce(factor))
    total = sum(print_.histogram()[_JUMP:])
    under = 0.0  # print that a large line lies on
    hidden = sum(line.length for line in lines if line.is_covered)
    boxes = [_box(line, factor, print_.size) for line in lines]
    step = math.ceil(len(lines) / _LINES_LOOKED_AT)
    for number, line in enumerate(lines):
        is_large = not line.is_tilted and line.thickness > _LARGE_PX * factor
        if number % step and not is_large:
            continue
        within, length = print_.crop(boxes[number]), line.length / factor
        if is_large and (inside := sum(within.histogram()[_JUMP:])) > _MOST_A_PX * length:
            under += inside - _USUAL_A_PX * length
        elif within.getextrema()[1] < _TRACE and not (line.is_blank or line.is_covered):  # type: ignore[operator]
            hidden += sum(neighbour.length for neighbour in lines[number : number + step])
    blot = ImageDraw.Draw(print_)
    for line, (left, top, right, bottom) in zip(lines, boxes, strict=True):
        if not line.is_tilted:
            blot.rectangle((left - 1, top - 1, right, bottom), fill=0)
    return hidden, (sum(print_.histogram()[_JUMP:]) + under) / total if total else 0.0


def _print_of(grey: Image.Image) -> Image.Image:
    """How much brightness jumps at each pixel, to the right or downwards, whichever is less."""
    width, height = grey.size
    here = grey.crop((0, 0, width - 1, height - 1))
    right, below = grey.crop((1, 0, width, height - 1)), grey.crop((0, 1, width - 1, height))
    return ImageChops.darker(ImageChops.difference(here, right), ImageChops.difference(here, below))


def _box(line: LayerLine, factor: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """In whole pixels, inside the picture, and never empty."""
    width, height = size
    x0, y0 = min(max(int(line.left / factor), 0), width - 1), min(max(int(line.top / factor), 0), height - 1)
    x1, y1 = min(int(line.right / factor) + 1, width), min(int(line.bottom / factor) + 1, height)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)
