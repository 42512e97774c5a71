"""What the engine would launch on a GPU, without one: its own steps on tensors without memory, its kernels compiled.

`launches` runs the real executor and backend with Pixtral 12B's shapes on torch's device `meta`. Triton is told of a
GPU that is not there, and compiles each kernel with exactly what the launcher gave it: types, alignments, constants,
warps and stages. What the compiler made is read from PTX and by cuobjdump from the binary, which both come in Triton's
wheel. Triton keeps what it compiled in its own cache folder, so a second run compiles nothing.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from benchmarks.checkpoint import PRESETS
from benchmarks.gpu_gates import page_request
from tests.engine.meta_results import META, made_sooner
from workers.pixtral import executor, worst_step
from workers.pixtral.cuda import attention, graph
from workers.pixtral.model import kv_cache, quantize, sampling, vision
from workers.pixtral.model.config import config_of
from workers.pixtral.model.load import empty_model, lay_out
from workers.pixtral.plan.cache_blocks import BlockPool
from workers.pixtral.plan.scheduler import Limits, Scheduler
from workers.pixtral.plan.sequence import Sampling, Sequence

COPIES = ("aten::to", "aten::_to_copy", "aten::copy_")
READ_BACK = ("aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal")
CUOBJDUMP = Path(nvidia.__file__).parent / "bin" / "cuobjdump"


@dataclass(frozen=True, slots=True)
class Program:
    """One kernel as compiled for one set of arguments."""

    name: str
    grid: tuple[int, ...]
    threads: int
    shared: int  # bytes a block
    registers: int  # a thread
    spilled: int  # bytes a thread in local memory
    async_copies: int
    waits: tuple[int, ...]  # groups of copies that may still be under way, at each wait
    products: frozenset[str]  # instructions of the matrix units


@dataclass(slots=True)
class Launches:
    """What was launched: each kernel once for each way it was specialised, and the calls of torch's varlen_attn."""

    programs: list[Program] = field(default_factory=list)
    varlen: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    operators: set[str] = field(default_factory=set)  # every operator of torch, with its schema
    waits: list[str] = field(default_factory=list)  # operators for which the host would wait

    def of(self, name: str) -> list[Program]:
        return [program for program in self.programs if program.name == name]


class _Absent:
    """A driver for a GPU of a compute capability, such as 90; nothing can be run on it."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # Triton keeps compiled kernels by it

    def get_current_stream(self, _device: int) -> int:
        return 0


class _Pointer:
    """A tensor as Triton looks at it: its type, and an address aligned as a real one would be."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.dtype, self.address = tensor.dtype, 256 + tensor.storage_offset() * tensor.element_size()

    def data_ptr(self) -> int:
        return self.address

    def ptr_range(self) -> int:
        return 2**40


@cache
def _schema(func: Any) -> str:
    return str(func._schema)


class _Operators(TorchDispatchMode):
    """Notes every operator, and those that make the host wait for a GPU.

    A copy from memory that is not pinned does: all but `to_device`'s. So does what reads a number or a size back.
    """

    def __init__(self, found: Launches) -> None:
        super().__init__()
        self.found, self.copies_aside = found, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        self.found.operators.add(_schema(func))
        out = made_sooner(func, args, kwargs)
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        places = {tensor.device.type for tensor in (*tensors, out) if isinstance(tensor, torch.Tensor)}
        crosses = name in COPIES and places == {"cpu", "meta"} and not self.copies_aside
        made_on_host = name == "aten::lift_fresh" and places == {"meta"}
        if crosses or made_on_host or (name in READ_BACK and "meta" in places):
            self.found.waits.append(str(func._schema))
        return out

    def to_device(self, array: Any, device: torch.device) -> torch.Tensor:
        """`transfer.to_device`, which pins what it sends."""
        self.copies_aside = True
        try:
            return torch.from_numpy(array).to(device)
        finally:
            self.copies_aside = False


@contextmanager
def compiling(capability: int) -> Iterator[list[Program]]:
    """Launches of Triton kernels inside compile for the capability, and are read instead of run."""
    programs: list[Program] = []
    seen: set[int] = set()
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        pointers = [_Pointer(arg) if isinstance(arg, torch.Tensor) else arg for arg in args]
        kernel = run(self, *pointers, grid=grid, warmup=True, **options)
        if id(kernel) not in seen:
            seen.add(id(kernel))
            programs.append(_read(self.fn.__name__, grid, kernel))
        return kernel

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JITFunction, "run", compile_only)
        patch.setattr(driver, "_active", _Absent(capability))
        yield programs


@cache
def _resources(binary: bytes) -> tuple[int, int, int]:
    """Registers, stack and local memory of a thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(binary)
        cubin.flush()
        used = subprocess.run([CUOBJDUMP, "-res-usage", cubin.name], capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.search(rf"{word}:(\d+)", used)[1]) for word in ("REG", "STACK", "LOCAL"))  # type: ignore[index]
    return registers, stack, local


def _read(name: str, grid: tuple[int, ...], kernel: Any) -> Program:
    ptx: str = kernel.asm["ptx"]
    registers, stack, local = _resources(kernel.asm["cubin"])
    return Program(
        name,
        tuple(grid),
        kernel.metadata.num_warps * 32,
        kernel.metadata.shared,
        registers,
        stack + local,
        len(re.findall(r"cp\.async\.c[ag]", ptx)),
        tuple(int(count, 0) for count in re.findall(r"cp\.async\.wait_group\s+(\w+)", ptx)),
        frozenset(re.findall(r"(?:wgmma\.mma_async|mma\.sync)[\w.]*", ptx)),
    )


def launches(
    capability: int,
    varlen_signature: str | None = None,
    kind: str | None = None,
    *,
    narrow_cache: bool = False,
    drafts: bool = False,
) -> Launches:
    """Steps of Pixtral 12B's shapes (2 of its 40 layers): prefill, a second prompt's chunk with a past, decode.

    `varlen_signature` is another release's, as `def varlen_attn(…): ...`; else that of the installed torch. `kind` are
    narrow weights; `narrow_cache` keeps keys and values in e4m3; with `drafts` the largest steps have rows of them.
    """
    installed, known = attention._varlen()  # type: ignore[misc]
    signature = inspect.signature(installed)
    if varlen_signature is not None:
        namespace: dict[str, Any] = {}
        exec(f"from __future__ import annotations\n{varlen_signature}", namespace)
        signature = inspect.signature(namespace["varlen_attn"])
        known = frozenset(signature.parameters)
    found = Launches()

    def varlen_attn(*args: Any, **more: Any) -> torch.Tensor:
        signature.bind(*args, **more)  # a TypeError where that release would raise one
        found.varlen.append((args, more))
        if "enable_gqa" not in signature.parameters:  # before it, heads were not compared
            more = more | {"enable_gqa": True}
        out: torch.Tensor = installed(*args, **more)
        return out

    with pytest.MonkeyPatch.context() as patch, compiling(capability) as programs:
        operators = _Operators(found)
        for module in (graph, attention, executor, kv_cache, sampling, vision):
            patch.setattr(module, "to_device", operators.to_device)
        vision._statistics.cache_clear()
        vision._cached_positions.cache_clear()
        patch.setattr(attention, "_varlen", lambda: (varlen_attn, known))
        with operators:
            _run_steps(kind, narrow_cache, drafts)
    found.programs = programs
    return found


@cache
def shaped(written: str, layers: int, tower_layers: int, kind: str | None) -> vision.Pixtral:
    """Of parameters as a checkpoint's file has them; a step leaves it as it is."""
    params = json.loads(written) | {"n_layers": layers}
    params["vision_encoder"] = params["vision_encoder"] | {"num_hidden_layers": tower_layers}
    model = empty_model(config_of(params))
    lay_out(model, META, torch.bfloat16)
    model.requires_grad_(False)
    for _, half in quantize.halves(model) if kind else ():
        quantize.quantize(half, kind, torch.bfloat16)
    for module in model.modules():
        if isinstance(module, quantize.Int4):  # torch 2.13's check of int4 asks a fake tensor, whose device it plays
            module.packed.fake_device = torch.device("cuda")  # type: ignore[attr-defined]
    return model


def _run_steps(kind: str | None, narrow_cache: bool, drafts: bool) -> None:
    model = shaped(json.dumps(PRESETS["12b"]), 2, 1, kind)
    limits = Limits(16, 2048, 8192, 8556, tile_tokens=16384, step_keys=24940)
    backend = graph.CudaBackend(model, limits, 1000, 64, use_graph=False, narrow_cache=narrow_cache, drafts=drafts)
    engine = executor.Executor(backend, limits)
    scheduler = Scheduler(limits, BlockPool(1000, 64))
    page = page_request(0, 64, 48, 20)
    second = replace(page, tokens=(*page.tokens[:-2], 50, 51, 4))
    for request in (page, page_request(1, 64, 48, 20), second):
        scheduler.add(Sequence.of(request))
    kinds = set()
    for _ in range(6):
        step = scheduler.plan()
        kinds.add(("prefill",) * bool(step.chunks) + ("decode",) * bool(step.decodes) + ("copy",) * bool(step.copies))
        engine.launch(step)
        for work in (*step.chunks, *step.decodes):
            if work.samples:
                work.sequence.pending -= 1
                work.sequence.tokens.append(50)
    for step in worst_step.worst_steps(model.config, limits, 64, Sampling(), backend.buckets[-1]):  # to size the cache
        engine.launch(step)
    assert kinds >= {("prefill",), ("prefill", "decode", "copy"), ("decode",)}, kinds
