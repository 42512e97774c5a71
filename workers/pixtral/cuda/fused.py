"""The element-wise arithmetic as Triton kernels, one for each part of a layer between its products.

Rounding follows the plain operations of `model/layers.py` step by step, so both give the same bits up to the order of a
norm's sum and fused multiply-adds. How they are checked says `cuda/kernels.py`.
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

FUSED = True  # a product and a sum in one rounding; said aloud, for Triton's own default changes with 3.10


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


class FusedOperations(Operations):
    """The element-wise parts as one kernel each. Works in place on the residual stream and on queries and keys."""

    def rms_norm(self, rows: Tensor, norm: RMSNorm) -> Tensor:
        out = torch.empty_like(rows)
        width = rows.shape[1]
        _add_rms_norm[(rows.shape[0],)](
            rows,
            rows,
            norm.weight,
            out,
            width,
            norm.eps,
            False,
            triton.next_power_of_2(width),
            num_warps=8,
            enable_fp_fusion=FUSED,
        )
        return out

    def add_rms_norm(self, rows: Tensor, update: Tensor, norm: RMSNorm) -> tuple[Tensor, Tensor]:
        out = torch.empty_like(rows)
        width = rows.shape[1]
        _add_rms_norm[(rows.shape[0],)](
            rows,
            update,
            norm.weight,
            out,
            width,
            norm.eps,
            True,
            triton.next_power_of_2(width),
            num_warps=8,
            enable_fp_fusion=FUSED,
        )
        return rows, out

    def gate(self, both: Tensor) -> Tensor:
        rows, hidden = both.shape[0], both.shape[1] // 2
        out = both.new_empty(rows, hidden)
        _gate[(rows, triton.cdiv(hidden, 2048))](both, out, hidden, 2048, num_warps=8, enable_fp_fusion=FUSED)
        return out

    def rotate(self, heads: Tensor, rotation: Tensor) -> Tensor:
        rows, num, head_dim = heads.shape
        assert heads.stride(1) == head_dim and heads.stride(2) == 1, heads.stride()
        half = head_dim // 2
        _rotate[(rows,)](
            heads, heads.stride(0), rotation, num, triton.next_power_of_2(num), half, triton.next_power_of_2(half),
            num_warps=4, enable_fp_fusion=FUSED,
        )  # fmt: skip
        return heads
