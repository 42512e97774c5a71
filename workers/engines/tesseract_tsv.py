"""Tesseract's table of words, as `tesseract IMAGE stdout tsv` writes it, to lines with boxes and confidence.

    level page_num block_num par_num line_num word_num left top width height conf text

A row of level 5 is a word; its confidence is from 0 to 100. Rows of other levels have -1 and no text.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from pipeline.layout.lines import CJK, Line, Quad
from workers.engines.regions import Region

_LEAST_CONFIDENCE = 0.3  # of a line; what is less is what Tesseract sees in pictures and rules


class _Word(NamedTuple):
    line: tuple[str, ...]
    """Page, block, paragraph and line."""
    left: int
    top: int
    right: int
    bottom: int
    confidence: float
    text: str


def lines_of(table: str) -> tuple[list[Line], list[Region]]:
    """Lines that were read, and places where nothing could be trusted."""
    import numpy as np

    lines: list[Line] = []
    unread: list[Region] = []
    for _, some in groupby(_words(table), key=lambda word: word.line):
        words = list(some)
        num_letters = sum(len(word.text) for word in words)
        confidence = sum(word.confidence * len(word.text) for word in words) / num_letters
        quad = _quad(words)
        if confidence < _LEAST_CONFIDENCE:
            unread.append(Region(quad, np.zeros((0, 0, 3), np.uint8)))
        else:
            lines.append(Line(quad, _joined(words), confidence))
    return lines, unread


def _words(table: str) -> Iterator[_Word]:
    for row in table.splitlines():
        cells = row.split("\t", 11)
        if len(cells) != 12 or cells[0] != "5" or not cells[11].strip():
            continue
        left, top, width, height = map(int, cells[6:10])
        yield _Word(tuple(cells[1:5]), left, top, left + width, top + height, float(cells[10]) / 100, cells[11].strip())


def _joined(words: list[_Word]) -> str:
    """Tesseract parts Chinese and Japanese text into words, too."""
    text = words[0].text
    for word in words[1:]:
        is_apart = not (CJK.match(text[-1]) and CJK.match(word.text[0]))
        text += " " * is_apart + word.text
    return text


def _quad(words: list[_Word]) -> Quad:
    left, top = float(min(word.left for word in words)), float(min(word.top for word in words))
    right, bottom = float(max(word.right for word in words)), float(max(word.bottom for word in words))
    return (left, top), (right, top), (right, bottom), (left, bottom)
