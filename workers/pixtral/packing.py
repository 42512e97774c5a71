"""Where each row of a pack belongs: positions, boundaries and features, as plain lists of numbers.

Packing lays images (or sequences) end to end without padding. Attention then stays inside each by `cu_seqlens`, so the
result equals running them one by one (held by `test_pixtral_vision.py` and `test_pixtral_isolation.py`):

    images of 2 × 3 and 1 × 2 patches   →  cu_seqlens [0, 6, 8]
    rows     0 0 0 1 1 1 | 0 0             restart at 0 in each image, so does RoPE-2D
    columns  0 1 2 0 1 2 | 0 1

Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination", arXiv:2107.02027; for images, Dehghani et
al. 2023, "Patch n' Pack: NaViT", arXiv:2307.06304.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray


def cumulative(lengths: Sequence[int]) -> list[int]:
    """[3, 5] → [0, 3, 8]."""
    return [0, *accumulate(lengths)]


def patch_positions(grids: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Row and column of every patch in its own image: grids of (rows, columns) → (P, 2), row by row as tokens run."""
    parts = [np.indices(grid).reshape(2, -1).T for grid in grids]
    return np.concatenate(parts) if parts else np.zeros((0, 2), np.int64)


def feature_rows(token_ids: Sequence[int], image_token_id: int, first: int, last: int) -> tuple[int, int]:
    """Which image features the tokens first … last - 1 take: the range of features by their order in the prompt.

    Only the image token takes a feature; break and end tokens keep their own embedding. A chunk may begin and end
    inside an image: of 4 rows of 3 patches (16 tokens), tokens 5 … 9 take features 4 … 7.
    """
    before = sum(token == image_token_id for token in token_ids[:first])
    inside = sum(token == image_token_id for token in token_ids[first:last])
    return before, before + inside


def packing_efficiency(useful: int, computed: int) -> float:
    """Useful over computed tokens; 1.0 where nothing was computed."""
    return useful / computed if computed else 1.0
