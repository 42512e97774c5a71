"""Rows of a region: what stands level, from the top; pieces of a line that the detector broke put together."""

from __future__ import annotations

import re
from dataclasses import replace

from pipeline.layout.lines import CJK, Box
from pipeline.layout.prose import PROSE_WIDTH

Row = list[Box]
_LETTERS = re.compile(r"[^\W\d_]+")
_NEAR_ROWS, _LEAST_ALIGNED = 3, 2
_HYPHENS = "-\u00ad"
_LONGEST_WORD = 100
_BROKEN = re.compile(rf"([^\W\d_]+)[{_HYPHENS}]$")


def rows(boxes: list[Box]) -> list[Row]:
    """Boxes that stand level, and not above one another, share a row; rows from the top, boxes from the left."""
    found: list[Row] = []
    for box in sorted(boxes, key=lambda box: (box.centre, box)):
        row = found[-1] if found else []
        level = row and abs(box.centre - row[0].centre) < 0.5 * min(box.size, row[0].size)
        level = level and not box.is_upright and not row[0].is_upright
        if level and all(min(box.x1, cell.x1) - max(box.x0, cell.x0) < 0.5 * box.size for cell in row):
            row.append(box)
        else:
            found.append([box])
    return [sorted(row, key=lambda cell: (cell.x0, cell)) for row in found]


def cells(row: Row) -> Row:
    """A gap under 1.5 letter heights is a line that the detector broke: its pieces become one cell, unless it is known
    that they are not."""
    joined = row[:1]
    for piece in row[1:]:
        cell = joined[-1]
        if piece.is_apart or piece.x0 - cell.x1 > 1.5 * cell.size:
            joined.append(piece)
        else:
            longer = max(cell, piece, key=lambda one: one.width)  # a fraction's piece makes no line of large print
            x0, x1 = min(cell.x0, piece.x0), max(cell.x1, piece.x1)
            joined[-1] = Box(longer.y0, x0, longer.y1, x1, join(cell.text, piece.text),
                             number=cell.number, is_apart=cell.is_apart)  # fmt: skip
    return joined


def with_cells_apart(of_page: list[Row], reach: float) -> list[Row]:
    """A line is broken, by MuPDF or a detector, at white that may be the space between two words. That it is the white
    between two cells, rows above and below say, in which others begin, or end, at the same place: within `reach` line
    heights. Words at the end of a line say nothing: all lines of prose end alike."""
    marked = []
    for i, row in enumerate(of_page):
        if len(row) < 2:
            marked.append(row)
            continue
        around = [of_page[j] for j in range(max(0, i - _NEAR_ROWS), min(i + _NEAR_ROWS + 1, len(of_page))) if j != i]
        cells = [[box for box in other[1:] if box.width < PROSE_WIDTH * box.size] for other in around]
        ends = [box.x1 for other in [row, *around] for box in other if box.width >= PROSE_WIDTH * box.size]
        marked.append([row[0]])
        for box in row[1:]:
            near = reach * box.size
            begins = sum(any(abs(box.x0 - cell.x0) < near for cell in some) for some in cells)
            stops = sum(any(abs(box.x1 - cell.x1) < near for cell in some) for some in cells)
            is_apart = max(begins, stops) >= _LEAST_ALIGNED and all(abs(box.x1 - end) > 4 * near for end in ends)
            marked[-1].append(replace(box, is_apart=True) if is_apart else box)
    return marked


def with_whole_lines(found: list[Row]) -> list[Row]:
    """Rows of a region, of which those that are one line of a justified paragraph are one box, however wide the white
    between its words is: the line above or below is whole, ends where it ends, and begins where it begins or less than
    an indent before. Cells stand below cells."""
    whole = list(found)
    for step in (1, -1):  # what stands below a whole line, then what stands above one
        for i in range(len(found))[::step]:
            if len(whole[i]) == 1 or not 0 <= i - step < len(whole) or len(whole[i - step]) > 1:
                continue
            beside = found[max(0, i - 1) : i] + found[i + 1 : i + 2]
            if _goes_with(whole[i], whole[i - step][0]) and not _has_cell(whole[i], beside):
                text = whole[i][0].text
                for piece in whole[i][1:]:
                    text = join(text, piece.text)
                whole[i] = [united(whole[i], text)]
    return whole


def _goes_with(row: Row, line: Box) -> bool:
    if line.is_table or any(box.is_table or box.is_upright or box.is_apart for box in row):
        return False
    size, indent = row[0].size, row[0].x0 - line.x0
    return (
        max(row[0].y0, line.y0) - min(row[0].y1, line.y1) < 0.5 * size
        and max(line.size, size) < 1.2 * min(line.size, size)
        and -0.4 * size < indent < 3 * size
        and abs(row[-1].x1 - line.x1) < 0.4 * size
    )


def _has_cell(row: Row, others: list[Row]) -> bool:
    """Whether something in it begins, ends or has its middle where something does in the rows next to it."""
    near = 0.1 * row[0].size
    return any(
        abs(piece.x0 - cell.x0) < near
        or abs(piece.x0 + piece.x1 - cell.x0 - cell.x1) < 2 * near
        or (piece is not row[-1] and abs(piece.x1 - cell.x1) < near)
        for other in others
        for cell in other[1:]
        for piece in row[1:]
    )


def joined(boxes: list[Box]) -> str:
    """Their text, row by row: what stands in one cell."""
    text = ""
    for row in rows(boxes):
        line = " ".join(cell.text for cell in cells(row))
        text = join(text, line) if text else line
    return text


def united(boxes: list[Box], text: str, *, is_table: bool = False) -> Box:
    return Box(
        min(box.y0 for box in boxes),
        min(box.x0 for box in boxes),
        max(box.y1 for box in boxes),
        max(box.x1 for box in boxes),
        text,
        is_table,
        number=min(box.number for box in boxes),
    )


def join(text: str, following: str, compounds: frozenset[str] = frozenset()) -> str:
    """Join across a line's end: the hyphen of a broken Latin word goes, unless the page writes the word with it
    elsewhere (`compounds`, in small letters); no space beside a CJK character."""
    # A paragraph grows line by line: only one that ends so is looked through.
    if text[-1] in _HYPHENS and (broken := _BROKEN.search(text[-_LONGEST_WORD:])) and not CJK.match(following):
        rest = _LETTERS.match(following)
        word = f"{broken[1]}-{rest[0] if rest else ''}"
        closes = following[0].islower() and word.casefold() not in compounds
        return (text[:-1] if closes else text) + following
    if CJK.match(text[-1]) or CJK.match(following[0]):
        return text + following
    return f"{text} {following}"
