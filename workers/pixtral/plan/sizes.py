"""How many cache blocks and sequences the granted memory holds: pure arithmetic, logged by whoever asks.

    granted − weights − room for one step = cache;  cache / bytes of a block = blocks

For Pixtral 12B in bf16 on 80 GB: 76 GB − 25.4 GB − 3 GB = 48 GB; a block of 64 tokens has 10.5 MB (160 KiB a token: 2 ×
40 layers × 8 heads × 128 × 2 bytes), so 4,500 blocks, 290,000 tokens, about 80 pages at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.errors import UsageError
from workers.pixtral.cpu.blocked_attention import BLOCK_ROWS
from workers.pixtral.model import sampling
from workers.pixtral.plan.scheduler import Limits
from workers.pixtral.upstream import TransformerArgs

BLOCK_SIZE = 64
# A full page of 64 × 64 patches with its breaks, a prompt of 300 tokens and an answer of 4,096.
LONGEST_TOKENS = 64 * 65 + 300 + 4096
ADMIT_TOKENS = 512  # any real page has more; pages of a few words are started ten at a time
KEPT_BYTES = 128 * 2**20  # what glibc keeps of what was freed (`start.keep_freed_memory`), and the libraries' own
TYPICAL_TOKENS = 3600  # an A4 page, its prompt and half its answer: what a running sequence holds on average


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the engine is built with."""

    limits: Limits
    num_blocks: int
    prefill_tile: int | None
    arithmetic: str  # the sum, for the log


def token_bytes(args: TransformerArgs, itemsize: int) -> int:
    """Cache of one token: keys and values of every layer."""
    return int(2 * args.n_layers * args.n_kv_heads * args.head_dim * itemsize)


def step_bytes(args: TransformerArgs, limits: Limits, itemsize: int) -> int:
    """Room for the largest step: activations in the wider tower, the head's logits, drawing from them."""
    vision = args.vision_encoder
    rows = limits.token_budget + limits.max_sequences + 1024
    decoder = 8 * args.dim + 3 * args.hidden_dim + 3 * (args.n_heads + 2 * args.n_kv_heads) * args.head_dim
    encoder = 12 * vision.hidden_size + 3 * vision.intermediate_size + 3 * args.dim
    patches = max(limits.token_budget, (vision.image_size // vision.patch_size) ** 2) + 1024
    features = limits.max_sequences * 2 * (vision.image_size // vision.patch_size) ** 2 * args.dim // 8
    float32_rows = 2 * 4 * rows * args.dim
    logits = limits.max_sequences * args.vocab_size * itemsize * 2  # in tiles, then side by side
    drawing = sampling.choose_bytes(limits.max_sequences, args.vocab_size)
    return int(
        itemsize * (rows * decoder + patches * encoder + features) + float32_rows + logits + drawing + KEPT_BYTES
    )


def size_engine(
    args: TransformerArgs,
    weights: int,
    granted: int,
    itemsize: int,
    device: torch.device,
    *,
    exact: bool = False,
) -> Sizes:
    """Limits and blocks within `granted` bytes of device memory; `exact` fixes a GPU's shapes (see tiles.py).

    Raises:
        UsageError: not even one full page would fit; the message has the sum.
    """
    on_gpu = device.type == "cuda"
    chunk, budget = (2048, 8192) if on_gpu else (4096, 4096)
    per_token = token_bytes(args, itemsize)
    most = 128 if on_gpu else 16 if args.dim >= 512 else 128  # small models: the cost of a step is its calls
    draft = Limits(most, chunk, budget)
    room = step_bytes(args, draft, itemsize)
    if not on_gpu:  # Each lane's scores and their softmax. Tiles take less than the rows counted above: room for eight.
        room += max(0, torch.get_num_threads() - 8) * 2 * BLOCK_ROWS * LONGEST_TOKENS * itemsize
    cache = granted - weights - room
    num_blocks = cache // (per_token * BLOCK_SIZE)
    num_sequences = max(1, min(most, num_blocks * BLOCK_SIZE // TYPICAL_TOKENS)) if on_gpu else most
    if num_sequences >= 16:
        num_sequences -= num_sequences % 8
    num_blocks = min(num_blocks, num_sequences * -(-LONGEST_TOKENS // BLOCK_SIZE))
    text = (
        f"{granted / 1e9:.1f} GB granted - {weights / 1e9:.1f} GB weights - {room / 1e9:.1f} GB for a step = "
        f"{cache / 1e9:.1f} GB: {num_blocks} blocks of {BLOCK_SIZE} tokens at {per_token:,} bytes, "
        f"{num_sequences} sequences at once"
    )
    if num_blocks * BLOCK_SIZE < LONGEST_TOKENS:
        raise UsageError(f"too little memory for one page ({text}); grant more, or take a smaller checkpoint")
    return Sizes(
        Limits(num_sequences, chunk, budget, LONGEST_TOKENS, ADMIT_TOKENS),
        num_blocks,
        (1024 if exact else None) if on_gpu else _tile(args),
        text,
    )


def _tile(args: TransformerArgs) -> int:
    """Rows of a product on a CPU: enough for its speed, few enough that an A4 page gives each core several tiles."""
    return 512 if args.dim >= 512 else 128


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
