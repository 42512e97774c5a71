"""Attention inside each sequence of a pack, plainly: one call for neighbours of equal length, with gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional as F

PackedAttention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(query (T, H, D), key (T, H_kv, D), value (T, H_kv, D)) → (T, H, D); each sequence attends inside itself only."""


def attend_packed(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], *, causal: bool) -> Tensor:
    """A `PackedAttention` for sequences of `lengths`."""
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    for first, count, length in runs(lengths):
        rows = slice(first, first + count * length)
        out[rows] = attend_equals(query[rows], key[rows], value[rows], count, causal=causal)
    return out


def attend_equals(query: Tensor, key: Tensor, value: Tensor, count: int, *, causal: bool) -> Tensor:
    """`count` sequences of one length, end to end, as one call."""
    q, k, v = (x.view(count, -1, *x.shape[1:]).transpose(1, 2) for x in (query, key, value))  # (count, H, length, D)
    one = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])
    return one.transpose(1, 2).flatten(0, 1)


def runs(lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Neighbours of equal length: [3, 3, 5] → (0, 2, 3), (6, 1, 5) as (first row, count, length)."""
    first = 0
    for length, group in groupby(lengths):
        count = sum(1 for _ in group)
        yield first, count, length
        first += count * length
