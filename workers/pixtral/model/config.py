"""params.json → what the module tree is built from; a key that would change the arithmetic unseen is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import UsageError
from workers.pixtral.model.fingerprint import QUANTIZED_WAY_OUT, WAY_OUT, lacks, read_header, read_params, weight_files

PATCH_MERGE = "patch_merge"

# Keys that change no arithmetic, beside those of the classes below.
WITHOUT_EFFECT = {"max_seq_len", "max_position_embeddings", "max_batch_size", "model_parallel", "dtype", "lora"}
# Keys that may be given with this value: it is what the engine computes.
AS_COMPUTED = {"activation": "silu", "causal": True}
FP8 = "fp8_e4m3"  # of `quantization.qformat_weight`
STORED = ("F64", "F32", "BF16", "F16")  # types of tensors that are read, as safetensors has them
STORED_FP8 = "F8_E4M3"  # only of weights, where params.json says so
# Keys by which other architectures of the makers are known, and what they ask for.
_MLA, _QUANTIZED = "latent attention (MLA)", "quantization_config"
OTHER_KINDS = {
    "kv_lora_rank": _MLA,
    "q_lora_rank": _MLA,
    "qk_nope_head_dim": _MLA,
    _QUANTIZED: "weights quantised by another tool, such as NVFP4",
}


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
class YarnConfig:
    """Longer texts than the model was first trained on, by slower rotations (Peng et al. 2023, arXiv:2309.00071)."""

    factor: float
    original_max_position_embeddings: int
    beta: float  # turns within the original length, from which on a pair of numbers rotates as it did
    alpha: float  # up to which it rotates `factor` times slower
    apply_scale: (
        bool  # the paper's larger scores; readers of the format differ where it is left out, so it must be said
    )


@dataclass(frozen=True, slots=True)
class ScoreScaling:
    """Scores of far tokens grow: by 1 + beta · log(1 + ⌊position / original_max_position_embeddings⌋)."""

    original_max_position_embeddings: int
    beta: float


@dataclass(frozen=True, slots=True)
class QuantizationConfig:
    """How the decoder's weights are stored; what activations were rounded with is not used."""

    qformat_weight: str
    qscheme_act: str | None = None


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
    yarn: YarnConfig | None = None
    llama_4_scaling: ScoreScaling | None = None
    quantization: QuantizationConfig | None = None
    tied_embeddings: bool = False  # the head is the table of tokens


# Objects of a params.json, and what they become.
NESTED: dict[str, type[Any]] = {
    "vision_encoder": VisionConfig,
    "moe": MixtureConfig,
    "yarn": YarnConfig,
    "llama_4_scaling": ScoreScaling,
    "quantization": QuantizationConfig,
}


def read_config(folder: Path) -> ModelConfig:
    """params.json of a checkpoint folder.

    Raises:
        UsageError: not a vision checkpoint that this engine can run; the message says why.
    """
    return config_of(read_params(folder), folder / "params.json")


def check_folder(folder: Path) -> None:
    """Whether this engine knows such checkpoints, for a command that starts: by params.json and the files' headers.

    Raises:
        UsageError: as `read_config`, or its tokenizer or a weight is of another kind.
    """
    config = read_config(folder)
    if not (folder / "tekken.json").is_file() and any(folder.glob("tokenizer.model*")):
        raise UsageError(lacks(folder, "tekken.json"))
    for path in weight_files(folder):
        for name, entry in read_header(path).items():
            check_type(path, name, entry["dtype"], may_be_fp8=config.quantization is not None)


def suits_kernels(config: ModelConfig) -> bool:
    """Whether the decode kernel takes the model's heads: Triton's tiles have powers of two as sides.

    The family's have 128 numbers and at most 8 heads a group; the small reader's have 48, and take the path of float32.
    """
    size, group = config.head_dim, config.n_heads // config.n_kv_heads
    return size >= 16 and size & (size - 1) == 0 and group <= 16


def check_heads(folder: Path) -> None:
    """Raises UsageError: no device keeps this checkpoint's keys and values in fp8."""
    if not suits_kernels(read_config(folder)):
        fact = f"needs heads whose size is a power of two, and those of {folder} are not"
        raise UsageError(f"PAGEPACK_KV_CACHE=fp8 {fact}; leave it out, or take auto")


def check_type(path: Path, name: str, dtype: str, *, may_be_fp8: bool) -> None:
    """Raises UsageError: the tensor is stored in a type that is not read, as another tool quantizes."""
    if dtype not in STORED and not (may_be_fp8 and dtype == STORED_FP8):
        without = " without `quantization` in params.json" if dtype == STORED_FP8 else ""
        raise UsageError(f"{path}: {name} is stored as {dtype}{without}, which is not read; {QUANTIZED_WAY_OUT}")


def config_of(params: dict[str, Any], path: Path = Path("params.json")) -> ModelConfig:
    """The same from the content of a params.json; `path` is for messages."""
    for key, kind in OTHER_KINDS.items():
        if params.get(key):
            way_out = QUANTIZED_WAY_OUT if key == _QUANTIZED else WAY_OUT
            raise UsageError(f"{path} asks for {key} ({_short(params[key])}): {kind} is not computed here; {way_out}")
    quantization = params.get("quantization")
    if isinstance(quantization, dict) and quantization.get("qformat_weight") != FP8:
        key = "qformat_weight" if "qformat_weight" in quantization else next(iter(quantization), "")
        raise UsageError(
            f"{path} asks for quantization.{key} ({_short(quantization.get(key))}); weights in {FP8} and unquantised "
            f"ones are read; {QUANTIZED_WAY_OUT}"
        )
    if not isinstance(params.get("vision_encoder"), dict):
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
            name: _build(kind, params[name], f"{name}.") if params.get(name) else None for name, kind in NESTED.items()
        }
        config = _build(ModelConfig, params | nested)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} does not describe a Mistral transformer: {error}") from error
    for key, value in _unknown(params):
        raise UsageError(f"{path} asks for {key} ({_short(value)}), which this engine does not compute; {WAY_OUT}")
    _check(config, path)
    return config


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


Built = TypeVar("Built")


def _build(kind: type[Built], given: dict[str, Any], prefix: str = "") -> Built:
    """The fields of `kind` out of `given`; a null is as if it were not there."""
    if not isinstance(given, dict):
        raise ValueError(f"{prefix[:-1]} is no object")
    values = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
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
        *((f"{name}.", params.get(name) or {}, kind) for name, kind in NESTED.items()),
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
    if vision.mm_projector_id != PATCH_MERGE and vision.spatial_merge_size != 1:
        raise UsageError(
            f"{path}: vision_encoder.spatial_merge_size is {vision.spatial_merge_size}, and mm_projector_id is not "
            f"{PATCH_MERGE}, which merges; download it again"
        )
    if vision.head_dim % 4 or config.head_dim % 2:
        raise UsageError(f"{path}: a head size does not allow rotary positions (vision by 4, decoder by 2)")
