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

from pipeline.documents.pages.tiles import MOST_TOKENS
from pipeline.errors import UsageError
from workers.pixtral.plan.scheduler import Limits
from workers.pixtral.plan.step_room import gpu_step_bytes, step_bytes

if TYPE_CHECKING:
    from workers.pixtral.model.config import ModelConfig

BLOCK_SIZE = 64
IMAGE_TOKENS = 64 * 65  # a full page of 64 × 64 patches and their breaks
TEXT_TOKENS = 300 + 4096  # a prompt and its answer
LONGEST_TOKENS = IMAGE_TOKENS + TEXT_TOKENS
LEAST_TOKENS = IMAGE_TOKENS + 300 + 2048  # where a card has no more room: the answer ends earlier
TILED_TOKENS = LONGEST_TOKENS + MOST_TOKENS  # with the tiles of a large one
ADMIT_TOKENS = 512  # any real page has more; pages of a few words are started ten at a time
TYPICAL_TOKENS = 3600  # an A4 page, its prompt and half its answer: what a running sequence holds on average
STRIP_ROWS = 256  # queries of a strip (`cpu/attention.py`): 256 × 3,008 scores are 1.5 MB; 512 take an eighth longer
MOST_SEQUENCES = 256
# Of a GPU: tokens of one prompt and of all in a step; for so many sequences there is room in it, as few as may be.
STEPS = [(2048, 8192), (2048, 2048), (1024, 1024), (512, 512)]
SEQUENCES = (4, 8, 16, 32, 64, 128, MOST_SEQUENCES)
SMALLER_FOR = 1.25  # times the sequences a smaller step is worth it: its prompts are read in more pieces
INT4_GROUP, INT4_BLOCK = 64, 64  # numbers with one scale; outputs that are packed together


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the engine is built with."""

    limits: Limits
    num_blocks: int
    prefill_tile: int | None
    arithmetic: str  # the sum, for the log
    most: int  # sequences that the room for a step is counted with


def narrow_bytes(kind: str, outs: int, ins: int) -> int:
    """Of a weight (outs, ins) that `model/quantize.py` keeps as `kind`, with its scales."""
    if kind == "int4" and fits_int4(outs, ins):
        return outs * ins // 2 + outs * (ins // INT4_GROUP) * 2 * 2
    return outs * ins + outs * (4 if kind == "fp8" else 16)  # int8: also a zero and what oneDNN takes off its sums


def fits_int4(outs: int, ins: int) -> bool:
    """Whether torch's kernels take the shape in four bits; else it has eight."""
    return outs % INT4_BLOCK == 0 and ins % INT4_GROUP == 0


def token_bytes(config: ModelConfig, itemsize: int, *, narrow: bool = False) -> int:
    """Cache of one token: keys and values of every layer; narrow ones have 8 bits a number, 32 bits a head."""
    head = config.head_dim + 4 if narrow else config.head_dim * itemsize
    return int(2 * config.n_layers * config.n_kv_heads * head)


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
    if not on_gpu:
        return _size(given, *cpu_step(config))
    best = None
    for chunk, budget in STEPS:
        try:
            fit = _fullest(given, chunk, budget)
        except UsageError as error:
            refused = error
            continue
        if best is None or _is_worth_it(fit, best):
            best = fit
    if best is None:
        raise refused
    return best


def cpu_step(config: ModelConfig) -> tuple[int, int, int]:
    """Tokens of one prompt and of all in a step, and sequences; of small models many, whose steps cost their calls."""
    return 4096, 4096, 16 if config.dim >= 512 else 128


def _is_worth_it(fit: Sizes, larger: Sizes) -> bool:
    """Whether the room that a smaller step leaves is worth its more pieces."""
    if larger.limits.max_context < LONGEST_TOKENS:
        return fit.limits.max_context > larger.limits.max_context
    return fit.limits.max_sequences >= SMALLER_FOR * larger.limits.max_sequences


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

    def room(self, limits: Limits, longest: int) -> int:
        """For a step, with sequences of up to `longest` tokens."""
        config, itemsize = self.config, self.itemsize
        if self.on_gpu and itemsize == 2:
            return gpu_step_bytes(config, limits, longest, self.kind, narrow_cache=self.narrow_cache)
        room = step_bytes(config, limits, itemsize)
        if not self.on_gpu:  # Each lane's scores and their softmax. Tiles take less than the rows counted: for eight.
            room += max(0, self.threads - 8) * 2 * STRIP_ROWS * LONGEST_TOKENS * itemsize
        # Keys and values of one layer, gathered for chunks of long prompts.
        return room + longest * token_bytes(config, itemsize) // config.n_layers


def _fullest(given: Given, chunk: int, budget: int) -> Sizes:
    """With room in a step for as many sequences as there may be then, not for more."""
    best = None
    for most in SEQUENCES:
        try:
            fit = _size(given, chunk, budget, most)
        except UsageError:
            if best is None:
                raise
            break
        if best is None or fit.limits.max_sequences > best.limits.max_sequences:
            best = fit
    assert best is not None
    return best


def _size(given: Given, chunk: int, budget: int, most: int) -> Sizes:
    """With steps of at most so many tokens of one prompt, of all prompts, and sequences."""
    per_token = token_bytes(given.config, given.itemsize, narrow=given.narrow_cache)
    draft = Limits(most, chunk, budget, LONGEST_TOKENS)
    left = given.granted - given.weights - given.room(draft, LONGEST_TOKENS)
    longest = max(LONGEST_TOKENS, min(TILED_TOKENS, left // per_token))
    room = given.room(draft, longest)
    num_blocks, num_sequences, text = _cache(given, room, "a step", per_token, most)
    max_context = min(LONGEST_TOKENS, num_blocks * BLOCK_SIZE)
    if max_context < LONGEST_TOKENS:
        longest = max_context
        text += f"; the answer to a full page ends after {max_context - IMAGE_TOKENS - 300:,} tokens"
    if longest < TILED_TOKENS:
        text += f"; larger pages are shrunk to {image_room(num_blocks * BLOCK_SIZE):,} tokens of images"
    limits = Limits(
        num_sequences,
        chunk,
        budget,
        max_context,
        ADMIT_TOKENS,
        tile_tokens=longest - max_context,
        step_keys=longest,
    )
    return Sizes(limits, num_blocks, None if given.on_gpu else _tile(given.config), text, most)


def image_room(num_tokens: int) -> int:
    """Tokens that a page's images may have in a cache of so many: a full page always, of its tiles what is left."""
    return max(IMAGE_TOKENS, num_tokens - TEXT_TOKENS)


def _cache(given: Given, room: int, what: str, per_token: int, most: int) -> tuple[int, int, str]:
    """Blocks beside weights and the `room` of `what`, sequences, and the sum in words.

    On a GPU as many sequences as usual prompts find room, `most` at most; on a CPU `most`.
    """
    granted, weights = given.granted, given.weights
    cache = granted - weights - room
    num_blocks = max(0, cache // (per_token * BLOCK_SIZE))
    num_sequences = max(1, min(most, num_blocks * BLOCK_SIZE // TYPICAL_TOKENS)) if given.on_gpu else most
    if num_sequences >= 16:
        num_sequences -= num_sequences % 8
    num_blocks = min(num_blocks, max(num_sequences * -(-LONGEST_TOKENS // BLOCK_SIZE), -(-TILED_TOKENS // BLOCK_SIZE)))
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
    per_token = token_bytes(given.config, given.itemsize, narrow=given.narrow_cache)
    num_blocks, num_sequences, text = _cache(given, step, "the worst step, measured", per_token, fit.most)
    max_context = min(fit.limits.max_context, num_blocks * BLOCK_SIZE)
    tile_tokens = max(0, min(fit.limits.tile_tokens, num_blocks * BLOCK_SIZE - max_context))
    limits = replace(fit.limits, max_sequences=num_sequences, max_context=max_context, tile_tokens=tile_tokens)
    return replace(fit, limits=limits, num_blocks=num_blocks, arithmetic=text)


def smaller_fits(fit: Sizes, given: Given) -> Iterator[Sizes]:
    """What fits beside steps that are smaller than that of `fit`, the largest of them first."""
    step = (fit.limits.chunk_tokens, fit.limits.token_budget)
    for chunk, budget in STEPS[STEPS.index(step) + 1 :] if step in STEPS else ():
        with suppress(UsageError):
            yield _fullest(given, chunk, budget)


def _tile(config: ModelConfig) -> int:
    """Rows of a product on a CPU: enough for its speed, few enough that an A4 page gives each core several tiles."""
    return 512 if config.dim >= 512 else 128
