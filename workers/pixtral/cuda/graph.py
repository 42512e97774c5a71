"""Steps on a GPU in half precision: FlashAttention for prefill, Triton for decode, a CUDA graph if nothing prefills.

A decode step of 12 B parameters is some 450 small kernels; launched one by one they take the host longer than the
device. So a step without prefill is recorded once, with every row it could have, and replayed: rows that stand for
nobody have length 0 and slot -1, see no keys and write nowhere. Where more than 128 rows may decode there is a second
record of 128: up to those, the weights' bytes are the time of a product, above it its operations, and a row of many
is not the same float as one of few. Its numbers (tokens, positions, slots, block tables)
go over in one copy. A step with prefill is launched kernel by kernel; there the device is the slower of the two.
Block tables are as wide as a page of one image needs; while a page in many tiles is written about, the wide ones and
their own graph are taken, which cost some thousand programs a layer that find nothing to do.

Prefill rows are computed as they come: their number may pick another kernel, and in bf16 near-equal tokens may swap.

The logic is tested on a CPU with Triton's interpreter (`test_pixtral_cuda_logic.py`); graphs, streams and
FlashAttention itself have not been run on a GPU yet (`benchmarks/bench_engine_gpu.py` does).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from workers.pixtral.cuda.attention import PagedAttention, packed_attention
from workers.pixtral.cuda.fused import FusedOperations
from workers.pixtral.cuda.kernels import PagedKernels, copy_blocks
from workers.pixtral.executor import sample_rows
from workers.pixtral.model import decoder, vision
from workers.pixtral.model.decoder import Runner
from workers.pixtral.model.kv_cache import PagedCache
from workers.pixtral.model.packed import PackedAttention
from workers.pixtral.model.transfer import to_device
from workers.pixtral.model.vision import Pixtral
from workers.pixtral.plan.batch import Layout
from workers.pixtral.plan.scheduler import Limits, Step
from workers.pixtral.plan.step_room import FEWER_ROWS


class CudaRunner(Runner):
    """Rows at once, with fused operations and FlashAttention."""

    def __init__(self) -> None:
        super().__init__(FusedOperations())

    def packed_attention(self, lengths: Sequence[int], device: torch.device) -> PackedAttention:
        return packed_attention(lengths, device)


class _Tables:
    """What decodes over block tables of one width: the kernels' buffers, the step's numbers, the graphs."""

    def __init__(self, model: Pixtral, limits: Limits, most_tokens: int, block_size: int) -> None:
        config, rows = model.config, limits.max_sequences
        self.blocks = -(-most_tokens // block_size)
        self.kernels = PagedKernels(
            rows,
            config.n_heads,
            config.n_kv_heads,
            config.head_dim,
            self.blocks * block_size,
            block_size,
            model.device,
        )
        self.meta = torch.zeros(rows * (5 + self.blocks), dtype=torch.int32, device=model.device)
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}  # by rows, with what they leave


class CudaBackend:
    """`executor.Backend` with the kernels above; `use_graph` False launches every step kernel by kernel.

    It tries no drafts. The graph has rows for them, but a step is planned before the last one's tokens are read, and a
    draft begins with them; what that costs and gains has not been measured.
    """

    draft_tile = 0

    def __init__(
        self,
        model: Pixtral,
        limits: Limits,
        num_blocks: int,
        block_size: int,
        *,
        use_graph: bool = True,
        narrow_cache: bool = False,
    ) -> None:
        config = model.config
        self.model, self.limits, self.device = model, limits, model.device
        self.runner: Runner = CudaRunner()
        self.cache = PagedCache(
            config.n_layers, num_blocks, block_size, config.n_kv_heads, config.head_dim, self.device, model.dtype,
            narrow=narrow_cache, copy=copy_blocks,
        )  # fmt: skip
        room = num_blocks * block_size
        widths = dict.fromkeys(min(limits.max_context + more, room) for more in (0, limits.tile_tokens))
        self.tables = [_Tables(model, limits, most, block_size) for most in widths]  # the narrow ones first
        self.use_graph = use_graph
        self.row_counts = sorted({min(limits.max_sequences, FEWER_ROWS), limits.max_sequences})

    def enter(self) -> None:
        pass

    def padded(self, num_rows: int) -> int:
        return num_rows

    def decode_rows(self, count: int) -> int:
        """Those of the smallest graph that holds them."""
        return next(rows for rows in self.row_counts if count <= rows)

    def encode(self, images: Sequence[Tensor]) -> Tensor:
        return vision.encode_images(self.model, images, self.runner)

    def logits(self, hidden: Tensor) -> Tensor:
        return decoder.logits(self.model, hidden)

    def clear(self, slots: NDArray[np.int64]) -> None:
        self.cache.clear(slots)

    def make_room(self) -> None:
        torch.cuda.empty_cache()

    def run(self, step: Step, layout: Layout, features: Tensor | None, last_tokens: Tensor) -> Tensor:
        used = self._tables_of(layout)
        meta = self._decode_numbers(step, layout, used)
        if not step.chunks:
            return self._run_decode(meta, last_tokens, used)[sample_rows(layout, self)]
        device, split = self.device, layout.first_decode
        numbers = to_device(np.stack((layout.token_ids, layout.positions, layout.slots)), device)
        token_ids, positions, slots = numbers[0], numbers[1], numbers[2]
        decode_ids, _, _, lengths, tables = self._views(to_device(meta, device), last_tokens, used)
        if step.decodes:
            token_ids = torch.cat((token_ids[:split], decode_ids))
        hidden = F.embedding(token_ids, self.model.tok_embeddings.weight)
        if features is not None:
            hidden.index_copy_(0, to_device(layout.feature_rows, device), features)
        wanted = sample_rows(layout, self), self.runner, *self._wanted_numbers(layout, used)
        attend = PagedAttention(self.cache, used.kernels, slots, tables, lengths, split, layout.segments, wanted)
        return decoder.run_layers(self.model, hidden, positions, attend, self.runner, attend)

    def _tables_of(self, layout: Layout) -> _Tables:
        """The narrowest that hold the block tables of every row that decodes or is sampled."""
        sampled = [sequence.block_table for sequence in layout.sample_sequences]
        longest = max(map(len, (*layout.decode_tables, *sampled)), default=0)
        return next(tables for tables in self.tables if longest <= tables.blocks)

    def _wanted_numbers(self, layout: Layout, used: _Tables) -> tuple[Tensor, Tensor]:
        """Lengths and tables of the rows to sample, as if each were a decode row."""
        count = len(layout.sample_rows)
        rows = self.decode_rows(count)
        numbers = np.zeros((rows, 1 + used.blocks), np.int32)
        numbers[:count, 0] = np.asarray(layout.sample_positions, np.int32) + 1
        for row, sequence in enumerate(layout.sample_sequences):
            numbers[row, 1 : 1 + len(sequence.block_table)] = sequence.block_table
        on_device = to_device(numbers, self.device)
        return on_device[:, 0].contiguous(), on_device[:, 1:].contiguous()

    def _decode_numbers(self, step: Step, layout: Layout, used: _Tables) -> NDArray[np.int32]:
        """Token, position, slot, length, row of last tokens, and table of each decode row, in one array."""
        count, split = len(step.decodes), layout.first_decode
        rows = self.decode_rows(count)
        meta = np.zeros((5 + used.blocks, rows), np.int32)
        if not count:
            return meta.reshape(-1)
        meta[0] = layout.token_ids[split:]
        meta[1] = layout.positions[split:]
        meta[2] = layout.slots[split:]
        meta[3, :count] = layout.decode_lengths
        meta[4, :count] = [decode.sequence.row for decode in step.decodes]
        tables = meta[5:].reshape(rows, used.blocks)
        for row, table in enumerate(layout.decode_tables):
            tables[row, : len(table)] = table
        return meta.reshape(-1)

    def _views(self, meta: Tensor, last_tokens: Tensor, used: _Tables) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Token ids (the device's own where the host has none), positions, slots, lengths, tables."""
        rows = meta.shape[0] // (5 + used.blocks)
        token_ids, positions, slots, lengths, places = (meta[i * rows : (i + 1) * rows] for i in range(5))
        token_ids = torch.where(token_ids < 0, last_tokens[places.long()], token_ids.long())
        return token_ids, positions, slots, lengths, meta[5 * rows :].view(rows, used.blocks)

    def _decode_hidden(self, meta: Tensor, last_tokens: Tensor, used: _Tables) -> Tensor:
        token_ids, positions, slots, lengths, tables = self._views(meta, last_tokens, used)
        hidden = F.embedding(token_ids, self.model.tok_embeddings.weight)
        attend = PagedAttention(self.cache, used.kernels, slots, tables, lengths, 0, [])
        return decoder.run_layers(self.model, hidden, positions, attend, self.runner)

    def _run_decode(self, numbers: NDArray[np.int32], last_tokens: Tensor, used: _Tables) -> Tensor:
        """The graphs hold `last_tokens` itself: the executor keeps that one tensor."""
        meta = used.meta[: len(numbers)]
        meta.copy_(to_device(numbers, self.device), non_blocking=True)
        if not self.use_graph:
            return self._decode_hidden(meta, last_tokens, used)
        rows = len(numbers) // (5 + used.blocks)
        if rows not in used.graphs:
            used.graphs[rows] = _record(lambda: self._decode_hidden(meta, last_tokens, used))
        graph, hidden = used.graphs[rows]
        graph.replay()
        return hidden


def _record(run: Callable[[], Tensor]) -> tuple[Any, Tensor]:
    """Run a few times aside (kernels compile, libraries make their workspaces), then record."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    return graph, out
