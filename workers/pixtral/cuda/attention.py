"""Attention on a GPU in half precision: torch's varlen FlashAttention for packs, Triton for decode over paged blocks.

One order of summation is kept: FlashAttention without split keys, decode with splits of a fixed length. The paging of
torch 2.13 is not used: the Triton kernel serves every torch from 2.11 on, takes cache blocks smaller than
FlashAttention's 256 tokens, and is one path to trust instead of two.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from workers.pixtral.model.decoder import Runner
from workers.pixtral.model.kv_cache import PagedCache, Stored
from workers.pixtral.model.packed import PackedAttention
from workers.pixtral.model.transfer import to_device
from workers.pixtral.plan.batch import Segment, cumulative, slots_of


@cache
def _varlen() -> tuple[Callable[..., Any], frozenset[str]] | None:
    """torch's function and the names of its parameters; None before torch 2.10.

    It is imported where a GPU wants it: torch's compiler comes with it, 1.4 s of processor time.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn, frozenset(inspect.signature(varlen_attn).parameters)


def has_varlen() -> bool:
    return _varlen() is not None


def uses_flash(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this module serves the device and type."""
    return device.type == "cuda" and dtype in (torch.bfloat16, torch.float16) and has_varlen()


def packed_attention(lengths: Sequence[int], device: torch.device) -> PackedAttention:
    """Each sequence looks at all of itself; the boundaries go to the device once for all layers."""
    boundaries, longest = _cumulative(lengths, device), max(lengths)
    return lambda query, key, value: attend_varlen(
        query, key, value, boundaries, boundaries, longest, longest, causal=False
    )


def attend_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    causal: bool,
) -> Tensor:
    """FlashAttention over packs; causal from the bottom right where keys outnumber queries."""
    varlen = _varlen()
    assert varlen is not None
    varlen_attn, known = varlen
    more = varlen_options(known, causal=causal, grouped=query.shape[1] != key.shape[1])
    out = varlen_attn(query, key, value, cu_seqlens_q, cu_seqlens_k, max_q, max_k, **more)
    assert isinstance(out, Tensor)
    return out


def varlen_options(known: frozenset[str], *, causal: bool, grouped: bool) -> dict[str, Any]:
    """Keywords for the installed `varlen_attn`, by its own signature: they changed from release to release."""
    more: dict[str, Any] = {}
    if "window_size" in known:
        more["window_size"] = (-1, 0) if causal else (-1, -1)
    else:
        more["is_causal"] = causal  # torch 2.10
    if grouped and "enable_gqa" in known:
        more["enable_gqa"] = True
    if "num_splits" in known:
        more["num_splits"] = 1  # one order of summation, whatever else is in the pack
    return more


class PagedKernels(Protocol):
    """`cuda/kernels.py`'s, by their shape: Triton comes with CUDA's torch alone."""

    def store(self, key: Tensor, value: Tensor, stored: Stored, slots: Tensor) -> None: ...

    def decode(
        self, query: Tensor, stored: Stored, tables: Tensor, lengths: Tensor, out: Tensor, runs: Tensor | None = None
    ) -> None: ...


class PagedAttention:
    """`decoder.Attend`: rows go to their slots, prefill segments attend as a pack, decode rows over blocks.

    Also `decoder.Wanted` where `wanted` is given: (rows, runner, lengths, tables, runs) of the rows to sample, which
    are decode rows as far as attention goes. `runs` are of rows of one sequence; None: each row has a table.
    """

    def __init__(
        self,
        cache: PagedCache,
        kernels: PagedKernels,
        slots: Tensor,
        tables: Tensor,
        lengths: Tensor,
        first_decode: int,
        segments: list[Segment],
        runs: Tensor | None = None,
        wanted: tuple[Tensor, Runner, Tensor, Tensor, Tensor | None] | None = None,
    ) -> None:
        self.cache, self.kernels, self.slots, self.tables, self.lengths = cache, kernels, slots, tables, lengths
        self.first_decode, self.runs = first_decode, runs
        if wanted is not None:
            self.rows, self.runner, self.wanted_lengths, self.wanted_tables, self.wanted_runs = wanted
        self.num_prefill = sum(segment.num_rows for segment in segments)
        self.past: Tensor | None = None
        if segments:
            self.max_q = max(segment.num_rows for segment in segments)
            self.max_k = max(segment.num_keys for segment in segments)
            self.cu_q = _cumulative([segment.num_rows for segment in segments], slots.device)
            self.cu_k = self.cu_q
            # From a narrow cache every chunk reads what it wrote itself, so that no page depends on how it was cut.
            if cache.scales is not None or any(segment.num_keys > segment.num_rows for segment in segments):
                # Gathered once a layer: 13 MB a page of Pixtral 12B, 10 microseconds beside milliseconds of products.
                places = [slots_of(s.block_table, 0, s.num_keys, cache.block_size) for s in segments]
                self.past = to_device(np.concatenate(places), slots.device)
                self.cu_k = _cumulative([segment.num_keys for segment in segments], slots.device)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.store(layer, key, value)
        stored = self.cache.layer(layer)
        out = query.new_empty(query.shape)
        rows = self.num_prefill
        if rows:
            k, v = (key[:rows], value[:rows]) if self.past is None else stored.rows(self.past, query.dtype)
            out[:rows] = attend_varlen(query[:rows], k, v, self.cu_q, self.cu_k, self.max_q, self.max_k, causal=True)
            out[rows : self.first_decode] = 0
        if query.shape[0] > self.first_decode:
            decode_rows = slice(self.first_decode, None)
            self.kernels.decode(query[decode_rows], stored, self.tables, self.lengths, out[decode_rows], self.runs)
        return out.flatten(1)

    def store(self, layer: int, key: Tensor, value: Tensor) -> None:
        self.kernels.store(key, value, self.cache.layer(layer), self.slots)

    def attend(self, layer: int, query: Tensor) -> Tensor:
        out = query.new_empty(query.shape)
        stored = self.cache.layer(layer)
        self.kernels.decode(query, stored, self.wanted_tables, self.wanted_lengths, out, self.wanted_runs)
        return out.flatten(1)


def _cumulative(lengths: Sequence[int], device: torch.device) -> Tensor:
    return to_device(np.asarray(cumulative(lengths), np.int32), device)
