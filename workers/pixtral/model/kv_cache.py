"""The paged cache's tensors; which blocks belong to whom is `plan/cache_blocks.py`'s affair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.pixtral.model.transfer import to_device

E4M3_MAX = 448.0
TINY = 1e-30  # a row of zeros has a scale, too
COPIED = 8  # blocks copied by one call on a CPU, which keeps as many aside

Copy = Callable[[Tensor, Tensor, int], None]
"""(stacked (L, 2, slots, H_kv, D), (2, pairs) source and target blocks, tokens of a block): one kernel for all."""


class Stored(NamedTuple):
    """One layer of the cache: keys and values (slots, H_kv, D); their scales (slots, H_kv) where they are narrow."""

    keys: Tensor
    values: Tensor
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None

    def rows(self, slots: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values at `slots`, copied, as wide as the model computes."""
        if self.key_scales is None or self.value_scales is None:
            return self.keys[slots], self.values[slots]
        parts = (self.keys, self.key_scales), (self.values, self.value_scales)
        key, value = (widen(rows[slots], scales[slots]).to(dtype) for rows, scales in parts)
        return key, value


def narrow(rows: Tensor) -> tuple[Tensor, Tensor]:
    """rows (T, H_kv, D) → e4m3 of the same shape and scales (T, H_kv): the largest of a token's head becomes 448.

    A scale for each token and head costs 4 bytes beside 128 (3 %), needs no pages to learn it from, and keeps a page's
    numbers its own: a scale that all tokens share would depend on which pages set it.
    """
    wide = rows.float()
    scales = (wide.abs().amax(-1) / E4M3_MAX).clamp_min(TINY)
    return (wide / scales[..., None]).to(torch.float8_e4m3fn), scales


def widen(rows: Tensor, scales: Tensor) -> Tensor:
    """What `narrow` kept, in float32."""
    return rows.float().mul_(scales[..., None])


class PagedCache:
    """Keys and values of every layer in slots; a token's slot follows from its sequence's block table.

    One tensor holds them all, (L, 2, slots, H_kv, D), so that a block moves in all layers at once: 128 second prompts
    of Pixtral 12B were 10,240 copies, one by one.

    `narrow` keeps keys and values in e4m3 with a scale for each token's head: half of the bytes, twice the sequences.

    `by_head` lays each head's keys end to end in memory, behind the same shape (slots, H_kv, D): SDPA on a CPU then
    reads a page of 3,000 tokens in 0.18 ms instead of 0.37 ms (2 heads of 64, bf16, two threads).
    """

    def __init__(
        self,
        layers: int,
        num_blocks: int,
        block_size: int,
        heads: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
        *,
        by_head: bool = False,
        narrow: bool = False,
        copy: Copy | None = None,
    ) -> None:
        shape = (layers, 2, heads, num_blocks * block_size, head_dim)
        self.block_size, self.copy = block_size, copy
        if by_head:
            self.stacked = torch.empty(shape, device=device, dtype=dtype).transpose(2, 3)
        else:
            kept = torch.float8_e4m3fn if narrow else dtype
            self.stacked = torch.empty(layers, 2, shape[3], heads, head_dim, device=device, dtype=kept)
        scales = (layers, 2, shape[3], heads, 1)
        self.scales = torch.empty(scales, device=device, dtype=torch.float32) if narrow else None
        self.keys = list(self.stacked[:, 0])
        self.values = list(self.stacked[:, 1])

    @property
    def nbytes(self) -> int:
        return self.stacked.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def layer(self, index: int) -> Stored:
        if self.scales is None:
            return Stored(self.keys[index], self.values[index])
        scales = self.scales[index].squeeze(-1)
        return Stored(self.keys[index], self.values[index], scales[0], scales[1])

    def clear(self, slots: NDArray[np.int64]) -> None:
        """Zeros in every layer."""
        if len(slots):
            self.stacked.index_fill_(2, to_device(slots, self.stacked.device), 0)

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Block to block in every layer, before anything of the step is written; no source is a target."""
        numbers = to_device(np.asarray(pairs, np.int64).T.copy(), self.stacked.device)
        if self.copy is not None:
            for tensor in (self.stacked,) if self.scales is None else (self.stacked, self.scales):
                self.copy(tensor, numbers, self.block_size)
            return
        assert self.scales is None, "narrow caches are a GPU's"
        layers, halves, slots, *head = self.stacked.shape
        blocks = self.stacked.view(layers, halves, slots // self.block_size, self.block_size, *head)
        for source, target in torch.split(numbers, COPIED, dim=1):
            blocks.index_copy_(2, target, blocks.index_select(2, source))
