"""What an engine stores of a line is enough to lay it where it was read, however it and its page lie."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.layout.lines import Line, Point, Quad
from pipeline.layout.words import placed_lines, words_of
from workers.engines.orientation import Turn
from workers.engines.page_answer import answer_of
from workers.engines.page_lines import PageLines

WIDTH, HEIGHT = 600, 800  # of the page as it was given


def laid(x: float, y: float, length: float, height: float, degrees: float) -> Quad:
    """A line's corners as it reads, counter-clockwise from level around its centre."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    halves = ((-length, -height), (length, -height), (length, height), (-length, height))
    a, b, c, d = ((x + u * cosine / 2 + v * sine / 2, y + v * cosine / 2 - u * sine / 2) for u, v in halves)
    return a, b, c, d


def as_detected(quad: Quad, turn: int) -> Quad:
    """Corners from the page's top left on, whichever way the line reads."""
    a, b, c, d = quad
    return ((a, b, c, d), (d, a, b, c), (c, d, a, b), (b, c, d, a))[turn]


def on_given_page(point: Point, turn: Turn) -> Point:
    """A place of the upright page on the page as it was given."""
    x, y = point
    return {
        Turn.NONE: (x, y),
        Turn.LEFT: (WIDTH - y, x),
        Turn.HALF: (WIDTH - x, HEIGHT - y),
        Turn.RIGHT: (y, HEIGHT - x),
    }[turn]


@pytest.mark.parametrize("turn", list(Turn))
def test_a_line_is_laid_where_it_was_read(turn: Turn) -> None:
    skew = 2.5  # degrees counter-clockwise, of the upright page
    quads = [(laid(300, 100 + 60 * n, 400, 24, skew), 0) for n in range(4)] + [
        (laid(60, 400, 260, 22, 270 + skew), 1),
        (laid(540, 400, 260, 22, 90 + skew), 3),
        (laid(300, 520, 200, 30, -12), 0),
    ]
    lines = [Line(as_detected(quad, of_line), f"line {n}", 0.9, of_line) for n, (quad, of_line) in enumerate(quads)]
    answer = answer_of(PageLines(lines, turn), np.full((HEIGHT, WIDTH, 3), 255, np.uint8), 0.1, 0.5)
    placed = list(placed_lines(answer.details["lines"], answer.angle))
    assert len(placed) == len(quads)
    for (quad, _), line in zip(quads, placed, strict=True):
        wanted = [on_given_page(corner, turn) for corner in quad]
        assert all(math.dist(one, other) < 2.5 for one, other in zip(line.quad, wanted, strict=True)), (line, wanted)


def test_older_lines_read_as_their_page_and_tall_ones_along_it() -> None:
    up, level, down, short = placed_lines(
        [
            [10, 10, 30, 200, 0.9, "up the side"],
            [40, 10, 240, 30, 0.9, "level"],
            [300, 10, 330, 200, 0.9, "縦書きの行"],
            [400, 10, 410, 40, 0.9, "I"],
        ],
        0.0,
    )
    assert [line.angle for line in (up, level, down, short)] == [90, 0, 270, 0]
    (turned,) = placed_lines([[10, 10, 30, 200, 0.9, "of a page that lies"]], 270.0)
    assert turned.angle == 270 and [round(x) for x in turned.quad[0]] == [30, 10]
    (vertical,) = placed_lines([[10, 10, 30, 200, None, "縦書き", None]], None)
    assert vertical.angle == 270
    odd = [[1, 2], "no line", [0, 0, 5, 5, 0.9, None], [5, 5, 5, 9, 0.9, "no area"], [0, 0, float("nan"), 5, 0.9, "x"]]
    assert not list(placed_lines(odd, None))


def test_words_share_their_line_by_the_widths_of_letters() -> None:
    (line,) = placed_lines([[100, 0, 400, 20, 0.9, "ill WWW ill"]], 0.0)
    starts = [(word.text, round(word.quad[0][0]), round(word.quad[1][0])) for word in words_of(line)]
    assert starts[0][1] == 100 and starts[-1][2] == 400
    assert starts[1][2] - starts[1][1] > 3 * (starts[0][2] - starts[0][1])  # WWW is wider than ill
    (line,) = placed_lines([[100, 0, 400, 20, 0.9, "العام ٢٠٢٤ في"]], 0.0)
    first, number, last = words_of(line)
    assert first.quad[0][0] > number.quad[0][0] > last.quad[0][0] == 100 and number.text == "٢٠٢٤"
