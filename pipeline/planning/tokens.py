"""How many tokens a page takes and gives: those of its image by the model's rule, those of its text by its letters.

image   (width / 16 + 1) · height / 16 for Pixtral; what is larger than 1,024 px goes as the whole and its tiles
text    a token for 3.7 letters of Latin script, 1.6 of others, by what Tekken makes of print in eight languages
"""

from __future__ import annotations

from pipeline.documents.pages.tiles import SHRINKS_BY, num_tokens, plan_tiles
from pipeline.planning.ranges import Range
from pipeline.planning.shapes import Shape
from schemas.prompts import Prompt

_LETTERS, _OTHER_LETTERS, _SYMBOLS, _IDEOGRAPHS = 5.0, 3.2, 1.7, 1.15  # characters a token
_FIRST_IDEOGRAPH, _LAST_LATIN = 0x2E80, 0x24F
_UNSURE = Range(0.75, 1.0, 1.35)  # of a text's own tokens: Markdown adds some, what is not printed takes some away
_ANSWER = Range(200, 700, 1200)  # a page of print that nobody has read yet
_SHORT_ANSWER = Range(60, 250, 700)  # a description, or fields
_AROUND = 10  # of a conversation


def image_tokens(width_px: int, height_px: int, shape: Shape) -> list[int]:
    """Of each image that the page becomes."""
    cell, side = shape.cell_px, shape.side_px
    tiling = plan_tiles(width_px, height_px, side=side, cell=cell, tiled_from=round(SHRINKS_BY * side))
    sizes = [(width_px, height_px)] if tiling is None else tiling.sizes
    return [num_tokens([size], cell) for size in sizes]


def text_tokens(text: str) -> float:
    """About so many."""
    tokens = 0.0
    for mark in text:
        if mark.isdigit() or mark == "\n":
            tokens += 1
        elif ord(mark) >= _FIRST_IDEOGRAPH:
            tokens += 1 / _IDEOGRAPHS
        elif mark.isalpha() or mark == " ":
            tokens += 1 / (_LETTERS if ord(mark) <= _LAST_LATIN else _OTHER_LETTERS)
        else:
            tokens += 1 / _SYMBOLS
    return tokens


def question_tokens(prompt: Prompt) -> float:
    return text_tokens(prompt.text) + _AROUND


def usual_answer(prompt: Prompt) -> Range:
    """Where nothing is known of it."""
    usual = _ANSWER if prompt.name == "ocr" else _SHORT_ANSWER
    return Range(*(min(tokens, prompt.max_tokens) for tokens in usual))


def answer_by_text(tokens: float) -> Range:
    return _UNSURE.times(tokens)
