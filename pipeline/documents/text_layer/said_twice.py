"""Text that a PDF draws twice, a fraction of a point apart, to look bold or to throw a shadow: said once.

MuPDF leaves a second print out where it follows its letter at once; where a word, a line or the whole page comes a
second time, both are text. Such lines lie upon each other, or stutter. Only theirs are looked at letter by letter, for
that costs 2 µs each: of two equal letters nearer to each other than two can stand beside each other, the first stays.

Runs only inside the sandboxed process.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.documents.text_layer.text_lines import TextLines

_NEAR = 0.14  # font sizes; a narrow i is 0.2 wide
_CELL_PT = 4.0  # letters are looked for in cells of this side, and so no farther
_HEIGHT, _LENGTH = 0.6, 0.3  # of the lower and of the shorter line: so much lies on the other
_LEAST_STUTTER = 4  # letters of a word in which each comes twice

Box = Sequence[float]


def said_once(text: str, lines: TextLines) -> str:
    """The text of these lines, one each, without what it says again; takes lines out that say nothing else."""
    said = text.split("\n")[:-1]
    if len(said) != len(lines.boxes):
        return text
    suspects = _lying_on_others(lines.boxes) | {index for index, line in enumerate(said) if _stutters(line)}
    if not suspects:
        return text
    seen: dict[tuple[int, int, int], list[tuple[float, float]]] = defaultdict(list)
    for index in sorted(suspects):
        kept, box, num_left_out = _kept(lines.handles[index], seen)
        if num_left_out:
            said[index] = " ".join(kept.split())
            lines.boxes[index] = box
    lines.keep([bool(line.strip()) or index not in suspects for index, line in enumerate(said)])
    return "".join(f"{line}\n" for index, line in enumerate(said) if line.strip() or index not in suspects)


def _lying_on_others(boxes: Sequence[Box]) -> set[int]:
    found: set[int] = set()
    order = sorted(range(len(boxes)), key=lambda index: boxes[index][1])
    for place, index in enumerate(order):
        left, top, right, bottom = boxes[index]
        for other in order[place + 1 :]:
            x0, y0, x1, y1 = boxes[other]
            if y0 > bottom - _HEIGHT * (bottom - top):
                break
            if min(bottom, y1) - y0 >= _HEIGHT * min(bottom - top, y1 - y0) and min(right, x1) - max(
                left, x0
            ) >= _LENGTH * min(right - left, x1 - x0):
                found |= {index, other}
    return found


def _stutters(line: str) -> bool:
    """`TThhee`; words that do so of themselves cost a look."""
    return any(len(word) >= _LEAST_STUTTER and len(word) % 2 == 0 and word[::2] == word[1::2] for word in line.split())


def _kept(line: Any, seen: dict[tuple[int, int, int], list[tuple[float, float]]]) -> tuple[str, Any, int]:
    kept: list[str] = []
    corners: list[tuple[float, float]] = []
    num_left_out = 0
    for character, x, y, size, quad in _characters(line):
        if chr(character).isspace():
            kept.append(" ")
            continue
        near = min(_NEAR * size, _CELL_PT)
        column, row = int(x // _CELL_PT), int(y // _CELL_PT)
        if any(
            abs(x - left) <= near and abs(y - top) <= near
            for across in (column - 1, column, column + 1)
            for down in (row - 1, row, row + 1)
            for left, top in seen.get((character, across, down), ())
        ):
            num_left_out += 1
            continue
        seen[character, column, row].append((x, y))
        kept.append(chr(character))
        corners += [(corner.x, corner.y) for corner in (quad.ul, quad.ur, quad.ll, quad.lr)]
    xs, ys = zip(*corners, strict=True) if corners else ((0.0,), (0.0,))
    return "".join(kept), (min(xs), min(ys), max(xs), max(ys)), num_left_out


def _characters(line: Any) -> Iterator[tuple[int, float, float, float, Any]]:
    inside = line.first_char
    while inside is not None:
        yield inside.c, inside.origin.x, inside.origin.y, inside.size, inside.quad
        inside = inside.next
