"""A sheet of paper that is drawn on and remembers what it says.

What is drawn in reading order is added to `pieces` as it is drawn; `truth` joins them. Lines are broken here and not
by a layout engine, so that the words of a line, and where a long one is divided, are known.
"""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import pymupdf as _pymupdf

pymupdf: Any = _pymupdf
MONO = str(Path(__file__).parents[1] / "reader" / "fonts" / "DejaVuSansMono.ttf")
Grid = list[list[str]]


@cache
def font(name: str) -> Any:
    return pymupdf.Font(fontfile=MONO) if name == "mono" else pymupdf.Font(name)


class Sheet:
    """One page of `width_pt` × `height_pt`."""

    def __init__(self, width_pt: float, height_pt: float, rng: random.Random) -> None:
        self.width, self.height, self.rng = width_pt, height_pt, rng
        self.page = pymupdf.open().new_page(width=width_pt, height=height_pt)
        self.pieces: list[str] = []
        self.tables: list[Grid] = []
        self.lines: list[tuple[float, float, list[int]]] = []  # baseline, left, content streams of each line of text

    @property
    def truth(self) -> str:
        return "\n\n".join(self.pieces)

    def put(self, x: float, y: float, text: str, face: str, size: float, anchor: str = "left") -> None:
        """One line with its baseline at `y`; says nothing."""
        if text:
            width = font(face).text_length(text, size)
            left = x - {"left": 0, "centre": width / 2, "right": width}[anchor]
            writer = pymupdf.TextWriter(self.page.rect)
            writer.append((left, y), text, font=font(face), fontsize=size)
            writer.write_text(self.page)
            self.lines.append((y, left, self.page.get_contents()[-1:]))

    def say(self, x: float, y: float, text: str, face: str, size: float, anchor: str = "left") -> None:
        """One line that is a piece of the text."""
        self.put(x, y, text, face, size, anchor)
        self.pieces.append(text)

    def rule(self, x0: float, y0: float, x1: float, y1: float, width: float = 0.7) -> None:
        self.page.draw_line((x0, y0), (x1, y1), width=width)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: float | None = None) -> None:
        shade = None if fill is None else (fill, fill, fill)
        self.page.draw_rect((x0, y0, x1, y1), width=0.7, fill=shade, color=(0.3, 0.3, 0.3))

    def paragraph(
        self,
        x: float,
        y: float,
        width: float,
        text: str,
        face: str = "tiro",
        size: float = 10.5,
        *,
        leading: float = 1.25,
        justify: bool = False,
        divide: bool = False,
        indent: float = 0.0,
        anchor: str = "left",
        bottom: float = float("inf"),
    ) -> float:
        """Text broken into lines, the first one below `y`; a piece of the text. Returns where the next one may begin.

        What would stand below `bottom` is left out of the page and of the text.
        """
        lines = broken(text, face, size, width, indent=indent, divide=self.rng if divide else None)
        room = max(int((bottom - y) / (leading * size)), 0) if bottom < float("inf") else len(lines)
        lines = lines[:room]
        for number, (line, _) in enumerate(lines):
            y += leading * size
            start = indent if number == 0 else 0.0
            at = {"left": x + start, "centre": x + width / 2, "right": x + width}[anchor]
            if justify and number < len(lines) - 1 and " " in line:
                self._put_justified(at, y, line, face, size, width - start)
            else:
                self.put(at, y, line, face, size, anchor)
        if lines:
            # A word that goes on below the last line that had room is given as it stands there.
            joined = "".join(line if is_divided else line + " " for line, is_divided in _undivided(lines))
            self.pieces.append(joined.strip() if " " in text else joined.replace(" ", ""))
        return y + 0.45 * size

    def _put_justified(self, x: float, y: float, line: str, face: str, size: float, width: float) -> None:
        words, first = line.split(), len(self.lines)
        gap = (width - sum(font(face).text_length(word, size) for word in words)) / (len(words) - 1)
        for word in words:
            self.put(x, y, word, face, size)
            x += font(face).text_length(word, size) + gap
        streams = [stream for _, _, some in self.lines[first:] for stream in some]
        self.lines[first:] = [(y, self.lines[first][1], streams)]

    def table(self, x: float, y: float, widths: list[float], grid: Grid, *, size: float = 9.5, rules: str = "all",
              face: str = "helv", strong: str = "hebo", step: float = 0.0) -> float:  # fmt: skip
        """A table; numbers stand to the right. `rules`: all, rows, head or none. Its cells are a piece, row by row."""
        step = step or 1.9 * size
        right, bottom = x + sum(widths), y + step * len(grid)
        for number, row in enumerate(grid):
            left = x
            for cell, width in zip(row, widths, strict=True):
                is_number = bool(cell) and cell.strip("−-+%€.,: ").replace(",", "").replace(".", "").isdigit()
                at = left + width - 0.5 * size if is_number else left + 0.5 * size
                base = y + step * (number + 0.5) + 0.36 * size
                self.put(at, base, cell, strong if number == 0 else face, size, "right" if is_number else "left")
                left += width
        for number in range(len(grid) + 1):
            if rules in ("all", "rows") or (rules == "head" and number in (0, 1, len(grid))):
                self.rule(x, y + number * step, right, y + number * step)
        if rules == "all":
            for number in range(len(widths) + 1):
                self.rule(x + sum(widths[:number]), y, x + sum(widths[:number]), bottom)
        self.tables.append(grid)
        self.pieces.append("\n".join(" ".join(cell for cell in row if cell) for row in grid))
        return bottom + size


def broken(
    text: str, face: str, size: float, width: float, *, indent: float = 0.0, divide: random.Random | None = None
) -> list[tuple[str, bool]]:
    """Lines that fit, each with whether its last word goes on below (its hyphen is drawn and is not of the word)."""
    measure = font(face).text_length
    is_chinese = " " not in text and any("\u4e00" <= c <= "\u9fff" for c in text)
    words, space = (list(text), "") if is_chinese else (text.split(), " ")
    lines: list[tuple[str, bool]] = []
    line, room = "", width - indent
    for word in words:
        longer = line + space + word if line else word
        # No Chinese line begins with a full stop or a comma.
        if measure(longer, size) <= room or not line or (is_chinese and word in "，。；：、%"):
            line = longer
            continue
        if divide and word.isalpha() and len(word) > 6 and divide.random() < 0.6:
            at = divide.randint(3, len(word) - 3)
            if measure(f"{line} {word[:at]}-", size) <= room:
                lines.append((f"{line} {word[:at]}-", True))
                line, room = word[at:], width
                continue
        lines.append((line, False))
        line, room = word, width
    return [*lines, (line, False)]


def _undivided(lines: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    last = len(lines) - 1
    return [(line[:-1], True) if divided and n < last else (line, False) for n, (line, divided) in enumerate(lines)]
