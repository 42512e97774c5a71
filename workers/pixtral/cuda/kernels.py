"""Triton kernels: the element-wise arithmetic fused, and grouped-query decode over the paged cache.

Decode reads each sequence's whole cache once a step, so memory bounds it: 50 GB a step for 85 pages of Pixtral 12B.
One program takes one sequence, one key-value head and one split of SPLIT_TOKENS keys; the query heads that share the
key head stand as rows of one small matrix product, so keys are read once and never repeated. A second kernel joins the
splits by their log-sum-exp (Dao et al. 2023, "Flash-Decoding"). Splits have a fixed length, whatever the batch and
the device, so a row's sum has one order: it does not depend on its neighbours.

    a sequence of 2,500 keys, splits of 1,024:   [0 … 1023] [1024 … 2047] [2048 … 2499]

Rounding follows the plain operations of `model/layers.py` step by step, so both give the same bits up to the order of a
norm's sum and fused multiply-adds.

Checked by Triton's interpreter on a CPU (`test_pixtral_cuda_logic.py`). On a GPU they have not been run yet;
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

from workers.pixtral.model.layers import Operations, RMSNorm

SPLIT_TOKENS = 1024
JOINED_SPLITS = 16  # at once: all of a page of one image
GROUP_ROWS = 16  # a matrix unit's least number of rows; a group of 4 query heads fills a quarter


@triton.jit
def _add_rms_norm(rows, update, weight, out, width, eps, HAS_UPDATE: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    inside = columns < width
    x = tl.load(rows + row * width + columns, mask=inside, other=0.0)
    if HAS_UPDATE:
        u = tl.load(update + row * width + columns, mask=inside, other=0.0)
        x = (x.to(tl.float32) + u.to(tl.float32)).to(x.dtype)
        tl.store(rows + row * width + columns, x, mask=inside)
    wide = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, axis=0) / width + eps)
    normed = (wide * scale).to(x.dtype).to(tl.float32)
    w = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + columns, (normed * w).to(x.dtype), mask=inside)


@triton.jit
def _gate(both, out, hidden, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < hidden
    a = tl.load(both + row * 2 * hidden + columns, mask=inside, other=0.0)
    b = tl.load(both + row * 2 * hidden + hidden + columns, mask=inside, other=0.0)
    wide = a.to(tl.float32)
    silu = (wide / (1.0 + tl.exp(-wide))).to(a.dtype)
    tl.store(out + row * hidden + columns, (silu.to(tl.float32) * b.to(tl.float32)).to(a.dtype), mask=inside)


@triton.jit
def _rotate(
    heads,
    stride,
    rotation,
    NUM: tl.constexpr,
    NUM_PAD: tl.constexpr,
    HALF: tl.constexpr,
    HALF_PAD: tl.constexpr,
):
    """In place: heads (T, NUM, 2 × HALF) with a row stride, rotation (T, HALF, 2)."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, NUM_PAD)[:, None]
    pair = tl.arange(0, HALF_PAD)[None, :]
    inside = (head < NUM) & (pair < HALF)
    place = heads + row * stride + head * (2 * HALF) + 2 * pair
    turn = rotation + row * (2 * HALF) + 2 * pair
    cos = tl.load(turn, mask=pair < HALF, other=1.0)
    sin = tl.load(turn + 1, mask=pair < HALF, other=0.0)
    even = tl.load(place, mask=inside, other=0.0)
    odd = tl.load(place + 1, mask=inside, other=0.0)
    e, o = even.to(tl.float32), odd.to(tl.float32)
    tl.store(place, (e * cos - o * sin).to(even.dtype), mask=inside)
    tl.store(place + 1, (e * sin + o * cos).to(even.dtype), mask=inside)


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
def _decode_split(
    query, query_stride, keys, values, tables, table_stride, lengths, partial, sums, scale, num_splits,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr,
    BLOCK: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    row, head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row)
    first = split * SPLIT
    if first < length:
        group = tl.arange(0, ROWS)
        dims = tl.arange(0, D)
        places = tl.arange(0, BLOCK)
        q = tl.load(
            query + row * query_stride + (head * GROUP + group)[:, None] * D + dims[None, :],
            mask=(group < GROUP)[:, None],
            other=0.0,
        )
        best = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        acc = tl.zeros([ROWS, D], tl.float32)
        last = tl.minimum(length, first + SPLIT)
        for start in range(first, last, BLOCK):
            block = tl.load(tables + row * table_stride + start // BLOCK).to(tl.int64)
            inside = start + places < last
            offsets = (block * BLOCK + places)[:, None] * (KV_HEADS * D) + head * D + dims[None, :]
            k = tl.load(keys + offsets, mask=inside[:, None], other=0.0)
            v = tl.load(values + offsets, mask=inside[:, None], other=0.0)
            scores = tl.dot(q, tl.trans(k)) * scale  # base 2
            scores = tl.where(inside[None, :], scores, float("-inf"))
            better = tl.maximum(best, tl.max(scores, axis=1))
            shrink = tl.exp2(best - better)
            p = tl.exp2(scores - better[:, None])
            total = total * shrink + tl.sum(p, axis=1)
            acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v)
            best = better
        out = (row * (KV_HEADS * GROUP) + head * GROUP + group) * num_splits + split
        tl.store(partial + out[:, None] * D + dims[None, :], acc / total[:, None], mask=(group < GROUP)[:, None])
        tl.store(sums + out, best + tl.log2(total), mask=group < GROUP)


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
        max_sequences: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        max_tokens: int,
        block_size: int,
        device: torch.device,
    ) -> None:
        self.num_splits = -(-max_tokens // SPLIT_TOKENS)
        self.kv_heads, self.group, self.block_size = kv_heads, heads // kv_heads, block_size
        assert SPLIT_TOKENS % block_size == 0 and self.group <= GROUP_ROWS, (block_size, self.group)
        self.partial = torch.empty(max_sequences, heads, self.num_splits, head_dim, device=device)
        self.sums = torch.empty(max_sequences, heads, self.num_splits, device=device)

    def store(self, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        """Write rows (T, H_kv, D) to their slots of the cache; slot -1 writes nowhere."""
        assert key.stride(0) == value.stride(0) and key.stride(1) == key.shape[2], key.stride()
        width = keys.shape[1] * keys.shape[2]
        _store[(key.shape[0],)](
            key, value, key.stride(0), keys, values, slots, width, triton.next_power_of_2(width), num_warps=4
        )

    def decode(self, query: Tensor, keys: Tensor, values: Tensor, tables: Tensor, lengths: Tensor, out: Tensor) -> None:
        """One new token of each sequence over its blocks.

        query (B, H, D) → out (B, H, D); tables (B, blocks) and lengths (B,) int32, length 0 gives zeros.
        """
        rows, heads, head_dim = query.shape
        scale = head_dim**-0.5 * 1.4426950408889634  # log2 e: the kernels work in base 2
        _decode_split[(rows, self.kv_heads, self.num_splits)](
            query, query.stride(0), keys, values, tables, tables.stride(0), lengths, self.partial, self.sums, scale,
            self.num_splits, self.kv_heads, self.group, GROUP_ROWS, head_dim, self.block_size, SPLIT_TOKENS,
            num_warps=4, num_stages=3,
        )  # fmt: skip
        _decode_join[(rows, heads)](
            self.partial, self.sums, lengths, out, self.num_splits, head_dim,
            JOINED_SPLITS, SPLIT_TOKENS, num_warps=2,
        )  # fmt: skip


class FusedOperations(Operations):
    """The element-wise parts as one kernel each. Works in place on the residual stream and on queries and keys."""

    def rms_norm(self, rows: Tensor, norm: RMSNorm) -> Tensor:
        out = torch.empty_like(rows)
        width = rows.shape[1]
        _add_rms_norm[(rows.shape[0],)](
            rows, rows, norm.weight, out, width, norm.eps, False, triton.next_power_of_2(width), num_warps=8
        )
        return out

    def add_rms_norm(self, rows: Tensor, update: Tensor, norm: RMSNorm) -> tuple[Tensor, Tensor]:
        out = torch.empty_like(rows)
        width = rows.shape[1]
        _add_rms_norm[(rows.shape[0],)](
            rows, update, norm.weight, out, width, norm.eps, True, triton.next_power_of_2(width), num_warps=8
        )
        return rows, out

    def gate(self, both: Tensor) -> Tensor:
        rows, hidden = both.shape[0], both.shape[1] // 2
        out = both.new_empty(rows, hidden)
        _gate[(rows, triton.cdiv(hidden, 2048))](both, out, hidden, 2048, num_warps=8)
        return out

    def rotate(self, heads: Tensor, rotation: Tensor) -> Tensor:
        rows, num, head_dim = heads.shape
        assert heads.stride(1) == head_dim and heads.stride(2) == 1, heads.stride()
        half = head_dim // 2
        _rotate[(rows,)](
            heads, heads.stride(0), rotation, num, triton.next_power_of_2(num), half, triton.next_power_of_2(half),
            num_warps=4,
        )  # fmt: skip
        return heads
