"""An answer about a page in tiles, without the lines that the model wrote twice.

Neighbouring tiles share a strip of the page. The model is told to write what it sees twice once; where it goes through
the tiles one by one all the same, the lines of the strip end one tile and begin the next:

    … a b c d | b c d e …   →   … a b c d e …

Pages repeat lines, too: two coffees on a bill, a sheet of labels. So a block goes only if it is long, its lines differ
from each other, it does not begin a third time, and there are no more such blocks than cuts. What went is told.
"""

from __future__ import annotations

from itertools import accumulate

LEAST_LINES = 3
MOST_LINES = 16  # lines of 8 px in a strip of 128 px
LEAST_LETTERS = 24  # of the block, digits too


def without_doubled_seams(text: str, seams: int) -> tuple[str, list[str]]:
    """The text without the second of two equal blocks of lines that follow each other, and the lines that went."""
    cuts = doubled_seams(text, seams)
    ends = [0, *(last for _, last in cuts)]
    starts = [*(first for first, _ in cuts), len(text)]
    kept = "".join(text[end:start] for end, start in zip(ends, starts, strict=True))
    return kept, [line for first, last in cuts for line in text[first:last].split("\n") if line.strip()]


def doubled_seams(text: str, seams: int) -> list[tuple[int, int]]:
    """The characters first … last - 1 of each block that goes, one line end of it included.

    Lines are equal if their words are; empty ones do not count. Of overlaps at one place the longest is taken. None
    goes where there are more of them than `seams`.
    """
    lines = text.split("\n")
    places = [place for place, line in enumerate(lines) if line.strip()]
    words = [tuple(lines[place].split()) for place in places]
    gone: list[range] = []
    start = LEAST_LINES
    while start <= len(words) - LEAST_LINES:
        length = _overlap(words, start)
        if length:
            gone.append(range(places[start], places[start + length - 1] + 1))
        start += max(length, 1)
    if not 0 < len(gone) <= seams:
        return []
    starts = list(accumulate((len(line) + 1 for line in lines), initial=0))  # and of a line after the last
    return [(starts[span[0]] - (span[-1] + 1 == len(lines)), min(starts[span[-1] + 1], len(text))) for span in gone]


def _overlap(words: list[tuple[str, ...]], start: int) -> int:
    """Lines of the longest block that ends before `start` and comes again there; 0 where none may go."""
    for length in range(min(MOST_LINES, start, len(words) - start), LEAST_LINES - 1, -1):
        block = words[start : start + length]
        if words[start - length : start] != block:
            continue
        before, after = words[:start], words[start:]
        goes_on = before[:-length][-1:] == before[-1:] or after[length : length + 1] == after[:1]  # a third time
        letters = sum(letter.isalnum() for line in block for word in line for letter in word)
        if len(set(block)) < length or goes_on or letters < LEAST_LETTERS:
            return 0
        return length
    return 0
