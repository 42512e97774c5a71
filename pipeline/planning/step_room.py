"""Room for the largest step, by what is alive together: pure arithmetic.

On a GPU that is the widest of three moments, which follow each other, beside the features of the images under way:

    looking at images    all rows of one image at least, for attention goes over the whole of it
    the decoder          all rows in the feed-forward, or beside one layer's keys and values, gathered
    drawing              the logits of every row that decodes, drafted ones too

`tests/engine/test_gpu_room.py` runs the worst step of Pixtral 12B's real shape on tensors without memory, and holds
the sum against every byte that it takes. A GPU measures that step again before it makes its cache (`worst_step.py`;
files that are named below are those of `workers/pixtral/`, too).
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.planning.shapes import Shape

KEPT_BYTES = 128 * 2**20  # what glibc keeps of what was freed (`cpu/backend.py`); workspaces of a GPU's libraries
SPLIT_TOKENS = 1024  # keys of a split (`cuda/kernels.py`)
# Of a recorded step, if no more decode (`cuda/graph.py`). By arithmetic an H200 reads Pixtral 12B's weights in 5 ms,
# multiplies 128 rows with them meanwhile, and takes 7 ms for 256.
FEWER_ROWS = 128
NARROW_ROWS = 1024  # whose 8 bits are made, or whose sums are scaled, at once (`model/quantize.py`)
# Drawing (`model/sampling.py`). 8 rows of 131,072 logits on one thread: the first 256 take 2 ms, a stable sort 190 ms.
TOP = 256
LOOKED_AT, SORTED = 32, 4  # rows at once, so that memory does not grow with the batch
MOST_ROWS = 512  # of a recorded step with drafts: beyond, products alone take 15 ms a step of Pixtral 12B
GROUP_ROWS = 16  # a matrix unit's least number of rows; a group of 4 query heads fills a quarter (`cuda/kernels.py`)


@dataclass(frozen=True, slots=True)
class StepSize:
    """What a step may hold, of the engine's `Limits` that by which its room is counted."""

    max_sequences: int
    chunk_tokens: int
    token_budget: int
    max_context: int


def step_bytes(shape: Shape, step: StepSize, itemsize: int) -> int:
    """Of a CPU, and of a GPU in float32: activations in both towers, the head's logits, drawing from them."""
    rows = step.token_budget + step.max_sequences + 1024
    decoder = 8 * shape.dim + 3 * shape.hidden_dim + 3 * (shape.n_heads + 2 * shape.n_kv_heads) * shape.head_dim
    encoder = 12 * shape.vision_dim + 3 * shape.vision_hidden + 3 * shape.dim
    patches = max(step.token_budget, shape.image_patches) + 1024
    features = step.max_sequences * 2 * shape.image_patches * shape.dim // 8
    float32_rows = 2 * 4 * rows * shape.dim
    logits = step.max_sequences * shape.vocab_size * itemsize * 2  # in tiles, then side by side
    drawing = draw_bytes(step.max_sequences, shape.vocab_size)
    return itemsize * (rows * decoder + patches * encoder + features) + float32_rows + logits + drawing + KEPT_BYTES


def gpu_step_bytes(
    shape: Shape, step: StepSize, longest: int, kind: str | None = None, *, narrow_cache: bool = False
) -> int:
    """Of a GPU in half precision; `longest` are tokens of the longest sequence, `kind` narrow weights."""
    most = buckets(step.max_sequences, run_rows(shape.n_heads, shape.n_kv_heads, kind), FEWER_ROWS)[-1]
    rows = step.token_budget + most
    attention, heads = shape.n_heads * shape.head_dim, 2 * shape.n_kv_heads * shape.head_dim
    stream = 4 * shape.dim + 2 * attention + heads  # the residual stream, its update, norm and product; queries
    row = 2 * (stream + 3 * shape.hidden_dim)
    aside = 0
    if kind in ("int8", "fp8"):  # rows of 8 bits; in strips, float32 and whole numbers beside them
        aside = rows * shape.hidden_dim + min(rows, NARROW_ROWS) * 8 * 2 * shape.hidden_dim
    gathered = longest * gathered_bytes(shape, narrow_cache=narrow_cache)
    decoder = max(rows * row + aside, rows * 2 * (stream + attention) + gathered)

    image, merged = shape.image_patches, shape.merged**2
    patches = max(step.token_budget, image)
    pixels, width = shape.channels * shape.patch_px**2, shape.vision_dim
    encoder = patches * max(
        2 * (8 * width + 3 * shape.vision_hidden), 2 * (width + 2 * shape.dim // merged), (2 * 2 + 4 * 2) * pixels
    )
    # Images of which a step has a part wait as a whole, some from the step before; those of the step side by side.
    chunks = max(1, step.token_budget // step.chunk_tokens)
    features = 2 * shape.dim * (2 * chunks * image // merged + step.token_budget)
    drawing = most * shape.vocab_size * 2 + draw_bytes(most, shape.vocab_size)

    # For narrow block tables and for wide ones: results of splits, and what recorded steps keep.
    widths = {step.max_context, longest}
    splits = sum(-(-tokens // SPLIT_TOKENS) for tokens in widths) * most * shape.n_heads * (shape.head_dim + 1) * 4
    recorded = len(widths) * most * row
    return max(decoder, encoder, drawing) + features + splits + recorded + KEPT_BYTES


def gathered_bytes(shape: Shape, *, narrow_cache: bool) -> int:
    """For each token that a chunk looks back at: keys and values of one layer, in two bytes a number.

    Of a narrow cache, the keys, and the values in 8 bits, in float32 and in two bytes.
    """
    return shape.n_kv_heads * shape.head_dim * (2 + (1 + 4 + 2 if narrow_cache else 2))


def draw_bytes(rows: int, vocabulary: int) -> int:
    """What `sampling.choose` takes at most beside the logits of so many rows."""
    looked_at = min(rows, LOOKED_AT) * (vocabulary * 3 * 4 + TOP * 80)  # a copy, scaled, their exponents; float32
    whole = min(rows, SORTED) * vocabulary * 7 * 8  # order, likelihoods and their sums, in int64 and double
    return max(looked_at, whole)


def run_rows(heads: int, kv_heads: int, kind: str | None = None) -> int:
    """Rows of one sequence, its last token and drafted ones, that the decode kernel takes together.

    Weights in int4 have one kernel for few rows: there a recorded step has one row for each sequence.
    """
    return 1 if kind == "int4" else GROUP_ROWS // (heads // kv_heads)


def buckets(max_sequences: int, run: int, fewer: int) -> tuple[int, ...]:
    """Rows of the graphs: one for each sequence, and for `fewer`; with drafts twice as many, and again.

    Up to `run` for each sequence, and MOST_ROWS: with 184 sequences 128, 184, 256, 512; with 8, 8, 16, 32.
    """
    least, most = min(max_sequences, fewer), max(max_sequences, min(run * max_sequences, MOST_ROWS))
    doubled = {least * 2**times for times in range(most.bit_length()) if least * 2**times <= most}
    return tuple(sorted({max_sequences, *(doubled if run > 1 else {least})}))
