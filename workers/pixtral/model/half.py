"""A model over two devices: each holds half of the heads and of the feed-forward in every layer of the decoder.

    wq, wk, wv, w1, w3    half of the rows: half of the heads, of the gate
    wo, w2                half of the columns: what they make of that half, to be added to what the other device makes

So each layer has two sums over both devices, after attention and after the feed-forward (`Layer.finish`). A sum of two
numbers is the same in either order, to the bit: a page's text depends on that page alone, as on one device. It is not
the same float as one product over all heads, so it is not bit for bit what one device computes.

Shoeybi et al. 2019, "Megatron-LM", arXiv:1909.08053, section 3.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch.distributed
from torch import Tensor

from pipeline.errors import UsageError
from workers.pixtral.model.config import ModelConfig

DEVICES = 2


def half_of(config: ModelConfig, folder: Path) -> ModelConfig:
    """What one of the two devices holds; `folder` is for messages.

    Raises:
        UsageError: a number of it is odd.
    """

    def half(key: str) -> int:
        number: int = getattr(config, key)
        if number % DEVICES:
            raise UsageError(
                f"{folder / 'params.json'}: {key} is {number}, an odd number, which two devices cannot share; name one "
                "of them, as --devices 0"
            )
        return number // DEVICES

    return replace(config, n_heads=half("n_heads"), n_kv_heads=half("n_kv_heads"), hidden_dim=half("hidden_dim"))


def cut(tensor: Tensor, shape: tuple[int, ...], rank: int) -> Tensor:
    """The part of a weight that device `rank` of the two holds: along the side that `shape` has half of."""
    for side, size in enumerate(shape):
        if tensor.shape[side] != size:
            tensor = tensor.narrow(side, rank * size, size)
    return tensor


def sum_of_both(rows: Tensor) -> Tensor:
    """rows (T, dim) of this device plus those of the other, which calls it at the same time; in place."""
    torch.distributed.all_reduce(rows)
    return rows
