"""Cuts a page into regions that read row by row: columns come apart, tables stay whole.

A recursive cut in the family of XY-cut, here with gutters that a heading may cross:

1. A *gutter* is a vertical strip half a line high in width, or more; half of that between two columns of prose, as
   newspapers have them. Lines that cross it (a heading over two columns) split the region into bands.
2. A band is read as columns, or as rows that go on beyond the gutter. Rows are level with each other on both sides;
   but so are lines of two columns on one grid. What tells them apart is prose: nobody continues a sentence after the
   next cell of a table. Prose on both sides is columns. Prose beside short level cells is columns, if reading rows
   would tear its sentences; a list's numbers, and the page numbers of a table of contents, are too narrow for that.
3. The gutter that separates most lines and is crossed by fewest wins; left side, then right side, each cut again.

    Heading over both      lines: Heading, a1, b1, a2, b2 (b to the right of a)
    a1          b1         one gutter, crossed by Heading: bands [Heading], [a1 a2 | b1 b2]
    a2          b2         regions: Heading / a1 a2 / b1 b2

Nagy and Seth 1984, "Hierarchical representation of optically scanned documents"; Ha, Haralick and Phillips 1995,
"Recursive X-Y cut using bounding boxes of connected components"; Breuel 2002, "Two geometric algorithms for layout
analysis" (gutters as maximal white rectangles, lines that cross them as obstacles).

Longer than most modules: it is one algorithm, and its rules are weighed against each other.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from pipeline.layout.lines import Box
from pipeline.layout.prose import PROSE_WIDTH, are_of_two_lines, is_prose
from pipeline.layout.rulings import Ruling

# A gutter's width in line heights. Boxes reach a fifth of a height beyond the letters, so this is about one em.
_GUTTER = 0.5
_GUTTER_IN_PROSE = 0.25
# What is no wider than this beside prose numbers it: a bullet, the number of an equation, a page number.
_LABEL_WIDTH = 4.0
_ERROR = 0.5
# How far the middles of two level lines may lie apart: detectors err by a tenth, columns on two grids by any amount.
_LEVEL = 0.25
# Gutters tried of a region, times its lines. Where ends are ragged each line has a gutter of its own: 2,000 lines of a
# table in three columns took 17 s without the bound, 1 s with it. Regions under 280 lines try all that they have.
_MOST_LOOKED_AT = 160_000
_LEAST_TRIED = 8
# So many rulings on each side, none level with one on the other, part two columns.
_LEAST_RULED = 2


@dataclass(slots=True)
class _Band:
    left: list[Box] = field(default_factory=list)
    right: list[Box] = field(default_factory=list)  # empty: `left` is the whole width

    @property
    def num_separated(self) -> int:
        return min(len(self.left), len(self.right))


def regions(
    boxes: list[Box], height: float, ruled: Sequence[Ruling] = (), most_looked_at: int | None = None
) -> list[list[Box]]:
    """In reading order; each is to be read row by row. `boxes` is sorted, `height` that of the page's usual line,
    `ruled` its level rulings, `most_looked_at` gutters times lines."""
    found: list[list[Box]] = []
    waiting = _ruled_apart(boxes, height, ruled)[::-1]
    while waiting:
        parts = _cut(waiting.pop(), height, most_looked_at or _MOST_LOOKED_AT)
        if len(parts) == 1:
            found.append(parts[0])
        else:
            waiting += parts[::-1]
    return found


def _ruled_apart(boxes: list[Box], height: float, ruled: Sequence[Ruling]) -> list[list[Box]]:
    """Cut where rulings on both sides of a gutter end at it, each at a height of its own: the rows of a table would
    be ruled at the same height on both sides. So a table beside a column of notes is known, whose cells stand level
    with the notes."""
    ruled = [one for one in ruled if one.end - one.start > PROSE_WIDTH * height]
    for x in sorted({one.end for one in ruled}):
        left = [one for one in ruled if x - height <= one.end <= x + 0.5 * height]
        right = [one for one in ruled if x + 0.5 * height < one.start <= x + 3 * height]
        places = [sorted(one.at for one in side) for side in (left, right)]
        apart = [
            [one for one in side if not _is_near(one.at, others, 0.5 * height)]
            for side, others in ((left, places[1]), (right, places[0]))
        ]
        if min(map(len, apart)) < _LEAST_RULED or 2 * len(apart[0]) < len(left) or 2 * len(apart[1]) < len(right):
            continue
        end = min(one.start for one in right)
        top = min(one.at for one in left + right) - height
        bottom = max(one.at for one in left + right) + height
        between = [box for box in boxes if top < box.centre < bottom]
        sides = [
            [box for box in between if box.x1 < end],
            [box for box in between if box.x1 >= end and box.x0 > x - 0.5 * height],
        ]
        if min(map(len, sides)) < 2 or len(sides[0]) + len(sides[1]) < len(between):
            continue  # something crosses it
        above, below = [box for box in boxes if box.centre <= top], [box for box in boxes if box.centre >= bottom]
        return [part for part in (above, *sides, below) if part]
    return [boxes]


def _cut(boxes: list[Box], height: float, most_looked_at: int) -> list[list[Box]]:
    """At the best gutter, in reading order; one part where there is none."""
    best: list[_Band] = []
    most = -math.inf
    ordered = sorted(boxes, key=lambda box: (box.centre, box))
    num_tried = max(most_looked_at // len(boxes) + 1, _LEAST_TRIED)
    for at_most, num_crossing, x, width in _gutters(boxes, height)[:num_tried]:
        if at_most <= most:
            break
        bands = _cut_at(ordered, x, width, height)
        separated = sum(band.num_separated for band in bands)
        if width < _GUTTER * height and not all(_is_of_prose(band, height) for band in bands if band.right):
            continue
        if separated and separated - num_crossing > most:
            best, most = bands, separated - num_crossing
    if not best:
        return [boxes]
    # Only the band that it separates most is cut; what stands above and below may have gutters of its own.
    at = max(range(len(best)), key=lambda i: best[i].num_separated)
    above, below = ([box for band in bands for box in band.left + band.right] for bands in (best[:at], best[at + 1 :]))
    return [sorted(part) for part in (above, best[at].left, best[at].right, below) if part]


def _gutters(boxes: list[Box], height: float) -> list[tuple[int, int, float, float]]:
    """Strips worth trying, best first: (lines on the side of fewer, less those that cross), those that cross, its left
    edge, its width.

    A strip begins at some line's right end. Of those between the same lines the first and widest is enough.
    """
    ends, starts = sorted(box.x1 for box in boxes), sorted(box.x0 for box in boxes)
    found: dict[tuple[int, int], tuple[int, int, float, float]] = {}
    step = max(4.0, 0.2 * height)
    widths = [(_GUTTER * height, sorted({step * math.ceil(end / step) for end in ends}))]
    if sum(box.width >= PROSE_WIDTH * height for box in boxes) >= 6:
        widths.append((_GUTTER_IN_PROSE * height, ends))  # such a strip can be narrower than a step
    for width, edges in widths:
        for x in edges:
            left, right = bisect_right(ends, x), len(starts) - bisect_left(starts, x + width)
            num_crossing = len(boxes) - left - right
            if right and (left, right) not in found:
                found[left, right] = (min(left, right) - num_crossing, num_crossing, x, width)
    return sorted(found.values(), key=lambda one: (-one[0], -one[3], one[2]))


def _is_of_prose(band: _Band, height: float) -> bool:
    left, right = _facing(band.left, height, is_left=True), _facing(band.right, height, is_left=False)
    return is_prose(left, height) and is_prose(right, height)


def _cut_at(ordered: list[Box], x: float, width: float, height: float) -> list[_Band]:
    """The region from the top, for a gutter of this width that begins at `x`; `ordered` by their middles."""
    bands: list[_Band] = []
    whole: list[Box] = []
    current: list[Box] = []

    def end_band() -> None:
        num_right = sum(box.x0 + box.x1 > 2 * x for box in current)
        if min(num_right, len(current) - num_right) < (2 if crossing else 1):  # no band of it could part them
            whole.extend(current)
            current.clear()
            return
        for band in _columns_and_rows(current, x, height):
            # One line beside several is a column where nothing crosses the gutter, and chance elsewhere.
            if band.num_separated < (1 if not crossing and len(band.left) + len(band.right) > 2 else 2):
                whole.extend(band.left + band.right)
                continue
            if whole:
                bands.append(_Band(whole.copy()))
                whole.clear()
            bands.append(band)
        current.clear()

    end = x + width

    def crosses(box: Box) -> bool:
        """More than a detector errs by: one line whose box is too long does not part the columns."""
        if box.x1 <= x or box.x0 >= end:
            return False
        is_left = box.x0 < x - PROSE_WIDTH * height and box.x1 < end + _ERROR * height
        is_right = box.x1 > end + PROSE_WIDTH * height and box.x0 > x - _ERROR * height
        return not (is_left or is_right)

    crossing = [box.centre for box in ordered if crosses(box)]
    for box in ordered:
        # A short cell beside one that crosses belongs to the same row of a table.
        is_short = box.width < PROSE_WIDTH * height
        if crosses(box) or (is_short and _is_near(box.centre, crossing, _LEVEL * height)):
            end_band()
            whole.append(box)
        else:
            current.append(box)
    end_band()
    if whole:
        bands.append(_Band(whole))
    return bands


def _columns_and_rows(boxes: list[Box], x: float, height: float) -> list[_Band]:
    """What no line crosses, as columns; a table below them, or a running head above, is a band of its own.

    The band is judged as a whole. A piece that white space separates on both sides is taken out only where it is
    plainly the other thing: columns stay whole over a gap that happens to be level on both sides.
    """
    pieces: list[_Band] = []
    bottoms: list[float] = []
    for box in sorted(boxes):
        if not pieces or box.y0 > bottoms[-1] + 0.5 * height:
            pieces.append(_Band())
            bottoms.append(-math.inf)
        (pieces[-1].right if box.x0 + box.x1 > 2 * x else pieces[-1].left).append(box)
        bottoms[-1] = max(bottoms[-1], box.y1)
    left = [box for piece in pieces for box in piece.left]
    right = [box for piece in pieces for box in piece.right]
    if not left or not right:
        return [_Band(left + right)]
    by_default = _are_rows(left, right, height)
    last_of_both = max((i for i, piece in enumerate(pieces) if piece.left and piece.right), default=0)
    joined: list[_Band] = []
    before: bool | None = None
    for i, piece in enumerate(pieces):
        are_rows, alone = by_default, _stands_alone(pieces, i, height)
        if piece.left and piece.right:
            if piece.num_separated >= (3 if by_default else 2):
                are_rows = _are_rows(piece.left, piece.right, height)
                if by_default and not any(is_prose(side, height) for side in (piece.left, piece.right)):
                    are_rows = True
                if before is False and not by_default and _goes_on(piece, left, right, height):
                    are_rows = False  # a heading and a line or two, level with the same in the other column
            elif len(piece.left) == len(piece.right) == 1 and not by_default and alone > height:
                are_rows = abs(piece.left[0].centre - piece.right[0].centre) < _LEVEL * height
        elif before is not None and i > last_of_both and _is_footnote(piece, bottoms[i - 1], height):
            are_rows = True  # comes after all columns
        elif before is not None:
            are_rows = before  # goes with what is above
        elif len(piece.left) == 1 and i + 1 < len(pieces):
            are_rows = True  # at the top: the short last line of a paragraph across
        if are_rows:
            piece = _Band(piece.left + piece.right)
        if are_rows == before and not (alone > 1.5 * height and i == len(pieces) - 1):
            joined[-1] = _Band(joined[-1].left + piece.left, joined[-1].right + piece.right)
        else:
            joined.append(piece)
        # A letterhead's lines stand on both sides, and come before both columns.
        before = None if alone > 1.5 * height and i == 0 else are_rows
    return joined


def _goes_on(piece: _Band, left: list[Box], right: list[Box], height: float) -> bool:
    """Whether lines on both sides begin where their column does, one or more as wide as lines of it: no table's do."""
    for lines, column in ((piece.left, left), (piece.right, right)):
        start, width = median(box.x0 for box in column), median(box.width for box in column)
        if any(abs(box.x0 - start) > height for box in lines) or max(box.width for box in lines) < 0.8 * width:
            return False
    return True


def _is_footnote(piece: _Band, above: float, height: float) -> bool:
    """Small print away from what ends at `above`."""
    boxes = piece.left + piece.right
    return median(box.size for box in boxes) < 0.9 * height and min(box.y0 for box in boxes) - above > 0.8 * height


def _stands_alone(pieces: list[_Band], i: int, height: float) -> float:
    """How far the first or last piece lies from the rest, if it is a few lines only: a running head, a footer."""
    if i not in (0, len(pieces) - 1) or len(pieces) < 2 or max(len(pieces[i].left), len(pieces[i].right)) > 4:
        return 0.0
    if is_prose(pieces[i].left, height) or is_prose(pieces[i].right, height):
        return 0.0
    top, bottom = (pieces[0], pieces[1]) if i == 0 else (pieces[-2], pieces[-1])
    return min(box.y0 for box in bottom.left + bottom.right) - max(box.y1 for box in top.left + top.right)


def _are_rows(left: list[Box], right: list[Box], height: float) -> bool:
    """Whether lines on both sides are the cells of common rows, rather than two columns."""
    facing_left, facing_right = _facing(left, height, is_left=True), _facing(right, height, is_left=False)
    # The side of fewer rows, not of fewer cells: a label beside empty cells has no partner, and is a row all the same.
    (_, few), (_, many) = sorted(((len(facing_left), left), (len(facing_right), right)), key=lambda side: side[0])
    centres = sorted(box.centre for box in many)
    level = [box for box in few if _is_near(box.centre, centres, _LEVEL * height)]
    if len(level) < 0.6 * len(few):
        return False
    prose = [is_prose(facing_left, height), is_prose(facing_right, height)]
    if all(prose):
        return False
    if not any(prose):
        return not are_of_two_lines(left + right, height)
    running, beside = (facing_left, right) if prose[0] else (facing_right, left)
    if max(box.x1 for box in beside) - min(box.x0 for box in beside) < _LABEL_WIDTH * height:
        return True
    others = sorted(box.centre for box in beside)
    partners = [box for box in running if _is_near(box.centre, others, _LEVEL * height)]
    if any(char.islower() for box in running for char in box.text):
        return sum(box.text[0].islower() for box in partners) < 0.25 * len(partners)
    return len(partners) >= 0.8 * len(running)


def _facing(boxes: list[Box], height: float, *, is_left: bool) -> list[Box]:
    """Of the lines on one side those next to the gutter: no other of that side stands between, at the same level."""
    ordered = sorted(boxes, key=lambda box: -box.x1 if is_left else box.x0)
    taken: list[float] = []
    facing = []
    for box in ordered:
        if _is_near(box.centre, taken, 0.5 * height):
            continue
        taken.insert(bisect_left(taken, box.centre), box.centre)
        facing.append(box)
    return facing


def _is_near(value: float, ordered: list[float], reach: float) -> bool:
    """Whether one of `ordered` (ascending) lies less than `reach` away."""
    at = bisect_left(ordered, value)
    return (at < len(ordered) and ordered[at] - value < reach) or (at > 0 and value - ordered[at - 1] < reach)
