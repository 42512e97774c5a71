"""A checkpoint folder and a device → a running engine.

Over 300 lines: what is said and chosen before a model is loaded is what loading it then does.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pipeline.errors import UsageError
from pipeline.planning.card_room import BLOCK_SIZE, GRANTED, MOST_SEQUENCES, WORTH_IT
from workers.pixtral import host_memory
from workers.pixtral.cpu.backend import CpuBackend, keep_freed_memory
from workers.pixtral.cpu.products import lay_out_layers
from workers.pixtral.cpu.tiles import prepared_bytes
from workers.pixtral.cuda.attention import uses_flash
from workers.pixtral.describe import describe_path
from workers.pixtral.device_errors import is_out_of_memory
from workers.pixtral.engine import PackedEngine
from workers.pixtral.executor import Backend, Executor
from workers.pixtral.model.config import ModelConfig, read_config, suits_kernels
from workers.pixtral.model.fingerprint import weight_files
from workers.pixtral.model.instructions import computes
from workers.pixtral.model.load import DTYPES, empty_model, empty_model_of, load_model, weight_bytes_as
from workers.pixtral.model.quantize import check_kind, kind_of
from workers.pixtral.model.tensors import stored_dtype
from workers.pixtral.model.vision import Pixtral
from workers.pixtral.plan import sizes
from workers.pixtral.plan.cache_blocks import BlockPool
from workers.pixtral.plan.scheduler import Limits, Scheduler
from workers.pixtral.worst_step import CudaMemory, measured_sizes

if TYPE_CHECKING:
    from workers.pixtral.text.processor import Processor  # imported where a folder is read: it needs mistral-common

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Built:
    """The parts that the adapter needs."""

    engine: PackedEngine
    processor: Processor
    end_other: Callable[[], None] = lambda: None  # the process that holds the model's other half

    def close(self) -> None:
        self.engine.close()
        self.end_other()


def build_engine(
    folder: Path,
    device: torch.device,
    dtype: str | None = None,
    memory_bytes: int | None = None,
    *,
    drafts: bool = True,
    kind: str | None = None,
    narrow_cache: bool = False,
) -> Built:
    """Check the folder, load it, size the cache by the memory that is left, start the thread.

    `kind` is what the decoder's layers are quantized to; `narrow_cache` keeps keys and values in e4m3.

    Raises:
        UsageError: the folder, the type or the memory does not serve.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"the type {dtype} is not one of {', '.join(DTYPES)}")
    from workers.pixtral.text.processor import Processor

    processor = Processor(folder, read_config(folder))
    granted = memory_bytes or available_bytes(device)
    chosen = DTYPES[dtype] if dtype else choose_dtype(folder, device, granted, kind)
    if kind is not None:
        check_kind(kind, device)
    empty = empty_model_of(folder).to(chosen)
    fit_of(empty, granted, device, kind, narrow_cache=narrow_cache)  # said before minutes of loading
    check_kernels(empty.config, device, chosen)
    model = load_model(folder, device, chosen, kind)
    return Built(start_engine(model, processor, granted, drafts=drafts, narrow_cache=narrow_cache), processor)


def start_engine(
    model: Pixtral,
    processor: Processor,
    granted: int,
    make_executor: Callable[[Backend, Limits], Executor] = Executor,
    *,
    drafts: bool = True,
    narrow_cache: bool = False,
    make: Callable[..., Backend] | None = None,
) -> PackedEngine:
    """An engine for a model that is on its device already; with `drafts` it tries those of requests, where it can.

    `make` makes backends in the place of `make_backend`, and is told the same.

    Raises:
        UsageError: the memory does not serve.
    """
    device, dtype = model.device, model.dtype
    if device.type == "cpu":
        keep_freed_memory()
    make = partial(make or make_backend, narrow_cache=narrow_cache, drafts=drafts)
    fit = fit_of(model, granted, device, narrow_cache=narrow_cache)
    if device.type == "cuda":
        fit = measured_sizes(model, fit, granted, CudaMemory(device), make, narrow_cache=narrow_cache)
    logger.info("%s%s; %s", describe_path(device, dtype), _narrow_words(kind_of(model), narrow_cache), fit.arithmetic)
    try:
        backend = make(model, fit.limits, fit.num_blocks, BLOCK_SIZE, fit.prefill_tile)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        first_line = str(error).partition("\n")[0]
        raise UsageError(
            f"a cache of {fit.num_blocks:,} blocks does not fit the memory of {device} any more ({first_line}); "
            "something else took it meanwhile: free some, and start again"
        ) from error
    limits = dataclasses.replace(fit.limits, drafts=backend.drafts if drafts else None)
    if drafts and limits.drafts is None:
        logger.info("drafts are not tried on %s in %s", device, dtype)
    scheduler = Scheduler(limits, BlockPool(fit.num_blocks, BLOCK_SIZE))
    executor = make_executor(backend, fit.limits)
    lookahead = device.type == "cuda"
    return PackedEngine(
        executor, scheduler, processor.decode, processor.eos_id, piece=processor.piece, lookahead=lookahead
    )


def make_backend(
    model: Pixtral,
    limits: Limits,
    num_blocks: int,
    block_size: int,
    prefill_tile: int | None,
    *,
    narrow_cache: bool = False,
    drafts: bool = True,
) -> Backend:
    """The backend for the model's device and type, with room for `drafts`; a CPU has the model's layers laid out."""
    if takes_kernels(model.config, model.device, model.dtype):
        from workers.pixtral.cuda.graph import CudaBackend  # needs Triton, which comes with CUDA's torch

        return CudaBackend(model, limits, num_blocks, block_size, narrow_cache=narrow_cache, drafts=drafts)
    assert not narrow_cache, model.device
    if not model.is_half:  # whose products are summed with the other half's
        lay_out_layers(model)
    return CpuBackend(model, limits, num_blocks, block_size, prefill_tile)


def takes_kernels(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether it is the kernels of `cuda/` that compute."""
    return uses_flash(device, dtype) and suits_kernels(config)


def check_kernels(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
    """Raises UsageError: they would compute, and cannot be compiled here."""
    if takes_kernels(config, device, dtype):
        from workers.pixtral.cuda.first_kernel import check_triton

        check_triton(device)


def fit_of(
    model: Pixtral, granted: int, device: torch.device, kind: str | None = None, *, narrow_cache: bool = False
) -> sizes.Sizes:
    """The engine's sizes for a model that is, or will be, on the device. Raises as `sizes.size_engine`.

    `kind` is what a model without memory will be quantized to.
    """
    weights = weight_bytes_as(model, kind) + prepared_bytes(model.output.weight, device)
    kind = kind or kind_of(model)
    return size(model.config, weights, granted, model.dtype, device, narrow_cache=narrow_cache, kind=kind)


def choose_cache(
    setting: str, folder: Path, device: torch.device, kind: str | None = None, *, half: bool = False
) -> bool:
    """Whether the cache is narrow: `setting` is model (the model's own type), fp8, or auto.

    auto takes fp8 where the GPU has it and the model's own type leaves room for fewer sequences than a step may hold:
    there it makes a step's products serve more pages. By all the memory that the device has, as `choose_kind`.

    Raises:
        UsageError: fp8 was asked for, and the device has none.
    """
    if setting == "model":
        return False
    lacks = _lacks_narrow_cache(folder, device)
    if setting == "fp8" and lacks:
        raise UsageError(f"PAGEPACK_KV_CACHE=fp8 {lacks}; leave it out, or take auto")
    if setting == "fp8" or lacks:
        return not lacks
    model, granted = empty_model_of(folder, half=half), whole_bytes(device)
    with suppress(UsageError):
        fit = fit_of(model.to(choose_dtype(folder, device, granted, kind)), granted, device, kind)
        return fit.limits.max_sequences < MOST_SEQUENCES
    return True


def _lacks_narrow_cache(folder: Path, device: torch.device) -> str | None:
    """Why the cache cannot be narrow, None if it can."""
    if device.type != "cuda":
        return "needs an Ada or Hopper GPU, and this is a CPU"
    if torch.cuda.get_device_capability(device) < (8, 9):
        return f"needs an Ada or Hopper GPU, and {torch.cuda.get_device_name(device)} is older"
    if not suits_kernels(read_config(folder)):
        return f"needs heads whose size is a power of two, and those of {folder} are not"
    if not uses_flash(device, dtype := stored_dtype(weight_files(folder))):
        return f"needs torch's varlen attention in bfloat16 or float16, and here it would be {dtype}"
    return None


def choose_kind(folder: Path, device: torch.device, kv_cache: str = "model") -> str | None:
    """The widest weights that are worth it (`card_room.WORTH_IT`) beside a cache by `kv_cache`; None: the file's own.

    Not by what is free at the moment: who asks which model will read and the worker that loads it must agree.

    Raises:
        UsageError: the folder is not a checkpoint, or not even four bits a number fit.
    """
    model, granted = empty_model_of(folder), whole_bytes(device)
    narrow = kv_cache != "model" and not _lacks_narrow_cache(folder, device)
    whole = "fp8" if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9) else "int8"
    kinds = {16: None, 8: whole, 4: "int4"}
    for kind, least in ((kinds[bits], least) for bits, least in WORTH_IT):
        with suppress(UsageError):
            dtype = choose_dtype(folder, device, granted, kind)
            if fit_of(model.to(dtype), granted, device, kind, narrow_cache=narrow).limits.max_sequences >= least:
                return kind
    return "int4"  # and the engine says what is lacking


def look_at(
    folder: Path,
    device: torch.device,
    kind: str | None = None,
    *,
    narrow_cache: bool = False,
    other: torch.device | None = None,
) -> sizes.Sizes:
    """What `build_engine` would come to, from the folder's tokenizer and headers: no weight is read.

    With an `other` device, what each of the two holds of a model over both.

    Raises:
        UsageError: as `build_engine`.
    """
    from workers.pixtral.text.processor import Processor

    model = empty_model_of(folder, half=other is not None)
    Processor(folder, model.config)
    granted = min(available_bytes(one) for one in (device, other) if one is not None)
    if kind is not None:
        check_kind(kind, device)
    dtype = choose_dtype(folder, device, granted, kind)
    fit = fit_of(model.to(dtype), granted, device, kind, narrow_cache=narrow_cache)
    for one in (device, other):
        if one is not None:
            check_kernels(model.config, one, dtype)
    return fit


def size(
    config: ModelConfig,
    weights: int,
    granted: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    narrow_cache: bool = False,
    kind: str | None = None,
) -> sizes.Sizes:
    """`sizes.size_engine` for the device."""
    on_gpu, threads = device.type == "cuda", torch.get_num_threads()
    return sizes.size_engine(
        config, weights, granted, dtype.itemsize, on_gpu=on_gpu, threads=threads, narrow_cache=narrow_cache, kind=kind
    )


def available_bytes(device: torch.device) -> int:
    """What to grant where nothing is said: 92 % of a GPU's free memory; half of what the host has free."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * GRANTED)
    return host_memory.free_bytes() // 2


def whole_bytes(device: torch.device) -> int:
    """What to grant of a device that nobody else uses: 92 % of a GPU's memory, half of the host's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory * GRANTED)
    return host_memory.whole_bytes() // 2


def choose_dtype(folder: Path, device: torch.device, granted: int, kind: str | None = None) -> torch.dtype:
    """The checkpoint's own type, or float32 on a CPU without its arithmetic: half of the time or less, if it fits.

    Raises:
        UsageError: the folder is not a checkpoint.
    """
    files = weight_files(folder)
    stored = stored_dtype(files)
    if device.type != "cpu" or computes(stored):
        return stored
    try:
        fit_of(empty_model(read_config(folder)).to(torch.float32), granted, device, kind)
    except UsageError:
        logger.warning("this CPU has no arithmetic of %s, and the weights in float32 do not fit: slow", stored)
        return stored
    return torch.float32


def _narrow_words(kind: str | None, narrow_cache: bool) -> str:
    return (f", the decoder's layers in {kind}" if kind else "") + (", the cache in fp8" if narrow_cache else "")


def describe(folder: Path | None, device: torch.device) -> str:
    """The line that the engine's log begins with, before anything is loaded; without a folder for bfloat16 weights."""
    if folder is not None:
        return describe_path(device, choose_dtype(folder, device, available_bytes(device)))
    here = device.type == "cpu" and not computes(torch.bfloat16)
    return describe_path(device, torch.float32 if here else torch.bfloat16)
