"""Steps on a GPU in half precision: FlashAttention for prefill, Triton for decode, a CUDA graph if nothing prefills.

A decode step of 12 B parameters is some 450 small kernels; launched one by one they take the host longer than the
device. So a step without prefill is recorded once, with every row it could have, and replayed: rows that stand for
nobody have length 0 and slot -1, see no keys and write nowhere. Where more than 128 rows may decode there is a second
record of 128: up to those, the weights' bytes are the time of a product, above it its operations, and a row of many
is not the same float as one of few. A step with drafts has several rows of a sequence, which share a block table
(`PagedKernels`), and records of up to 512 rows (`step_room.buckets`). Its numbers (tokens, positions, slots, block
tables) go over in one copy. A step with prefill is launched kernel by kernel: the device is the slower of the two.
Block tables are as wide as a page of one image needs; while a page in many tiles is written about, the wide ones and
their own graph are taken, which cost some thousand programs a layer that find nothing to do.

Prefill rows are computed as they come: their number may pick another kernel, and in bf16 near-equal tokens may swap.

The logic is tested on a CPU with Triton's interpreter (`test_pixtral_cuda_logic.py`); graphs, streams and
FlashAttention itself have not been run on a GPU yet (`benchmarks/bench_engine_gpu.py` does).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.planning.step_room import FEWER_ROWS, buckets, run_rows
from workers.pixtral.cuda.attention import PagedAttention, packed_attention
from workers.pixtral.cuda.fused import FusedOperations
from workers.pixtral.cuda.kernels import PagedKernels, copy_blocks
from workers.pixtral.executor import sample_rows
from workers.pixtral.model import decoder, vision
from workers.pixtral.model.decoder import Runner
from workers.pixtral.model.kv_cache import PagedCache
from workers.pixtral.model.load import weight_bytes
from workers.pixtral.model.packed import PackedAttention
from workers.pixtral.model.quantize import kind_of
from workers.pixtral.model.transfer import to_device
from workers.pixtral.model.vision import Pixtral
from workers.pixtral.plan.batch import Layout
from workers.pixtral.plan.draft_rows import RIDGE, DraftRoom, Grouped, runs_of
from workers.pixtral.plan.scheduler import Limits, Step
from workers.pixtral.plan.sequence import Sequence as PlannedSequence


class CudaRunner(Runner):
    """Rows at once, with fused operations and FlashAttention."""

    def __init__(self) -> None:
        super().__init__(FusedOperations())

    def packed_attention(self, lengths: Sequence[int], device: torch.device) -> PackedAttention:
        return packed_attention(lengths, device)


class _Shape(NamedTuple):
    """Decode rows, each with a table; or in runs, each of which has one."""

    rows: int
    runs: int = 0

    @property
    def tables(self) -> int:
        return self.runs or self.rows


class _Recorded:
    """Decode rows of one shape: their step's numbers, the graph."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.meta = torch.zeros(size, dtype=torch.int32, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.graph_hidden: Tensor | None = None


class _Tables:
    """What decodes over block tables of one width: the kernels' buffers, and what is recorded."""

    def __init__(self, model: Pixtral, rows: int, most_tokens: int, block_size: int) -> None:
        config = model.config
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
        self.recorded: dict[_Shape, _Recorded] = {}


class CudaBackend:
    """`executor.Backend` with the kernels above; `use_graph` False launches every step kernel by kernel.

    With `drafts` there are graphs and buffers for them.
    """

    def __init__(
        self,
        model: Pixtral,
        limits: Limits,
        num_blocks: int,
        block_size: int,
        *,
        use_graph: bool = True,
        narrow_cache: bool = False,
        drafts: bool = False,
    ) -> None:
        config = model.config
        self.model, self.limits, self.device = model, limits, model.device
        self.runner: Runner = CudaRunner()
        self.cache = PagedCache(
            config.n_layers, num_blocks, block_size, config.n_kv_heads, config.head_dim, self.device, model.dtype,
            narrow=narrow_cache, copy=copy_blocks,
        )  # fmt: skip
        self.run_rows = run_rows(config.n_heads, config.n_kv_heads)
        recorded = run_rows(config.n_heads, config.n_kv_heads, kind_of(model)) if drafts else 1
        self.buckets = buckets(limits.max_sequences, recorded, FEWER_ROWS)
        key_rows = RIDGE * self.cache.nbytes / (num_blocks * block_size) / weight_bytes(model)
        room_for_drafts = Grouped(self.buckets, self.run_rows, limits.max_sequences, key_rows)
        self.drafts: DraftRoom | None = room_for_drafts if drafts else None
        room = num_blocks * block_size
        widths = dict.fromkeys(min(limits.max_context + more, room) for more in (0, limits.tile_tokens))
        self.tables = [_Tables(model, self.buckets[-1], most, block_size) for most in widths]  # the narrow ones first
        self.use_graph = use_graph
        self.pool: Any = None  # of the graphs' memory

    def enter(self) -> None:
        pass

    def padded(self, num_rows: int) -> int:
        return num_rows

    def decode_rows(self, count: int) -> int:
        """Those of the smallest graph that holds them."""
        return next(rows for rows in self.buckets if count <= rows)

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
        shape, meta = self._decode_numbers(step, layout, used)
        if not step.chunks:
            return self._run_decode(meta, last_tokens, used, shape)[sample_rows(layout, self)]
        device, split = self.device, layout.first_decode
        numbers = to_device(np.stack((layout.token_ids, layout.positions, layout.slots)), device)
        token_ids, positions, slots = numbers[0], numbers[1], numbers[2]
        decode_ids, _, _, lengths, runs, tables = self._views(to_device(meta, device), last_tokens, used, shape)
        if step.decodes:
            token_ids = torch.cat((token_ids[:split], decode_ids))
        hidden = F.embedding(token_ids, self.model.tok_embeddings.weight)
        if features is not None:
            hidden.index_copy_(0, to_device(layout.feature_rows, device), features)
        wanted = sample_rows(layout, self), self.runner, *self._wanted_numbers(layout, used)
        attend = PagedAttention(self.cache, used.kernels, slots, tables, lengths, split, layout.segments, runs, wanted)
        return decoder.run_layers(self.model, hidden, positions, attend, self.runner, attend)

    def _tables_of(self, layout: Layout) -> _Tables:
        """The narrowest that hold the block tables of every row that decodes or is sampled."""
        sampled = [sequence.block_table for sequence in layout.sample_sequences]
        longest = max(map(len, (*layout.decode_tables, *sampled)), default=0)
        return next(tables for tables in self.tables if longest <= tables.blocks)

    def _shape(self, sequences: Sequence[PlannedSequence]) -> _Shape:
        """For a row of each: in runs where one has several."""
        rows = self.decode_rows(len(sequences))
        several = self.run_rows > 1 and len(set(map(id, sequences))) < len(sequences)
        return _Shape(rows, min(rows, self.limits.max_sequences) if several else 0)

    def _wanted_numbers(self, layout: Layout, used: _Tables) -> tuple[Tensor, Tensor, Tensor | None]:
        """Lengths, tables and runs of the rows to sample, as if each were a decode row."""
        shape, count = self._shape(layout.sample_sequences), len(layout.sample_rows)
        numbers = np.zeros(shape.rows + self._size(shape, used), np.int32)
        numbers[:count] = np.asarray(layout.sample_positions, np.int32) + 1
        self._fill(numbers[shape.rows :], layout.sample_sequences, shape, used)
        on_device = to_device(numbers, self.device)
        runs, tables = self._split(on_device[shape.rows :], shape, used)
        return on_device[: shape.rows], tables, runs

    def _decode_numbers(self, step: Step, layout: Layout, used: _Tables) -> tuple[_Shape, NDArray[np.int32]]:
        """Token, position, slot, length and row of last tokens of each decode row, then runs and tables: one array."""
        sequences, first = [decode.sequence for decode in step.decodes], layout.first_decode
        shape, count = self._shape(sequences), len(sequences)
        meta = np.zeros(5 * shape.rows + self._size(shape, used), np.int32)
        if not count:
            return shape, meta
        rows = meta[: 5 * shape.rows].reshape(5, shape.rows)
        rows[0] = layout.token_ids[first:]
        rows[1] = layout.positions[first:]
        rows[2] = layout.slots[first:]
        rows[3, :count] = layout.decode_lengths
        rows[4, :count] = [sequence.row for sequence in sequences]
        self._fill(meta[5 * shape.rows :], sequences, shape, used)
        return shape, meta

    def _size(self, shape: _Shape, used: _Tables) -> int:
        return 2 * shape.runs + shape.tables * used.blocks

    def _fill(
        self, meta: NDArray[np.int32], sequences: Sequence[PlannedSequence], shape: _Shape, used: _Tables
    ) -> None:
        """First row and length of each run, where there are runs, then the tables."""
        runs = runs_of(sequences, self.run_rows if shape.runs else 1)
        if shape.runs:
            meta[: 2 * shape.runs].reshape(2, shape.runs)[:, : len(runs)] = np.asarray(runs, np.int32).T
        tables = meta[2 * shape.runs :].reshape(shape.tables, used.blocks)
        for place, (first, _) in enumerate(runs):
            table = sequences[first].block_table
            tables[place, : len(table)] = table

    def _split(self, meta: Tensor, shape: _Shape, used: _Tables) -> tuple[Tensor | None, Tensor]:
        runs = meta[: 2 * shape.runs].view(2, shape.runs) if shape.runs else None
        return runs, meta[2 * shape.runs :].view(shape.tables, used.blocks)

    def _views(
        self, meta: Tensor, last_tokens: Tensor, used: _Tables, shape: _Shape
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor]:
        """Token ids (the device's own where the host has none), positions, slots, lengths, runs, tables."""
        rows = shape.rows
        token_ids, positions, slots, lengths, places = (meta[i * rows : (i + 1) * rows] for i in range(5))
        token_ids = torch.where(token_ids < 0, last_tokens[places.long()], token_ids.long())
        return token_ids, positions, slots, lengths, *self._split(meta[5 * rows :], shape, used)

    def _decode_hidden(self, meta: Tensor, last_tokens: Tensor, used: _Tables, shape: _Shape) -> Tensor:
        token_ids, positions, slots, lengths, runs, tables = self._views(meta, last_tokens, used, shape)
        hidden = F.embedding(token_ids, self.model.tok_embeddings.weight)
        attend = PagedAttention(self.cache, used.kernels, slots, tables, lengths, 0, [], runs)
        return decoder.run_layers(self.model, hidden, positions, attend, self.runner)

    def _run_decode(self, numbers: NDArray[np.int32], last_tokens: Tensor, used: _Tables, shape: _Shape) -> Tensor:
        """The graph holds `last_tokens` itself: the executor keeps that one tensor."""
        if shape not in used.recorded:
            used.recorded[shape] = _Recorded(len(numbers), self.device)
        kept = used.recorded[shape]
        kept.meta.copy_(to_device(numbers, self.device), non_blocking=True)
        if not self.use_graph:
            return self._decode_hidden(kept.meta, last_tokens, used, shape)
        if kept.graph is None:
            if self.pool is None:
                self.pool = torch.cuda.graph_pool_handle()
            run = partial(self._decode_hidden, kept.meta, last_tokens, used, shape)
            kept.graph, kept.graph_hidden = _record(run, self.pool)
        kept.graph.replay()
        assert kept.graph_hidden is not None
        return kept.graph_hidden


def _record(run: Callable[[], Tensor], pool: Any) -> tuple[Any, Tensor]:
    """Run a few times aside (kernels compile, libraries make their workspaces), then record.

    Graphs share the memory of `pool`, for one runs at a time; what each gives is held, and so stays its own.
    """
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        out = run()
    return graph, out
