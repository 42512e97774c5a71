"""Attention of one long sequence from plain matrix products, for CPUs with bfloat16 arithmetic but no matrix unit.

torch's flash kernel multiplies bfloat16 on such a CPU no faster than float32, while a plain product does twice as well
(Zen 4, one thread: 80 against 225 GFLOP/s). So a block of queries times all its keys is one product, its softmax one
pass, the values another product:

    queries 512 … 1023, causal:   keys 0 … 1023, of which the last 512 need the triangle; the rest is never computed

One layer of an A4 page (3,008 patches, 8 heads of 64): 229 → 135 ms on one thread, 120 → 74 ms on two. The scores pass
through bfloat16, as in transformers' eager attention; the flash kernel keeps them in float32. On random data the error
against float64 is 0.45 % for 0.23 %, both near bfloat16's own rounding of 0.4 %.

Blocks are cut from a sequence's own beginning and never span two, so a sequence's floats do not depend on the pack.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

BLOCK_ROWS = 512  # 512 × 3,008 scores are 3 MB; 256 and 1,024 rows take as long within 10 %


@lru_cache(maxsize=1)
def has_fast_products() -> bool:
    """Whether this CPU is of the kind above. With a matrix unit (AMX) torch's kernel uses it, and is taken."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16")) and not capabilities.get("amx_tile")


def suits(query: Tensor) -> bool:
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and has_fast_products()


def attend_blocked(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
    """query (T, H, D), key and value (K, H_kv, D) → (T, H, D); causal from the bottom right where K > T."""
    num_q, heads, head_dim = query.shape
    num_k, kv_heads, _ = key.shape
    group = heads // kv_heads
    past = num_k - num_q
    grouped = (query * head_dim**-0.5).view(num_q, kv_heads, group, head_dim).permute(1, 2, 0, 3).contiguous()
    keys, values = (x.transpose(0, 1).contiguous() for x in (key, value))  # (H_kv, K, D)
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    size = BLOCK_ROWS // group  # queries that share a key head stand as rows of one product
    future = torch.full((size, size), -torch.inf, dtype=query.dtype).triu(1) if causal else None
    for first in range(0, num_q, size):
        last = min(first + size, num_q)
        seen = past + last if causal else num_k
        for head in range(kv_heads):
            rows = grouped[head, :, first:last].reshape(-1, head_dim)  # (group × block, D)
            scores = torch.mm(rows, keys[head, :seen].t())
            if future is not None:
                scores.view(group, last - first, seen)[..., past + first :] += future[: last - first, : last - first]
            mixed = torch.mm(torch.softmax(scores, dim=-1), values[head, :seen])
            mine = slice(head * group, (head + 1) * group)
            out[first:last, mine] = mixed.view(group, last - first, head_dim).transpose(0, 1)
    return out
