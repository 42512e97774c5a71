"""What a step takes at most, by running the largest one: it sizes the cache better than a sum can.

Sums of activations (`pipeline/planning/step_room.py`) leave out what libraries take aside, what an allocator cannot
use again and what quantized products unpack. So a GPU runs, once after loading, the largest steps that the limits
allow: decode of all rows, drafted ones too, and of the fewer, over tables of each width, recorded as it will be; then
prompts up to the budget, of the largest images, one of them long and with a past, beside all other rows' decode, every
row drawn with a temperature. The sequences share the blocks of a cache as small as one long prompt: what they compute
means nothing, and what it takes is the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, count
from typing import Protocol

import numpy as np
import torch

from pipeline.errors import UsageError
from pipeline.planning.card_room import BLOCK_SIZE
from pipeline.planning.step_room import FEWER_ROWS
from workers.pixtral.executor import Backend, Executor
from workers.pixtral.model.config import ModelConfig
from workers.pixtral.model.quantize import kind_of
from workers.pixtral.model.vision import Pixtral
from workers.pixtral.plan import sizes
from workers.pixtral.plan.scheduler import Chunk, Decode, Limits, Step
from workers.pixtral.plan.sequence import Image, Request, Sampling, Sequence

logger = logging.getLogger(__name__)

MARGIN = 1.05  # over what was measured: the allocator's pieces that fit nobody

MakeBackend = Callable[[Pixtral, Limits, int, int, int | None], Backend]


class Memory(Protocol):
    """A device's memory as this process uses it, in bytes."""

    def allocated(self) -> int: ...

    def peak(self) -> int:
        """The most that was allocated since `reset_peak`."""
        ...

    def reset_peak(self) -> None: ...


class CudaMemory:
    """torch's own allocator's counts."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def allocated(self) -> int:
        return torch.cuda.memory_allocated(self.device)

    def peak(self) -> int:
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device)

    def reset_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)


def measured_sizes(
    model: Pixtral,
    fit: sizes.Sizes,
    granted: int,
    memory: Memory,
    make_backend: MakeBackend,
    *,
    narrow_cache: bool = False,
) -> sizes.Sizes:
    """`fit` with as many blocks and sequences as the worst step leaves room for; `fit` itself if it cannot be run.

    Where that step leaves no room for a page after all, a smaller one is measured. `make_backend` makes narrow caches
    if `narrow_cache` says so.

    Raises:
        UsageError: not even one full page would fit beside the smallest step.
    """
    given = sizes.Given(
        model.config, memory.allocated(), granted, model.dtype.itemsize, on_gpu=True,
        narrow_cache=narrow_cache, kind=kind_of(model),
    )  # fmt: skip
    refused: UsageError | None = None
    for tried in chain((fit,), sizes.smaller_fits(fit, given)):
        try:
            limits = replace(tried.limits, max_sequences=tried.most)
            step = measure_step(model, limits, tried.prefill_tile, memory, make_backend)
            return sizes.sized_by_step(tried, given, step)
        except UsageError as error:
            refused = refused or error
        except torch.OutOfMemoryError as error:
            logger.warning("the worst step could not be measured (%s); the cache is sized by a sum", error)
            return tried
    assert refused is not None
    raise refused


def measure_step(
    model: Pixtral, limits: Limits, prefill_tile: int | None, memory: Memory, make_backend: MakeBackend
) -> int:
    """Bytes that steps within the limits take beside the weights and the cache."""
    before = memory.allocated()
    block_size = BLOCK_SIZE
    num_blocks = -(-(limits.max_context + limits.tile_tokens) // block_size)
    backend = make_backend(model, limits, num_blocks, block_size, prefill_tile)
    executor = Executor(backend, limits)
    memory.reset_peak()
    most_rows = backend.drafts.most_rows if backend.drafts is not None else 0
    for step in worst_steps(model.config, limits, block_size, most_rows=most_rows):
        executor.launch(step).tokens()
    taken = memory.peak() - before - backend.cache.nbytes
    del executor, backend
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
    return int(taken * MARGIN)


DRAWN = Sampling(temperature=1.0, top_p=0.9)


def worst_steps(
    config: ModelConfig, limits: Limits, block_size: int, sampling: Sampling = DRAWN, most_rows: int = 0
) -> Iterator[Step]:
    """The steps that this file's head describes; with drafts `most_rows` decode in one."""
    rows = count()
    image = _largest_image(config)

    def request(num_tokens: int, *images: Image) -> Request:
        token = config.vision_encoder.image_token_id if images else 0
        return Request((token,) * num_tokens, images, image_end=num_tokens * len(images), sampling=sampling)

    def sequence(asked: Request) -> Sequence:
        made = Sequence.of(asked)
        made.block_table = list(range(-(-len(asked.tokens) // block_size)))
        made.row = next(rows) % limits.max_sequences
        return made

    most_each = max(1, most_rows // limits.max_sequences)

    def decodes(number: int, num_tokens: int, each: int = most_each) -> tuple[Decode, ...]:
        asked = request(num_tokens)
        made = [sequence(asked) for _ in range(number)]
        positions = range(num_tokens - each, num_tokens)
        return tuple(Decode(one, position, samples=True) for one in made for position in positions)

    recorded = dict.fromkeys((limits.max_sequences, min(limits.max_sequences, FEWER_ROWS)))
    for num_tokens in dict.fromkeys((limits.max_context, limits.max_context + limits.tile_tokens)):
        for number in recorded:
            for each in sorted({most_each, 1}, reverse=True):  # what is recorded first leaves its memory to the next
                yield Step((), decodes(number, num_tokens, each))
    chunk = limits.chunk_tokens
    features = _num_features(image, config)
    num_chunks = max(1, min(limits.token_budget // chunk, limits.max_sequences, limits.step_keys // chunk))
    others = decodes(limits.max_sequences - num_chunks, limits.max_context)
    first, page = min(chunk, features), request(features, image)
    pages = [Chunk(sequence(page), 0, first, samples=True) for _ in range(num_chunks)]
    yield Step(tuple(pages), others)
    long = min(limits.step_keys - (num_chunks - 1) * chunk, limits.max_context + limits.tile_tokens)
    past = Chunk(sequence(request(long)), max(0, long - chunk), long, samples=True)
    pages = [Chunk(sequence(page), 0, first, samples=True) for _ in range(num_chunks - 1)]
    yield Step((past, *pages), others)


def _largest_image(config: ModelConfig) -> Image:
    vision = config.vision_encoder
    side = vision.image_size // (vision.patch_size * vision.spatial_merge_size)
    side *= vision.patch_size * vision.spatial_merge_size
    return Image("largest", np.zeros((side, side, 3), np.uint8))


def _num_features(image: Image, config: ModelConfig) -> int:
    vision = config.vision_encoder
    return int((image.pixels.shape[0] // (vision.patch_size * vision.spatial_merge_size)) ** 2)
