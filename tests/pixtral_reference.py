"""Pixtral, written plainly from the paper and params.json: one page, float64, no cache, no packing, no cleverness.

Independent of both the engine and mistral-inference (it reads their weights by name only), slow, and the measure of
both. Agrawal et al. 2024, "Pixtral 12B", arXiv:2410.07073.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def as_float64(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in state.items()}


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + eps) * weight


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """x (T, H, D), angles (T, D/2): pair i is (x[2i], x[2i + 1])."""
    out = torch.empty_like(x)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    out[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
    out[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
    return out


def attention(w: Weights, at: str, x: Tensor, angles: Tensor, heads: int, kv_heads: int, causal: bool) -> Tensor:
    num = x.shape[0]
    query = rotate((x @ w[f"{at}.wq.weight"].T).view(num, heads, -1), angles)
    key = rotate((x @ w[f"{at}.wk.weight"].T).view(num, kv_heads, -1), angles)
    value = (x @ w[f"{at}.wv.weight"].T).view(num, kv_heads, -1)
    out = torch.empty_like(query)
    for head in range(heads):
        kv = head * kv_heads // heads
        scores = query[:, head] @ key[:, kv].T / query.shape[-1] ** 0.5
        if causal:
            scores = scores.masked_fill(torch.ones(num, num, dtype=torch.bool).triu(1), -torch.inf)
        out[:, head] = scores.softmax(-1) @ value[:, kv]
    return out.flatten(1) @ w[f"{at}.wo.weight"].T


def gated(w: Weights, at: str, x: Tensor) -> Tensor:
    first = x @ w[f"{at}.w1.weight"].T
    return (first * torch.sigmoid(first) * (x @ w[f"{at}.w3.weight"].T)) @ w[f"{at}.w2.weight"].T


def mixture(w: Weights, at: str, x: Tensor, moe: Mapping[str, int]) -> Tensor:
    out = torch.zeros_like(x)
    for row in range(x.shape[0]):
        scores = w[f"{at}.gate.weight"] @ x[row]
        best = scores.argsort(descending=True)[: moe["num_experts_per_tok"]]
        for share, expert in zip(scores[best].softmax(0), best.tolist(), strict=True):
            out[row] += share * gated(w, f"{at}.experts.{expert}", x[row : row + 1])[0]
    return out


def image_features(w: Weights, params: Mapping[str, Any], pixels: np.ndarray) -> Tensor:
    """pixels uint8 (H, W, 3) → (image tokens, dim)."""
    v = params["vision_encoder"]
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    image = (torch.from_numpy(pixels.astype(np.float64)) / 255 - torch.tensor(mean).double()) / torch.tensor(
        std
    ).double()
    size, rows, columns = (
        v["patch_size"],
        pixels.shape[0] // v["patch_size"],
        pixels.shape[1] // v["patch_size"],
    )
    filters = w["vision_encoder.patch_conv.weight"]
    x = torch.stack(
        [
            torch.einsum("hwc,ochw->o", image[r * size : (r + 1) * size, c * size : (c + 1) * size], filters)
            for r in range(rows)
            for c in range(columns)
        ]
    )
    x = norm(x, w["vision_encoder.ln_pre.weight"], 1e-5)
    head_dim = v["hidden_size"] // v["num_attention_heads"]
    frequency = [v["rope_theta"] ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    angles = torch.tensor(
        [
            [r * f for f in frequency[0::2]] + [c * f for f in frequency[1::2]]
            for r in range(rows)
            for c in range(columns)
        ]
    ).double()
    for i in range(v["num_hidden_layers"]):
        at = f"vision_encoder.transformer.layers.{i}"
        heads = v["num_attention_heads"]
        x = x + attention(
            w, f"{at}.attention", norm(x, w[f"{at}.attention_norm.weight"], 1e-5), angles, heads, heads, False
        )
        x = x + gated(w, f"{at}.feed_forward", norm(x, w[f"{at}.ffn_norm.weight"], 1e-5))
    if v.get("add_pre_mm_projector_layer_norm"):
        x = norm(x, w["pre_mm_projector_norm.weight"], 1e-5)
    if v.get("mm_projector_id") == "patch_merge":
        m = v["spatial_merge_size"]
        grid = x.view(rows, columns, -1)
        x = torch.stack(
            [
                grid[r : r + m, c : c + m].permute(2, 0, 1).flatten()
                for r in range(0, rows, m)
                for c in range(0, columns, m)
            ]
        )
        x = x @ w["patch_merger.merging_layer.weight"].T
    zero = torch.zeros(1).double()
    x = x @ w["vision_language_adapter.w_in.weight"].T + w.get("vision_language_adapter.w_in.bias", zero)
    x = x * 0.5 * (1 + torch.erf(x / 2**0.5))
    return x @ w["vision_language_adapter.w_out.weight"].T + w.get("vision_language_adapter.w_out.bias", zero)


def logits(w: Weights, params: Mapping[str, Any], tokens: list[int], images: list[np.ndarray]) -> Tensor:
    """Logits of every position, (T, vocabulary)."""
    x = w["tok_embeddings.weight"][torch.tensor(tokens)].clone()
    if images:
        places = [i for i, token in enumerate(tokens) if token == params["vision_encoder"]["image_token_id"]]
        x[places] = torch.cat([image_features(w, params, pixels) for pixels in images])
    frequency = torch.tensor(
        [params["rope_theta"] ** (-2 * i / params["head_dim"]) for i in range(params["head_dim"] // 2)]
    ).double()
    angles = torch.arange(len(tokens)).double()[:, None] * frequency
    eps = params["norm_eps"]
    for i in range(params["n_layers"]):
        at = f"layers.{i}"
        h = norm(x, w[f"{at}.attention_norm.weight"], eps)
        x = x + attention(w, f"{at}.attention", h, angles, params["n_heads"], params["n_kv_heads"], True)
        h = norm(x, w[f"{at}.ffn_norm.weight"], eps)
        x = x + (
            mixture(w, f"{at}.feed_forward", h, params["moe"]) if "moe" in params else gated(w, f"{at}.feed_forward", h)
        )
    return norm(x, w["norm.weight"], eps) @ w["output.weight"].T


def greedy(w: Weights, params: Mapping[str, Any], tokens: list[int], images: list[np.ndarray], count: int) -> list[int]:
    """The next `count` tokens, each from a whole forward pass."""
    grown = list(tokens)
    for _ in range(count):
        grown.append(int(logits(w, params, grown, images)[-1].argmax()))
    return grown[len(tokens) :]
