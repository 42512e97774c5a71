"""Attention of one step over the paged cache, by the ways of `cpu/attention.py`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from workers.pixtral.cpu.attention import FEW_KEYS, MOST_AT_ONCE, attend_one, attend_packed, attend_past
from workers.pixtral.cpu.threads import Lanes
from workers.pixtral.model.decoder import Runner
from workers.pixtral.model.kv_cache import PagedCache
from workers.pixtral.model.transfer import to_device
from workers.pixtral.plan.batch import Layout, slots_of


class PagedAttention:
    """One step on the SDPA path, as `decoder.Attend` and `language.Wanted`.

    Long sequences attend one by one over views of the cache. Short ones are gathered into batches of one shape, a
    hundred times fewer calls for small pages. What shape a sequence gets depends on its own length alone.
    """

    def __init__(
        self,
        cache: PagedCache,
        layout: Layout,
        rows: Tensor,
        runner: Runner,
        device: torch.device,
        lanes: Lanes,
    ) -> None:
        self.cache, self.rows, self.runner, self.lanes = cache, rows, runner, lanes
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
                out[rows] = attend_packed(query[rows], k, v, [long.num_rows], causal=True, lanes=self.lanes)
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
    slots = np.stack([slots_of(table, 0, width, size) for _, table, _ in members])
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
    tails = [slots_of(table, end, -(-end // size) * size, size) for table, end in ends if end % size]
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
    return to_device(slots_of(table, 0, length, size), device)
