"""Attention by scaled_dot_product_attention, sequence by sequence, and by plain products where a CPU does those better.

No mask over a pack exists, so each sequence gets what it would get alone; sequences of one shape run as one call, and
what a sequence gets depends on its own length only. A float32 model on a GPU takes this path too.

**Strips.** On a CPU with bfloat16 arithmetic but no matrix unit torch's flash kernel multiplies bfloat16 no faster than
float32, while a plain product does twice as well (Zen 4, one thread: 80 against 225 GFLOP/s). So there a strip of a
long sequence's queries times all its keys is one product, its softmax one pass, the values another product:

    queries 256 … 511, causal:   keys 0 … 511, of which the last 256 need the triangle; the rest is never computed

One layer of an A4 page (3,008 patches, 8 heads of 64): 229 → 135 ms on one thread, 120 → 74 ms on two. The scores pass
through bfloat16, as in transformers' eager attention; the flash kernel keeps them in float32. On random data the error
against float64 is 0.45 % for 0.23 %, both near bfloat16's own rounding of 0.4 %. Strips and heads run in lanes. Strips
are cut from a sequence's own beginning and never span two, so a sequence's floats do not depend on the pack.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.planning.card_room import LONGEST_TOKENS
from workers.pixtral.cpu.threads import ALONE, Lanes
from workers.pixtral.model.instructions import has_fast_products
from workers.pixtral.model.packed import attend_equals, runs
from workers.pixtral.plan.sizes import STRIP_ROWS

MOST_AT_ONCE = 32  # short sequences of one shape in one call; the calls run side by side
MOST_MASKED = 2**21  # queries × keys under one mask, which SDPA turns into numbers: 8 MB in float32
FEW_KEYS = 512  # up to here a copy of the keys is cheap, and rows of one shape attend as one batch


def suits_strips(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether long sequences are cut in strips there."""
    return device.type == "cpu" and dtype == torch.bfloat16 and has_fast_products()


def attend_packed(
    query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], *, causal: bool, lanes: Lanes = ALONE
) -> Tensor:
    """query (T, H, D), key and value (T, H_kv, D) → (T, H, D); each sequence attends inside itself only.

    The same floats as `model/packed.py`'s, side by side: long sequences by their heads, short ones by their shape.
    """
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    heads, group = key.shape[1], query.shape[1] // key.shape[1]
    short: list[tuple[slice, int]] = []
    for first, count, length in runs(lengths):
        rows = slice(first, first + count * length)
        if length > FEW_KEYS and suits_strips(query.device, query.dtype):
            for start in range(first, rows.stop, length):
                one = slice(start, start + length)
                out[one] = attend_in_strips(query[one], key[one], value[one], causal=causal, lanes=lanes)
        elif length > FEW_KEYS:

            def attend_head(head: int, rows: slice = rows, count: int = count) -> None:
                mine, one = slice(head * group, (head + 1) * group), slice(head, head + 1)
                parts = query[rows, mine], key[rows, one], value[rows, one]
                out[rows, mine] = attend_equals(*parts, count, causal=causal)

            lanes.run(attend_head, range(heads))
        else:
            for start in range(0, count, MOST_AT_ONCE):
                some = min(MOST_AT_ONCE, count - start)
                begin = first + start * length
                short.append((slice(begin, begin + some * length), some))

    def attend_some(piece: tuple[slice, int]) -> None:
        rows, count = piece
        out[rows] = attend_equals(query[rows], key[rows], value[rows], count, causal=causal)

    if short:
        lanes.run(attend_some, short)
    return out


def attend_past(query: Tensor, key: Tensor, value: Tensor, lanes: Lanes = ALONE) -> Tensor:
    """A chunk after its past, on the SDPA path: query (T_q, H, D), key (T_k, H_kv, D), T_k > T_q → (T_q, H, D).

    SDPA's own `is_causal` aligns to the top left, so the chunk brings its mask: T_q × T_k booleans of one sequence. A
    chunk after the tiles of a large page has many keys, and goes in pieces.
    """
    if key.shape[0] > FEW_KEYS and suits_strips(query.device, query.dtype):
        return attend_in_strips(query, key, value, causal=True, lanes=lanes)
    num_q, num_k = query.shape[0], key.shape[0]
    if num_q * num_k > MOST_MASKED and num_q > 1:
        half = num_q // 2
        seen = num_k - num_q + half
        return torch.cat(
            (attend_past(query[:half], key[:seen], value[:seen], lanes), attend_past(query[half:], key, value, lanes))
        )
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


def strip_rows(num_keys: int) -> int:
    """Rows of a strip: fewer over the keys of a page in tiles, so that no strip's scores take more memory.

    >>> strip_rows(3008), strip_rows(40_000)
    (256, 48)
    """
    return STRIP_ROWS if num_keys <= LONGEST_TOKENS else max(STRIP_ROWS * LONGEST_TOKENS // num_keys // 16 * 16, 16)


def attend_in_strips(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, lanes: Lanes = ALONE) -> Tensor:
    """query (T, H, D), key and value (K, H_kv, D) → (T, H, D); causal from the bottom right where K > T."""
    num_q, heads, head_dim = query.shape
    num_k, kv_heads, _ = key.shape
    group = heads // kv_heads
    past = num_k - num_q
    keys, values = key.new_empty(kv_heads, num_k, head_dim), value.new_empty(kv_heads, num_k, head_dim)
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    size = strip_rows(num_k) // group  # queries that share a key head stand as rows of one product
    future = torch.full((size, size), -torch.inf, dtype=query.dtype).triu(1) if causal else None
    rooms: dict[int, Tensor] = {}  # by thread: a lane's strips of scores lie in one place, one after another

    def lay_out(head: int) -> None:  # products over rows that lie apart take a tenth longer
        keys[head], values[head] = key[:, head], value[:, head]

    def attend(piece: tuple[int, int]) -> None:
        first, head = piece
        last = min(first + size, num_q)
        seen = past + last if causal else num_k
        mine = slice(head * group, (head + 1) * group)
        rows = (query[first:last, mine] * head_dim**-0.5).transpose(0, 1).reshape(-1, head_dim)  # (group × strip, D)
        room = rooms.get(threading.get_ident())
        if room is None:
            room = rooms[threading.get_ident()] = query.new_empty(group * min(size, num_q) * num_k)
        scores = room[: rows.shape[0] * seen].view(-1, seen)
        torch.mm(rows, keys[head, :seen].t(), out=scores)
        if future is not None:
            scores.view(group, last - first, seen)[..., past + first :] += future[: last - first, : last - first]
        torch.softmax(scores, dim=-1, out=scores)  # in place: `test_pixtral_isolation.py` holds that it may
        mixed = torch.mm(scores, values[head, :seen])
        out[first:last, mine] = mixed.view(group, last - first, head_dim).transpose(0, 1)

    lanes.run(lay_out, range(kv_heads))
    firsts = range(0, num_q, size)
    lanes.run(attend, [(first, head) for first in reversed(firsts) for head in range(kv_heads)])  # the longest first
    return out
