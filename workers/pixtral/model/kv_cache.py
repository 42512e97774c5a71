"""The paged cache's tensors; which blocks belong to whom is `plan/cache_blocks.py`'s affair."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.pixtral.model.transfer import to_device

COPIED = 8  # blocks copied by one call on a CPU, which keeps as many aside

Copy = Callable[[Tensor, Tensor, int], None]
"""(stacked (L, 2, slots, H_kv, D), (2, pairs) source and target blocks, tokens of a block): one kernel for all."""


class PagedCache:
    """Keys and values of every layer in slots; a token's slot follows from its sequence's block table.

    One tensor holds them all, (L, 2, slots, H_kv, D), so that a block moves in all layers at once: 128 second prompts
    of Pixtral 12B were 10,240 copies, one by one.

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
        copy: Copy | None = None,
    ) -> None:
        shape = (layers, 2, heads, num_blocks * block_size, head_dim)
        self.block_size, self.copy = block_size, copy
        if by_head:
            self.stacked = torch.empty(shape, device=device, dtype=dtype).transpose(2, 3)
        else:
            self.stacked = torch.empty(layers, 2, shape[3], heads, head_dim, device=device, dtype=dtype)
        self.keys = list(self.stacked[:, 0])
        self.values = list(self.stacked[:, 1])

    def clear(self, slots: NDArray[np.int64]) -> None:
        """Zeros in every layer."""
        if len(slots):
            self.stacked.index_fill_(2, to_device(slots, self.stacked.device), 0)

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Block to block in every layer, before anything of the step is written; no source is a target."""
        numbers = to_device(np.asarray(pairs, np.int64).T.copy(), self.stacked.device)
        if self.copy is not None:
            self.copy(self.stacked, numbers, self.block_size)
            return
        layers, halves, slots, *head = self.stacked.shape
        blocks = self.stacked.view(layers, halves, slots // self.block_size, self.block_size, *head)
        for source, target in torch.split(numbers, COPIED, dim=1):
            blocks.index_copy_(2, target, blocks.index_select(2, source))
