"""Page images to token features: normalise, cut into patches, encode, adapt to the decoder's width.

mistral-inference drops the mask of its vision encoder, so pages packed into one call attend to each other. Here
attention runs inside each image by its boundaries, and a page's features are those it has alone.

The functions walk mistral-inference's module tree and keep gradients, so that training uses exactly what serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.pixtral.cpu.attention import Boundaries, attend_packed
from workers.pixtral.cpu.tiles import PLAIN, Arithmetic, pad_rows
from workers.pixtral.model.layers import run_blocks
from workers.pixtral.plan import batch
from workers.pixtral.upstream import PATCH_MERGE, Transformer, VisionEncoderArgs

# OpenAI CLIP's statistics of RGB in 0 … 1, as mistral_common.tokens.tokenizers.image has them.
DATASET_MEAN = (0.48145466, 0.4578275, 0.40821073)
DATASET_STD = (0.26862954, 0.26130258, 0.27577711)


def normalise(pixels: Tensor) -> Tensor:
    """uint8 (H, W, 3) → float32 (H, W, 3); the same three roundings as mistral-common, so the same bits."""
    mean, std = _statistics(pixels.device)
    return (pixels.to(torch.float32) / 255.0 - mean) / std


@lru_cache(maxsize=8)
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor(DATASET_MEAN, device=device), torch.tensor(DATASET_STD, device=device)


def patchify(pixels: Tensor, patch_size: int) -> Tensor:
    """(H, W, C) → (P, C × patch_size²): patches row by row, each laid out as the convolution's filter is."""
    height, width, channels = pixels.shape
    grid = pixels.reshape(height // patch_size, patch_size, width // patch_size, patch_size, channels)
    return grid.permute(0, 2, 4, 1, 3).reshape(-1, channels * patch_size**2)


def rotation_2d(positions: Tensor, args: VisionEncoderArgs, dtype: torch.dtype) -> Tensor:
    """Cosine and sine for patches at (row, column): positions (P, 2) → (P, D/2, 2).

    Of the D/2 frequencies, the even ones turn by row and fill the first half of the pairs, the odd ones turn by
    column and fill the second half.
    """
    head_dim = args.hidden_size // args.num_attention_heads
    exponents = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    frequencies = 1.0 / (args.rope_theta**exponents)
    rows, columns = positions[:, :1].float(), positions[:, 1:].float()
    angles = torch.cat((rows * frequencies[::2], columns * frequencies[1::2]), dim=-1)
    return torch.stack((angles.cos(), angles.sin()), dim=-1).to(torch.promote_types(dtype, torch.float32))


def num_patches(shape: Sequence[int], model: Transformer) -> int:
    """Patches of an image of `shape` (H, W, 3)."""
    size: int = model.args.vision_encoder.patch_size
    return (shape[0] // size) * (shape[1] // size)


@lru_cache(maxsize=64)
def _cached_positions(grids: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    return torch.from_numpy(batch.patch_positions(grids)).to(device)


def encode_images(model: Transformer, images: Sequence[Tensor], arithmetic: Arithmetic = PLAIN) -> Tensor:
    """Features of all images end to end, (N, dim), N patches (or merged patches) in token order.

    `images` are (H, W, 3) on the model's device: uint8 as a page is stored, or floating point and then taken as
    normalised already. Sides must be multiples of the patch size (times the merge size).
    """
    args: VisionEncoderArgs = model.args.vision_encoder
    encoder = model.vision_encoder
    dtype = encoder.patch_conv.weight.dtype
    grids = tuple((image.shape[0] // args.patch_size, image.shape[1] // args.patch_size) for image in images)
    lengths = [rows * columns for rows, columns in grids]
    total = sum(lengths)
    boundaries = Boundaries.of(lengths, encoder.patch_conv.weight.device, dtype)
    patches = [
        patchify(normalise(image) if image.dtype == torch.uint8 else image, args.patch_size).to(dtype)
        for image in images
    ]
    hidden = pad_rows(torch.cat(patches), arithmetic.padded(total))  # (P, C × patch²)
    rotation = rotation_2d(_cached_positions(grids, hidden.device), args, dtype)
    rotation = pad_rows(rotation.flatten(1), hidden.shape[0]).view(hidden.shape[0], -1, 2)  # (P, D/2, 2)

    def embed(patches: Tensor) -> tuple[Tensor, ...]:
        return (arithmetic.rms_norm(arithmetic.linear(patches, encoder.patch_conv.weight.flatten(1)), encoder.ln_pre),)

    def attend(_index: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        attended = attend_packed(query[:total], key[:total], value[:total], boundaries, lanes=arithmetic.lanes)
        return pad_rows(attended.flatten(1), query.shape[0])

    def leave(hidden: Tensor, update: Tensor | None, _rotation: Tensor) -> tuple[Tensor, ...]:
        return (hidden if update is None else hidden + update,)

    (hidden,) = arithmetic.by_tile(embed, hidden)  # (P, width)
    (hidden,) = run_blocks(list(encoder.transformer.layers), hidden, rotation, attend, arithmetic, leave)
    return _adapt(model, hidden, grids, total, arithmetic)


def _adapt(
    model: Transformer,
    hidden: Tensor,
    grids: Sequence[tuple[int, int]],
    num_patches: int,
    arithmetic: Arithmetic,
) -> Tensor:
    """Norm and patch merger where the checkpoint has them (Mistral Small 3.x), then the two-layer adapter."""
    args: VisionEncoderArgs = model.args.vision_encoder
    num_features = num_patches
    if args.add_pre_mm_projector_layer_norm:
        (hidden,) = arithmetic.by_tile(lambda rows: (arithmetic.rms_norm(rows, model.pre_mm_projector_norm),), hidden)
    if args.mm_projector_id == PATCH_MERGE:
        merged = merge_patches(hidden[:num_patches], grids, args.spatial_merge_size)
        num_features = merged.shape[0]
        merged = pad_rows(merged, arithmetic.padded(num_features))
        merge = model.patch_merger.merging_layer
        (hidden,) = arithmetic.by_tile(lambda rows: (arithmetic.module(rows, merge),), merged)
    adapter = model.vision_language_adapter

    def adapt(rows: Tensor) -> tuple[Tensor, ...]:
        return (arithmetic.module(F.gelu(arithmetic.module(rows, adapter.w_in)), adapter.w_out),)

    return arithmetic.by_tile(adapt, hidden)[0][:num_features]


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
