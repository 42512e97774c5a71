"""Attention of one long sequence from plain matrix products, for CPUs with bfloat16 arithmetic but no matrix unit.

torch's flash kernel multiplies bfloat16 on such a CPU no faster than float32, while a plain product does twice as well
(Zen 4, one thread: 80 against 225 GFLOP/s). So a block of queries times all its keys is one product, its softmax one
pass, the values another product:

    queries 512 … 1023, causal:   keys 0 … 1023, of which the last 512 need the triangle; the rest is never computed

One layer of an A4 page (3,008 patches, 8 heads of 64): 229 → 135 ms on one thread, 120 → 74 ms on two. The scores pass
through bfloat16, as in transformers' eager attention; the flash kernel keeps them in float32. On random data the error
against float64 is 0.45 % for 0.23 %, both near bfloat16's own rounding of 0.4 %. Blocks and heads run in lanes.

Blocks are cut from a sequence's own beginning and never span two, so a sequence's floats do not depend on the pack.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from workers.pixtral.cpu.threads import ALONE, Lanes

BLOCK_ROWS = 512  # 512 × 3,008 scores are 3 MB; 256 and 1,024 rows take as long within 10 %


def has_fast_products() -> bool:
    """Whether this CPU is of the kind above. With a matrix unit (AMX) torch's kernel uses it, and is taken."""
    has = cpu_capabilities()
    return bool(has.get("avx512_bf16")) and not has.get("amx_tile")


# Any of these instructions multiplies the type; x86 and ARM by torch's names for them.
_INSTRUCTIONS = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16", "avx10_2", "fp16_arith"),
}


def computes(dtype: torch.dtype) -> bool:
    """Whether this CPU has arithmetic of the type; elsewhere oneDNN converts at every product.

    One thread, 512 × 512 × 512: float16 without arithmetic takes 193 ms, float32 2.6 ms, bfloat16 with it 1.2 ms.
    """
    has = cpu_capabilities()
    return dtype not in _INSTRUCTIONS or not has or any(has.get(name) for name in _INSTRUCTIONS[dtype])


def cpu_capabilities() -> Mapping[str, object]:
    """What torch itself asks the processor for; empty where it cannot say."""
    found: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return found


def suits(query: Tensor) -> bool:
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and has_fast_products()


def attend_blocked(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, lanes: Lanes = ALONE) -> Tensor:
    """query (T, H, D), key and value (K, H_kv, D) → (T, H, D); causal from the bottom right where K > T."""
    num_q, heads, head_dim = query.shape
    num_k, kv_heads, _ = key.shape
    group = heads // kv_heads
    past = num_k - num_q
    keys, values = key.new_empty(kv_heads, num_k, head_dim), value.new_empty(kv_heads, num_k, head_dim)
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    size = BLOCK_ROWS // group  # queries that share a key head stand as rows of one product
    future = torch.full((size, size), -torch.inf, dtype=query.dtype).triu(1) if causal else None

    def lay_out(head: int) -> None:  # products over rows that lie apart take a tenth longer
        keys[head], values[head] = key[:, head], value[:, head]

    def attend(piece: tuple[int, int]) -> None:
        first, head = piece
        last = min(first + size, num_q)
        seen = past + last if causal else num_k
        mine = slice(head * group, (head + 1) * group)
        rows = (query[first:last, mine] * head_dim**-0.5).transpose(0, 1).reshape(-1, head_dim)  # (group × block, D)
        scores = torch.mm(rows, keys[head, :seen].t())
        if future is not None:
            scores.view(group, last - first, seen)[..., past + first :] += future[: last - first, : last - first]
        mixed = torch.mm(torch.softmax(scores, dim=-1), values[head, :seen])
        out[first:last, mine] = mixed.view(group, last - first, head_dim).transpose(0, 1)

    lanes.run(lay_out, range(kv_heads))
    firsts = range(0, num_q, size)
    lanes.run(attend, [(first, head) for first in reversed(firsts) for head in range(kv_heads)])  # the longest first
    return out
