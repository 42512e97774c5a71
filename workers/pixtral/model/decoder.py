"""Tokens and image features to hidden states and logits: the decoder, over a pack of sequences.

`run_layers` knows neither sequences nor caches: it hands the rotated queries, keys and values of each layer to an
`Attend`, which alone knows who may look at whom. Training passes `causal(lengths)`; the engine passes one that
writes to and reads from the paged cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.pixtral.cpu.attention import Boundaries, attend_packed
from workers.pixtral.cpu.tiles import PLAIN, Arithmetic
from workers.pixtral.model.layers import Attend, add_norm, finish_block, run_blocks
from workers.pixtral.upstream import Transformer, TransformerArgs, TransformerBlock


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
    if wanted is not None:
        return _run_wanted(model, layers, hidden, rotation, attend, arithmetic, wanted)

    def leave(hidden: Tensor, update: Tensor | None, _rotation: Tensor) -> tuple[Tensor, ...]:
        return (add_norm(arithmetic, hidden, update, model.norm)[1],)

    return run_blocks(layers, hidden, rotation, attend, arithmetic, leave)[0]


def _run_wanted(
    model: Transformer,
    layers: list[TransformerBlock],
    hidden: Tensor,
    rotation: Tensor,
    attend: Attend,
    arithmetic: Arithmetic,
    wanted: Wanted,
) -> Tensor:
    """Of the last layer, keys and values of all rows, the rest for the wanted ones: (R, dim)."""
    index, last = len(layers) - 1, layers[-1]
    attention, few, rows = last.attention, wanted.arithmetic, wanted.rows
    heads, kv_heads, head_dim = attention.n_heads, attention.n_kv_heads, attention.head_dim

    def leave(hidden: Tensor, update: Tensor | None, rotation: Tensor) -> tuple[Tensor, ...]:
        hidden, normed = add_norm(arithmetic, hidden, update, last.attention_norm)
        both = arithmetic.linear(normed, attention.fused_qkv[heads * head_dim :]).view(-1, 2 * kv_heads, head_dim)
        return hidden, normed, arithmetic.rotate(both[:, :kv_heads], rotation), both[:, kv_heads:]

    def project(normed: Tensor, rotation: Tensor) -> tuple[Tensor, ...]:
        return (few.rotate(few.module(normed, attention.wq).view(-1, heads, head_dim), rotation),)

    def finish(hidden: Tensor, attended: Tensor) -> tuple[Tensor, ...]:
        return (few.add_rms_norm(*finish_block(last, hidden, attended, few), model.norm)[1],)

    hidden, normed, key, value = run_blocks(layers[:-1], hidden, rotation, attend, arithmetic, leave)
    wanted.store(index, key, value)
    (query,) = few.by_tile(project, normed[rows], rotation[rows])
    return few.by_tile(finish, hidden[rows], wanted.attend(index, query))[0]


def logits(model: Transformer, hidden: Tensor, arithmetic: Arithmetic = PLAIN) -> Tensor:
    """(R, dim) → (R, vocabulary), in the model's own dtype; only for rows whose next token is wanted."""
    return arithmetic.linear(hidden, model.output.weight)
