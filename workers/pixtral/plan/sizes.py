"""How many cache blocks and sequences the granted memory holds: pure arithmetic, logged by whoever asks.

    granted − weights − room for one step = cache;  cache / bytes of a block = blocks

On a GPU the room for one step is only reckoned to begin with; then the worst step is run and measured
(`worst_step.py`), and the rest is the cache.

For Pixtral 12B in bf16 on 80 GB: 76 GB − 25.4 GB − 3 GB = 48 GB; a block of 64 tokens has 10.5 MB (160 KiB a token: 2 ×
40 layers × 8 heads × 128 × 2 bytes), so 4,500 blocks, 290,000 tokens, about 80 pages at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.documents.pages.tiles import MOST_TOKENS
from pipeline.errors import UsageError
from workers.pixtral.plan.scheduler import Limits

if TYPE_CHECKING:
    from workers.pixtral.model.config import ModelConfig

BLOCK_SIZE = 64
TEXT_TOKENS = 300 + 4096  # a prompt and its answer
LONGEST_TOKENS = 64 * 65 + TEXT_TOKENS  # with a full page of 64 × 64 patches and their breaks
TILED_TOKENS = LONGEST_TOKENS + MOST_TOKENS  # with the tiles of a large one
ADMIT_TOKENS = 512  # any real page has more; pages of a few words are started ten at a time
KEPT_BYTES = 128 * 2**20  # what glibc keeps of what was freed (`cpu/backend.py`), and the libraries' own
TYPICAL_TOKENS = 3600  # an A4 page, its prompt and half its answer: what a running sequence holds on average
STRIP_ROWS = 512  # queries of a strip (`cpu/attention.py`): 512 × 3,008 scores are 3 MB; 256 and 1,024 take as long
# Tokens of one prompt and of all in a step of a GPU, and sequences at most; the latter for cards of 12 to 24 GB.
SMALLER_STEPS = [(2048, 8192, 128), (2048, 2048, 32), (1024, 1024, 8)]
INT4_GROUP, INT4_BLOCK = 64, 64  # numbers with one scale; outputs that are packed together
# Drawing (`model/sampling.py`). 8 rows of 131,072 logits on one thread: the first 256 take 2 ms, a stable sort 190 ms.
TOP = 256
LOOKED_AT, SORTED = 32, 4  # rows at once, so that memory does not grow with the batch


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the engine is built with."""

    limits: Limits
    num_blocks: int
    prefill_tile: int | None
    arithmetic: str  # the sum, for the log


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


def step_bytes(config: ModelConfig, limits: Limits, itemsize: int) -> int:
    """Room for the largest step: activations in the wider tower, the head's logits, drawing from them."""
    vision = config.vision_encoder
    rows = limits.token_budget + limits.max_sequences + 1024
    decoder = 8 * config.dim + 3 * config.hidden_dim + 3 * (config.n_heads + 2 * config.n_kv_heads) * config.head_dim
    encoder = 12 * vision.hidden_size + 3 * vision.intermediate_size + 3 * config.dim
    patches = max(limits.token_budget, (vision.image_size // vision.patch_size) ** 2) + 1024
    features = limits.max_sequences * 2 * (vision.image_size // vision.patch_size) ** 2 * config.dim // 8
    float32_rows = 2 * 4 * rows * config.dim
    logits = limits.max_sequences * config.vocab_size * itemsize * 2  # in tiles, then side by side
    drawing = draw_bytes(limits.max_sequences, config.vocab_size)
    return int(
        itemsize * (rows * decoder + patches * encoder + features) + float32_rows + logits + drawing + KEPT_BYTES
    )


def draw_bytes(rows: int, vocabulary: int) -> int:
    """What `sampling.choose` takes at most beside the logits of so many rows."""
    looked_at = min(rows, LOOKED_AT) * (vocabulary * 3 * 4 + TOP * 80)  # a copy, scaled, their exponents; float32
    whole = min(rows, SORTED) * vocabulary * 7 * 8  # order, likelihoods and their sums, in int64 and double
    return max(looked_at, whole)


def size_engine(
    config: ModelConfig,
    weights: int,
    granted: int,
    itemsize: int,
    *,
    on_gpu: bool,
    threads: int = 1,
    narrow_cache: bool = False,
) -> Sizes:
    """Limits and blocks within `granted` bytes of the device's memory; `threads` are those of a CPU's arithmetic.

    On a GPU where nothing fits beside the usual step, a smaller one is tried.

    Raises:
        UsageError: not even one full page would fit; the message has the sum.
    """
    refused: UsageError | None = None
    for step in SMALLER_STEPS if on_gpu else [(4096, 4096, 16 if config.dim >= 512 else 128)]:
        try:  # small models on a CPU: the cost of a step is its calls
            return _size(config, weights, granted, itemsize, step, on_gpu, threads, narrow_cache)
        except UsageError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _size(
    config: ModelConfig,
    weights: int,
    granted: int,
    itemsize: int,
    step: tuple[int, int, int],
    on_gpu: bool,
    threads: int,
    narrow_cache: bool,
) -> Sizes:
    """With steps of at most so many tokens of one prompt, of all prompts, and sequences."""
    chunk, budget, most = step
    per_token = token_bytes(config, itemsize, narrow=narrow_cache)
    draft = Limits(most, chunk, budget)
    room = step_bytes(config, draft, itemsize)
    if not on_gpu:  # Each lane's scores and their softmax. Tiles take less than the rows counted above: room for eight.
        room += max(0, threads - 8) * 2 * STRIP_ROWS * LONGEST_TOKENS * itemsize
    longest = max(LONGEST_TOKENS, min(TILED_TOKENS, (granted - weights - room) // per_token))
    # Keys and values of one layer, gathered for chunks of long prompts.
    room += longest * token_bytes(config, itemsize) // config.n_layers
    if on_gpu:  # Results of splits of 1,024 keys (`cuda/kernels.py`), with narrow block tables and with wide ones.
        splits = sum(-(-tokens // 1024) for tokens in {LONGEST_TOKENS, longest})
        room += most * config.n_heads * splits * (config.head_dim + 1) * 4
    num_blocks, num_sequences, text = _cache(granted, weights, room, "a step", per_token, most, fills=on_gpu)
    if longest < TILED_TOKENS:
        text += f"; larger pages are shrunk to {num_blocks * BLOCK_SIZE - TEXT_TOKENS:,} tokens of images"
    return Sizes(
        Limits(
            num_sequences,
            chunk,
            budget,
            LONGEST_TOKENS,
            ADMIT_TOKENS,
            tile_tokens=longest - LONGEST_TOKENS,
            step_keys=longest,
        ),
        num_blocks,
        None if on_gpu else _tile(config),
        text,
    )


def _cache(
    granted: int, weights: int, room: int, what: str, per_token: int, most: int, *, fills: bool
) -> tuple[int, int, str]:
    """Blocks beside weights and the `room` of `what`, sequences, and the sum in words.

    `fills`: as many sequences as usual prompts find room, `most` at most; else `most`, as on a CPU.
    """
    cache = granted - weights - room
    num_blocks = max(0, cache // (per_token * BLOCK_SIZE))
    num_sequences = max(1, min(most, num_blocks * BLOCK_SIZE // TYPICAL_TOKENS)) if fills else most
    if num_sequences >= 16:
        num_sequences -= num_sequences % 8
    num_blocks = min(num_blocks, num_sequences * -(-LONGEST_TOKENS // BLOCK_SIZE))
    text = (
        f"{granted / 1e9:.1f} GB granted - {weights / 1e9:.1f} GB weights - {room / 1e9:.1f} GB for {what} = "
        f"{cache / 1e9:.1f} GB: {num_blocks} blocks of {BLOCK_SIZE} tokens at {per_token:,} bytes, "
        f"{num_sequences} sequences at once"
    )
    if num_blocks * BLOCK_SIZE < LONGEST_TOKENS:
        raise UsageError(
            f"too little memory for one page ({text}); free some, or take a smaller checkpoint, or "
            "narrower weights: --quantize int8 or int4"
        )
    return num_blocks, num_sequences, text


def sized_by_step(fit: Sizes, most: int, per_token: int, granted: int, weights: int, step: int) -> Sizes:
    """`fit` with the blocks that are left beside a step of `step` bytes, measured with `most` sequences.

    `per_token` are bytes of the cache.

    Raises:
        UsageError: not even one full page would fit; the message has the sum.
    """
    num_blocks, num_sequences, text = _cache(
        granted, weights, step, "the worst step, measured", per_token, most, fills=True
    )
    tile_tokens = min(fit.limits.tile_tokens, num_blocks * BLOCK_SIZE - LONGEST_TOKENS)
    limits = replace(fit.limits, max_sequences=num_sequences, tile_tokens=tile_tokens)
    return replace(fit, limits=limits, num_blocks=num_blocks, arithmetic=text)


def _tile(config: ModelConfig) -> int:
    """Rows of a product on a CPU: enough for its speed, few enough that an A4 page gives each core several tiles."""
    return 512 if config.dim >= 512 else 128
