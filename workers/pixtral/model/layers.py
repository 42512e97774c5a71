"""The block that both towers stack: attention and a gated feed-forward, each on a normed copy of the residual stream.

Between two attentions no row needs another, so all that lies there runs as one piece per tile of rows: the output
projection, the feed-forward, the next block's norm, its queries, keys and values, their rotation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.pixtral.cpu.tiles import Arithmetic
from workers.pixtral.upstream import Attention, FeedForward, MoeLayer, RMSNorm, TransformerBlock

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(block index, query (T, H, D), key (T, H_kv, D), value (T, H_kv, D)) → (T, H × D)."""

Next = Callable[[Tensor, Tensor | None, Tensor], tuple[Tensor, ...]]
"""(residual stream (T, dim), an update not yet added or None, rotation (T, D/2, 2)) → what comes of each row."""


def run_blocks(
    blocks: Sequence[TransformerBlock],
    hidden: Tensor,
    rotation: Tensor,
    attend: Attend,
    arithmetic: Arithmetic,
    leave: Next,
) -> tuple[Tensor, ...]:
    """hidden (T, dim) through all blocks; what `leave` makes of each row at the end."""
    following: list[Next] = [*(_entrance(block, arithmetic) for block in blocks), leave]
    first = following[0]
    parts = arithmetic.by_tile(lambda hidden, rotation: first(hidden, None, rotation), hidden, rotation)
    for index, block in enumerate(blocks):
        hidden, query, key, value = parts
        attended = attend(index, query, key, value)

        def between(
            hidden: Tensor,
            attended: Tensor,
            rotation: Tensor,
            block: TransformerBlock = block,
            then: Next = following[index + 1],
        ) -> tuple[Tensor, ...]:
            return then(*finish_block(block, hidden, attended, arithmetic), rotation)

        parts = arithmetic.by_tile(between, hidden, attended, rotation)
    return parts


def _entrance(block: TransformerBlock, arithmetic: Arithmetic) -> Next:
    def enter(hidden: Tensor, update: Tensor | None, rotation: Tensor) -> tuple[Tensor, ...]:
        hidden, normed = add_norm(arithmetic, hidden, update, block.attention_norm)
        return hidden, *project_qkv(block.attention, normed, rotation, arithmetic)

    return enter


def finish_block(
    block: TransformerBlock, hidden: Tensor, attended: Tensor, arithmetic: Arithmetic
) -> tuple[Tensor, Tensor]:
    """What follows attention: the residual stream and its last update, not yet added, (T, dim) each."""
    update = arithmetic.module(attended, block.attention.wo)
    hidden, normed = arithmetic.add_rms_norm(hidden, update, block.ffn_norm)
    return hidden, feed_forward(block.feed_forward, normed, arithmetic)


def add_norm(arithmetic: Arithmetic, hidden: Tensor, update: Tensor | None, norm: RMSNorm) -> tuple[Tensor, Tensor]:
    """(hidden + update, its norm)."""
    if update is None:
        return hidden, arithmetic.rms_norm(hidden, norm)
    return arithmetic.add_rms_norm(hidden, update, norm)


def project_qkv(
    attention: Attention, rows: Tensor, rotation: Tensor, arithmetic: Arithmetic
) -> tuple[Tensor, Tensor, Tensor]:
    """(T, dim) → query (T, H, D) and key (T, H_kv, D), rotated, and value (T, H_kv, D).

    One product and one rotation where loading laid the weights together.
    """
    heads, kv_heads, head_dim = attention.n_heads, attention.n_kv_heads, attention.head_dim
    fused = getattr(attention, "fused_qkv", None)
    if fused is not None:
        both = arithmetic.linear(rows, fused).view(rows.shape[0], -1, head_dim)
        rotated = arithmetic.rotate(both[:, : heads + kv_heads], rotation)
        return rotated[:, :heads], rotated[:, heads:], both[:, heads + kv_heads :]
    query = arithmetic.module(rows, attention.wq).view(-1, heads, head_dim)
    key = arithmetic.module(rows, attention.wk).view(-1, kv_heads, head_dim)
    value = arithmetic.module(rows, attention.wv).view(-1, kv_heads, head_dim)
    return arithmetic.rotate(query, rotation), arithmetic.rotate(key, rotation), value


def feed_forward(block: nn.Module, rows: Tensor, arithmetic: Arithmetic) -> Tensor:
    """The gated feed-forward, or a mixture of them: (T, dim) → (T, dim)."""
    if isinstance(block, MoeLayer):
        return _mixture(block, rows, arithmetic)
    assert isinstance(block, FeedForward), type(block)
    fused = getattr(block, "fused_w1_w3", None)
    if fused is None:
        both = torch.cat((F.linear(rows, block.w1.weight), F.linear(rows, block.w3.weight)), dim=-1)
    else:
        both = F.linear(rows, fused)
    return F.linear(arithmetic.gate(both), block.w2.weight)


def _mixture(block: MoeLayer, rows: Tensor, arithmetic: Arithmetic) -> Tensor:
    """Each row through its top experts, weighted by the softmax (float32) over those chosen.

    Every expert computes every row: the shapes then do not depend on which rows chose it, at num_experts /
    num_experts_per_tok times the arithmetic. Exact first; a grouped product would pay from a few hundred rows on.
    """
    chosen, experts = torch.topk(arithmetic.module(rows, block.gate), block.args.num_experts_per_tok)
    wide = torch.promote_types(rows.dtype, torch.float32)
    weights = torch.softmax(chosen, dim=1, dtype=wide).to(rows.dtype)
    result = torch.zeros_like(rows)
    for index, expert in enumerate(block.experts):
        share = (weights * (experts == index)).sum(dim=1, keepdim=True)  # 0 where the row did not choose it
        result = result + share * feed_forward(expert, rows, arithmetic)
    return result
