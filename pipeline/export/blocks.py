"""Lines of a page in the order in which they are read, and the paragraphs that they belong to.

Lines are stored as they were found, from the top down; the answer's text is in reading order, with a blank line between
its paragraphs. So each line is looked up in the text, by its letters and digits alone: what was joined across a line's
end, or set into a table, is found all the same. Long lines choose first, for a short one may stand in many places.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.layout.words import PlacedLine

_MOST_TRIES = 50  # of one line, among places that others have


def blocks_of(text: str, lines: Sequence[PlacedLine]) -> list[list[PlacedLine]]:
    """Paragraph after paragraph. A line that is not found follows the one that was found before it."""
    ends, hay = [], ""
    for paragraph in re.split(r"\n[^\S\n]*\n", text):
        hay += _plain(paragraph)
        ends.append(len(hay))
    places = _places(hay, [_plain(line.text) for line in lines])
    ordered: list[tuple[int, int]] = []
    last = 0
    for index, place in enumerate(places):
        last = last if place is None else place
        ordered.append((last, index))
    blocks: list[list[PlacedLine]] = []
    paragraph_of_last = -1
    number = 0
    for place, index in sorted(ordered):
        while number < len(ends) - 1 and place >= ends[number]:
            number += 1
        if number != paragraph_of_last:
            blocks.append([])
            paragraph_of_last = number
        blocks[-1].append(lines[index])
    return blocks


def _places(hay: str, keys: Sequence[str]) -> list[int | None]:
    """Where each key stands in the text, no place twice."""
    is_taken = bytearray(len(hay))
    places: list[int | None] = [None] * len(keys)
    begin: dict[str, int] = {}  # equal lines are looked for one behind the other
    for index in sorted(range(len(keys)), key=lambda index: -len(keys[index])):
        key = keys[index]
        at = begin.get(key, 0)
        for _ in range(_MOST_TRIES if key else 0):
            at = hay.find(key, at)
            if at < 0:
                break
            if not any(is_taken[at : at + len(key)]):
                is_taken[at : at + len(key)] = b"\1" * len(key)
                places[index] = at
                begin[key] = at + len(key)
                break
            at += 1
    return places


def _plain(text: str) -> str:
    return "".join(character for character in text if character.isalnum()).casefold()
