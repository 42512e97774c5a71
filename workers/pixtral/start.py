"""A checkpoint folder and a device → a running engine."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pipeline.errors import UsageError
from workers.pixtral.cpu.attention import suits_strips
from workers.pixtral.cpu.backend import CpuBackend, keep_freed_memory
from workers.pixtral.cpu.instructions import computes
from workers.pixtral.cpu.tiles import prepared_bytes
from workers.pixtral.cuda.attention import has_varlen, uses_flash
from workers.pixtral.engine import PackedEngine
from workers.pixtral.executor import Backend, Executor
from workers.pixtral.model.config import ModelConfig, read_config
from workers.pixtral.model.fingerprint import read_header, weight_files
from workers.pixtral.model.load import DTYPES, empty_model_of, load_model, weight_bytes
from workers.pixtral.model.tensors import stored_dtype
from workers.pixtral.model.vision import Pixtral
from workers.pixtral.plan import sizes
from workers.pixtral.plan.cache_blocks import BlockPool
from workers.pixtral.plan.scheduler import Limits, Scheduler

if TYPE_CHECKING:
    from workers.pixtral.text.processor import Processor  # imported where a folder is read: it needs mistral-common

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Built:
    """The parts that the adapter needs."""

    engine: PackedEngine
    processor: Processor


def build_engine(
    folder: Path,
    device: torch.device,
    dtype: str | None = None,
    memory_bytes: int | None = None,
    *,
    drafts: bool = True,
) -> Built:
    """Check the folder, load it, size the cache by the memory that is left, start the thread.

    Raises:
        UsageError: the folder, the type or the memory does not serve.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"the type {dtype} is not one of {', '.join(DTYPES)}")
    from workers.pixtral.text.processor import Processor

    processor = Processor(folder, read_config(folder))
    granted = memory_bytes or available_bytes(device)
    model = load_model(folder, device, DTYPES[dtype] if dtype else choose_dtype(folder, device, granted))
    return Built(start_engine(model, processor, granted, drafts=drafts), processor)


def start_engine(
    model: Pixtral,
    processor: Processor,
    granted: int,
    make_executor: Callable[[Backend, Limits], Executor] = Executor,
    *,
    drafts: bool = True,
) -> PackedEngine:
    """An engine for a model that is on its device already; with `drafts` it tries those of requests, where it can."""
    device, dtype = model.device, model.dtype
    if device.type == "cpu":
        keep_freed_memory()
    fit = fit_of(model, granted, device)
    logger.info("%s; %s", describe_path(device, dtype), fit.arithmetic)
    backend = make_backend(model, fit.limits, fit.num_blocks, sizes.BLOCK_SIZE, fit.prefill_tile)
    limits = dataclasses.replace(fit.limits, decode_tile=backend.draft_tile if drafts else 0)
    if drafts and not limits.decode_tile:
        logger.info("drafts are not tried on %s: that has been shown on a CPU alone", device)
    scheduler = Scheduler(limits, BlockPool(fit.num_blocks, sizes.BLOCK_SIZE))
    executor = make_executor(backend, fit.limits)
    lookahead = device.type == "cuda"
    return PackedEngine(
        executor, scheduler, processor.decode, processor.eos_id, piece=processor.piece, lookahead=lookahead
    )


def make_backend(model: Pixtral, limits: Limits, num_blocks: int, block_size: int, prefill_tile: int | None) -> Backend:
    """The backend for the model's device and type."""
    if uses_flash(model.device, model.dtype):
        from workers.pixtral.cuda.graph import CudaBackend  # needs Triton, which comes with CUDA's torch

        return CudaBackend(model, limits, num_blocks, block_size)
    return CpuBackend(model, limits, num_blocks, block_size, prefill_tile)


def fit_of(model: Pixtral, granted: int, device: torch.device) -> sizes.Sizes:
    """The engine's sizes for a model that is, or will be, on the device. Raises as `sizes.size_engine`."""
    weights = weight_bytes(model) + prepared_bytes(model.output.weight, device)
    return size(model.config, weights, granted, model.dtype, device)


def look_at(folder: Path, device: torch.device) -> sizes.Sizes:
    """What `build_engine` would come to, from the folder's tokenizer and headers: no weight is read.

    Raises:
        UsageError: as `build_engine`.
    """
    from workers.pixtral.text.processor import Processor

    model = empty_model_of(folder)
    Processor(folder, model.config)
    granted = available_bytes(device)
    return fit_of(model.to(choose_dtype(folder, device, granted)), granted, device)


def size(config: ModelConfig, weights: int, granted: int, dtype: torch.dtype, device: torch.device) -> sizes.Sizes:
    """`sizes.size_engine` for the device."""
    on_gpu, threads = device.type == "cuda", torch.get_num_threads()
    return sizes.size_engine(config, weights, granted, dtype.itemsize, on_gpu=on_gpu, threads=threads)


def available_bytes(device: torch.device) -> int:
    """What to grant where nothing is said: 92 % of a GPU's free memory; half of what the host has free."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * 0.92)
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 // 2
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def choose_dtype(folder: Path, device: torch.device, granted: int) -> torch.dtype:
    """The checkpoint's own type, or float32 on a CPU without its arithmetic: half of the time or less, if it fits.

    Raises:
        UsageError: the folder is not a checkpoint.
    """
    files = weight_files(folder)
    stored = stored_dtype(files)
    if device.type != "cpu" or computes(stored):
        return stored
    numbers = sum(math.prod(entry["shape"]) for path in files for entry in read_header(path).values())
    try:
        size(read_config(folder), numbers * torch.float32.itemsize, granted, torch.float32, device)
    except UsageError:
        logger.warning("this CPU has no arithmetic of %s, and the weights in float32 do not fit: slow", stored)
        return stored
    return torch.float32


def describe(folder: Path | None, device: torch.device) -> str:
    """The line that the engine's log begins with, before anything is loaded; without a folder for bfloat16 weights."""
    if folder is not None:
        return describe_path(device, choose_dtype(folder, device, available_bytes(device)))
    here = device.type == "cpu" and not computes(torch.bfloat16)
    return describe_path(device, torch.float32 if here else torch.bfloat16)


def describe_path(device: torch.device, dtype: torch.dtype) -> str:
    """One line for people: which path this machine gets, and why.

    | device and dtype        | packed (vision, prefill)                  | decode over paged blocks            |
    |-------------------------|-------------------------------------------|-------------------------------------|
    | CUDA, bfloat16, float16 | torch's varlen FlashAttention             | Triton, grouped-query, fixed splits |
    | CUDA float32; CPU       | scaled_dot_product_attention per sequence | the same, one grouped query a row   |
    | CPU with bf16, no AMX   | long sequences: plain products            | the same                            |
    """
    name = str(dtype).removeprefix("torch.")
    if uses_flash(device, dtype):
        return f"varlen FlashAttention of torch {torch.__version__} and Triton paged decode ({device}, {name})"
    if suits_strips(device, dtype):
        return f"plain products for long sequences, scaled_dot_product_attention for short ones ({device.type}, {name})"
    if device.type == "cpu" and not computes(torch.bfloat16) and dtype == torch.float32:
        return f"scaled_dot_product_attention per sequence (cpu, {name}): this CPU has no arithmetic of bfloat16"
    if device.type != "cuda":
        return f"scaled_dot_product_attention per sequence ({device.type}, {name}): FlashAttention needs CUDA"
    reason = f"FlashAttention has no {name}" if has_varlen() else "this torch has no varlen_attn"
    return f"scaled_dot_product_attention per sequence ({device}, {name}): {reason}"
