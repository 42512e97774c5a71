"""Where each tensor of a checkpoint lies, compared with what params.json asks for by the files' headers alone.

Weights in fp8 have one factor each beside them, `wq.weight` and `wq.qscale_weight`, and are read as their product.
`qscale_act`, by which activations may be rounded as well, is left out: they are not rounded here.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.errors import UsageError
from workers.pixtral.model.config import STORED, STORED_FP8, check_type
from workers.pixtral.model.fingerprint import QUANTIZED_WAY_OUT, read_header
from workers.pixtral.model.vision import Pixtral

TYPES = dict(zip(STORED, (torch.float64, torch.float32, torch.bfloat16, torch.float16), strict=True))
_SCALE, _UNUSED_SCALE = ".qscale_weight", ".qscale_act"


@dataclass(slots=True)
class Homes:
    """Tensor name → its file."""

    weights: dict[str, Path] = field(default_factory=dict)
    scales: dict[str, Path] = field(default_factory=dict)  # by the names of their fp8 weights

    def read(self, opened: dict[Path, Any], name: str) -> Tensor:
        """A weight as it is stored; one in fp8 in float32."""
        weight = read_tensor(opened[self.weights[name]], name, self.weights[name])
        return weight if weight.dtype != torch.float8_e4m3fn else weight.float() * self._scale(opened, name)

    def scales_of(self, opened: dict[Path, Any], prefix: str) -> dict[str, Tensor]:
        """Of the weights in fp8 below `prefix`, by what follows it: a float32 () each."""
        names = [name for name in self.scales if name.startswith(f"{prefix}.")]
        return {name.removeprefix(f"{prefix}."): self._scale(opened, name) for name in names}

    def _scale(self, opened: dict[Path, Any], weight: str) -> Tensor:
        path = self.scales[weight]
        return read_tensor(opened[path], _scale_of(weight), path).float().reshape(())


def locate(model: Pixtral, files: list[Path]) -> Homes:
    """Every tensor of the module tree in these files.

    Raises:
        UsageError: one is missing, spare, misshapen, there twice, or of a type that is not read.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    is_fp8, homes, in_fp8 = model.config.quantization is not None, Homes(), list[str]()
    for path in files:
        for name, entry in read_header(path).items():
            if is_fp8 and name.endswith(_UNUSED_SCALE):
                continue
            weight = name.removesuffix(_SCALE) + ".weight" if is_fp8 and name.endswith(_SCALE) else name
            if weight not in expected:
                raise UsageError(_spare(model, path, name))
            found = homes.weights if weight == name else homes.scales
            if weight in found:
                raise UsageError(f"{path} holds {name} again, which {found[weight].name} has; remove one of the files")
            if weight == name:
                _check_weight(path, name, entry, expected[name], is_fp8)
                in_fp8 += [name] if entry["dtype"] == STORED_FP8 else []
            elif math.prod(entry["shape"]) != 1 or entry["dtype"] not in STORED:
                raise UsageError(
                    f"{path}: {name} has shape {tuple(entry['shape'])} and type {entry['dtype']}; one number for each "
                    f"weight is read; {QUANTIZED_WAY_OUT}"
                )
            found[weight] = path
    missing = [name for name in expected if name not in homes.weights]
    missing += [_scale_of(name) for name in in_fp8 if name not in homes.scales]
    if missing:
        names = ", ".join(path.name for path in files)
        raise UsageError(
            f"{files[0].parent}: {missing[0]} and {len(missing) - 1} more tensors are missing from {names}"
        )
    return homes


def _scale_of(weight: str) -> str:
    return weight.removesuffix(".weight") + _SCALE


def _spare(model: Pixtral, path: Path, name: str) -> str:
    if name == "output.weight":
        return (
            f"{path} holds output.weight, and params.json says tied_embeddings: that there is none beside "
            "tok_embeddings.weight; are they of one model?"
        )
    return f"{path} holds a tensor {name} that params.json does not ask for; are they of one model?"


def _check_weight(path: Path, name: str, entry: dict[str, Any], shape: tuple[int, ...], is_fp8: bool) -> None:
    if tuple(entry["shape"]) != shape:
        raise UsageError(
            f"{path}: {name} has shape {tuple(entry['shape'])}, params.json asks for {shape}; are they of one model?"
        )
    check_type(path, name, entry["dtype"], may_be_fp8=is_fp8)


def stored_dtype(files: list[Path]) -> torch.dtype:
    """The type of most of the weights that are not in fp8; norms and biases are often stored in another one."""
    sizes: Counter[torch.dtype] = Counter()
    for path in files:
        for name, entry in read_header(path).items():
            if entry["dtype"] in STORED and not name.endswith((_SCALE, _UNUSED_SCALE)):
                sizes[TYPES[entry["dtype"]]] += math.prod(entry["shape"])
    return sizes.most_common(1)[0][0] if sizes else torch.bfloat16


def open_weights(path: Path) -> Any:
    """Memory-mapped, on the host. Raises UsageError: damaged."""
    try:
        return safe_open(str(path), framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is damaged: {error}; download it again") from error


def read_tensor(opened: Any, name: str, path: Path) -> Tensor:
    """Of an opened file. Raises UsageError: damaged."""
    try:
        return opened.get_tensor(name)  # type: ignore[no-any-return]
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is damaged at {name}: {error}; download it again") from error
