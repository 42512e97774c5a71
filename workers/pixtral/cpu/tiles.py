"""The row-wise arithmetic of both towers: projections, norms, gates, rotations.

A row of a matrix product is the same mathematical sum whatever stands in the other rows, but not the same float: BLAS
picks its kernel by the number of rows, and kernels add up in different orders. A page's text must not depend on its
neighbours, so while reading pages every product has one of two fixed shapes:

    prefill rows, padded to a multiple of `prefill_tile`, one product per tile, tiles side by side in lanes
    decode rows, padded to a multiple of `decode_tile`, one product per tile, shared by all cores: it reads every weight

and a row's value then depends on that row alone, bit for bit on a CPU (held by `test_pixtral_isolation.py`). `PLAIN`
takes the rows as they come; training uses it, since there is no neighbour to hide from. So does a GPU's prefill by
default: there the shape may pick another kernel, and in bf16 two near-equal tokens may swap. `exact=True` of the
engine fixes the shapes on a GPU too; what that costs has not been measured.

Everything here is differentiable; `cuda/kernels.py` has fused twins of the element-wise parts for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.pixtral.cpu.threads import ALONE, Lanes
from workers.pixtral.upstream import RMSNorm


@dataclass(frozen=True, slots=True)
class Tiles:
    """How the rows of a pack are cut: the last `num_decode_rows` are decode tiles, those before are prefill tiles."""

    prefill_tile: int
    num_decode_rows: int = 0
    decode_tile: int = 1
    decode_in_lanes: bool = False  # where weights are small and there are many rows


class Arithmetic:
    """PyTorch's own operations, on any device, with gradients."""

    def __init__(self, tiles: Tiles | None = None, lanes: Lanes = ALONE) -> None:
        self.tiles, self.lanes = tiles, lanes

    def padded(self, num_rows: int) -> int:
        """Rows to compute for `num_rows` prefill rows: 3,008 rows in tiles of 256 become 3,072."""
        return num_rows if self.tiles is None else -(-num_rows // self.tiles.prefill_tile) * self.tiles.prefill_tile

    def by_tile(self, compute: Callable[..., tuple[Tensor, ...]], *rows: Tensor) -> tuple[Tensor, ...]:
        """`compute` over each tile of every one of `rows` (T, …), side by side in lanes; at once if there are no tiles.

        What it returns for a tile has the tile's number of rows; the whole is laid out in the same order. A tile stays
        in the processor's cache from one operation to the next, so `compute` should do all it can with it.
        """
        if self.tiles is None:
            return compute(*rows)
        total = rows[0].shape[0]
        tile, split = self.tiles.prefill_tile, total - self.tiles.num_decode_rows
        assert split % tile == 0, (total, self.tiles)
        tiles = [slice(first, first + tile) for first in range(0, split, tile)]
        few = [slice(first, first + self.tiles.decode_tile) for first in range(split, total, self.tiles.decode_tile)]
        if self.tiles.decode_in_lanes:
            tiles, few = tiles + few, []
        if len(tiles) + len(few) == 1 and (few or self.lanes.count == 1 or torch.get_num_threads() == 1):
            return compute(*rows)
        whole: list[Tensor] = []
        lock = Lock()

        def run(place: slice) -> None:
            parts = compute(*(each[place] for each in rows))
            with lock:
                if not whole:
                    whole.extend(part.new_empty(total, *part.shape[1:]) for part in parts)
            for out, part in zip(whole, parts, strict=True):
                out[place] = part

        if tiles:
            self.lanes.run(run, tiles)
        for place in few:
            run(place)
        return tuple(whole)

    def linear(self, rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """rows (T, in) @ weight (out, in).T → (T, out)."""
        return F.linear(rows, weight, bias)

    def rms_norm(self, rows: Tensor, norm: RMSNorm) -> Tensor:
        """Mean of squares in float32 (float64 stays), cast back before the weight, as the checkpoint was trained."""
        weight: Tensor = norm.weight
        return F.rms_norm(rows, rows.shape[-1:], None, norm.eps) * weight

    def add_rms_norm(self, rows: Tensor, update: Tensor, norm: RMSNorm) -> tuple[Tensor, Tensor]:
        """(rows + update, its norm): the residual stream and what the next block reads."""
        rows = rows + update
        return rows, self.rms_norm(rows, norm)

    def gate(self, both: Tensor) -> Tensor:
        """both (T, 2 × hidden), w1's half then w3's → silu(first) × second (T, hidden)."""
        first, second = both.chunk(2, dim=-1)
        silu = F.silu(first)
        return silu * second if torch.is_grad_enabled() else silu.mul_(second)

    def rotate(self, heads: Tensor, rotation: Tensor) -> Tensor:
        """RoPE over interleaved pairs (2i, 2i + 1), in float32: heads (T, H, D), rotation (T, D/2, 2) = cos, sin.

        As complex numbers: a fifth of the time of the four real products on a CPU, with the same bits. Without
        gradients it works in place where no cast makes a copy.
        """
        wide = heads.to(rotation.dtype)
        pairs = torch.view_as_complex(wide.view(*heads.shape[:-1], -1, 2))  # (T, H, D/2)
        turn = torch.view_as_complex(rotation)[:, None]
        if not torch.is_grad_enabled():
            pairs.mul_(turn)
            return wide.to(heads.dtype)
        return torch.view_as_real(pairs * turn).flatten(-2).to(heads.dtype)

    def module(self, rows: Tensor, linear: nn.Linear) -> Tensor:
        """A whole nn.Linear, with its bias."""
        return self.linear(rows, linear.weight, linear.bias)


PLAIN = Arithmetic()


def prepared_product(weight: Tensor, num_rows: int) -> Callable[[Tensor], Tensor]:
    """F.linear with one weight, always for `num_rows` rows; where oneDNN can, the weight is laid out for that once.

    Costs a copy of the weight (`prepared_bytes`). 8 rows × (131072, 512) in bf16 on two threads: 13 → 4.6 ms.
    """
    if not prepared_bytes(weight):
        return lambda rows: F.linear(rows, weight)
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), num_rows)
    multiply = torch.ops.mkldnn._linear_pointwise
    return lambda rows: multiply(rows, laid_out, None, "none", [], "")


def prepared_bytes(weight: Tensor) -> int:
    """What `prepared_product` holds beside the weight; 0 where oneDNN does not multiply its type on its device."""
    mkldnn = torch.ops.mkldnn
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16 or not torch._C._has_mkldnn:
        return 0
    known = all(hasattr(mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    if not known or not mkldnn._is_mkldnn_bf16_supported():
        return 0
    return weight.numel() * weight.element_size()


def pad_rows(rows: Tensor, num_rows: int) -> Tensor:
    """Zero rows below, up to `num_rows`; they cost their share of a tile and nobody reads them."""
    return F.pad(rows, (0, 0, 0, num_rows - rows.shape[0])) if num_rows > rows.shape[0] else rows
