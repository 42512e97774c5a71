"""The most that an engine's steps take on a GPU, without one: tensors without memory are made and counted."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.jit import JITFunction

from tests.engine.gpu_programs import shaped
from tests.engine.meta_results import made_sooner
from workers.pixtral import executor, worst_step
from workers.pixtral.cuda import attention, graph
from workers.pixtral.model import kv_cache, sampling, vision
from workers.pixtral.plan.scheduler import Limits
from workers.pixtral.plan.sequence import Sampling


class _Bytes(TorchDispatchMode):
    """The most that tensors without memory would take at once, beside those that are there when it begins."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        kept = [value for module in model.modules() for value in vars(module).values()]
        tensors = [*model.parameters(), *(value for value in kept if isinstance(value, torch.Tensor))]
        self.kept = {tensor.untyped_storage()._cdata for tensor in tensors}
        self.noted: dict[int, tuple[StorageWeakRef, int]] = {}
        self.held = self.most = 0  # `held` counts what died since it was last looked for

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = made_sooner(func, args, kwargs)
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
