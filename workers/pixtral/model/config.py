"""params.json → what the module tree is built from; a key that would change the arithmetic unseen is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import UsageError
from workers.pixtral.model.fingerprint import read_params

PATCH_MERGE = "patch_merge"

# Keys that change no arithmetic, beside those of the classes below.
WITHOUT_EFFECT = {"max_seq_len", "max_position_embeddings", "max_batch_size", "model_parallel", "dtype", "lora"}
# Keys that may be given with this value: it is what the engine computes.
AS_COMPUTED = {"activation": "silu", "causal": True}


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """The encoder of page images."""

    hidden_size: int
    num_channels: int
    image_size: int  # px; the table of positions ends there
    patch_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    rope_theta: float = 1e4
    image_token_id: int = 10
    image_break_token_id: int | None = None  # the tokenizer's, where it is given
    image_end_token_id: int | None = None
    max_image_size: int | None = None  # of the tokenizer's resize
    adapter_bias: bool = True
    spatial_merge_size: int = 1
    add_pre_mm_projector_layer_norm: bool = False
    mm_projector_id: str = ""

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True, slots=True)
class MixtureConfig:
    """A mixture of experts in the place of each feed-forward."""

    num_experts: int
    num_experts_per_tok: int


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A checkpoint of the Pixtral family, by the names of its params.json."""

    dim: int
    n_layers: int
    head_dim: int
    hidden_dim: int
    n_heads: int
    n_kv_heads: int
    norm_eps: float
    vocab_size: int
    rope_theta: float
    vision_encoder: VisionConfig
    moe: MixtureConfig | None = None


def read_config(folder: Path) -> ModelConfig:
    """params.json of a checkpoint folder.

    Raises:
        UsageError: not a vision checkpoint that this engine can run; the message says why.
    """
    return config_of(read_params(folder), folder / "params.json")


def config_of(params: dict[str, Any], path: Path = Path("params.json")) -> ModelConfig:
    """The same from the content of a params.json; `path` is for messages."""
    vision, moe = params.get("vision_encoder"), params.get("moe")
    if not isinstance(vision, dict):
        raise UsageError(f"{path} has no vision_encoder: a text model cannot read pages; give a Pixtral checkpoint")
    if params.get("rope_theta") is None:
        raise UsageError(
            f"{path} has no rope_theta; mistral-inference would take 1e6, and Pixtral 12B needs 1e9: add it"
        )
    if params.get("sliding_window") or params.get("_sliding_window"):
        raise UsageError(f"{path} asks for sliding window attention, which this engine does not compute")
    try:
        if params.get("model_type", "transformer") != "transformer":
            raise ValueError(f"its model_type is {params['model_type']}")
        nested = {
            "vision_encoder": _build(VisionConfig, vision, "vision_encoder."),
            "moe": _build(MixtureConfig, moe, "moe.") if moe else None,
        }
        config = _build(ModelConfig, params | nested)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} does not describe a Mistral transformer: {error}") from error
    for key, value in _unknown(params):
        raise UsageError(
            f"{path} asks for {key} ({json.dumps(value)}), which this engine does not compute; "
            "give a plain bf16 checkpoint of the Pixtral family"
        )
    _check(config, path)
    return config


Built = TypeVar("Built", VisionConfig, MixtureConfig, ModelConfig)


def _build(kind: type[Built], given: dict[str, Any], prefix: str = "") -> Built:
    """The fields of `kind` out of `given`; a null is as if it were not there."""
    if not isinstance(given, dict):
        raise ValueError(f"{prefix[:-1]} is no object")
    values = {}
    for field in dataclasses.fields(kind):
        value = given.get(field.name)
        if value is None:
            if field.default is dataclasses.MISSING:
                raise ValueError(f"{prefix}{field.name} is missing")
            continue
        number = str(field.type).removesuffix(" | None")
        fits = {
            "int": type(value) is int and value > 0,
            "float": type(value) in (int, float) and value > 0,
            "bool": type(value) is bool,
            "str": type(value) is str,
        }
        if not fits.get(number, True):
            raise ValueError(f"{prefix}{field.name} is {json.dumps(value)}")
        values[field.name] = value
    return kind(**values)


def _unknown(params: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys that would change the arithmetic in ways this engine does not know; null and false ask for nothing."""
    groups: list[tuple[str, dict[str, Any], type[Any]]] = [
        ("", params, ModelConfig),
        ("vision_encoder.", params["vision_encoder"], VisionConfig),
        ("moe.", params.get("moe") or {}, MixtureConfig),
    ]
    for prefix, given, kind in groups:
        known = {field.name for field in dataclasses.fields(kind)}
        known |= set() if prefix else WITHOUT_EFFECT | {"model_type"}
        for key, value in given.items():
            if key in AS_COMPUTED and not prefix:
                if value != AS_COMPUTED[key]:
                    yield key, value
            elif key not in known and value not in (None, False):
                yield prefix + key, value


def _check(config: ModelConfig, path: Path) -> None:
    vision = config.vision_encoder
    if config.n_heads % config.n_kv_heads or vision.hidden_size % vision.num_attention_heads:
        raise UsageError(
            f"{path}: attention heads do not divide ({config.n_heads} by {config.n_kv_heads} key-value heads)"
        )
    if vision.mm_projector_id not in ("", PATCH_MERGE):
        raise UsageError(f"{path} asks for the projector {vision.mm_projector_id!r}; known are none and {PATCH_MERGE}")
    if vision.head_dim % 4 or config.head_dim % 2:
        raise UsageError(f"{path}: a head size does not allow rotary positions (vision by 4, decoder by 2)")
