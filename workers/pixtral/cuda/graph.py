"""Steps on a CUDA device in bf16: FlashAttention for prefill, Triton for decode, a CUDA graph where nothing prefills.

A decode step of 12 B parameters is some 450 small kernels; launched one by one they take the host longer than the
device. So a step without prefill is recorded once, with every row it could have, and replayed: rows that stand for
nobody have length 0 and slot -1, see no keys and write nowhere. Its numbers (tokens, positions, slots, block tables)
go over in one copy. A step with prefill is launched kernel by kernel; there the device is the slower of the two.

The logic is tested on a CPU with Triton's interpreter (`test_pixtral_cuda_logic.py`); graphs, streams and
FlashAttention itself have not been run on a GPU yet (`benchmarks/bench_engine_gpu.py` does).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from workers.pixtral.cpu.attention import PagedCache, attend_varlen
from workers.pixtral.cpu.tiles import Arithmetic, Tiles
from workers.pixtral.cuda.kernels import DecodeAttention, FusedArithmetic, store
from workers.pixtral.executor import Executor
from workers.pixtral.model import decoder
from workers.pixtral.model.transfer import to_device
from workers.pixtral.plan import batch
from workers.pixtral.plan.scheduler import Limits, Step
from workers.pixtral.upstream import Transformer


class FlashPagedAttention:
    """`decoder.Attend`: rows go to their slots, prefill segments attend as a pack, decode rows over blocks.

    Also `decoder.Wanted` where `wanted` is given: (rows, arithmetic, lengths, tables) of the rows to sample, which are
    decode rows as far as attention goes.
    """

    def __init__(
        self,
        cache: PagedCache,
        decode: DecodeAttention,
        slots: Tensor,
        tables: Tensor,
        lengths: Tensor,
        first_decode: int,
        segments: list[batch.Segment],
        wanted: tuple[Tensor, Arithmetic, Tensor, Tensor] | None = None,
    ) -> None:
        self.cache, self.decode, self.slots, self.tables, self.lengths = cache, decode, slots, tables, lengths
        self.first_decode = first_decode
        if wanted is not None:
            self.rows, self.arithmetic, self.wanted_lengths, self.wanted_tables = wanted
        self.num_prefill = sum(segment.num_rows for segment in segments)
        self.past: Tensor | None = None
        if segments:
            self.max_q = max(segment.num_rows for segment in segments)
            self.max_k = max(segment.num_keys for segment in segments)
            self.cu_q = self._cumulative([segment.num_rows for segment in segments], slots.device)
            self.cu_k = self.cu_q
            if any(segment.num_keys > segment.num_rows for segment in segments):
                # Gathered once a layer: 13 MB a page of Pixtral 12B, 10 microseconds beside milliseconds of products.
                places = [batch.slots_of(s.block_table, 0, s.num_keys, cache.block_size) for s in segments]
                self.past = to_device(np.concatenate(places), slots.device)
                self.cu_k = self._cumulative([segment.num_keys for segment in segments], slots.device)

    @staticmethod
    def _cumulative(lengths: list[int], device: torch.device) -> Tensor:
        return to_device(np.asarray(batch.cumulative(lengths), np.int32), device)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.store(layer, key, value)
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        out = query.new_empty(query.shape)
        rows = self.num_prefill
        if rows:
            k, v = (key[:rows], value[:rows]) if self.past is None else (keys[self.past], values[self.past])
            out[:rows] = attend_varlen(query[:rows], k, v, self.cu_q, self.cu_k, self.max_q, self.max_k, causal=True)
            out[rows : self.first_decode] = 0
        if query.shape[0] > self.first_decode:
            decode_rows = slice(self.first_decode, None)
            self.decode(query[decode_rows], keys, values, self.tables, self.lengths, out[decode_rows])
        return out.flatten(1)

    def store(self, layer: int, key: Tensor, value: Tensor) -> None:
        store(key, value, self.cache.keys[layer], self.cache.values[layer], self.slots)

    def attend(self, layer: int, query: Tensor) -> Tensor:
        out = query.new_empty(query.shape)
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        self.decode(query, keys, values, self.wanted_tables, self.wanted_lengths, out)
        return out.flatten(1)


class CudaExecutor(Executor):
    """`Executor` with the kernels above; `use_graph` False launches every step kernel by kernel."""

    cache_by_head = False  # the Triton kernels' layout

    def __init__(
        self,
        model: Transformer,
        limits: Limits,
        num_blocks: int,
        block_size: int,
        prefill_tile: int | None,
        *,
        use_graph: bool = True,
    ) -> None:
        super().__init__(model, limits, num_blocks, block_size, prefill_tile)
        args = model.args
        rows = limits.max_sequences
        self.max_blocks = -(-min(limits.max_context, num_blocks * block_size) // block_size)
        self.decode = DecodeAttention(
            rows,
            args.n_heads,
            args.n_kv_heads,
            args.head_dim,
            self.max_blocks * block_size,
            block_size,
            self.device,
        )
        self.meta = torch.zeros(rows * (5 + self.max_blocks), dtype=torch.int32, device=self.device)
        self.use_graph = use_graph
        self._graph: torch.cuda.CUDAGraph | None = None
        self._graph_hidden: Tensor | None = None

    def choose_decode_tile(self, limits: Limits) -> int:
        return limits.max_sequences  # the graph has every row

    def arithmetic(self, num_decode_rows: int = 0, tile: int | None = None) -> Arithmetic:
        tile = tile or self.prefill_tile
        return FusedArithmetic(Tiles(tile, num_decode_rows, self.decode_tile) if tile else None)

    def _run(self, step: Step, layout: batch.Layout) -> Tensor:
        meta = self._decode_numbers(step, layout)
        if not step.chunks:
            return self._run_decode(meta)[self._sample_rows(layout)]
        device, split = self.device, layout.first_decode
        numbers = to_device(np.stack((layout.token_ids, layout.positions, layout.slots)), device)
        token_ids, positions, slots = numbers[0], numbers[1], numbers[2]
        decode_ids, _, _, lengths, tables = self._views(to_device(meta, device))
        if step.decodes:
            token_ids = torch.cat((token_ids[:split], decode_ids))
        hidden = F.embedding(token_ids, self.model.tok_embeddings.weight)
        if layout.feature_ranges:
            features = torch.cat([self.features[s.number][first:last] for s, first, last in layout.feature_ranges])
            hidden.index_copy_(0, to_device(layout.feature_rows, device), features)
        few = self.arithmetic(tile=self.decode_tile)
        wanted = self._sample_rows(layout), few, *self._wanted_numbers(layout)
        attend = FlashPagedAttention(self.cache, self.decode, slots, tables, lengths, split, layout.segments, wanted)
        arithmetic = self.arithmetic(len(layout.positions) - split)
        return decoder.run_layers(self.model, hidden, positions, attend, arithmetic, attend)

    def _wanted_numbers(self, layout: batch.Layout) -> tuple[Tensor, Tensor]:
        """Lengths and tables of the rows to sample, as if each were a decode row."""
        rows, count = self.limits.max_sequences, len(layout.sample_rows)
        numbers = np.zeros((rows, 1 + self.max_blocks), np.int32)
        numbers[:count, 0] = np.asarray(layout.sample_positions, np.int32) + 1
        for row, sequence in enumerate(layout.sample_sequences):
            numbers[row, 1 : 1 + len(sequence.block_table)] = sequence.block_table
        on_device = to_device(numbers, self.device)
        return on_device[:, 0].contiguous(), on_device[:, 1:].contiguous()

    def _decode_numbers(self, step: Step, layout: batch.Layout) -> NDArray[np.int32]:
        """Token, position, slot, length, row of last tokens, and table of each decode row, in one array."""
        rows, count, split = self.limits.max_sequences, len(step.decodes), layout.first_decode
        meta = np.zeros((5 + self.max_blocks, rows), np.int32)
        if not count:
            return meta.reshape(-1)
        meta[0] = layout.token_ids[split:]
        meta[1] = layout.positions[split:]
        meta[2] = layout.slots[split:]
        meta[3, :count] = layout.decode_lengths
        meta[4, :count] = [decode.sequence.slot for decode in step.decodes]
        tables = meta[5:].reshape(rows, self.max_blocks)
        for row, table in enumerate(layout.decode_tables):
            tables[row, : len(table)] = table
        return meta.reshape(-1)

    def _views(self, meta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Token ids (the device's own where the host has none), positions, slots, lengths, tables."""
        rows = self.limits.max_sequences
        token_ids, positions, slots, lengths, places = (meta[i * rows : (i + 1) * rows] for i in range(5))
        token_ids = torch.where(token_ids < 0, self.last_tokens[places.long()], token_ids.long())
        return token_ids, positions, slots, lengths, meta[5 * rows :].view(rows, self.max_blocks)

    def _decode_hidden(self) -> Tensor:
        token_ids, positions, slots, lengths, tables = self._views(self.meta)
        hidden = F.embedding(token_ids, self.model.tok_embeddings.weight)
        attend = FlashPagedAttention(self.cache, self.decode, slots, tables, lengths, 0, [])
        return decoder.run_layers(self.model, hidden, positions, attend, self.arithmetic(self.limits.max_sequences))

    def _run_decode(self, meta: NDArray[np.int32]) -> Tensor:
        self.meta.copy_(to_device(meta, self.device), non_blocking=True)
        if not self.use_graph:
            return self._decode_hidden()
        if self._graph is None:
            self._graph, self._graph_hidden = _record(self._decode_hidden)
        self._graph.replay()
        assert self._graph_hidden is not None
        return self._graph_hidden


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
