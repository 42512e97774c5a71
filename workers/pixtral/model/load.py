"""A checkpoint folder in Mistral's format → the module tree on its device, checked before any page.

Every tensor is compared with what params.json asks for by the files' headers alone; only then weights are read,
memory-mapped, each once, into the place where it stays: no second copy in RAM. The projections that read the same
rows (wq, wk, wv; w1, w3) are laid side by side in one tensor, and the modules' own weights are views of it, so that
one product serves them all.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline.errors import UsageError
from workers.pixtral.model.config import ModelConfig, read_config
from workers.pixtral.model.fingerprint import adapter_files, read_header, read_params, weight_files
from workers.pixtral.model.layers import Attention, FeedForward
from workers.pixtral.model.vision import Pixtral

logger = logging.getLogger(__name__)

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
STORED = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}

LORA_SCALING = 2.0  # mistral-inference's default in `load_lora`


def empty_model(config: ModelConfig) -> Pixtral:
    """The module tree with shapes and no memory (`meta` device)."""
    with torch.device("meta"):
        return Pixtral(config)


def load_model(folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Pixtral:
    """The checkpoint in `folder` on `device`, ready for inference.

    `dtype` None keeps what most weights have. `lora.safetensors` in the folder is merged into the weights.

    Raises:
        UsageError: a file is damaged, or a tensor missing, spare or misshapen; the message names both.
    """
    config = read_config(folder)
    files = weight_files(folder)
    model = empty_model(config)
    homes = _locate(model, files)
    lay_out(model, torch.device(device), dtype or stored_dtype(files))
    parameters = dict(model.named_parameters())
    with ExitStack() as stack:
        opened = {path: stack.enter_context(_open(path)) for path in files}
        for name, path in homes.items():
            with torch.no_grad():
                parameters[name].copy_(_read(opened[path], name, path))
    for adapter in adapter_files(folder):
        merge_lora(model, adapter, _lora_scaling(folder))
    return model.eval().requires_grad_(False)


def empty_model_of(folder: Path) -> Pixtral:
    """`empty_model` of a folder whose files hold what it asks for, by their headers alone. Raises as `load_model`."""
    model = empty_model(read_config(folder))
    _locate(model, weight_files(folder))
    return model


def _locate(model: Pixtral, files: list[Path]) -> dict[str, Path]:
    """Tensor name → its file, after comparing names, shapes and types with what the module tree asks for."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    homes: dict[str, Path] = {}
    for path in files:
        for name, entry in read_header(path).items():
            if name not in expected:
                raise UsageError(
                    f"{path} holds a tensor {name} that params.json does not ask for; are they of one model?"
                )
            if name in homes:
                raise UsageError(f"{path} holds {name} again, which {homes[name].name} has; remove one of the files")
            if tuple(entry["shape"]) != expected[name]:
                raise UsageError(
                    f"{path}: {name} has shape {tuple(entry['shape'])}, params.json asks for {expected[name]}; "
                    "are they of one model?"
                )
            if entry["dtype"] not in STORED:
                raise UsageError(f"{path}: {name} is stored as {entry['dtype']}; give a checkpoint in bf16")
            homes[name] = path
    missing = [name for name in expected if name not in homes]
    if missing:
        names = ", ".join(path.name for path in files)
        raise UsageError(
            f"{files[0].parent}: {missing[0]} and {len(missing) - 1} more tensors are missing from {names}"
        )
    return homes


def stored_dtype(files: list[Path]) -> torch.dtype:
    """The type of most of the weights; norms and biases are often stored in another one."""
    sizes: Counter[torch.dtype] = Counter()
    for path in files:
        for entry in read_header(path).values():
            if entry["dtype"] in STORED:
                sizes[STORED[entry["dtype"]]] += math.prod(entry["shape"])
    return sizes.most_common(1)[0][0] if sizes else torch.bfloat16


def lay_out(model: Pixtral, device: torch.device, dtype: torch.dtype) -> None:
    """Give every parameter its memory; weights that read the same rows share one tensor."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused_qkv = _side_by_side([module.wq, module.wk, module.wv], device, dtype)
        elif isinstance(module, FeedForward):
            module.fused_w1_w3 = _side_by_side([module.w1, module.w3], device, dtype)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.device.type == "meta":
                memory = torch.empty(parameter.shape, device=device, dtype=dtype)
                setattr(module, name, nn.Parameter(memory, requires_grad=False))


def _side_by_side(linears: list[nn.Linear], device: torch.device, dtype: torch.dtype) -> Tensor:
    outs = [linear.weight.shape[0] for linear in linears]
    fused = torch.empty(sum(outs), linears[0].weight.shape[1], device=device, dtype=dtype)
    for linear, first, out in zip(linears, accumulate(outs, initial=0), outs, strict=False):
        linear.weight = nn.Parameter(fused[first : first + out], requires_grad=False)
    return fused


def _open(path: Path) -> Any:
    try:
        return safe_open(str(path), framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is damaged: {error}; download it again") from error


def _read(opened: Any, name: str, path: Path) -> Tensor:
    try:
        return opened.get_tensor(name)  # type: ignore[no-any-return]
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is damaged at {name}: {error}; download it again") from error


def _lora_scaling(folder: Path) -> float:
    lora = read_params(folder).get("lora")
    return float(lora["scaling"]) if isinstance(lora, dict) and "scaling" in lora else LORA_SCALING


@torch.no_grad()
def merge_lora(model: Pixtral, path: Path, scaling: float) -> None:
    """weight += scaling × B @ A for every pair in `path`, the sum that mistral-inference's `load_lora` makes.

    Raises:
        UsageError: damaged, half a pair, or for a weight that the model lacks or has in another shape.
    """
    shapes = {name: tuple(entry["shape"]) for name, entry in read_header(path).items()}
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for name in shapes:
        base, _, part = name.rpartition(".lora_")
        if part not in ("A.weight", "B.weight") or base not in linears:
            raise UsageError(f"{path} holds {name}, which is no LoRA weight of this model")
        if f"{base}.lora_A.weight" not in shapes or f"{base}.lora_B.weight" not in shapes:
            raise UsageError(f"{path} holds {name} without its partner; the file is incomplete")
    with _open(path) as opened:
        for base in sorted({name.rpartition(".lora_")[0] for name in shapes}):
            weight = linears[base].weight
            down, up = (_read(opened, f"{base}.lora_{part}.weight", path).to(weight) for part in "AB")
            if (up.shape[0], down.shape[1]) != tuple(weight.shape) or up.shape[1] != down.shape[0]:
                raise UsageError(
                    f"{path}: {base} has LoRA shapes {tuple(up.shape)} × {tuple(down.shape)} for {tuple(weight.shape)}"
                )
            weight += (up @ down) * scaling
    logger.info("merged %d LoRA pairs of %s, scaling %g", len(shapes) // 2, path.name, scaling)


def weight_bytes(model: Pixtral) -> int:
    """Device memory of the weights; fused ones are views and count once."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def initialise(model: Pixtral, draw: Callable[[str, tuple[int, ...]], Tensor]) -> Pixtral:
    """Fill a `meta` tree with `draw(name, shape)`, trainable: the start of training and of random checkpoints."""
    for name, parameter in list(model.named_parameters()):
        owner = model.get_submodule(name.rpartition(".")[0])
        setattr(owner, name.rpartition(".")[2], nn.Parameter(draw(name, tuple(parameter.shape))))
    return model
