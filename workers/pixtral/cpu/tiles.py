"""How a pack is cut for a processor: into fixed shapes, so that a row's floats depend on that row alone, and for cores.

A row of a matrix product is the same mathematical sum whatever stands in the other rows, but not the same float: BLAS
picks its kernel by the number of rows, and kernels add up in different orders. A page's text must not depend on its
neighbours, so while reading pages every product has a shape whose floats are known to be the same:

    prefill rows, padded to a multiple of `prefill_tile`, one product per tile, tiles side by side in lanes
    decode rows, in tiles of `decode_tile` and what is left, shared by all cores: a product reads every weight. Which
        numbers of rows give a row the same floats, `CpuBackend` tries when it starts: else there is one number

and a row's value then depends on that row alone, bit for bit on a CPU (held by `test_pixtral_isolation.py`). Between
two attentions no row needs another, so all that lies there runs as one piece per tile, which stays in the processor's
cache: output projection, feed-forward, the next layer's norm, its queries, keys and values, their rotation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.pixtral.cpu.attention import attend_packed
from workers.pixtral.cpu.threads import ALONE, Lanes
from workers.pixtral.model.decoder import Attend, Leave, Runner
from workers.pixtral.model.layers import Layer, Operations
from workers.pixtral.model.packed import PackedAttention


@dataclass(frozen=True, slots=True)
class Tiles:
    """How the rows of a pack are cut: the last `num_decode_rows` are decode tiles, those before are prefill tiles."""

    prefill_tile: int
    num_decode_rows: int = 0
    decode_tile: int = 1
    decode_in_lanes: bool = False  # where weights are small and there are many rows


class TiledRunner(Runner):
    """Runs rows tile by tile, in lanes; without tiles at once."""

    def __init__(self, tiles: Tiles | None = None, lanes: Lanes = ALONE, ops: Operations | None = None) -> None:
        super().__init__(ops)
        self.tiles, self.lanes = tiles, lanes

    def padded(self, num_rows: int) -> int:
        """Rows to compute for `num_rows` prefill rows: 3,008 rows in tiles of 256 become 3,072."""
        return num_rows if self.tiles is None else -(-num_rows // self.tiles.prefill_tile) * self.tiles.prefill_tile

    def packed_attention(self, lengths: Sequence[int], device: torch.device) -> PackedAttention:
        return lambda query, key, value: attend_packed(query, key, value, lengths, causal=False, lanes=self.lanes)

    def rows(self, compute: Callable[..., tuple[Tensor, ...]], *rows: Tensor) -> tuple[Tensor, ...]:
        """`compute` over each tile of every one of `rows` (T, …), side by side in lanes; laid out in the same order.

        What it returns for a tile has the tile's number of rows. It should do all it can with a tile.
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

    def layers(
        self, layers: Iterable[Layer], hidden: Tensor, rotation: Tensor, attend: Attend, leave: Leave
    ) -> tuple[Tensor, ...]:
        """`Runner.layers`, with the end of each layer and the beginning of the next as one piece per tile."""
        stack, ops = list(layers), self.ops

        def enter(index: int, hidden: Tensor, update: Tensor | None, rotation: Tensor) -> tuple[Tensor, ...]:
            if index == len(stack):
                return leave(hidden, update, rotation)
            return stack[index].project(hidden, update, rotation, ops)

        parts = self.rows(lambda hidden, rotation: enter(0, hidden, None, rotation), hidden, rotation)
        for index, layer in enumerate(stack):
            hidden, query, key, value = parts
            attended = attend(index, query, key, value)

            def between(
                hidden: Tensor, attended: Tensor, rotation: Tensor, layer: Layer = layer, after: int = index + 1
            ) -> tuple[Tensor, ...]:
                return enter(after, *layer.finish(hidden, attended, ops), rotation)

            parts = self.rows(between, hidden, attended, rotation)
        return parts


def prepared_product(weight: Tensor, num_rows: int) -> Callable[[Tensor], Tensor]:
    """F.linear with one weight, always for `num_rows` rows; where oneDNN can, the weight is laid out for that once.

    Costs a copy of the weight (`prepared_bytes`). 8 rows × (131072, 512) in bf16 on two threads: 13 → 4.6 ms.
    """
    if not prepared_bytes(weight):
        return lambda rows: F.linear(rows, weight)
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), num_rows)
    multiply = torch.ops.mkldnn._linear_pointwise
    return lambda rows: multiply(rows, laid_out, None, "none", [], "")


def prepared_bytes(weight: Tensor, device: torch.device | None = None) -> int:
    """What `prepared_product` holds beside the weight; 0 where oneDNN does not multiply its type on its device.

    `device` is where the weight will be, if it is not there yet.
    """
    mkldnn = torch.ops.mkldnn
    if (device or weight.device).type != "cpu" or weight.dtype != torch.bfloat16 or not torch._C._has_mkldnn:
        return 0
    known = all(hasattr(mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    if not known or not mkldnn._is_mkldnn_bf16_supported():
        return 0
    return weight.numel() * weight.element_size()
