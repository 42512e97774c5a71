"""What a step needs of a CPU; also of a GPU in float32, where FlashAttention does not serve."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from workers.pixtral.cpu.paged_attention import PagedAttention
from workers.pixtral.cpu.threads import ALONE, Lanes, lanes_of, use_one_thread
from workers.pixtral.cpu.tiles import TiledRunner, Tiles, prepared_product
from workers.pixtral.executor import sample_rows
from workers.pixtral.model import decoder, vision
from workers.pixtral.model.kv_cache import PagedCache
from workers.pixtral.model.transfer import to_device
from workers.pixtral.model.vision import Pixtral
from workers.pixtral.plan.batch import Layout
from workers.pixtral.plan.draft_rows import DraftRoom, Filled
from workers.pixtral.plan.scheduler import Limits, Step

FEWEST = 8  # a step's rows are a multiple of it: 8 rows take a third of the time of 64, 32 rows two thirds


class CpuBackend:
    """`executor.Backend` with rows in tiles; `prefill_tile` None takes prefill rows as they come.

    It computes with the model's layers as they are: plain, narrow, or laid out for the processor (`products.py`).
    """

    def __init__(
        self, model: Pixtral, limits: Limits, num_blocks: int, block_size: int, prefill_tile: int | None
    ) -> None:
        config = model.config
        self.model, self.device, self.prefill_tile = model, model.device, prefill_tile
        on_cpu = self.device.type == "cpu"
        self.is_small = config.dim < 512 and on_cpu
        self.decode_tile = min(limits.max_sequences, 64 if self.is_small else 8)
        self.drafts: DraftRoom | None = Filled(self.decode_tile) if on_cpu and self.decode_tile > 1 else None
        # Tiles of half a model wait for the other half's, in one order: no lane may overtake another.
        self.lanes = lanes_of(torch.get_num_threads()) if on_cpu and not model.is_half else ALONE
        self.head = prepared_product(model.output.weight, self.decode_tile)
        self.fewest = min(FEWEST, self.decode_tile)
        if model.is_half or not _same_floats(self, self.fewest, self.decode_tile):
            self.fewest = self.decode_tile
        self.cache = PagedCache(
            config.n_layers, num_blocks, block_size, config.n_kv_heads, config.head_dim, self.device, model.dtype,
            by_head=True,  # what SDPA reads fastest
        )  # fmt: skip

    def enter(self) -> None:
        """Small steps run faster on one core than shared: lanes share."""
        if self.is_small:
            use_one_thread(torch.get_num_threads())

    def padded(self, num_rows: int) -> int:
        return self.runner().padded(num_rows)

    def decode_rows(self, count: int) -> int:
        return -(-count // self.fewest) * self.fewest

    def few(self, num_rows: int) -> TiledRunner:
        """For `decode_rows` of some number."""
        return self._runner(self.fewest, num_rows, self.lanes if self.is_small else ALONE)

    def runner(self, num_decode_rows: int = 0) -> TiledRunner:
        """For prefill rows, the last of which are decode rows."""
        tile = self.prefill_tile
        return self._runner(tile, num_decode_rows, self.lanes) if tile else TiledRunner(None, self.lanes)

    def _runner(self, prefill_tile: int, num_decode_rows: int, lanes: Lanes) -> TiledRunner:
        count = max(-(-num_decode_rows // self.decode_tile), 1)
        tile = self.decode_rows(max(-(-num_decode_rows // count), 1))  # as equal as may be: lanes end together
        return TiledRunner(Tiles(prefill_tile, num_decode_rows, tile, self.is_small), lanes)

    def encode(self, images: Sequence[Tensor]) -> Tensor:
        return vision.encode_images(self.model, images, self.runner())

    def run(self, step: Step, layout: Layout, features: Tensor | None, last_tokens: Tensor) -> Tensor:
        token_ids = to_device(layout.token_ids, self.device)
        positions = to_device(layout.positions, self.device)
        if (layout.token_ids < 0).any():
            places = np.zeros(len(layout.token_ids), np.int64)
            places[layout.first_decode :][: len(step.decodes)] = [decode.sequence.row for decode in step.decodes]
            token_ids = torch.where(token_ids < 0, last_tokens[to_device(places, self.device)], token_ids)
        hidden = F.embedding(token_ids, self.model.tok_embeddings.weight)
        if features is not None:
            hidden = hidden.index_copy(0, to_device(layout.feature_rows, self.device), features)
        wanted = sample_rows(layout, self)
        attend = PagedAttention(self.cache, layout, wanted, self.few(len(wanted)), self.device, self.lanes)
        runner = self.runner(len(layout.positions) - layout.first_decode)
        return decoder.run_layers(self.model, hidden, positions, attend, runner, attend)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.few(len(hidden)).rows(lambda rows: (self.head(rows),), hidden)[0]

    def clear(self, slots: NDArray[np.int64]) -> None:
        self.cache.clear(slots)

    def make_room(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


@torch.inference_mode()
def _same_floats(backend: CpuBackend, few: int, many: int) -> bool:
    """Whether a row comes out the same in tiles of any multiple of `few` up to `many`, by one layer and the head.

    All layers are alike. A step then need not compute whole tiles of many: BLAS may add up in another order in smaller
    ones, and mostly does not.
    """
    model = backend.model
    if few == many or not model.layers:
        return True
    layer, ops = decoder.layers_of(model)[0], backend.runner().ops
    noise = torch.Generator().manual_seed(0)
    hidden = torch.randn(many, model.config.dim, generator=noise).to(model.dtype)
    rotation = decoder.rotation_1d(torch.arange(many), model.config, model.dtype)
    found: list[list[Tensor]] = []

    def compute(rows: slice) -> None:
        stream, query, key, value = layer.project(hidden[rows].clone(), None, rotation[rows], ops)
        ended, update = layer.finish(stream, query.flatten(1).contiguous(), ops)
        found.append([query, key, value, ended, update, backend.head(ended + update)])

    def alone(rows: slice) -> list[Tensor]:
        backend.lanes.run(compute, [rows])  # where steps are computed: on one thread
        return found.pop()

    whole = alone(slice(0, many))
    cuts = [slice(first, min(first + size, many)) for size in range(few, many, few) for first in range(0, many, size)]
    return all(torch.equal(part, one[rows]) for rows in cuts for part, one in zip(alone(rows), whole, strict=True))


def keep_freed_memory() -> None:
    """Let glibc keep up to 128 MiB that tensors gave back, instead of fetching it from the kernel page by page.

    Each layer of a prefill frees and takes 2 to 9 MB many times: 20,000 page faults and 3 % of an A4 page's time.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD, at its upper limit
            mallopt(-1, 128 * 2**20)  # M_TRIM_THRESHOLD
