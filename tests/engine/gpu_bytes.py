"""The most that an engine's steps take on a GPU, without one: tensors without memory are made and counted."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.jit import JITFunction

from tests.engine.gpu_programs import META, shaped
from workers.pixtral import executor, worst_step
from workers.pixtral.cuda import attention, graph
from workers.pixtral.model import kv_cache, sampling, vision
from workers.pixtral.plan.scheduler import Limits
from workers.pixtral.plan.sequence import Sampling


@cache
def _only_makes_or_changes(func: Any) -> bool:
    """One tensor of its own, no part of another; or its first argument, in place."""
    schema = func._schema
    if len(schema.returns) != 1 or str(schema.returns[0].type) != "Tensor":
        return False
    if schema.is_mutable:
        is_in_place = schema.name.endswith("_") and schema.name != "aten::resize_"
        return is_in_place and not any(value.is_out for value in schema.arguments)
    return not any(value.alias_info for value in (*schema.returns, *schema.arguments))


_MADE: dict[Any, tuple[tuple[int, ...], tuple[int, ...], torch.dtype]] = {}


def _alike(func: Any, args: Any, kwargs: Any) -> Any:
    """The same for calls whose results have the same shape; None where a result is told otherwise."""
    if kwargs or not _only_makes_or_changes(func):
        return None
    told: list[Any] = []
    for arg in args:
        if isinstance(arg, torch.Tensor) and arg.device == META:
            told.append((arg.shape, arg.stride(), arg.dtype))
        elif any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(arg)):
            return None
        else:
            told.append(str(arg))
    return func, *told


class _Bytes(TorchDispatchMode):
    """The most that tensors without memory would take at once, beside those that are there when it begins.

    torch works out a result's shape in Python, at length: where it did once, the next is made without.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        kept = [value for module in model.modules() for value in vars(module).values()]
        tensors = [*model.parameters(), *(value for value in kept if isinstance(value, torch.Tensor))]
        self.kept = {tensor.untyped_storage()._cdata for tensor in tensors}
        self.noted: dict[int, tuple[StorageWeakRef, int]] = {}
        self.held = self.most = 0  # `held` counts what died since it was last looked for

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        alike = _alike(func, args, kwargs)
        if made := _MADE.get(alike):
            in_place = func._schema.is_mutable
            out = args[0] if in_place else torch.empty_strided(made[0], made[1], dtype=made[2], device=META)
        else:
            out = func(*args, **(kwargs or {}))
            if alike and type(out) is torch.Tensor and out.device == META:
                _MADE[alike] = out.shape, out.stride(), out.dtype
        for leaf in (out,) if isinstance(out, torch.Tensor) else tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.device.type == "meta":
                storage = leaf.untyped_storage()
                if storage._cdata not in self.kept and storage._cdata not in self.noted:
                    self.noted[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                    self.held += storage.nbytes()
        if self.held > self.most:
            self.noted = {key: noted for key, noted in self.noted.items() if not noted[0].expired()}
            self.held = sum(size for _, size in self.noted.values())
            self.most = max(self.most, self.held)
        return out


def worst_bytes(params: dict[str, Any], limits: Limits, kind: str | None = None, *, narrow_cache: bool = False) -> int:
    """Of the steps that size a GPU's cache: every tensor that a checkpoint's real shape makes, its cache left out.

    The decoder has three layers, a first, one between and a last, the tower two: what one takes is given back before
    the next but one. Nothing is drawn by temperature.
    """
    model = shaped(json.dumps(params), 3, 2, kind)
    blocks = -(-(limits.max_context + limits.tile_tokens) // 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JITFunction, "run", lambda self, *args, grid, warmup, **options: None)
        for module in (graph, attention, executor, kv_cache, sampling, vision):
            patch.setattr(module, "to_device", lambda array, device: torch.from_numpy(array).to(device))
        vision._statistics.cache_clear()
        vision._cached_positions.cache_clear()
        with _Bytes(model) as counted:
            backend = graph.CudaBackend(
                model, limits, blocks, 64, use_graph=False, narrow_cache=narrow_cache, drafts=True
            )  # fmt: skip
            engine = executor.Executor(backend, limits)
            for step in worst_step.worst_steps(model.config, limits, 64, Sampling(), backend.buckets[-1]):
                engine.launch(step)
            return counted.most - backend.cache.nbytes
