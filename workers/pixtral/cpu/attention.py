"""Who may look at whom, and which kernel computes it: the one file that chooses.

| device and dtype        | packed (vision, prefill)                            | decode over the paged cache         |
|-------------------------|-----------------------------------------------------|-------------------------------------|
| CUDA, bfloat16, float16 | torch's varlen FlashAttention, boundaries on device | Triton, grouped-query, fixed splits |
| CUDA float32; CPU       | scaled_dot_product_attention, sequence by sequence  | the same, one grouped query a row   |
| CPU with bf16, no AMX   | long sequences: `blocked_attention.py`, one by one  | the same                            |

All rows give each sequence what it would get alone: no mask over the pack exists, and a fixed order of summation is
kept (FlashAttention without split keys; the Triton kernel's splits are of a fixed length). On the SDPA path sequences
of one shape run as one call. torch 2.13's own paging is not used: the Triton kernel serves every torch from 2.11 on,
takes blocks smaller than FlashAttention's 256 tokens, and is one path to trust instead of two.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from workers.pixtral.cpu.blocked_attention import attend_blocked, computes, has_fast_products, suits
from workers.pixtral.cpu.threads import ALONE, Lanes
from workers.pixtral.cpu.tiles import Arithmetic
from workers.pixtral.model.transfer import to_device
from workers.pixtral.plan import batch

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None  # type: ignore[assignment]
VARLEN_PARAMETERS = frozenset(inspect.signature(varlen_attn).parameters) if varlen_attn is not None else frozenset()

MOST_AT_ONCE = 32  # short sequences of one shape in one call; the calls run side by side
FEW_KEYS = 512  # up to here a copy of the keys is cheap, and rows of one shape attend as one batch


def uses_flash(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the first row of the table above applies."""
    return device.type == "cuda" and dtype in (torch.bfloat16, torch.float16) and varlen_attn is not None


def describe_path(device: torch.device, dtype: torch.dtype) -> str:
    """One line for people: which path this machine gets, and why."""
    name = str(dtype).removeprefix("torch.")
    if uses_flash(device, dtype):
        return f"varlen FlashAttention of torch {torch.__version__} and Triton paged decode ({device}, {name})"
    if device.type == "cpu" and dtype == torch.bfloat16 and has_fast_products():
        return f"plain products for long sequences, scaled_dot_product_attention for short ones ({device.type}, {name})"
    if device.type == "cpu" and not computes(torch.bfloat16) and dtype == torch.float32:
        return f"scaled_dot_product_attention per sequence (cpu, {name}): this CPU has no arithmetic of bfloat16"
    if device.type != "cuda":
        return f"scaled_dot_product_attention per sequence ({device.type}, {name}): FlashAttention needs CUDA"
    reason = "this torch has no varlen_attn" if varlen_attn is None else f"FlashAttention has no {name}"
    return f"scaled_dot_product_attention per sequence ({device}, {name}): {reason}"


@dataclass(frozen=True, slots=True)
class Boundaries:
    """Where packed sequences begin and end; built once for all layers."""

    lengths: tuple[int, ...]
    cu_seqlens: Tensor | None  # (B + 1,) int32 on the device; None where SDPA walks the lengths

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device, dtype: torch.dtype) -> Boundaries:
        on_device = None
        if uses_flash(device, dtype):
            cumulative = torch.tensor(batch.cumulative(lengths), dtype=torch.int32)
            on_device = cumulative.pin_memory().to(device, non_blocking=True)
        return cls(tuple(lengths), on_device)


def attend_packed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    boundaries: Boundaries,
    *,
    causal: bool = False,
    lanes: Lanes = ALONE,
) -> Tensor:
    """query (T, H, D), key and value (T, H_kv, D) → (T, H, D); each sequence attends inside itself only."""
    if boundaries.cu_seqlens is not None:
        longest = max(boundaries.lengths)
        return attend_varlen(
            query, key, value, boundaries.cu_seqlens, boundaries.cu_seqlens, longest, longest, causal=causal
        )
    out = torch.empty_like(query, memory_format=torch.contiguous_format)

    def attend(run: tuple[int, int, int], mine: slice = slice(None), theirs: slice = slice(None)) -> None:
        first, count, length = run
        rows = slice(first, first + count * length)
        parts = (query[rows, mine], key[rows, theirs], value[rows, theirs])
        q, k, v = (x.view(count, length, *x.shape[1:]).transpose(1, 2) for x in parts)
        one = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])
        out[rows, mine] = one.transpose(1, 2).flatten(0, 1)

    heads, group = key.shape[1], query.shape[1] // key.shape[1]
    short: list[tuple[int, int, int]] = []
    for first, count, length in _runs(boundaries.lengths):
        if length > FEW_KEYS and suits(query):
            for start in range(first, first + count * length, length):
                rows = slice(start, start + length)
                out[rows] = attend_blocked(query[rows], key[rows], value[rows], causal=causal, lanes=lanes)
        elif length > FEW_KEYS:

            def attend_head(head: int, first: int = first, count: int = count, length: int = length) -> None:
                attend((first, count, length), slice(head * group, (head + 1) * group), slice(head, head + 1))

            lanes.run(attend_head, range(heads))
        else:
            ends = range(0, count, MOST_AT_ONCE)
            short += [(first + i * length, min(MOST_AT_ONCE, count - i), length) for i in ends]
    if short:
        lanes.run(attend, short)
    return out


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
    more = varlen_options(VARLEN_PARAMETERS, causal=causal, grouped=query.shape[1] != key.shape[1])
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


def attend_past(query: Tensor, key: Tensor, value: Tensor, lanes: Lanes = ALONE) -> Tensor:
    """A chunk after its past, on the SDPA path: query (T_q, H, D), key (T_k, H_kv, D), T_k > T_q → (T_q, H, D).

    SDPA's own `is_causal` aligns to the top left, so the chunk brings its mask: T_q × T_k booleans of one sequence.
    """
    if key.shape[0] > FEW_KEYS and suits(query):
        return attend_blocked(query, key, value, causal=True, lanes=lanes)
    num_q, num_k = query.shape[0], key.shape[0]
    mask = torch.ones(num_q, num_k, dtype=torch.bool, device=query.device).tril(num_k - num_q)
    heads, group = key.shape[1], query.shape[1] // key.shape[1]
    out = torch.empty_like(query, memory_format=torch.contiguous_format)

    def attend_head(head: int) -> None:
        mine, one = slice(head * group, (head + 1) * group), slice(head, head + 1)
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (query[:, mine], key[:, one], value[:, one]))  # (1, H, T, D)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=group > 1)
        out[:, mine] = mixed.squeeze(0).transpose(0, 1)

    lanes.run(attend_head, range(heads))
    return out


def attend_one(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One new token over its whole past, on the SDPA path: query (H, D), key and value (T, H_kv, D) → (H, D).

    The queries that share a key head stand as rows of one small product, so keys are read once and never repeated.
    """
    kv_heads = key.shape[1]
    grouped = query.view(1, kv_heads, -1, query.shape[-1])  # (1, H_kv, group, D)
    k, v = (x.transpose(0, 1).unsqueeze(0) for x in (key, value))  # (1, H_kv, T, D)
    return F.scaled_dot_product_attention(grouped, k, v).squeeze(0).flatten(0, 1)


class PagedCache:
    """Keys and values of every layer in slots; a token's slot follows from its sequence's block table.

    `by_head` lays each head's keys end to end in memory, behind the same shape (slots, H_kv, D): SDPA on a CPU then
    reads a page of 3,000 tokens in 0.18 ms instead of 0.37 ms (2 heads of 64, bf16, two threads).
    """

    def __init__(
        self,
        layers: int,
        num_blocks: int,
        block_size: int,
        heads: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
        *,
        by_head: bool = False,
    ) -> None:
        slots = num_blocks * block_size

        def store() -> Tensor:
            if by_head:
                return torch.empty(heads, slots, head_dim, device=device, dtype=dtype).transpose(0, 1)
            return torch.empty(slots, heads, head_dim, device=device, dtype=dtype)

        self.block_size = block_size
        self.keys = [store() for _ in range(layers)]
        self.values = [store() for _ in range(layers)]

    def clear(self, slots: NDArray[np.int64]) -> None:
        """Zeros in every layer."""
        if len(slots):
            index = to_device(slots, self.keys[0].device)
            for store in (*self.keys, *self.values):
                store.index_fill_(0, index, 0)

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Block to block in every layer, before anything of the step is written."""
        size = self.block_size
        for source, target in pairs:
            for store in (*self.keys, *self.values):
                store[target * size : (target + 1) * size] = store[source * size : (source + 1) * size]


class SdpaPagedAttention:
    """One step on the SDPA path, as `decoder.Attend` and `language.Wanted`.

    Long sequences attend one by one over views of the cache. Short ones are gathered into batches of one shape, a
    hundred times fewer calls for small pages. What shape a sequence gets depends on its own length alone.
    """

    def __init__(
        self,
        cache: PagedCache,
        layout: batch.Layout,
        rows: Tensor,
        arithmetic: Arithmetic,
        device: torch.device,
        lanes: Lanes,
    ) -> None:
        self.cache, self.layout, self.rows, self.arithmetic, self.lanes = cache, layout, rows, arithmetic, lanes
        written = np.flatnonzero(layout.slots >= 0)
        self.moves = _moves(written, layout.slots[written], device)
        first = layout.first_decode
        decodes = zip(layout.decode_tables, layout.decode_lengths, strict=True)
        samples = zip(layout.sample_sequences, layout.sample_positions, strict=True)
        segments = [(s.first_row, s.num_rows, s.block_table, s.num_keys) for s in layout.segments]
        segments += [(first + row, 1, table, length) for row, (table, length) in enumerate(decodes)]
        wanted = [(row, 1, seq.block_table, position + 1) for row, (seq, position) in enumerate(samples)]
        cache.clear(_tails(segments, cache.block_size))
        self.work = _group(segments, cache.block_size, device)
        self.wanted_work = _group(wanted, cache.block_size, device)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.store(layer, key, value)
        return self._attend(layer, query, self.work)

    def store(self, layer: int, key: Tensor, value: Tensor) -> None:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        for rows, slots in self.moves:
            keys[slots], values[slots] = key[rows], value[rows]

    def attend(self, layer: int, query: Tensor) -> Tensor:
        return self._attend(layer, query, self.wanted_work)

    def _attend(self, layer: int, query: Tensor, work: tuple[list[_Long], list[_Batch]]) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        out = torch.zeros_like(query, memory_format=torch.contiguous_format)
        single = [long for long in work[0] if long.num_rows == 1]
        kv_heads = keys.shape[1]
        group = query.shape[1] // kv_heads

        def attend_head(piece: tuple[_Long, int]) -> None:
            long, head = piece
            mine, one = slice(head * group, (head + 1) * group), slice(head, head + 1)
            out[long.first_row, mine] = attend_one(
                query[long.first_row, mine], keys[long.places, one], values[long.places, one]
            )

        if single:
            self.lanes.run(attend_head, [(long, head) for long in single for head in range(kv_heads)])
        for long in work[0]:
            if long.num_rows == 1:
                continue
            k, v = keys[long.places], values[long.places]
            rows = slice(long.first_row, long.first_row + long.num_rows)
            if k.shape[0] == long.num_rows:
                alone = Boundaries((long.num_rows,), None)
                out[rows] = attend_packed(query[rows], k, v, alone, causal=True, lanes=self.lanes)
            else:
                out[rows] = attend_past(query[rows], k, v, self.lanes)

        def attend_batch(batch: _Batch) -> None:
            k, v = self._gather(keys, batch), self._gather(values, batch)
            out[batch.rows] = _attend_batch(query[batch.rows], k, v, batch)

        if work[1]:
            self.lanes.run(attend_batch, work[1])
        return out.flatten(1)

    def _gather(self, store: Tensor, batch: _Batch) -> Tensor:
        """(slots, H_kv, D) → a copy (G, H_kv, K, D); whole blocks move ten times faster than single tokens."""
        if batch.rows.shape[1] > 1:
            return store[batch.places].transpose(1, 2)
        size, (_, heads, head_dim) = self.cache.block_size, store.shape
        blocks = store.transpose(0, 1).view(heads, -1, size, head_dim)
        return blocks.index_select(1, batch.places).view(heads, batch.rows.shape[0], -1, head_dim).transpose(0, 1)


@dataclass(frozen=True, slots=True)
class _Long:
    first_row: int
    num_rows: int
    places: slice | Tensor  # slots of all the keys it sees


@dataclass(frozen=True, slots=True)
class _Batch:
    """G pieces of R rows and K keys each."""

    rows: Tensor  # (G, R)
    places: Tensor  # (G, K) slots, or for single rows (G × blocks,) blocks
    mask: Tensor | None  # (G or 1, 1, R, K), true where a row may look; None is causal, R = K


def _group(
    pieces: list[tuple[int, int, list[int], int]], size: int, device: torch.device
) -> tuple[list[_Long], list[_Batch]]:
    """Pieces of (first row, rows, block table, keys) → long ones alone, short ones by shape."""
    long: list[_Long] = []
    shapes: dict[tuple[int, int], list[tuple[int, list[int], int]]] = {}
    for first_row, num_rows, table, num_keys in pieces:
        if num_keys > FEW_KEYS:
            long.append(_Long(first_row, num_rows, _places(table, num_keys, size, device)))
        else:  # a single row takes whole blocks, so that few shapes exist; keys past its end are masked
            width = num_keys if num_rows > 1 else -(-num_keys // size) * size
            shapes.setdefault((num_rows, width), []).append((first_row, table, num_keys))
    batches = [
        _batch(num_rows, width, members[first : first + MOST_AT_ONCE], size, device)
        for (num_rows, width), members in shapes.items()
        for first in range(0, len(members), MOST_AT_ONCE)
    ]
    return long, batches


def _batch(
    num_rows: int, width: int, members: list[tuple[int, list[int], int]], size: int, device: torch.device
) -> _Batch:
    rows = to_device(np.asarray([first for first, _, _ in members])[:, None] + np.arange(num_rows), device)
    if num_rows == 1:
        blocks = np.concatenate([table[: width // size] for _, table, _ in members])
        used = np.arange(width) < np.asarray([length for _, _, length in members])[:, None]  # (G, K)
        return _Batch(rows, to_device(blocks, device), to_device(used[:, None, None, :], device))
    slots = np.stack([batch.slots_of(table, 0, width, size) for _, table, _ in members])
    mask = None
    if width > num_rows:
        mask = torch.ones(num_rows, width, dtype=torch.bool, device=device).tril(width - num_rows)[None, None]
    return _Batch(rows, to_device(slots, device), mask)


def _moves(
    rows: NDArray[np.int64], slots: NDArray[np.int64], device: torch.device
) -> list[tuple[slice, slice] | tuple[Tensor, Tensor]]:
    """Which rows go to which slots: as few runs, ten times faster than one by one, unless the runs are short."""
    starts = np.flatnonzero((np.diff(rows, prepend=-2) != 1) | (np.diff(slots, prepend=-2) != 1))
    if len(starts) * 64 > len(rows):
        return [(to_device(rows, device), to_device(slots, device))]
    ends = [*starts[1:], len(rows)]
    return [
        (slice(int(rows[i]), int(rows[i]) + int(end - i)), slice(int(slots[i]), int(slots[i]) + int(end - i)))
        for i, end in zip(starts, ends, strict=True)
    ]


def _tails(pieces: list[tuple[int, int, list[int], int]], size: int) -> NDArray[np.int64]:
    """Slots after each piece in the block that it ends in, unless it only continues that block.

    Single rows are masked there, but what lies there must be numbers: a masked NaN of an earlier page is still NaN.
    """
    ends = [(table, end) for _, rows, table, end in pieces if rows > 1 or end % size == 1 or size == 1]
    tails = [batch.slots_of(table, end, -(-end // size) * size, size) for table, end in ends if end % size]
    return np.concatenate(tails) if tails else np.zeros(0, np.int64)


def _attend_batch(query: Tensor, k: Tensor, v: Tensor, batch: _Batch) -> Tensor:
    """query (G, R, H, D), keys and values (G, H_kv, K, D) → (G, R, H, D)."""
    if query.shape[1] == 1:
        grouped = query.view(query.shape[0], k.shape[1], -1, query.shape[-1])  # (G, H_kv, group, D)
        return F.scaled_dot_product_attention(grouped, k, v, attn_mask=batch.mask).view_as(query)
    q = query.transpose(1, 2)
    causal = batch.mask is None
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=batch.mask, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out.transpose(1, 2)


def _places(table: list[int], length: int, size: int, device: torch.device) -> slice | Tensor:
    """The slots of a sequence's first `length` tokens: a view where its blocks lie in a row, else an index."""
    used = table[: -(-length // size)]
    if used == list(range(used[0], used[0] + len(used))):
        return slice(used[0] * size, used[0] * size + length)
    return to_device(batch.slots_of(table, 0, length, size), device)


def _runs(lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Neighbours of equal length: [3, 3, 5] → (0, 2, 3), (6, 1, 5) as (first row, count, length)."""
    first = 0
    for length, group in groupby(lengths):
        count = sum(1 for _ in group)
        yield first, count, length
        first += count * length
