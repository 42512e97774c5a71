"""Room for the largest step, by what is alive together: pure arithmetic.

On a GPU that is the widest of three moments, which follow each other, beside the features of the images under way:

    looking at images    all rows of one image at least, for attention goes over the whole of it
    the decoder          all rows in the feed-forward, or beside one layer's keys and values, gathered
    drawing              the logits of every row that decodes, drafted ones too

`tests/engine/test_gpu_room.py` runs the worst step of Pixtral 12B's real shape on tensors without memory, and holds
the sum against every byte that it takes. A GPU measures that step again before it makes its cache (`worst_step.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workers.pixtral.plan.draft_rows import buckets
from workers.pixtral.plan.scheduler import Limits

if TYPE_CHECKING:
    from workers.pixtral.model.config import ModelConfig

KEPT_BYTES = 128 * 2**20  # what glibc keeps of what was freed (`cpu/backend.py`); workspaces of a GPU's libraries
SPLIT_TOKENS = 1024  # keys of a split (`cuda/kernels.py`)
# Of a recorded step, if no more decode (`cuda/graph.py`). By arithmetic an H200 reads Pixtral 12B's weights in 5 ms,
# multiplies 128 rows with them meanwhile, and takes 7 ms for 256.
FEWER_ROWS = 128
NARROW_ROWS = 1024  # whose 8 bits are made, or whose sums are scaled, at once (`model/quantize.py`)
# Drawing (`model/sampling.py`). 8 rows of 131,072 logits on one thread: the first 256 take 2 ms, a stable sort 190 ms.
TOP = 256
LOOKED_AT, SORTED = 32, 4  # rows at once, so that memory does not grow with the batch


def step_bytes(config: ModelConfig, limits: Limits, itemsize: int) -> int:
    """Of a CPU, and of a GPU in float32: activations in both towers, the head's logits, drawing from them."""
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


def gpu_step_bytes(
    config: ModelConfig, limits: Limits, longest: int, kind: str | None = None, *, narrow_cache: bool = False
) -> int:
    """Of a GPU in half precision; `longest` are tokens of the longest sequence, `kind` narrow weights."""
    vision = config.vision_encoder
    run = 1 if kind == "int4" else 16 // (config.n_heads // config.n_kv_heads)  # rows of a page with a draft
    most = buckets(limits.max_sequences, run, FEWER_ROWS)[-1]
    rows = limits.token_budget + most
    attention, heads = config.n_heads * config.head_dim, 2 * config.n_kv_heads * config.head_dim
    stream = 4 * config.dim + 2 * attention + heads  # the residual stream, its update, norm and product; queries
    row = 2 * (stream + 3 * config.hidden_dim)
    aside = 0
    if kind in ("int8", "fp8"):  # rows of 8 bits; in strips, float32 and whole numbers beside them
        aside = rows * config.hidden_dim + min(rows, NARROW_ROWS) * 8 * 2 * config.hidden_dim
    gathered = longest * gathered_bytes(config, narrow_cache=narrow_cache)
    decoder = max(rows * row + aside, rows * 2 * (stream + attention) + gathered)

    image = (vision.image_size // vision.patch_size) ** 2
    patches = max(limits.token_budget, image)
    pixels = vision.num_channels * vision.patch_size**2
    width, merged = vision.hidden_size, vision.spatial_merge_size**2
    encoder = patches * max(
        2 * (8 * width + 3 * vision.intermediate_size), 2 * (width + 2 * config.dim // merged), (2 * 2 + 4 * 2) * pixels
    )
    # Images of which a step has a part wait as a whole, some from the step before; those of the step side by side.
    chunks = max(1, limits.token_budget // limits.chunk_tokens)
    features = 2 * config.dim * (2 * chunks * image // merged + limits.token_budget)
    drawing = most * config.vocab_size * 2 + draw_bytes(most, config.vocab_size)

    # For narrow block tables and for wide ones: results of splits, and what recorded steps keep.
    widths = {limits.max_context, longest}
    splits = sum(-(-tokens // SPLIT_TOKENS) for tokens in widths) * most * config.n_heads * (config.head_dim + 1) * 4
    recorded = len(widths) * most * row
    return int(max(decoder, encoder, drawing) + features + splits + recorded + KEPT_BYTES)


def gathered_bytes(config: ModelConfig, *, narrow_cache: bool) -> int:
    """For each token that a chunk looks back at: keys and values of one layer, in two bytes a number.

    Of a narrow cache, the keys, and the values in 8 bits, in float32 and in two bytes.
    """
    return int(config.n_kv_heads * config.head_dim * (2 + (1 + 4 + 2 if narrow_cache else 2)))


def draw_bytes(rows: int, vocabulary: int) -> int:
    """What `sampling.choose` takes at most beside the logits of so many rows."""
    looked_at = min(rows, LOOKED_AT) * (vocabulary * 3 * 4 + TOP * 80)  # a copy, scaled, their exponents; float32
    whole = min(rows, SORTED) * vocabulary * 7 * 8  # order, likelihoods and their sums, in int64 and double
    return max(looked_at, whole)
