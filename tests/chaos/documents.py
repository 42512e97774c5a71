"""Small PDFs whose pages all differ, drawn from a seed: a grid of squares for each page, like a stamp."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

import pymupdf

_CELLS = 8  # 64 squares of a 128 pt page: 16 px each at 128 px


def draw_pdf(path: Path, seed: str, pages: int, dark: Collection[int] = ()) -> Path:
    """A fifth of each page's squares is black; of a page in `dark` (indexes from 0) four fifths are."""
    with pymupdf.open() as document:
        for index in range(pages):
            bits = hashlib.sha512(f"{seed} {path.name} {index}".encode()).digest()
            limit = 205 if index in dark else 51
            page = document.new_page(width=16 * _CELLS, height=16 * _CELLS)
            shape = page.new_shape()
            for cell in range(_CELLS * _CELLS):
                if bits[cell] < limit:
                    left, top = 16 * (cell % _CELLS), 16 * (cell // _CELLS)
                    shape.draw_rect(pymupdf.Rect(left, top, left + 16, top + 16))
            shape.finish(fill=(0, 0, 0), width=0)
            shape.commit()
        document.save(path)
    return path
