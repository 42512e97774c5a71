"""Tokens and image features to hidden states and logits: the decoder, over a pack of sequences.

`run_layers` knows neither sequences nor caches: it hands the rotated queries, keys and values of each layer to an
`Attend`, which alone knows who may look at whom. Training passes `causal(lengths)`; the engine passes one that
writes to and reads from the paged cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.pixtral.arithmetic import PLAIN, Arithmetic
from workers.pixtral.attention import Boundaries, attend_packed
from workers.pixtral.upstream import (
    Attention,
    FeedForward,
    MoeLayer,
    Transformer,
    TransformerArgs,
    TransformerBlock,
)

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer index, query (T, H, D), key (T, H_kv, D), value (T, H_kv, D)) → (T, H × D)."""


def causal(model: Transformer, lengths: Sequence[int]) -> Attend:
    """Each of the packed sequences attends to itself and its past, and to nothing else; no cache."""
    boundaries = Boundaries.of(lengths, model.device, model.dtype)
    return lambda _layer, query, key, value: attend_packed(query, key, value, boundaries, causal=True).flatten(1)


def rotation_1d(positions: Tensor, args: TransformerArgs, dtype: torch.dtype) -> Tensor:
    """Cosine and sine at each position, angles in float32: positions (T,) → (T, D/2, 2)."""
    exponents = torch.arange(0, args.head_dim, 2, device=positions.device).float() / args.head_dim
    frequencies = 1.0 / (args.rope_theta**exponents)
    angles = positions[:, None].float() * frequencies
    return torch.stack((angles.cos(), angles.sin()), dim=-1).to(torch.promote_types(dtype, torch.float32))


def embed(model: Transformer, token_ids: Tensor, features: Tensor | None = None) -> Tensor:
    """(T,) → (T, dim): every image token, in order, takes the next row of `features`; the rest their embedding."""
    rows = F.embedding(token_ids, model.tok_embeddings.weight)
    if features is None:
        return rows
    is_image = token_ids == model.args.vision_encoder.image_token_id
    return rows.masked_scatter(is_image[:, None], features.to(rows.dtype))


class Wanted(Protocol):
    """The rows whose next token is wanted: of the last layer, the others need only leave their keys and values."""

    rows: Tensor  # (R,) their places in the pack
    arithmetic: Arithmetic  # for R rows

    def store(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Write all rows' keys and values (T, H_kv, D) to the cache."""
        ...

    def attend(self, layer: int, query: Tensor) -> Tensor:
        """The wanted rows over their sequences' caches: query (R, H, D) → (R, H × D)."""
        ...


def run_layers(
    model: Transformer,
    hidden: Tensor,
    positions: Tensor,
    attend: Attend,
    arithmetic: Arithmetic = PLAIN,
    wanted: Wanted | None = None,
) -> Tensor:
    """hidden (T, dim), positions (T,) → after the final norm (T, dim), or (R, dim) if only R rows are `wanted`."""
    rotation = rotation_1d(positions, model.args, hidden.dtype)
    layers = list(model.layers.values())
    update: Tensor | None = None
    for index, layer in enumerate(layers):
        if update is None:
            normed = arithmetic.rms_norm(hidden, layer.attention_norm)
        else:
            hidden, normed = arithmetic.add_rms_norm(hidden, update, layer.attention_norm)
        if wanted is not None and index == len(layers) - 1:
            hidden, update = _last_layer(layer, index, hidden, normed, rotation, arithmetic, wanted)
            return wanted.arithmetic.add_rms_norm(hidden, update, model.norm)[1]
        query, key, value = project_qkv(layer.attention, normed, arithmetic)
        query, key = arithmetic.rotate(query, rotation), arithmetic.rotate(key, rotation)
        attended = attend(index, query, key, value)  # (T, H × D)
        hidden, normed = arithmetic.add_rms_norm(
            hidden, arithmetic.module(attended, layer.attention.wo), layer.ffn_norm
        )
        update = feed_forward(layer.feed_forward, normed, arithmetic)
    assert update is not None, "a decoder has layers"
    return arithmetic.add_rms_norm(hidden, update, model.norm)[1]


def _last_layer(
    layer: TransformerBlock,
    index: int,
    hidden: Tensor,
    normed: Tensor,
    rotation: Tensor,
    arithmetic: Arithmetic,
    wanted: Wanted,
) -> tuple[Tensor, Tensor]:
    """Keys and values of all rows, the rest for the wanted ones: residual stream and its update, (R, dim) each."""
    attention = layer.attention
    heads, kv_heads, head_dim = attention.n_heads, attention.n_kv_heads, attention.head_dim
    both = arithmetic.linear(normed, attention.fused_qkv[heads * head_dim :]).view(-1, 2 * kv_heads, head_dim)
    wanted.store(index, arithmetic.rotate(both[:, :kv_heads], rotation), both[:, kv_heads:])
    few, rows = wanted.arithmetic, wanted.rows
    query = few.module(normed[rows], attention.wq).view(-1, heads, head_dim)
    attended = wanted.attend(index, few.rotate(query, rotation[rows]))
    hidden, normed = few.add_rms_norm(hidden[rows], few.module(attended, attention.wo), layer.ffn_norm)
    return hidden, feed_forward(layer.feed_forward, normed, few)


def logits(model: Transformer, hidden: Tensor, arithmetic: Arithmetic = PLAIN) -> Tensor:
    """(R, dim) → (R, vocabulary), in the model's own dtype; only for rows whose next token is wanted."""
    return arithmetic.linear(hidden, model.output.weight)


def project_qkv(attention: Attention, rows: Tensor, arithmetic: Arithmetic) -> tuple[Tensor, Tensor, Tensor]:
    """(T, dim) → query (T, H, D), key and value (T, H_kv, D); one product where loading laid the weights together."""
    heads, kv_heads, head_dim = attention.n_heads, attention.n_kv_heads, attention.head_dim
    fused = getattr(attention, "fused_qkv", None)
    if fused is not None:
        both = arithmetic.linear(rows, fused).view(rows.shape[0], -1, head_dim)
        return both[:, :heads], both[:, heads : heads + kv_heads], both[:, heads + kv_heads :]
    query = arithmetic.module(rows, attention.wq).view(-1, heads, head_dim)
    key = arithmetic.module(rows, attention.wk).view(-1, kv_heads, head_dim)
    value = arithmetic.module(rows, attention.wv).view(-1, kv_heads, head_dim)
    return query, key, value


def feed_forward(block: nn.Module, rows: Tensor, arithmetic: Arithmetic) -> Tensor:
    """The gated feed-forward, or a mixture of them: (T, dim) → (T, dim)."""
    if isinstance(block, MoeLayer):
        return _mixture(block, rows, arithmetic)
    assert isinstance(block, FeedForward), type(block)
    fused = getattr(block, "fused_w1_w3", None)

    def compute(tile: Tensor) -> Tensor:  # a tile stays in the processor's cache from one product to the next
        if fused is None:
            both = torch.cat((F.linear(tile, block.w1.weight), F.linear(tile, block.w3.weight)), dim=-1)
        else:
            both = F.linear(tile, fused)
        return F.linear(arithmetic.gate(both), block.w2.weight)

    return arithmetic.by_tile(rows, compute)


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
