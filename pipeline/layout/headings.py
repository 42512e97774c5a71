"""Headings: lines that are larger than the page's text, as Markdown writes them.

The height of a box errs by a tenth, more where no letter of the line reaches up or down. So a line is a heading if it
is nearly a third larger than the page's text, or a fifth and prose follows it; and if it is mostly letters, begins as
a heading does and does not end, or go on below, as a sentence does. A page whose lines are all large has none.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.layout.paragraphs import Block

_LARGE, _LARGER_THAN_WHAT_FOLLOWS = 1.3, 1.15
# (size against the page's text, level), as in a book: a title, a chapter's, a section's heading.
_LEVELS = ((1.8, 1), (1.45, 2), (0.0, 3))
_MAX_LETTERS = 150


def with_headings(page: Sequence[Block], body: float) -> list[str]:
    """The blocks' texts, headings marked. `body` is the size of the page's usual line."""
    texts = []
    for i, block in enumerate(page):
        ratio = block.size / body
        follows = (
            i + 1 < len(page) and page[i + 1].is_prose and page[i + 1].size * _LARGER_THAN_WHAT_FOLLOWS < block.size
        )
        if (ratio >= _LARGE or (ratio >= _LARGER_THAN_WHAT_FOLLOWS and follows)) and _reads_as_heading(block):
            level = next(level for least, level in _LEVELS if ratio >= least)
            texts.append(f"{'#' * level} {block.text}")
        else:
            texts.append(block.text)
    return texts


def _reads_as_heading(block: Block) -> bool:
    text = block.text
    letters = sum(char.isalpha() for char in text)
    return (
        block.is_line
        and not block.is_table
        and sum(2 if ord(char) > 0x2E80 else 1 for char in text if char.isalpha()) >= 4
        and letters <= _MAX_LETTERS
        and letters >= 0.6 * sum(not char.isspace() for char in text)
        and not text[0].islower()
        and text[-1] not in ".,;:-"
    )
