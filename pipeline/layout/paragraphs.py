"""Rows of a region become paragraphs: joined lines where a sentence goes on, line breaks where one ended on purpose.

Rows that follow each other with the same size and pitch are a *run*. In a run a line ended on purpose if the next
line's first word would still have fitted behind it: whoever sets a paragraph fills its lines. A run half of whose
lines are filled, or three, is prose, and a line that ended on purpose ends a paragraph there. Other runs (an address, a
list, a receipt) keep their lines. A first line set in, and a list's item, begin a paragraph of their own; where most
lines are set in, those that are not do (references).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from pipeline.layout.aligned import find_aligned
from pipeline.layout.lines import CJK, Box
from pipeline.layout.prose import PROSE_WIDTH
from pipeline.layout.rows import Row, cells, join, rows

# Between what shares a row and is no table: seen in plain text, one space in Markdown, no sign that nobody wrote.
GAP = "   "
_BULLET = re.compile(
    r"[•·●○▪■◦‣]\s*\S|\(?\d{1,3}[.)、]\s*\D|\(?[a-zA-Z][.)]\s|[(（][一二三四五六七八九十\d]+[)）]|[一二三四五六七八九十]+、"
)
_DASH = re.compile(r"[*–—-]\s*\S")
_PARAGRAPH, _LINE = "\n\n", "\n"


@dataclass(slots=True)
class Block:
    """A paragraph, or rows that belong together."""

    text: str
    size: float
    """The usual height of its lines."""
    is_prose: bool = False
    is_open: bool = False
    """Its last line is full: it may go on elsewhere."""
    is_table: bool = False
    is_line: bool = False
    """One line, or the few of a headline; nothing beside it."""


def blocks(region: list[Box], body: float, compounds: frozenset[str] = frozenset()) -> list[Block]:
    """The region's text from its top. `body` is the size of the page's usual line, `compounds` as in `join`."""
    return blocks_of_rows(rows(region), body, compounds)


def blocks_of_rows(of_region: list[Row], body: float, compounds: frozenset[str] = frozenset()) -> list[Block]:
    """The same of a region whose rows are known."""
    found: list[Block] = []
    right = max(box.x1 for row in of_region for box in row)
    done = 0
    for start, end, table in [*find_aligned(of_region), (len(of_region), len(of_region), None)]:
        for run in _runs([cells(row) for row in of_region[done:start]]):
            found += _paragraphs(run, right, body, compounds)
        if table is not None:
            found.append(Block(table.text, body, is_table=True))
        done = end
    return found


def _runs(found: list[Row]) -> list[list[Row]]:
    """Rows of one size and pitch, either all of one cell or all of several."""
    if not found:
        return []
    gaps = sorted(_gap(above, below) for above, below in pairwise(found) if _are_alike(above, below))
    # Also where lines are set wide apart; of few gaps none is the usual one.
    usual = max(0.0, gaps[len(gaps) // 2]) if len(gaps) >= 4 else 0.3 * found[0][0].size
    runs = [[found[0]]]
    for above, below in pairwise(found):
        if _are_alike(above, below) and _gap(above, below) < usual + 0.45 * min(above[0].size, below[0].size):
            runs[-1].append(below)
        else:
            runs.append([below])
    return runs


def _gap(above: Row, below: Row) -> float:
    return min(box.y0 for box in below) - max(box.y1 for box in above)


def _are_alike(above: Row, below: Row) -> bool:
    """Of one size, and both of one cell or both of several. A raised sign or a fraction makes a line of a sentence
    higher than those around it."""
    if above[0].is_table or below[0].is_table or (len(above) > 1) != (len(below) > 1):
        return False
    small, large = sorted((above[0].size, below[0].size))
    goes_on = below[0].text[0].islower() and above[0].text[-1] not in ".:;!?" and abs(above[0].x0 - below[0].x0) < small
    return large <= (1.7 if goes_on else 1.35) * small


def _paragraphs(run: list[Row], right: float, body: float, compounds: frozenset[str]) -> list[Block]:
    size = median(row[0].size for row in run)
    if run[0][0].is_table and len(run[0]) == 1:
        return [Block(run[0][0].text, body, is_table=True)]
    if len(run[0]) > 1:
        return [Block("\n".join(map(_row_text, run)), size)]
    lines = [row[0] for row in run]
    left = min(line.x0 for line in lines)
    if len(lines) >= 4:
        right = max(line.x1 for line in lines)
    ended = [_ended(above, below, right) for above, below in pairwise(lines)]
    is_filled = 2 * sum(ended) <= len(ended) or len(ended) - sum(ended) >= 3
    is_prose = right - left >= _least_width(lines) * size and is_filled
    is_headline = size > 1.3 * body and len(lines) <= 4
    is_set_in = [line.x0 - left > size for line in lines]
    hangs = len(lines) > 2 and not is_set_in[0] and is_set_in[1] and 2 * sum(is_set_in) >= len(lines)
    text, found = lines[0].text, []
    for i, (above, below) in enumerate(pairwise(lines)):
        if is_headline:
            separator = ""
        elif hangs:
            separator = "" if is_set_in[i + 1] else _LINE
        else:
            is_new = is_set_in[i + 1] and not is_set_in[i] and not _is_item(above, is_after_end=True)
            separator = _separator(above, below, ended=ended[i], is_prose=is_prose, is_new=is_new)
        if separator == _PARAGRAPH:
            found.append(Block(text, size, is_prose))
            text = below.text
        else:
            text = join(text, below.text, compounds) if not separator else text + separator + below.text
    is_full = is_prose and len(lines) > 1 and right - lines[-1].x1 < 4 * size
    found.append(Block(text, size, is_prose and len(lines) > 1, is_full, is_line=is_headline or len(lines) == 1))
    return found


def _least_width(lines: list[Box]) -> float:
    """From how many letter heights on a run may be prose: more where each line begins as an address or a list does."""
    starts = [line.text[0] for line in lines[1:]]
    is_cased = 2 * sum(char.isupper() or char.isdigit() for char in starts) > len(starts)
    return PROSE_WIDTH if not is_cased or any(char.islower() for char in starts) else 2.5 * PROSE_WIDTH


def _row_text(row: Row) -> str:
    """A field's label and what stands behind it are one line of text; what else shares a row stays apart."""
    text = row[0].text
    for cell in row[1:]:
        text += (" " if text.endswith((":", "：")) else GAP) + cell.text
    return text


def _separator(above: Box, below: Box, *, ended: bool, is_prose: bool, is_new: bool) -> str:
    if _is_item(below, is_after_end=ended or _is_item(above, is_after_end=True)):
        return _LINE
    if re.search(r"[^\W\d_][-\u00ad]$", above.text) and below.text[0].islower():
        return ""
    if is_new:
        return _PARAGRAPH
    goes_on = below.text[0].islower() and above.text[-1] not in ".:;!?"
    if ended:
        return "" if is_prose and goes_on else _PARAGRAPH if is_prose else _LINE
    return "" if is_prose or goes_on else _LINE


def _is_item(line: Box, *, is_after_end: bool) -> bool:
    """Begins with a bullet or number. A dash is one only where the line before ended: prose has dashes, too."""
    return bool(_BULLET.match(line.text) or (is_after_end and _DASH.match(line.text)))


def _ended(above: Box, below: Box, right: float) -> bool:
    """Whether the first word of `below` would have fitted behind `above`."""
    if CJK.match(below.text):
        word = 2.0 * below.size
    else:
        word = (len(below.text.split()[0]) + 1) * below.width / len(below.text)
    return right - above.x1 > word + above.size
