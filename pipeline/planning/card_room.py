"""How many pages the memory of a card holds at once beside a model's weights: pure arithmetic.

    granted − weights − room for one step = cache;  cache / bytes of a block = blocks;  tokens / 3,600 = pages at once

with the step as large as leaves room for pages. The engine sizes itself by it (`workers/pixtral/plan/sizes.py`, where
Pixtral 12B's sum stands), and a plan says beforehand what it will come to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pipeline.documents.pages.tiles import MOST_TOKENS
from pipeline.planning.shapes import KINDS, Shape
from pipeline.planning.step_room import StepSize, gpu_step_bytes

GRANTED = 0.92  # of a GPU's memory
BLOCK_SIZE = 64
IMAGE_TOKENS = 64 * 65  # a full page of 64 × 64 patches and their breaks
TEXT_TOKENS = 300 + 4096  # a prompt and its answer
LONGEST_TOKENS = IMAGE_TOKENS + TEXT_TOKENS
LEAST_TOKENS = IMAGE_TOKENS + 300 + 2048  # where a card has no more room: the answer ends earlier
TILED_TOKENS = LONGEST_TOKENS + MOST_TOKENS  # with the tiles of a large one
TYPICAL_TOKENS = 3600  # an A4 page, its prompt and half its answer: what a running sequence holds on average
MOST_SEQUENCES = 256
# Of a GPU: tokens of one prompt and of all in a step; for so many sequences there is room in it, as few as may be.
STEPS = [(2048, 8192), (2048, 2048), (1024, 1024), (512, 512)]
SEQUENCES = (4, 8, 16, 32, 64, 128, MOST_SEQUENCES)
# Widths of weights in bits, and how many pages at once make each worth it. A step reads the decoder's weights once for
# all pages: of Pixtral 12B 23.2 GB in 16 bits for 16 pages, and 11.6 in 8 for 8, are 1.45 GB a page, whose own cache is
# 0.59. With fewer pages a narrower width, whose words differ now and then, reads far more in the same time.
WORTH_IT = ((16, 16), (8, 8), (4, 1))
SMALLER_FOR = 1.25  # times the sequences a smaller step is worth it: its prompts are read in more pieces


@dataclass(frozen=True, slots=True)
class Room:
    """What fits beside the weights and one step."""

    step: StepSize
    step_bytes: int
    longest: int  # tokens that a sequence may have, with the tiles of a large page
    num_blocks: int
    num_sequences: int

    @property
    def holds_a_page(self) -> bool:
        return self.num_blocks * BLOCK_SIZE >= LEAST_TOKENS

    @property
    def max_context(self) -> int:
        """Tokens of a full page and its answer, which ends earlier where there is no more room."""
        return min(LONGEST_TOKENS, self.num_blocks * BLOCK_SIZE)

    def is_worth_it(self, larger: Room) -> bool:
        """Whether the room that this smaller step leaves is worth its more pieces."""
        if larger.max_context < LONGEST_TOKENS:
            return self.max_context > larger.max_context
        return self.num_sequences >= SMALLER_FOR * larger.num_sequences


@dataclass(frozen=True, slots=True)
class Memory:
    """What is left beside the weights, and what a token and a step take of it."""

    left: int
    token_bytes: int
    step_bytes: Callable[[StepSize, int], int]  # with sequences of up to so many tokens

    def best(self) -> Room:
        """On a GPU: a smaller step where the usual one leaves no room for a page, or for far fewer of them.

        Where none does, what the smallest leaves.
        """
        best = None
        for chunk, budget in STEPS:
            room = self.fullest(chunk, budget)
            if room.holds_a_page and (best is None or room.is_worth_it(best)):
                best = room
        return best or room

    def fullest(self, chunk: int, budget: int) -> Room:
        """With room in a step for as many sequences as there may be then, not for more."""
        best = self.beside(chunk, budget, SEQUENCES[0])
        for most in SEQUENCES[1:]:
            room = self.beside(chunk, budget, most)
            if not room.holds_a_page:
                break
            if room.num_sequences > best.num_sequences:
                best = room
        return best

    def beside(self, chunk: int, budget: int, most: int) -> Room:
        """With steps of at most so many tokens of one prompt, of all prompts, and sequences."""
        step = StepSize(most, chunk, budget, LONGEST_TOKENS)
        left = self.left - self.step_bytes(step, LONGEST_TOKENS)
        longest = max(LONGEST_TOKENS, min(TILED_TOKENS, left // self.token_bytes))
        step_bytes = self.step_bytes(step, longest)
        return Room(step, step_bytes, longest, *in_cache(self.left - step_bytes, self.token_bytes, most))


def in_cache(cache: int, token_bytes: int, most: int, *, fewest: int = 1) -> tuple[int, int]:
    """Blocks that a cache of so many bytes has, and the sequences of usual length that find room in them.

    `most` at most, and `fewest` at least. Blocks that so many sequences could never fill are left out.
    """
    num_blocks = max(0, cache // (token_bytes * BLOCK_SIZE))
    num_sequences = max(fewest, min(most, num_blocks * BLOCK_SIZE // TYPICAL_TOKENS))
    if num_sequences >= 16:
        num_sequences -= num_sequences % 8
    return min(
        num_blocks, max(num_sequences * -(-LONGEST_TOKENS // BLOCK_SIZE), -(-TILED_TOKENS // BLOCK_SIZE))
    ), num_sequences


def pages_at_once(shape: Shape, memory_bytes: float, bits: int, *, narrow_cache: bool = False) -> int:
    """On a GPU with nothing else in its memory, weights of so many bits; 0 where not even one fits."""
    left = int(memory_bytes * GRANTED) - shape.weight_bytes(bits)
    step_bytes = partial(gpu_step_bytes, shape, kind=KINDS.get(bits), narrow_cache=narrow_cache)
    room = Memory(left, shape.token_bytes(narrow_cache=narrow_cache), step_bytes).best()
    return room.num_sequences if room.holds_a_page else 0
