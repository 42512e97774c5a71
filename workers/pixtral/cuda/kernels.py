"""Triton kernels of the paged cache: writing and copying, and grouped-query decode over it.

Decode reads each sequence's whole cache once a step, so memory bounds it: 50 GB a step for 85 pages of Pixtral 12B.
One program takes one sequence, one key-value head and one split of SPLIT_TOKENS keys; the query heads that share the
key head stand as rows of one small matrix product, so keys are read once and never repeated. A second kernel joins the
splits by their log-sum-exp (Dao et al. 2023, "Flash-Decoding"). Splits have a fixed length, whatever the batch and
the device, so a row's sum has one order: it does not depend on its neighbours.

    a sequence of 2,500 keys, splits of 1,024:   [0 … 1023] [1024 … 2047] [2048 … 2499]

A group of 4 query heads fills a quarter of the product's 16 rows. Where a step has drafts, one program takes a run of
up to RUN rows of one sequence, each a position further than the one before: 4 tokens × 4 heads. The cache is read once
for them. A row's scores of later keys are -∞, so its largest score stays and its sums gain zeros: it has the same bits
as alone.

Run by Triton's interpreter on a CPU (`test_pixtral_cuda_logic.py`), and compiled for sm_80 and sm_90 as the engine
launches them (`test_gpu_programs.py`): registers, shared memory, loads under way. On a GPU they have not been run yet;
`benchmarks/bench_engine_gpu.py` checks and times them there.
"""

# Triton's decorator and language have no types; its compile-time arguments are upper case by custom.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
# ruff: noqa: N803

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.planning.step_room import GROUP_ROWS, SPLIT_TOKENS, run_rows
from workers.pixtral.cuda.fused import FUSED
from workers.pixtral.model.kv_cache import E4M3_MAX, Stored

JOINED_SPLITS = 16  # at once: all of a page of one image
COPIED_NUMBERS = 8192  # of a block, by one program


@triton.jit
def _store(key, value, stride, keys, values, slots, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row).to(tl.int64)
    if slot >= 0:  # padding rows write nowhere
        columns = tl.arange(0, COLUMNS)
        inside = columns < WIDTH
        tl.store(keys + slot * WIDTH + columns, tl.load(key + row * stride + columns, mask=inside), mask=inside)
        tl.store(values + slot * WIDTH + columns, tl.load(value + row * stride + columns, mask=inside), mask=inside)


@triton.jit
def _store_narrow(
    key, value, stride, keys, values, key_scales, value_scales, slots, largest,
    HEADS: tl.constexpr, HEADS_PAD: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """`kv_cache.narrow` on the way: each head of a row by its own largest number."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row).to(tl.int64)
    if slot >= 0:
        heads = tl.arange(0, HEADS_PAD)
        inside = heads < HEADS
        columns = heads[:, None] * D + tl.arange(0, D)[None, :]
        k = tl.load(key + row * stride + columns, mask=inside[:, None], other=0.0).to(tl.float32)
        v = tl.load(value + row * stride + columns, mask=inside[:, None], other=0.0).to(tl.float32)
        k_scale = tl.maximum(tl.max(tl.abs(k), axis=1) / largest, 1e-30)
        v_scale = tl.maximum(tl.max(tl.abs(v), axis=1) / largest, 1e-30)
        place = slot * (HEADS * D) + columns
        tl.store(keys + place, (k / k_scale[:, None]).to(keys.dtype.element_ty), mask=inside[:, None])
        tl.store(values + place, (v / v_scale[:, None]).to(values.dtype.element_ty), mask=inside[:, None])
        tl.store(key_scales + slot * HEADS + heads, k_scale, mask=inside)
        tl.store(value_scales + slot * HEADS + heads, v_scale, mask=inside)


@triton.jit
def _copy_blocks(cache, pairs, num_pairs, half, SIZE: tl.constexpr, COLUMNS: tl.constexpr):
    """Block pairs[0, i] to pairs[1, i] in one half layer; `half` numbers from a layer's keys to its values."""
    pair, store = tl.program_id(0), tl.program_id(1).to(tl.int64)
    source = tl.load(pairs + pair)
    target = tl.load(pairs + num_pairs + pair)
    columns = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < SIZE
    block = tl.load(cache + store * half + source * SIZE + columns, mask=inside)
    tl.store(cache + store * half + target * SIZE + columns, block, mask=inside)


@triton.jit
def _decode_split(
    query, query_stride, keys, values, key_scales, value_scales, tables, table_stride, lengths, runs, partial, sums,
    scale, num_splits,
    NARROW: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, RUN: tl.constexpr, ROWS: tl.constexpr,
    D: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """The numbers of the next tile's blocks travel through the loop, so that its keys and values are under way early.

    Loaded where they are used they took the pipeline's stages: one buffer of keys, waited for as soon as asked.
    """
    place, head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    first = split * SPLIT
    if RUN == 1:
        row = place
        length = tl.load(lengths + row)
    else:  # a first row and how many; what the last one sees
        row = tl.load(runs + place).to(tl.int64)
        count = tl.load(runs + tl.num_programs(0) + place)
        seen = tl.load(lengths + row)
        length = tl.where(count > 0, seen + count - 1, 0)
    if first < length:
        group = tl.arange(0, ROWS)
        if RUN == 1:
            mine, used = row, group < GROUP
        else:
            token = group // GROUP
            group = group % GROUP
            mine, used = row + token, token < count
            ends = seen + token
        dims = tl.arange(0, D)
        places = tl.arange(0, TILE)
        columns = (mine * query_stride + (head * GROUP + group) * D)[:, None] + dims[None, :]
        q = tl.load(query + columns, mask=used[:, None], other=0.0)
        best = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        acc = tl.zeros([ROWS, D], tl.float32)
        last = tl.minimum(length, first + SPLIT)
        table = tables + place * table_stride
        blocks = tl.load(table + (first + places) // BLOCK, mask=first + places < last, other=0)
        for start in range(first, last, TILE):
            after = start + TILE + places
            blocks_after = tl.load(table + after // BLOCK, mask=after < last, other=0)
            inside = start + places < last
            slots = blocks.to(tl.int64) * BLOCK + places % BLOCK
            offsets = slots[:, None] * (KV_HEADS * D) + head * D + dims[None, :]
            k = tl.load(keys + offsets, mask=inside[:, None], other=0.0)
            v = tl.load(values + offsets, mask=inside[:, None], other=0.0)
            if NARROW:  # e4m3 is exact in bfloat16 and float16
                k_scale = tl.load(key_scales + slots * KV_HEADS + head, mask=inside, other=0.0)
                v_scale = tl.load(value_scales + slots * KV_HEADS + head, mask=inside, other=0.0)
                scores = tl.dot(q, tl.trans(k.to(q.dtype))) * (k_scale * scale)[None, :]
            else:
                scores = tl.dot(q, tl.trans(k)) * scale  # base 2
            if RUN == 1:
                scores = tl.where(inside[None, :], scores, float("-inf"))
            else:  # one that sees none of this split comes to no number, and is not joined
                scores = tl.where((start + places)[None, :] < ends[:, None], scores, float("-inf"))
            better = tl.maximum(best, tl.max(scores, axis=1))
            shrink = tl.exp2(best - better)
            p = tl.exp2(scores - better[:, None])
            total = total * shrink + tl.sum(p, axis=1)
            if NARROW:
                acc = acc * shrink[:, None] + tl.dot((p * v_scale[None, :]).to(q.dtype), v.to(q.dtype))
            else:
                acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v)
            best = better
            blocks = blocks_after
        out = (mine * (KV_HEADS * GROUP) + head * GROUP + group) * num_splits + split
        tl.store(partial + out[:, None] * D + dims[None, :], acc / total[:, None], mask=used[:, None])
        tl.store(sums + out, best + tl.log2(total), mask=used)


@triton.jit
def _decode_join(partial, sums, lengths, out, num_splits, D: tl.constexpr, SPLITS: tl.constexpr, SPLIT: tl.constexpr):
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    used = tl.cdiv(tl.load(lengths + row), SPLIT)
    dims = tl.arange(0, D)
    base = (row * tl.num_programs(1) + head) * num_splits
    best = tl.max(tl.full([SPLITS], float("-inf"), tl.float32), axis=0)
    total = tl.sum(tl.zeros([SPLITS], tl.float32), axis=0)
    joined = tl.zeros([D], tl.float32)
    for first in range(0, used, SPLITS):  # SPLITS at once, whatever the width of the tables: one order of the sum
        split = first + tl.arange(0, SPLITS)
        inside = split < used
        lse = tl.load(sums + base + split, mask=inside, other=float("-inf"))
        top = tl.maximum(best, tl.max(lse, axis=0))
        share = tl.where(inside, tl.exp2(lse - top), 0.0)
        parts = tl.load(partial + (base + split)[:, None] * D + dims[None, :], mask=inside[:, None], other=0.0)
        shrink = tl.exp2(best - top)
        joined = joined * shrink + tl.sum(parts * share[:, None], axis=0)
        total = total * shrink + tl.sum(share, axis=0)
        best = top
    joined = tl.where(used > 0, joined / total, 0.0)
    tl.store(out + (row * tl.num_programs(1) + head) * D + dims, joined.to(out.dtype.element_ty))


class PagedKernels:
    """What reads and writes the paged cache; the buffers for split results are made once."""

    def __init__(
        self,
        max_rows: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        max_tokens: int,
        block_size: int,
        device: torch.device,
    ) -> None:
        self.num_splits = -(-max_tokens // SPLIT_TOKENS)
        # What a benchmark may sweep. Three stages are two tiles of keys and values under way: 70 KiB of shared memory,
        # three programs on a multiprocessor of 227 KiB, 96 KiB on their way where 20 KiB hide the memory's latency.
        # Tiles of 128 tokens take 136 KiB, one program, and nothing computes while it waits. A narrow cache's tiles
        # have half of the bytes and one stage more.
        self.tile, self.warps, self.stages = block_size, 4, 3
        self.kv_heads, self.group, self.block_size = kv_heads, heads // kv_heads, block_size
        self.run = run_rows(heads, kv_heads)  # rows of one sequence that one program takes at most
        assert SPLIT_TOKENS % block_size == 0 and self.group <= GROUP_ROWS, (block_size, self.group)
        self.partial = torch.empty(max_rows, heads, self.num_splits, head_dim, device=device)
        self.sums = torch.empty(max_rows, heads, self.num_splits, device=device)

    def store(self, key: Tensor, value: Tensor, stored: Stored, slots: Tensor) -> None:
        """Write rows (T, H_kv, D) to their slots of the cache; slot -1 writes nowhere."""
        assert key.stride(0) == value.stride(0) and key.stride(1) == key.shape[2], key.stride()
        keys, values, key_scales, value_scales = stored
        _, heads, head_dim = keys.shape
        if key_scales is not None:
            _store_narrow[(key.shape[0],)](
                key, value, key.stride(0), keys, values, key_scales, value_scales, slots, E4M3_MAX,
                heads, triton.next_power_of_2(heads), head_dim, num_warps=4, enable_fp_fusion=FUSED,
            )  # fmt: skip
            return
        width = heads * head_dim
        _store[(key.shape[0],)](
            key,
            value,
            key.stride(0),
            keys,
            values,
            slots,
            width,
            triton.next_power_of_2(width),
            num_warps=4,
            enable_fp_fusion=FUSED,
        )

    def decode(
        self, query: Tensor, stored: Stored, tables: Tensor, lengths: Tensor, out: Tensor, runs: Tensor | None = None
    ) -> None:
        """Rows over the blocks of their sequences, each of which sees so many keys.

        query (R, H, D) → out (R, H, D); tables (R, blocks) and lengths (R,) int32, length 0 gives zeros. With `runs`
        (2, N) int32 the tables are (N, blocks): run i are rows runs[0, i] … runs[0, i] + runs[1, i] - 1, `self.run` at
        most, and each sees one key more than the one before.
        """
        rows, heads, head_dim = query.shape
        keys, values, key_scales, value_scales = stored
        is_narrow = key_scales is not None
        if not is_narrow:  # a kernel has the same parameters either way
            key_scales = value_scales = self.sums
        scale = head_dim**-0.5 * 1.4426950408889634  # log2 e: the kernels work in base 2
        run, places, runs = (1, rows, lengths) if runs is None else (self.run, tables.shape[0], runs)
        _decode_split[(places, self.kv_heads, self.num_splits)](
            query, query.stride(0), keys, values, key_scales, value_scales, tables, tables.stride(0), lengths, runs,
            self.partial, self.sums, scale, self.num_splits, is_narrow,
            self.kv_heads, self.group, run, GROUP_ROWS, head_dim, self.block_size, self.tile, SPLIT_TOKENS,
            num_warps=self.warps, num_stages=self.stages + is_narrow, enable_fp_fusion=FUSED,
        )  # fmt: skip
        _decode_join[(rows, heads)](
            self.partial, self.sums, lengths, out, self.num_splits, head_dim,
            JOINED_SPLITS, SPLIT_TOKENS, num_warps=2, enable_fp_fusion=FUSED,
        )  # fmt: skip


def copy_blocks(stacked: Tensor, pairs: Tensor, block_size: int) -> None:
    """`kv_cache.Copy`: one launch for all blocks and layers, without a second copy of them."""
    layers, halves, slots, heads, head_dim = stacked.shape
    size = block_size * heads * head_dim
    _copy_blocks[(pairs.shape[1], layers * halves, triton.cdiv(size, COPIED_NUMBERS))](
        stacked, pairs, pairs.shape[1], slots * heads * head_dim, size, COPIED_NUMBERS,
        num_warps=8, enable_fp_fusion=FUSED,
    )  # fmt: skip
