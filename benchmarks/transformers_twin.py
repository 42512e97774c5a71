"""The same checkpoint as transformers' own classes: an independent implementation to compare with.

Pixtral 12B is its `Llava`, Mistral Small 3.x and Ministral 3 its `Mistral3` around `Mistral` or `Ministral3`.

transformers rotates halves where Mistral rotates neighbouring pairs, so the rows of every query and key projection are
put in its order: (D/2, 2) → (2, D/2) within each head.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from workers.pixtral.model.config import PATCH_MERGE, ModelConfig, read_config


def permute_heads(weight: Tensor, heads: int) -> Tensor:
    """Rows of each head from neighbouring pairs to halves."""
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def transformers_twin(folder: Path, dtype: torch.dtype) -> Any:
    """A model of transformers with the weights of `folder` (no experts, no fp8)."""
    return twin_of(read_config(folder), load_file(folder / "consolidated.safetensors"), dtype)


def twin_of(args: ModelConfig, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Any:
    """The same of tensors by the checkpoint's names."""
    import transformers
    from transformers import LlavaForConditionalGeneration, Mistral3ForConditionalGeneration

    transformers.logging.set_verbosity_error()
    is_merging = args.vision_encoder.mm_projector_id == PATCH_MERGE
    config = _config(args, is_merging=is_merging)
    with torch.device("meta"):
        model = (Mistral3ForConditionalGeneration if is_merging else LlavaForConditionalGeneration)(config)
    model.to_empty(device="cpu")
    _reset_rotations(model, config)
    missing, unexpected = model.load_state_dict(_renamed(tensors, args), strict=False, assign=True)
    assert not missing and not unexpected, (missing, unexpected)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 11
    return model.to(dtype).eval()


def _config(args: ModelConfig, *, is_merging: bool) -> Any:
    from transformers import LlavaConfig, Ministral3Config, Mistral3Config, MistralConfig, PixtralVisionConfig

    vision = args.vision_encoder
    tower = PixtralVisionConfig(
        hidden_size=vision.hidden_size, intermediate_size=vision.intermediate_size,
        num_hidden_layers=vision.num_hidden_layers, num_attention_heads=vision.num_attention_heads,
        image_size=vision.image_size, patch_size=vision.patch_size, hidden_act="silu",
        rope_parameters={"rope_type": "default", "rope_theta": vision.rope_theta},
    )  # fmt: skip
    text = (MistralConfig if args.yarn is None else Ministral3Config)(
        vocab_size=args.vocab_size, hidden_size=args.dim, intermediate_size=args.hidden_dim,
        num_hidden_layers=args.n_layers, num_attention_heads=args.n_heads, num_key_value_heads=args.n_kv_heads,
        head_dim=args.head_dim, rms_norm_eps=args.norm_eps, sliding_window=None,
        tie_word_embeddings=args.tied_embeddings, max_position_embeddings=131072, rope_parameters=_rope(args),
    )  # fmt: skip
    more = {"spatial_merge_size": vision.spatial_merge_size} if is_merging else {}
    if not is_merging:
        more["vision_feature_select_strategy"] = "full"
    return (Mistral3Config if is_merging else LlavaConfig)(
        vision_config=tower, text_config=text, image_token_index=vision.image_token_id, vision_feature_layer=-1,
        projector_hidden_act="gelu", multimodal_projector_bias=vision.adapter_bias,
        tie_word_embeddings=args.tied_embeddings, **more,
    )  # fmt: skip


def _rope(args: ModelConfig) -> dict[str, Any]:
    yarn, scaling = args.yarn, args.llama_4_scaling
    if yarn is None:
        return {"rope_type": "default", "rope_theta": args.rope_theta}
    mscale = 0.0 if yarn.apply_scale else 1.0
    return {
        "rope_type": "yarn", "rope_theta": args.rope_theta, "factor": float(yarn.factor),
        "original_max_position_embeddings": yarn.original_max_position_embeddings, "beta_fast": float(yarn.beta),
        "beta_slow": float(yarn.alpha), "mscale": mscale, "mscale_all_dim": mscale,
        "llama_4_scaling_beta": scaling.beta if scaling else 0.0,
    }  # fmt: skip


def _reset_rotations(model: Any, config: Any) -> None:
    """Frequencies are buffers computed at construction, which `meta` left empty."""
    tower = model.model.vision_tower
    tower.patch_positional_embedding = type(tower.patch_positional_embedding)(config.vision_config)
    language = model.model.language_model
    language.rotary_emb = type(language.rotary_emb)(config.text_config)


def _renamed(tensors: Mapping[str, Tensor], args: ModelConfig) -> dict[str, Tensor]:
    vision = args.vision_encoder
    out = {
        "lm_head.weight": tensors["tok_embeddings.weight" if args.tied_embeddings else "output.weight"],
        "model.language_model.embed_tokens.weight": tensors["tok_embeddings.weight"],
        "model.language_model.norm.weight": tensors["norm.weight"],
        "model.vision_tower.patch_conv.weight": tensors["vision_encoder.patch_conv.weight"],
        "model.vision_tower.ln_pre.weight": tensors["vision_encoder.ln_pre.weight"],
    }
    projector = {
        "vision_language_adapter.w_in": "linear_1", "vision_language_adapter.w_out": "linear_2",
        "pre_mm_projector_norm": "norm", "patch_merger.merging_layer": "patch_merger.merging_layer",
    }  # fmt: skip
    for ours, theirs in projector.items():
        for part in ("weight", "bias"):
            if f"{ours}.{part}" in tensors:
                out[f"model.multi_modal_projector.{theirs}.{part}"] = tensors[f"{ours}.{part}"]
    for i in range(args.n_layers):
        source, target = f"layers.{i}", f"model.language_model.layers.{i}"
        names = {"attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
        _layer(out, tensors, source, target, "self_attn", "mlp", names, args.n_heads, args.n_kv_heads)
    for i in range(vision.num_hidden_layers):
        source, target = (
            f"vision_encoder.transformer.layers.{i}",
            f"model.vision_tower.transformer.layers.{i}",
        )
        names = {"attention_norm": "attention_norm", "ffn_norm": "ffn_norm"}
        heads = vision.num_attention_heads
        _layer(out, tensors, source, target, "attention", "feed_forward", names, heads, heads)
    return out


def _layer(
    out: dict[str, Tensor], tensors: Mapping[str, Tensor], source: str, target: str, attention: str, mlp: str,
    norms: dict[str, str], heads: int, kv_heads: int,
) -> None:  # fmt: skip
    for ours, theirs, count in (("wq", "q_proj", heads), ("wk", "k_proj", kv_heads)):
        out[f"{target}.{attention}.{theirs}.weight"] = permute_heads(
            tensors[f"{source}.attention.{ours}.weight"], count
        )
    for ours, theirs in (("wv", "v_proj"), ("wo", "o_proj")):
        out[f"{target}.{attention}.{theirs}.weight"] = tensors[f"{source}.attention.{ours}.weight"]
    for ours, theirs in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
        out[f"{target}.{mlp}.{theirs}.weight"] = tensors[f"{source}.feed_forward.{ours}.weight"]
    for ours, theirs in norms.items():
        out[f"{target}.{theirs}.weight"] = tensors[f"{source}.{ours}.weight"]
