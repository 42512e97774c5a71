"""A checkpoint folder and a device → a running engine."""

from __future__ import annotations

import ctypes
import logging
import math
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.errors import UsageError
from workers.pixtral.cpu.attention import describe_path, uses_flash
from workers.pixtral.cpu.blocked_attention import computes
from workers.pixtral.cpu.tiles import prepared_bytes
from workers.pixtral.engine import PackedEngine
from workers.pixtral.executor import Executor
from workers.pixtral.model.fingerprint import read_header, weight_files
from workers.pixtral.model.load import DTYPES, load_model, read_args, stored_dtype, weight_bytes
from workers.pixtral.plan import sizes
from workers.pixtral.plan.cache_blocks import BlockPool
from workers.pixtral.plan.scheduler import Limits, Scheduler
from workers.pixtral.text.processor import Processor
from workers.pixtral.upstream import Transformer

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
    lora: Path | None = None,
    *,
    exact: bool = False,
) -> Built:
    """Check the folder, load it, size the cache by the memory that is left, start the thread.

    Raises:
        UsageError: the folder, the type or the memory does not serve.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"the type {dtype} is not one of {', '.join(DTYPES)}")
    processor = Processor(folder, read_args(folder))
    granted = memory_bytes or sizes.available_bytes(device)
    model = load_model(folder, device, DTYPES[dtype] if dtype else choose_dtype(folder, device, granted), lora)
    return Built(start_engine(model, processor, granted, exact=exact), processor)


def choose_dtype(folder: Path, device: torch.device, granted: int) -> torch.dtype:
    """The checkpoint's own type, or float32 on a CPU without its arithmetic: a third of the time, if it fits.

    Raises:
        UsageError: the folder is not a checkpoint.
    """
    files = weight_files(folder)
    stored = stored_dtype(files)
    if device.type != "cpu" or computes(stored):
        return stored
    numbers = sum(math.prod(entry["shape"]) for path in files for entry in read_header(path).values())
    try:
        sizes.size_engine(read_args(folder), numbers * torch.float32.itemsize, granted, torch.float32.itemsize, device)
    except UsageError:
        logger.warning("this CPU has no arithmetic of %s, and the weights in float32 do not fit: slow", stored)
        return stored
    return torch.float32


def describe(folder: Path | None, device: torch.device) -> str:
    """The line that the engine's log begins with, before anything is loaded; without a folder for bfloat16 weights."""
    if folder is not None:
        return describe_path(device, choose_dtype(folder, device, sizes.available_bytes(device)))
    here = device.type == "cpu" and not computes(torch.bfloat16)
    return describe_path(device, torch.float32 if here else torch.bfloat16)


def make_executor(
    model: Transformer, limits: Limits, num_blocks: int, block_size: int, prefill_tile: int | None
) -> Executor:
    """The executor for the model's device and type."""
    if uses_flash(model.device, model.dtype):
        from workers.pixtral.cuda.graph import CudaExecutor  # needs Triton, which comes with CUDA's torch

        return CudaExecutor(model, limits, num_blocks, block_size, prefill_tile)
    return Executor(model, limits, num_blocks, block_size, prefill_tile)


def start_engine(model: Transformer, processor: Processor, granted: int, *, exact: bool = False) -> PackedEngine:
    """An engine for a model that is on its device already."""
    device, dtype = model.device, model.dtype
    if device.type == "cpu":
        keep_freed_memory()
    weights = weight_bytes(model) + prepared_bytes(model.output.weight)
    fit = sizes.size_engine(model.args, weights, granted, dtype.itemsize, device, exact=exact)
    logger.info("%s; %s", describe_path(device, dtype), fit.arithmetic)
    executor = make_executor(model, fit.limits, fit.num_blocks, sizes.BLOCK_SIZE, fit.prefill_tile)
    scheduler = Scheduler(fit.limits, BlockPool(fit.num_blocks, sizes.BLOCK_SIZE))
    return PackedEngine(executor, scheduler, processor.decode, processor.eos_id, lookahead=device.type == "cuda")


def keep_freed_memory() -> None:
    """Let glibc keep up to 128 MiB that tensors gave back, instead of fetching it from the kernel page by page.

    Each layer of a prefill frees and takes 2 to 9 MB many times: 20,000 page faults and 3 % of an A4 page's time.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD, at its upper limit
            mallopt(-1, 128 * 2**20)  # M_TRIM_THRESHOLD
