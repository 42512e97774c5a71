"""What is made of the text that a PDF page carries where it is the answer: set as it reads, and its lines beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.layout.own_text import Found, StoredLine, own_text

Boxes = Found | Sequence[StoredLine] | None
"""As `text_layers.boxes` holds them; an older pagepack stored each line's box and nothing else."""


def text_of(text: str, boxes: Boxes) -> str:
    return own_text(text, _found(boxes))


def lines_of(text: str, boxes: Boxes) -> list[list[Any]]:
    """In the order of the file, as engines leave them in an answer's details, without a confidence; none where some
    line has no box."""
    texts, found = text.split("\n")[:-1], _found(boxes)
    lines = found["lines"] if found else []
    if len(texts) != len(lines):
        return []
    return [
        [*line[:4], None, said.strip(), *line[5:6]] for line, said in zip(lines, texts, strict=True) if said.strip()
    ]


def _found(boxes: Boxes) -> Found | None:
    if not boxes:
        return None
    return boxes if isinstance(boxes, dict) else {"lines": boxes, "level": [], "upright": []}
