"""Where each row of a pack belongs: positions, boundaries and features, as plain lists of numbers.

Packing lays images (or sequences) end to end without padding. Attention then stays inside each by `cu_seqlens`, so the
result equals running them one by one (held by `test_pixtral_isolation.py`):

    images of 2 × 3 and 1 × 2 patches   →  cu_seqlens [0, 6, 8]
    rows     0 0 0 1 1 1 | 0 0             restart at 0 in each image, so does RoPE-2D
    columns  0 1 2 0 1 2 | 0 1

Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination", arXiv:2107.02027; for images, Dehghani et
al. 2023, "Patch n' Pack: NaViT", arXiv:2307.06304.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as AbstractSequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from workers.pixtral.plan.scheduler import Step
from workers.pixtral.plan.sequence import Sequence

Padding = Callable[[int], int]


def cumulative(lengths: AbstractSequence[int]) -> list[int]:
    """[3, 5] → [0, 3, 8]."""
    return [0, *accumulate(lengths)]


@dataclass(frozen=True, slots=True)
class Segment:
    """A prefill chunk in the pack: its rows, and the sequence's blocks, whose first `num_keys` slots it may see."""

    first_row: int
    num_rows: int
    num_keys: int
    block_table: list[int]


@dataclass(frozen=True, slots=True)
class Layout:
    """A step as numbers for the device, T rows: prefill rows, padding, decode rows, padding.

    Fixed totals keep every matrix product in one of few shapes (see `cpu/tiles.py`): prefill rows are padded to
    whole tiles, and so are decode rows.
    """

    token_ids: NDArray[np.int64]  # (T,), 0 on padding, -1 where the device holds the token (`Executor.last_tokens`)
    positions: NDArray[np.int64]  # (T,), from 0 in each sequence
    slots: NDArray[np.int64]  # (T,) where the row's key and value go, -1 on padding: written nowhere
    segments: list[Segment]
    first_decode: int  # prefill rows with their padding
    decode_tables: list[list[int]]
    decode_lengths: list[int]  # keys that each decode row sees, its own included
    feature_rows: NDArray[np.int64]  # rows that take an image feature, in order
    feature_ranges: list[tuple[Sequence, int, int]]  # whose features they are, first and last
    sample_rows: list[int]
    sample_sequences: list[Sequence]
    sample_positions: list[int]  # position of the row whose next token is drawn
    sample_drafts: list[int | None]  # the token that was fed there, where it was only drafted
    useful_rows: int


def slots_of(block_table: list[int], first: int, last: int, block_size: int) -> NDArray[np.int64]:
    """Cache slots of tokens first … last - 1: table [7, 2], blocks of 4, tokens 3 … 5 → [31, 8, 9]."""
    places = np.arange(first, last)
    slots: NDArray[np.int64] = (
        np.asarray(block_table, np.int64)[places // block_size] * block_size + places % block_size
    )
    return slots


def lay_out(step: Step, block_size: int, image_token_id: int, pad_prefill: Padding, decode_rows: int) -> Layout:
    """Lay a step's chunks and decodes end to end; `pad_prefill` says how many rows a number of rows becomes."""
    num_prefill = sum(chunk.last - chunk.first for chunk in step.chunks)
    first_decode = pad_prefill(num_prefill)
    total = first_decode + (decode_rows if step.decodes else 0)
    token_ids, positions = np.zeros(total, np.int64), np.zeros(total, np.int64)
    slots = np.full(total, -1, np.int64)
    segments: list[Segment] = []
    feature_parts: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    feature_ranges: list[tuple[Sequence, int, int]] = []
    samples: list[tuple[int, Sequence, int, int | None]] = []
    row = 0
    for chunk in step.chunks:
        sequence, rows = chunk.sequence, slice(row, row + chunk.last - chunk.first)
        tokens = np.asarray(sequence.request.tokens, np.int64)
        token_ids[rows] = tokens[chunk.first : chunk.last]
        positions[rows] = np.arange(chunk.first, chunk.last)
        slots[rows] = slots_of(sequence.block_table, chunk.first, chunk.last, block_size)
        segments.append(Segment(row, rows.stop - row, chunk.last, sequence.block_table))
        is_image = tokens == image_token_id
        before, upto = int(is_image[: chunk.first].sum()), int(is_image[: chunk.last].sum())
        if upto > before and sequence.request.images:
            feature_parts.append(row + np.flatnonzero(is_image[chunk.first : chunk.last]))
            feature_ranges.append((sequence, before, upto))
        row = rows.stop
        if chunk.samples:
            samples.append((row - 1, sequence, chunk.last - 1, None))
    for row, decode in enumerate(step.decodes, start=first_decode):
        sequence, position = decode.sequence, decode.position
        known = sequence.tokens[position] if position < len(sequence.tokens) else -1
        token_ids[row] = known if decode.draft is None else decode.draft
        positions[row] = position
        slots[row] = sequence.block_table[position // block_size] * block_size + position % block_size
        if decode.samples:
            samples.append((row, sequence, position, decode.draft))
    return Layout(
        token_ids,
        positions,
        slots,
        segments,
        first_decode,
        [decode.sequence.block_table for decode in step.decodes],
        [decode.position + 1 for decode in step.decodes],
        np.concatenate(feature_parts),
        feature_ranges,
        [row for row, _, _, _ in samples],
        [sequence for _, sequence, _, _ in samples],
        [position for _, _, position, _ in samples],
        [draft for _, _, _, draft in samples],
        num_prefill + len(step.decodes),
    )
