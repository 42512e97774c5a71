"""Lines of the strip that two tiles share stand once in the answer, and what the page itself repeats stays."""

from __future__ import annotations

import pytest

from workers.pixtral.text.seams import without_doubled_seams

PAGE = [f"{number:02} the quick brown fox, line {number}" for number in range(30)]


def doubled(first, last, page=PAGE):
    return [*page[:last], *page[first:last], *page[last:]]


@pytest.mark.parametrize("length", [3, 5, 16])
def test_the_second_of_two_equal_blocks_goes(length):
    text, gone = without_doubled_seams("\n".join(doubled(10, 10 + length)), 1)
    assert text.split("\n") == PAGE and gone == PAGE[10 : 10 + length]


def test_every_seam_of_a_long_page_is_joined():
    lines = [*PAGE[:10], *PAGE[7:20], *PAGE[16:]]
    text, gone = without_doubled_seams("\n".join(lines), 2)
    assert text.split("\n") == PAGE and gone == [*PAGE[7:10], *PAGE[16:20]]


def test_empty_lines_and_spaces_do_not_hide_a_seam():
    lines = [*PAGE[:10], "", *(line.replace(" ", "  ") for line in PAGE[6:10]), "", *PAGE[10:]]
    text, gone = without_doubled_seams("\n".join(lines), 1)
    assert text.split("\n") == [*PAGE[:10], "", "", *PAGE[10:]] and len(gone) == 4


@pytest.mark.parametrize(
    "lines",
    [
        PAGE,
        [],
        ["Coffee 2.50", "Coffee 2.50", "Croissant 1.80", "Croissant 1.80", "Total 8.60"],
        ["Coffee, black, large 2.50", "Croissant with butter 1.80"] * 2,  # two lines are too few
        ["Joan Example", "12 Long Street, Apartment 3", "Exampleville, EX 12345"] * 3,  # a sheet of labels
        ["Joan Example", "12 Long Street, Apartment 3", "Exampleville, EX 12345"] * 8,
        ["0.00 a quarter of it all", "0.00 a quarter of it all", "0.00 a quarter of it all"] * 2,
        ["a", "b", "c"] * 2,  # too few letters to be sure
        doubled(0, 17),  # more lines than a strip holds
        [*PAGE[:10], *PAGE[5:15], *PAGE[10:20], *PAGE[15:]],  # three seams where there is one
    ],
)
def test_what_the_page_may_repeat_stays(lines):
    text = "\n".join(lines)
    assert without_doubled_seams(text, 1) == (text, [])
