"""Page images to token features: normalise, cut into patches, encode, adapt to the decoder's width.

mistral-inference drops the mask of its vision encoder, so pages packed into one call attend to each other. Here
attention runs inside each image by its boundaries, and a page's features are those it has alone.

The functions keep gradients, so that training uses exactly what serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from workers.pixtral.model.config import PATCH_MERGE, ModelConfig, VisionConfig
from workers.pixtral.model.decoder import PLAIN, Decoder, Runner
from workers.pixtral.model.layers import Layer, RMSNorm
from workers.pixtral.model.transfer import to_device

# OpenAI CLIP's statistics of RGB in 0 … 1, as mistral_common.tokens.tokenizers.image has them.
DATASET_MEAN = (0.48145466, 0.4578275, 0.40821073)
DATASET_STD = (0.26862954, 0.26130258, 0.27577711)


NORM_EPS = 1e-5  # of every norm of the encoder; params.json does not name it


class VisionTransformer(nn.Module):
    """The stack of layers, which the checkpoint has under a name of its own."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        heads, head_dim = config.num_attention_heads, config.head_dim
        self.layers = nn.ModuleList(
            Layer(config.hidden_size, config.intermediate_size, heads, heads, head_dim, NORM_EPS)
            for _ in range(config.num_hidden_layers)
        )


class VisionEncoder(nn.Module):
    """The weights of the image tower."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.patch_conv = nn.Conv2d(config.num_channels, config.hidden_size, size, stride=size, bias=False)
        self.ln_pre = RMSNorm(config.hidden_size, NORM_EPS)
        self.transformer = VisionTransformer(config)


class Adapter(nn.Module):
    """From the tower's width to the decoder's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        vision = config.vision_encoder
        self.w_in = nn.Linear(vision.hidden_size, config.dim, bias=vision.adapter_bias)
        self.w_out = nn.Linear(config.dim, config.dim, bias=vision.adapter_bias)


class PatchMerger(nn.Module):
    """Squares of patches to one feature each."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        merged = config.hidden_size * config.spatial_merge_size**2
        self.merging_layer = nn.Linear(merged, config.hidden_size, bias=False)


class Pixtral(Decoder):
    """A whole checkpoint: the decoder, and the tower that reads pages for it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        vision = config.vision_encoder
        self.vision_encoder = VisionEncoder(vision)
        self.vision_language_adapter = Adapter(config)
        if vision.add_pre_mm_projector_layer_norm:
            self.pre_mm_projector_norm = RMSNorm(vision.hidden_size, NORM_EPS)
        if vision.mm_projector_id == PATCH_MERGE:
            self.patch_merger = PatchMerger(vision)


def normalise(pixels: Tensor) -> Tensor:
    """uint8 (H, W, 3) → float32 (H, W, 3); the same three roundings as mistral-common, so the same bits."""
    mean, std = _statistics(pixels.device)
    return (pixels.to(torch.float32) / 255.0 - mean) / std


@lru_cache(maxsize=8)
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (to_device(np.asarray(numbers, np.float32), device) for numbers in (DATASET_MEAN, DATASET_STD))
    return mean, std


def patchify(pixels: Tensor, patch_size: int) -> Tensor:
    """(H, W, C) → (P, C × patch_size²): patches row by row, each laid out as the convolution's filter is."""
    height, width, channels = pixels.shape
    grid = pixels.reshape(height // patch_size, patch_size, width // patch_size, patch_size, channels)
    return grid.permute(0, 2, 4, 1, 3).reshape(-1, channels * patch_size**2)


def rotation_2d(positions: Tensor, config: VisionConfig, dtype: torch.dtype) -> Tensor:
    """Cosine and sine for patches at (row, column): positions (P, 2) → (P, D/2, 2).

    Of the D/2 frequencies, the even ones turn by row and fill the first half of the pairs, the odd ones turn by
    column and fill the second half.
    """
    exponents = torch.arange(0, config.head_dim, 2, device=positions.device).float() / config.head_dim
    frequencies = 1.0 / (config.rope_theta**exponents)
    rows, columns = positions[:, :1].float(), positions[:, 1:].float()
    angles = torch.cat((rows * frequencies[::2], columns * frequencies[1::2]), dim=-1)
    return torch.stack((angles.cos(), angles.sin()), dim=-1).to(torch.promote_types(dtype, torch.float32))


def num_patches(shape: Sequence[int], config: VisionConfig) -> int:
    """Patches of an image of `shape` (H, W, 3)."""
    return (shape[0] // config.patch_size) * (shape[1] // config.patch_size)


def patch_positions(grids: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Row and column of every patch in its own image: grids of (rows, columns) → (P, 2), row by row as tokens run."""
    parts = [np.indices(grid).reshape(2, -1).T for grid in grids]
    return np.concatenate(parts) if parts else np.zeros((0, 2), np.int64)


@lru_cache(maxsize=64)
def _cached_positions(grids: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    return to_device(patch_positions(grids), device)


def encode_images(model: Pixtral, images: Sequence[Tensor], runner: Runner = PLAIN) -> Tensor:
    """Features of all images end to end, (N, dim), N patches (or merged patches) in token order.

    `images` are (H, W, 3) on the model's device: uint8 as a page is stored, or floating point and then taken as
    normalised already. Sides must be multiples of the patch size (times the merge size).
    """
    config, encoder, ops = model.config.vision_encoder, model.vision_encoder, runner.ops
    filters = encoder.patch_conv.weight
    grids = tuple((image.shape[0] // config.patch_size, image.shape[1] // config.patch_size) for image in images)
    lengths = [rows * columns for rows, columns in grids]
    total = sum(lengths)
    attend_inside = runner.packed_attention(lengths, filters.device)
    patches = [
        patchify(normalise(image) if image.dtype == torch.uint8 else image, config.patch_size).to(filters.dtype)
        for image in images
    ]
    hidden = pad_rows(torch.cat(patches), runner.padded(total))  # (P, C × patch²)
    rotation = rotation_2d(_cached_positions(grids, hidden.device), config, filters.dtype)
    rotation = pad_rows(rotation.flatten(1), hidden.shape[0]).view(hidden.shape[0], -1, 2)  # (P, D/2, 2)

    def embed(patches: Tensor) -> tuple[Tensor, ...]:
        return (ops.rms_norm(F.linear(patches, filters.flatten(1)), encoder.ln_pre),)

    def attend(_index: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return pad_rows(attend_inside(query[:total], key[:total], value[:total]).flatten(1), query.shape[0])

    def leave(hidden: Tensor, update: Tensor | None, _rotation: Tensor) -> tuple[Tensor, ...]:
        return (hidden if update is None else hidden + update,)

    (hidden,) = runner.rows(embed, hidden)  # (P, width)
    layers: list[Layer] = list(encoder.transformer.layers)  # type: ignore[arg-type]
    (hidden,) = runner.layers(layers, hidden, rotation, attend, leave)
    return _adapt(model, hidden, grids, total, runner)


def _adapt(
    model: Pixtral, hidden: Tensor, grids: Sequence[tuple[int, int]], num_patches: int, runner: Runner
) -> Tensor:
    """Norm and patch merger where the checkpoint has them (Mistral Small 3.x), then the two-layer adapter."""
    config = model.config.vision_encoder
    num_features = num_patches
    if config.add_pre_mm_projector_layer_norm:
        (hidden,) = runner.rows(lambda rows: (runner.ops.rms_norm(rows, model.pre_mm_projector_norm),), hidden)
    if config.mm_projector_id == PATCH_MERGE:
        merged = merge_patches(hidden[:num_patches], grids, config.spatial_merge_size)
        num_features = merged.shape[0]
        merged = pad_rows(merged, runner.padded(num_features))
        (hidden,) = runner.rows(lambda rows: (model.patch_merger.merging_layer(rows),), merged)
    adapter = model.vision_language_adapter
    (features,) = runner.rows(lambda rows: (adapter.w_out(F.gelu(adapter.w_in(rows))),), hidden)
    return features[:num_features]


def merge_patches(hidden: Tensor, grids: Sequence[tuple[int, int]], size: int) -> Tensor:
    """Squares of size × size patches side by side: (P, width) → (P / size², width × size²), channel first.

    The order inside a merged row is that of `torch.nn.functional.unfold`: channel, then row, then column.
    """
    merged, first = [], 0
    for rows, columns in grids:
        image, first = hidden[first : first + rows * columns], first + rows * columns
        squares = image.reshape(rows // size, size, columns // size, size, -1)
        merged.append(squares.permute(0, 2, 4, 1, 3).flatten(2).flatten(0, 1))
    return torch.cat(merged)


def pad_rows(rows: Tensor, num_rows: int) -> Tensor:
    """Zero rows below, up to `num_rows`; they cost their share of a tile and nobody reads them."""
    return F.pad(rows, (0, 0, 0, num_rows - rows.shape[0])) if num_rows > rows.shape[0] else rows
