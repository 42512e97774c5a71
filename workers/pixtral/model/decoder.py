"""Tokens and image features to hidden states and logits: the decoder, over a pack of sequences.

`Runner.layers` is the loop: project, attend, finish, layer after layer. It knows neither sequences nor caches: it hands
the rotated queries, keys and values of each layer to an `Attend`, which alone knows who may look at whom: the
engine's writes to and reads from the paged cache. A backend's own runner
may cut the rows of a pack for its processor or fuse operations; `PLAIN` takes them as they come, with gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.pixtral.model.config import ModelConfig
from workers.pixtral.model.layers import Layer, Operations, Reduce, RMSNorm
from workers.pixtral.model.packed import PackedAttention, attend_packed

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer index, query (T, H, D), key (T, H_kv, D), value (T, H_kv, D)) → (T, H × D)."""

Leave = Callable[[Tensor, Tensor | None, Tensor], tuple[Tensor, ...]]
"""(residual stream (T, dim), an update not yet added or None, rotation of each row) → what comes of each row."""


class Runner:
    """How a pack of rows runs through layers: here all at once."""

    def __init__(self, ops: Operations | None = None) -> None:
        self.ops = ops or Operations()

    def padded(self, num_rows: int) -> int:
        """Rows to compute for so many."""
        return num_rows

    def rows(self, compute: Callable[..., tuple[Tensor, ...]], *rows: Tensor) -> tuple[Tensor, ...]:
        """`compute` over all of `rows` (T, …); each row of what it returns depends on the same row alone."""
        return compute(*rows)

    def packed_attention(self, lengths: Sequence[int], device: torch.device) -> PackedAttention:
        """Each of the packed sequences looks at all of itself; made once for all layers."""
        return lambda query, key, value: attend_packed(query, key, value, lengths, causal=False)

    def layers(
        self, layers: Iterable[Layer], hidden: Tensor, rotation: Tensor, attend: Attend, leave: Leave
    ) -> tuple[Tensor, ...]:
        """hidden (T, dim) through all layers; what `leave` makes of each row at the end."""
        update = None
        for index, layer in enumerate(layers):
            hidden, query, key, value = layer.project(hidden, update, rotation, self.ops)
            attended = attend(index, query, key, value)
            hidden, update = layer.finish(hidden, attended, self.ops)
        return leave(hidden, update, rotation)


PLAIN = Runner()


class Decoder(nn.Module):
    """The weights of the text model, by the checkpoint's names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.is_half = False
        # Not filled with random numbers: on the device `meta` that imports torch's compiler, a second of each start.
        empty = torch.empty(config.vocab_size, config.dim)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim, _weight=empty)
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.tie()
        self.layers = nn.ModuleList(
            Layer(
                config.dim,
                config.hidden_dim,
                config.n_heads,
                config.n_kv_heads,
                config.head_dim,
                config.norm_eps,
                config.moe,
            )
            for _ in range(config.n_layers)
        )

    def tie(self) -> None:
        """One tensor for the table of tokens and the head, where the checkpoint has one; after either was replaced."""
        if self.config.tied_embeddings:
            self.output.weight = self.tok_embeddings.weight

    def share(self, reduce: Reduce) -> None:
        """This is half of a model: `reduce` sums each layer's updates over both, which call it in the same order."""
        self.is_half = True
        for layer in layers_of(self):
            layer.reduce = reduce

    @property
    def dtype(self) -> torch.dtype:
        return self.output.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.output.weight.device


def rotation_1d(positions: Tensor, config: ModelConfig, dtype: torch.dtype) -> Tensor:
    """Cosine and sine at each position, angles in float32: positions (T,) → (T, D/2, 2).

    Where scores grow with the position, the queries' own, longer by as much, and the keys': (T, 2, D/2, 2).
    """
    angles = positions[:, None].float() * _frequencies(config, positions.device)
    rotation = torch.stack((angles.cos(), angles.sin()), dim=-1).to(torch.promote_types(dtype, torch.float32))
    if config.yarn is not None and config.yarn.apply_scale:
        rotation = rotation * (0.1 * math.log(config.yarn.factor) + 1.0)
    scaling = config.llama_4_scaling
    if scaling is None:
        return rotation
    stretches = torch.floor(positions / scaling.original_max_position_embeddings)
    growth = 1.0 + scaling.beta * torch.log1p(stretches)
    return torch.stack((rotation * growth[:, None, None], rotation), dim=1)


def _frequencies(config: ModelConfig, device: torch.device) -> Tensor:
    """How far each pair of numbers turns from one position to the next, in float32: (D/2,).

    With YaRN a pair that turns fewer than `alpha` times in the original length turns `factor` times slower, one that
    turns more than `beta` times as before, and those between in proportion to their place.
    """
    size, theta, yarn = config.head_dim, config.rope_theta, config.yarn
    exponents = torch.arange(0, size, 2, device=device).float() / size
    frequencies = 1.0 / (theta**exponents)
    if yarn is None:
        return frequencies

    def place(turns: float) -> float:
        """Of the pair that turns so often in the original length."""
        return size * math.log(yarn.original_max_position_embeddings / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = max(math.floor(place(yarn.beta)), 0), min(math.ceil(place(yarn.alpha)), size - 1)
    slower = (torch.arange(size // 2, device=device).float() - first) / max(last - first, 0.001)
    slower = slower.clamp(0.0, 1.0)
    return frequencies * (1.0 - slower) + frequencies / yarn.factor * slower


def embed(model: Decoder, token_ids: Tensor, features: Tensor | None = None) -> Tensor:
    """(T,) → (T, dim): every image token, in order, takes the next row of `features`; the rest their embedding."""
    rows = F.embedding(token_ids, model.tok_embeddings.weight)
    if features is None:
        return rows
    is_image = token_ids == model.config.vision_encoder.image_token_id
    return rows.masked_scatter(is_image[:, None], features.to(rows.dtype))


class Wanted(Protocol):
    """The rows whose next token is wanted: of the last layer, the others need only leave their keys and values."""

    rows: Tensor  # (R,) their places in the pack
    runner: Runner  # for R rows

    def store(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Write all rows' keys and values (T, H_kv, D) to the cache."""
        ...

    def attend(self, layer: int, query: Tensor) -> Tensor:
        """The wanted rows over their sequences' caches: query (R, H, D) → (R, H × D)."""
        ...


def run_layers(
    model: Decoder,
    hidden: Tensor,
    positions: Tensor,
    attend: Attend,
    runner: Runner = PLAIN,
    wanted: Wanted | None = None,
) -> Tensor:
    """hidden (T, dim), positions (T,) → after the final norm (T, dim), or (R, dim) if only R rows are `wanted`."""
    rotation = rotation_1d(positions, model.config, hidden.dtype)
    if wanted is not None:
        return _run_wanted(model, hidden, rotation, attend, runner, wanted)

    def leave(hidden: Tensor, update: Tensor | None, _rotation: Tensor) -> tuple[Tensor, ...]:
        return (runner.ops.add_norm(hidden, update, model.norm)[1],)

    return runner.layers(layers_of(model), hidden, rotation, attend, leave)[0]


def _run_wanted(
    model: Decoder, hidden: Tensor, rotation: Tensor, attend: Attend, runner: Runner, wanted: Wanted
) -> Tensor:
    """Of the last layer, keys and values of all rows, the rest for the wanted ones: (R, dim)."""
    *layers, last = layers_of(model)
    ops, few, rows = runner.ops, wanted.runner, wanted.rows

    def leave(hidden: Tensor, update: Tensor | None, rotation: Tensor) -> tuple[Tensor, ...]:
        hidden, normed = ops.add_norm(hidden, update, last.attention_norm)
        return hidden, normed, *last.attention.key_value(normed, rotation, ops)

    def project(normed: Tensor, rotation: Tensor) -> tuple[Tensor, ...]:
        return (last.attention.query(normed, rotation, few.ops),)

    def finish(hidden: Tensor, attended: Tensor) -> tuple[Tensor, ...]:
        return (few.ops.add_rms_norm(*last.finish(hidden, attended, few.ops), model.norm)[1],)

    hidden, normed, key, value = runner.layers(layers, hidden, rotation, attend, leave)
    wanted.store(len(layers), key, value)
    (query,) = few.rows(project, normed[rows], rotation[rows])
    return few.rows(finish, hidden[rows], wanted.attend(len(layers), query))[0]


def layers_of(model: Decoder) -> list[Layer]:
    """The decoder's."""
    return list(model.layers)  # type: ignore[arg-type]


def logits(model: Decoder, hidden: Tensor) -> Tensor:
    """(R, dim) → (R, vocabulary), in the model's own dtype; only for rows whose next token is wanted."""
    return F.linear(hidden, model.output.weight)
