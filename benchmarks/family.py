"""The params.json of the checkpoints that pagepack reads, as they are published, and the same forms made small.

Sources: transformers' classes for them (`mistral3`, `ministral3`, `pixtral`) with their defaults, what transformers and
vLLM make of each key of a params.json, and the makers' pages for the number of parameters.
"""

from __future__ import annotations

import copy
from typing import Any

from benchmarks.checkpoint import PRESETS

_TOWER = {
    "hidden_size": 1024, "num_channels": 3, "max_image_size": 1540, "patch_size": 14, "rope_theta": 10000.0,
    "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "adapter_bias": False,
    "mm_projector_id": "patch_merge", "spatial_merge_size": 2, "add_pre_mm_projector_layer_norm": True,
    "image_token_id": 10, "image_break_token_id": 12, "image_end_token_id": 13, "image_size": 1540,
}  # fmt: skip
_SMALL = {
    "dim": 5120, "n_layers": 40, "head_dim": 128, "hidden_dim": 32768, "n_heads": 32, "n_kv_heads": 8,
    "rope_theta": 1000000000.0, "norm_eps": 1e-05, "vocab_size": 131072, "max_position_embeddings": 131072,
    "vision_encoder": _TOWER,
}  # fmt: skip


def _ministral(dim: int, n_layers: int, hidden_dim: int, *, tied: bool) -> dict[str, Any]:
    return {
        "dim": dim, "n_layers": n_layers, "head_dim": 128, "hidden_dim": hidden_dim, "n_heads": 32, "n_kv_heads": 8,
        "rope_theta": 1000000.0, "norm_eps": 1e-05, "vocab_size": 131072, "tied_embeddings": tied,
        "max_position_embeddings": 262144, "q_lora_rank": None, "qk_rope_head_dim": None, "qk_nope_head_dim": None,
        "kv_lora_rank": None, "v_head_dim": None, "quantization": None, "moe": None,
        "llama_4_scaling": {"original_max_position_embeddings": 16384, "beta": 0.1},
        "yarn": {
            "original_max_position_embeddings": 16384, "factor": 16, "apply_scale": False, "beta": 32, "alpha": 1,
        },
        "vision_encoder": _TOWER,
    }  # fmt: skip


FP8: dict[str, Any] = {"quantization": {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}}
"""What the instructed ones of Ministral 3 have besides."""

FAMILY: dict[str, dict[str, Any]] = {
    "Pixtral 12B": PRESETS["12b"],
    "Mistral Small 3.1": _SMALL,
    "Mistral Small 3.2": _SMALL,
    "Magistral Small 1.2": _SMALL,
    "Ministral 3 3B": _ministral(3072, 26, 9216, tied=True),
    "Ministral 3 8B": _ministral(4096, 34, 14336, tied=False),
    "Ministral 3 14B": _ministral(5120, 40, 16384, tied=False),
}


def made_small(params: dict[str, Any], vocab_size: int = 296) -> dict[str, Any]:
    """The same keys, patches, merging and rotations, in two narrow layers of each tower."""
    small = copy.deepcopy(params) | {
        "dim": 64, "n_layers": 2, "head_dim": 16, "hidden_dim": 128, "n_heads": 4, "n_kv_heads": 2,
        "vocab_size": vocab_size,
    }  # fmt: skip
    small["vision_encoder"] |= {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    }  # fmt: skip
    return small
