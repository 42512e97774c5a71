"""A checkpoint folder in Mistral's format → the module tree on its device, checked before any page.

Every tensor is compared with what params.json asks for by the files' headers alone; only then weights are read,
memory-mapped, each once, into the place where it stays: no second copy in RAM. The projections that read the same
rows (wq, wk, wv; w1, w3) are laid side by side in one tensor, and the modules' own weights are views of it, so that
one product serves them all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.errors import UsageError
from workers.pixtral.model.config import ModelConfig, read_config
from workers.pixtral.model.fingerprint import adapter_files, read_header, read_params, weight_files
from workers.pixtral.model.layers import Attention, FeedForward
from workers.pixtral.model.tensors import locate, open_weights, read_tensor, stored_dtype
from workers.pixtral.model.vision import Pixtral

logger = logging.getLogger(__name__)

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

LORA_SCALING = 2.0  # mistral-inference's default in `load_lora`


def empty_model(config: ModelConfig) -> Pixtral:
    """The module tree with shapes and no memory (`meta` device)."""
    with torch.device("meta"):
        return Pixtral(config)


def load_model(folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Pixtral:
    """The checkpoint in `folder` on `device`, ready for inference.

    `dtype` None keeps what most weights have that are not in fp8. `lora.safetensors` in the folder is merged into them.

    Raises:
        UsageError: a file is damaged, or a tensor missing, spare or misshapen; the message names both.
    """
    config = read_config(folder)
    files = weight_files(folder)
    model = empty_model(config)
    homes = locate(model, files)
    lay_out(model, torch.device(device), dtype or stored_dtype(files))
    parameters = dict(model.named_parameters())
    with ExitStack() as stack:
        opened = {path: stack.enter_context(open_weights(path)) for path in files}
        for name, parameter in parameters.items():
            with torch.no_grad():
                parameter.copy_(homes.read(opened, name))
    for adapter in adapter_files(folder):
        merge_lora(model, adapter, _lora_scaling(folder))
    return model.eval().requires_grad_(False)


def empty_model_of(folder: Path) -> Pixtral:
    """`empty_model` of a folder whose files hold what it asks for, by their headers alone. Raises as `load_model`."""
    model = empty_model(read_config(folder))
    locate(model, weight_files(folder))
    return model


def lay_out(model: Pixtral, device: torch.device, dtype: torch.dtype) -> None:
    """Give every parameter its memory; weights that read the same rows share one tensor."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused_qkv = _side_by_side([module.wq, module.wk, module.wv], device, dtype)
        elif isinstance(module, FeedForward):
            module.fused_w1_w3 = _side_by_side([module.w1, module.w3], device, dtype)
    for module in model.modules():
        if module is model.output:
            model.tie()  # to what has its memory already
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
    with open_weights(path) as opened:
        for base in sorted({name.rpartition(".lora_")[0] for name in shapes}):
            weight = linears[base].weight
            down, up = (read_tensor(opened, f"{base}.lora_{part}.weight", path).to(weight) for part in "AB")
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
    model.tie()
    return model
