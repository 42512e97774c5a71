"""A checkpoint folder in Mistral's format → the module tree on its device, checked before any page.

Every tensor is compared with what params.json asks for by the files' headers alone; only then weights are read,
memory-mapped, each once, into the place where it stays: no second copy in RAM. The projections that read the same
rows (wq, wk, wv; w1, w3) are laid side by side in one tensor, and the modules' own weights are views of it, so that
one product serves them all. Where weights are quantized, that goes half a layer after the other: each is laid out, read
and made narrow before the next, so that no more than one half of one layer is ever there in full.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.errors import UsageError
from pipeline.planning.shapes import narrow_bytes
from workers.pixtral.model.config import ModelConfig, read_config
from workers.pixtral.model.fingerprint import adapter_files, read_header, read_params, weight_files
from workers.pixtral.model.half import cut, half_of, sum_of_both
from workers.pixtral.model.layers import Attention, FeedForward, Product
from workers.pixtral.model.quantize import halves, has_products, quantize
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


def load_model(
    folder: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    kind: str | None = None,
    rank: int | None = None,
) -> Pixtral:
    """The checkpoint in `folder` on `device`, ready for inference.

    `dtype` None keeps what most weights have that are not in fp8. `lora.safetensors` in the folder is merged into them.
    With a `kind` of `model/quantize.py` the decoder's layers are narrow. `rank` 0 or 1 is that of two devices which
    hold half of each layer (`model/half.py`).

    Raises:
        UsageError: a file is damaged, or a tensor missing, spare or misshapen; the message names both.
    """
    assert kind is None or rank is None, "halves of a layer are not quantized"
    config = read_config(folder)
    files = weight_files(folder)
    model = empty_model(config)
    homes = locate(model, files)
    device, dtype = torch.device(device), dtype or stored_dtype(files)
    adapters = [(path, check_lora(model, path)) for path in adapter_files(folder)]
    scaling = _lora_scaling(folder)
    if rank is not None:
        model = empty_model(half_of(config, folder))
        model.share(sum_of_both)
    with ExitStack() as stack:
        opened = {path: stack.enter_context(open_weights(path)) for path in files}

        def fill(module: nn.Module, prefix: str = "") -> None:
            for name, parameter in module.named_parameters(prefix):
                with torch.no_grad():
                    parameter.copy_(cut(homes.read(opened, name), parameter.shape, rank or 0))
            for path, bases in adapters:
                merge_lora(
                    module, path, scaling, [base for base in bases if base.startswith(prefix)], prefix, rank or 0
                )

        if kind is not None:
            for prefix, half in halves(model):
                lay_out(half, device, dtype)
                fill(half, prefix)
                quantize(half, kind, dtype, None if adapters else homes.scales_of(opened, prefix))
            adapters = [(path, [base for base in bases if _is_linear(model, base)]) for path, bases in adapters]
        lay_out(model, device, dtype)
        fill(model)
    return model.eval().requires_grad_(False)


def empty_model_of(folder: Path, *, half: bool = False) -> Pixtral:
    """`empty_model` of a folder whose files hold what it asks for, by their headers alone. Raises as `load_model`.

    With `half` of what each of two devices holds.
    """
    config = read_config(folder)
    model = empty_model(config)
    locate(model, weight_files(folder))
    return empty_model(half_of(config, folder)) if half else model


def lay_out(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Give every parameter its memory; weights that read the same rows share one tensor."""
    for module in model.modules():
        if isinstance(module, Attention | FeedForward) and has_products(module):
            continue
        if isinstance(module, Attention):
            module.fused_qkv = _side_by_side([module.wq, module.wk, module.wv], device, dtype)
        elif isinstance(module, FeedForward):
            module.fused_w1_w3 = _side_by_side([module.w1, module.w3], device, dtype)
    for module in model.modules():
        if isinstance(model, Pixtral) and module is model.output:
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


def check_lora(model: Pixtral, path: Path) -> list[str]:
    """The linear layers that the adapter in `path` changes.

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
    bases = sorted({name.rpartition(".lora_")[0] for name in shapes})
    for base in bases:
        down, up = (shapes[f"{base}.lora_{part}.weight"] for part in "AB")
        weight = tuple(linears[base].weight.shape)
        if len(up) != 2 or len(down) != 2 or (up[0], down[1]) != weight or up[1] != down[0]:
            raise UsageError(f"{path}: {base} has LoRA shapes {up} × {down} for {weight}")
    return bases


@torch.no_grad()
def merge_lora(model: nn.Module, path: Path, scaling: float, bases: list[str], prefix: str = "", rank: int = 0) -> None:
    """weight += scaling × B @ A for every one of `bases`, the sum that mistral-inference's `load_lora` makes.

    `prefix` is the model's own place in the whole, which the names in `bases` begin with. Of half a layer `rank` says
    which half it is.
    """
    if not bases:
        return
    with open_weights(path) as opened:
        for base in bases:
            weight = model.get_submodule(base.removeprefix(prefix).lstrip(".")).weight
            assert isinstance(weight, Tensor)
            down, up = (read_tensor(opened, f"{base}.lora_{part}.weight", path).to(weight) for part in "AB")
            weight += cut((up @ down) * scaling, weight.shape, rank)
    logger.info("merged %d LoRA pairs of %s, scaling %g", len(bases), path.name, scaling)


def _is_linear(model: Pixtral, name: str) -> bool:
    """Whether it is there, and not narrow."""
    owner, _, last = name.rpartition(".")
    return isinstance(getattr(model.get_submodule(owner), last, None), nn.Linear)


def weight_bytes(model: Pixtral) -> int:
    """Device memory of the weights; fused ones are views and count once."""
    narrow = [module.nbytes for module in model.modules() if isinstance(module, Product)]
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) + sum(narrow)


def weight_bytes_as(model: Pixtral, kind: str | None) -> int:
    """What `weight_bytes` will be of a model without memory, as it is or quantized."""
    if kind is None:
        return weight_bytes(model)
    saved = 0
    for _, half in halves(model):
        fused = ("wk", "wv") if isinstance(half, Attention) else ("w1", "w3")
        shapes = {name.removesuffix(".weight"): tuple(weight.shape) for name, weight in half.named_parameters()}
        (outs, ins), (more, _) = (shapes.pop(name) for name in fused)
        for shape in (*shapes.values(), (outs + more, ins)):
            saved += math.prod(shape) * model.dtype.itemsize - narrow_bytes(kind, *shape)
    return weight_bytes(model) - saved


def initialise(model: Pixtral, draw: Callable[[str, tuple[int, ...]], Tensor]) -> Pixtral:
    """Fill a `meta` tree with `draw(name, shape)`, trainable: the start of training and of random checkpoints."""
    for name, parameter in list(model.named_parameters()):
        owner = model.get_submodule(name.rpartition(".")[0])
        setattr(owner, name.rpartition(".")[2], nn.Parameter(draw(name, tuple(parameter.shape))))
    model.tie()
    return model
