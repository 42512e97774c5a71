"""How many cache blocks and sequences the granted memory holds: pure arithmetic, logged by whoever asks.

    granted − weights − room for one step = cache;  cache / bytes of a block = blocks

On a GPU the room for one step is only reckoned to begin with; then the worst step is run and measured
(`worst_step.py`), and the rest is the cache.

For Pixtral 12B in bf16 on 80 GiB, of which 92 % are granted: 79.0 GB − 25.4 GB − 2.4 GB = 51.2 GB; a block of 64 tokens
has 10.5 MB (160 KiB a token: 2 × 40 layers × 8 heads × 128 × 2 bytes), 4,885 blocks, 312,000 tokens, 80 pages at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.errors import UsageError
from pipeline.planning.card_room import (
    BLOCK_SIZE,
    IMAGE_TOKENS,
    LEAST_TOKENS,
    LONGEST_TOKENS,
    STEPS,
    TEXT_TOKENS,
    TILED_TOKENS,
    Memory,
    Room,
    in_cache,
)
from pipeline.planning.shapes import Shape
from pipeline.planning.step_room import StepSize, gpu_step_bytes, step_bytes
from workers.pixtral.plan.scheduler import Limits

if TYPE_CHECKING:
    from workers.pixtral.model.config import ModelConfig

ADMIT_TOKENS = 512  # any real page has more; pages of a few words are started ten at a time
STRIP_ROWS = 256  # queries of a strip (`cpu/attention.py`): 256 × 3,008 scores are 1.5 MB; 512 take an eighth longer


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the engine is built with."""

    limits: Limits
    num_blocks: int
    prefill_tile: int | None
    arithmetic: str  # the sum, for the log
    most: int  # sequences that the room for a step is counted with


def shape_of(config: ModelConfig) -> Shape:
    """What the sums of `pipeline/planning/` go by."""
    vision = config.vision_encoder
    return Shape(
        dim=config.dim,
        n_layers=config.n_layers,
        head_dim=config.head_dim,
        hidden_dim=config.hidden_dim,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        vocab_size=config.vocab_size,
        vision_dim=vision.hidden_size,
        vision_layers=vision.num_hidden_layers,
        vision_hidden=vision.intermediate_size,
        patch_px=vision.patch_size,
        merged=vision.spatial_merge_size,
        side_px=vision.image_size,
        is_tied=config.tied_embeddings,
        channels=vision.num_channels,
    )


def token_bytes(config: ModelConfig, itemsize: int, *, narrow: bool = False) -> int:
    """Cache of one token: keys and values of every layer; narrow ones have 8 bits a number, 32 bits a head."""
    return shape_of(config).token_bytes(itemsize, narrow_cache=narrow)


def size_engine(
    config: ModelConfig,
    weights: int,
    granted: int,
    itemsize: int,
    *,
    on_gpu: bool,
    threads: int = 1,
    narrow_cache: bool = False,
    kind: str | None = None,
) -> Sizes:
    """Limits and blocks within `granted` bytes of the device's memory; `threads` are those of a CPU's arithmetic.

    `kind` are narrow weights. On a GPU a smaller step is taken where the usual one leaves no room for a page, or for
    far fewer of them.

    Raises:
        UsageError: not even one full page would fit; the message has the sum of the smallest step, and the way out.
    """
    given = Given(config, weights, granted, itemsize, on_gpu, threads, narrow_cache, kind)
    return _size(given, given.memory.best() if on_gpu else given.memory.beside(*cpu_step(config)))


def cpu_step(config: ModelConfig) -> tuple[int, int, int]:
    """Tokens of one prompt and of all in a step, and sequences; of small models many, whose steps cost their calls."""
    return 4096, 4096, 16 if config.dim >= 512 else 128


@dataclass(frozen=True, slots=True)
class Given:
    """What `size_engine` goes by."""

    config: ModelConfig
    weights: int
    granted: int
    itemsize: int
    on_gpu: bool
    threads: int = 1
    narrow_cache: bool = False
    kind: str | None = None

    @property
    def token_bytes(self) -> int:
        return token_bytes(self.config, self.itemsize, narrow=self.narrow_cache)

    @property
    def memory(self) -> Memory:
        return Memory(self.granted - self.weights, self.token_bytes, self.room)

    def room(self, step: StepSize, longest: int) -> int:
        """For a step, with sequences of up to `longest` tokens."""
        shape, itemsize = shape_of(self.config), self.itemsize
        if self.on_gpu and itemsize == 2:
            return gpu_step_bytes(shape, step, longest, self.kind, narrow_cache=self.narrow_cache)
        room = step_bytes(shape, step, itemsize)
        if not self.on_gpu:  # Each lane's strip of scores. Tiles take less than the rows counted: for eight.
            room += max(0, self.threads - 8) * STRIP_ROWS * LONGEST_TOKENS * itemsize
        # Keys and values of one layer, gathered for chunks of long prompts.
        return room + longest * shape.token_bytes(itemsize) // shape.n_layers


def _size(given: Given, room: Room) -> Sizes:
    """Raises UsageError: not even one full page fits."""
    step, longest = room.step, room.longest
    num_blocks, num_sequences, text = _cache(given, room.step_bytes, "a step", step.max_sequences)
    max_context = min(LONGEST_TOKENS, num_blocks * BLOCK_SIZE)
    if max_context < LONGEST_TOKENS:
        longest = max_context
        text += f"; the answer to a full page ends after {max_context - IMAGE_TOKENS - 300:,} tokens"
    if longest < TILED_TOKENS:
        text += f"; larger pages are shrunk to {image_room(num_blocks * BLOCK_SIZE):,} tokens of images"
    limits = Limits(
        num_sequences,
        step.chunk_tokens,
        step.token_budget,
        max_context,
        ADMIT_TOKENS,
        tile_tokens=longest - max_context,
        step_keys=longest,
    )
    return Sizes(limits, num_blocks, None if given.on_gpu else _tile(given.config), text, step.max_sequences)


def image_room(num_tokens: int) -> int:
    """Tokens that a page's images may have in a cache of so many: a full page always, of its tiles what is left."""
    return max(IMAGE_TOKENS, num_tokens - TEXT_TOKENS)


def _cache(given: Given, room: int, what: str, most: int) -> tuple[int, int, str]:
    """Blocks beside weights and the `room` of `what`, sequences, and the sum in words.

    On a GPU as many sequences as usual prompts find room, `most` at most; on a CPU `most`.
    """
    granted, weights, per_token = given.granted, given.weights, given.token_bytes
    cache = granted - weights - room
    num_blocks, num_sequences = in_cache(cache, per_token, most, fewest=1 if given.on_gpu else most)
    text = (
        f"{granted / 1e9:.1f} GB granted - {weights / 1e9:.1f} GB weights - {room / 1e9:.1f} GB for {what} = "
        f"{cache / 1e9:.1f} GB: {num_blocks} blocks of {BLOCK_SIZE} tokens at {per_token:,} bytes, "
        f"{num_sequences} sequences at once"
    )
    if num_blocks * BLOCK_SIZE < (LEAST_TOKENS if given.on_gpu else LONGEST_TOKENS):
        raise UsageError(f"too little memory for one page ({text}); {_ways_out(given)}")
    return num_blocks, num_sequences, text


def _ways_out(given: Given) -> str:
    narrower = {None: "narrower weights: --quantize int8 or int4", "int4": None}
    ways = ["free some", "take a smaller checkpoint", narrower.get(given.kind, "narrower weights: --quantize int4")]
    if given.on_gpu and not given.narrow_cache:
        ways.append("a narrower cache: PAGEPACK_KV_CACHE=fp8, on an Ada or Hopper GPU")
    return ", or ".join(way for way in ways if way is not None)


def sized_by_step(fit: Sizes, given: Given, step: int) -> Sizes:
    """`fit` with the blocks that are left beside a step of `step` bytes, measured with `fit.most` sequences.

    Raises:
        UsageError: not even one full page would fit; the message has the sum.
    """
    num_blocks, num_sequences, text = _cache(given, step, "the worst step, measured", fit.most)
    max_context = min(fit.limits.max_context, num_blocks * BLOCK_SIZE)
    tile_tokens = max(0, min(fit.limits.tile_tokens, num_blocks * BLOCK_SIZE - max_context))
    limits = replace(fit.limits, max_sequences=num_sequences, max_context=max_context, tile_tokens=tile_tokens)
    return replace(fit, limits=limits, num_blocks=num_blocks, arithmetic=text)


def smaller_fits(fit: Sizes, given: Given) -> Iterator[Sizes]:
    """What fits beside steps that are smaller than that of `fit`, the largest of them first."""
    step = (fit.limits.chunk_tokens, fit.limits.token_budget)
    for chunk, budget in STEPS[STEPS.index(step) + 1 :] if step in STEPS else ():
        with suppress(UsageError):
            yield _size(given, given.memory.fullest(chunk, budget))


def _tile(config: ModelConfig) -> int:
    """Rows of a product on a CPU: enough for its speed, few enough that an A4 page gives each core several tiles."""
    return 512 if config.dim >= 512 else 128
