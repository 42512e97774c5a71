"""What runs next: continuous batching as pure decisions over sequences and block numbers.

Each step takes one token of every decoding sequence and, under a budget, prefill chunks of those still reading their
prompt; sequences join and leave at any step (Yu et al. 2022, "Orca"; chunked prefill: Agrawal et al. 2024,
"Sarathi-Serve", arXiv:2403.02310). With a budget of 8 and chunks of 4:

    step 1   a[0:4] b[0:4]              two prompts begin
    step 2   a[4:6]→x  b[4:8]           a's prompt ends, its first token is sampled
    step 3   a·x→y     b[8:9]→z         a decodes beside the rest of b

When blocks run out, the sequence that came last gives its blocks back and is computed again later. A sequence whose
page prefix is being computed by another waits for it rather than computing it a second time.

Nothing here touches a device, a clock or a future.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice, starmap

from workers.pixtral.plan.cache_blocks import BlockPool
from workers.pixtral.plan.draft_rows import DraftRoom, draft_rows
from workers.pixtral.plan.sequence import Sequence, State

MAX_HELD_STEPS = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """What a step may hold. `chunk_tokens` shapes results (see `Sequence.chunk_end`); the others only speed."""

    max_sequences: int
    chunk_tokens: int
    token_budget: int  # prefill tokens a step
    max_context: int = 2**31 - 1  # tokens of one sequence, prompt and answer, without the tiles of a large page
    admit_tokens: int = 0  # small prompts are admitted together, once they have so many tokens
    tile_tokens: int = 0  # that the tiles of one page may add to `max_context`
    step_keys: int = 2**31 - 1  # that the chunks of a step may look at together: a GPU gathers them for each layer
    drafts: DraftRoom | None = None  # for rows of drafts, which are tried where there is one

    def __post_init__(self) -> None:
        if self.token_budget < self.chunk_tokens or self.max_sequences < 1:
            raise ValueError(f"a chunk of {self.chunk_tokens} tokens must fit the budget of {self.token_budget}")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens first … last - 1 of a sequence's prompt; `samples` if its last token's logits are wanted."""

    sequence: Sequence
    first: int
    last: int
    samples: bool


@dataclass(frozen=True, slots=True)
class Decode:
    """One token of `sequence`, the one at `position`; `samples` unless the next token is known already.

    `draft` is that token where it is only drafted.
    """

    sequence: Sequence
    position: int
    samples: bool
    draft: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One launch: chunks, decodes, and blocks to copy before anything is written."""

    chunks: tuple[Chunk, ...] = ()
    decodes: tuple[Decode, ...] = ()
    copies: tuple[tuple[int, int], ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self.chunks and not self.decodes

    @property
    def sequences(self) -> list[Sequence]:
        """Everyone in the step, once, in order."""
        chunks = [chunk.sequence for chunk in self.chunks]
        return list(dict.fromkeys(chunks + [decode.sequence for decode in self.decodes]))

    @property
    def num_tokens(self) -> int:
        return sum(chunk.last - chunk.first for chunk in self.chunks) + len(self.decodes)

    def halves(self) -> tuple[Step, Step]:
        """The same work in two steps; a sequence stays in one piece."""
        order = self.sequences
        middle = len(order) // 2
        return self._only(order[:middle]), self._only(order[middle:])

    def _only(self, sequences: list[Sequence]) -> Step:
        blocks = {block for sequence in sequences for block in sequence.block_table}
        return Step(
            tuple(chunk for chunk in self.chunks if chunk.sequence in sequences),
            tuple(decode for decode in self.decodes if decode.sequence in sequences),
            tuple(pair for pair in self.copies if pair[1] in blocks),
        )


class Scheduler:
    """Owns the queue, the running set and the block pool; `plan` moves them, `finish` lets a sequence go."""

    def __init__(self, limits: Limits, pool: BlockPool, expected_output_tokens: float = 256.0) -> None:
        self.limits, self.pool = limits, pool
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in order of admission
        self.preemptions = 0
        self.prefix_hit_tokens = 0
        self.expected_output_tokens = expected_output_tokens  # moving mean of finished ones; blocks kept for growth
        self._held_steps = 0
        self._computed_prefixes: list[Sequence] = []
        self._rows = list(range(limits.max_sequences))[::-1]

    def fits(self, sequence: Sequence) -> bool:
        """Whether the prompt and one token more could ever be held."""
        return sequence.prompt_length + 1 <= self._room(sequence)

    def _room(self, sequence: Sequence) -> int:
        """What one sequence may come to: a long answer takes the room that tiles of a large page would."""
        most = self.limits.max_context + max(sequence.request.tile_tokens, self.limits.tile_tokens)
        return min(most, self.pool.num_blocks * self.pool.block_size)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence that `fits`; its answer ends at the latest where the whole cache would be full."""
        assert self.fits(sequence), (sequence.prompt_length, self.pool.num_blocks)
        left = max(1, sequence.request.sampling.max_tokens - sequence.request.written)
        sequence.max_tokens = min(left, self._room(sequence) - sequence.prompt_length)
        if self.limits.drafts is not None:
            sequence.begin_drafts(under_schema=self.limits.drafts.under_schema)
        self.waiting.append(sequence)

    def finish(self, sequence: Sequence, reason: str) -> None:
        """Take a sequence out, wherever it is, and free its blocks."""
        if sequence.state is State.RUNNING:
            if reason != "error":
                self._keep_prefixes()
            self._leave(sequence)
            if reason in ("stop", "length"):
                self.expected_output_tokens += (len(sequence.generated) - self.expected_output_tokens) / 64
        elif sequence.state is State.WAITING:
            self.waiting.remove(sequence)
        sequence.state, sequence.finish_reason = State.FINISHED, reason

    def plan(self) -> Step:
        """The next step; counts its tokens as computed. Empty if nothing can run."""
        self._keep_prefixes()
        preemptions, decodes = self.preemptions, self._plan_decodes()
        chunks, copies = list[Chunk](), list[tuple[int, int]]()
        budget = self.limits.token_budget
        for sequence in self.running:
            if sequence.is_prefilling:
                budget = self._take_chunks(sequence, budget, chunks)
        if self.preemptions == preemptions:  # else the victim would take back what it just gave
            self._admit(budget, chunks, copies, busy=bool(decodes))
        if self.limits.drafts is not None:
            rows = [(decode.sequence, decode.position, decode.samples) for decode in decodes]
            pieces = [(chunk.last - chunk.first, chunk.samples) for chunk in chunks]
            decodes = list(starmap(Decode, draft_rows(rows, pieces, self.limits.drafts, self.pool)))
        return Step(tuple(chunks), tuple(decodes), tuple(copies))

    def _plan_decodes(self) -> list[Decode]:
        decodes: list[Decode] = []
        left = self.limits.drafts.at_once(self.running) if self.limits.drafts is not None else 0
        for sequence in list(self.running):
            if sequence.can_decode and (left or not sequence.is_drafting) and self._has_room(sequence):
                left -= sequence.is_drafting
                samples = sequence.computed == len(sequence.tokens) + sequence.pending - 1
                decodes.append(Decode(sequence, sequence.computed, samples))
                sequence.computed += 1
                sequence.pending += samples
        return decodes

    def _has_room(self, sequence: Sequence) -> bool:
        """Make sure that the next token has a slot, preempting whoever came last; false if that is itself.

        Sequences are planned in order of admission, so the victim is never one that this step already holds.
        """
        if sequence.state is not State.RUNNING:
            return False
        while sequence.computed >= len(sequence.block_table) * self.pool.block_size:
            if (blocks := self.pool.allocate(1)) is not None:
                sequence.block_table += blocks
                return True
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _take_chunks(self, sequence: Sequence, budget: int, chunks: list[Chunk]) -> int:
        """As many whole chunks as the budget holds; returns what is left of it."""
        while sequence.is_prefilling:
            first, last = sequence.computed, sequence.chunk_end(self.limits.chunk_tokens)
            if last - first > budget:
                return budget
            if chunks and last + sum(chunk.last for chunk in chunks) > self.limits.step_keys:
                return 0
            ends = last == sequence.prompt_length
            samples = ends and sequence.num_generated == 0
            chunks.append(Chunk(sequence, first, last, samples))
            sequence.computed = last
            sequence.pending += samples
            budget -= last - first
            prefix = sequence.request.prefix_length
            if sequence.prefix_key is not None and first < prefix <= last:
                self._computed_prefixes.append(sequence)
        return budget

    def _keep_prefixes(self) -> None:
        """Publish the prefixes of the last step, now that it is launched: whoever copies comes after it."""
        for sequence in self._computed_prefixes:
            length = sequence.request.prefix_length
            if sequence.state is State.RUNNING and sequence.prefix_key is not None and sequence.computed >= length:
                blocks = sequence.block_table[: self.pool.blocks_for(length)]
                self.pool.keep_prefix(sequence.prefix_key, blocks, length)
        self._computed_prefixes.clear()

    def _admit(self, budget: int, chunks: list[Chunk], copies: list[tuple[int, int]], *, busy: bool) -> None:
        """Start waiting sequences in order while rows, blocks and budget last."""
        if busy and not self._is_worth_admitting():
            return
        self._held_steps = 0
        computing = {sequence.prefix_key for sequence in self.running if self._is_computing_prefix(sequence)}
        computing.update(sequence.prefix_key for sequence in self._computed_prefixes)
        for sequence in list(self.waiting):
            key = sequence.prefix_key
            start = sequence.request.prefix_length if self.pool.has_prefix(key) else 0
            if not self._rows or sequence.chunk_end(self.limits.chunk_tokens, start) - start > budget:
                return
            if key is not None and key in computing and not self.pool.has_prefix(key):
                continue  # its page is on its way in another sequence
            if not self._allocate_prompt(sequence, copies, busy=busy or bool(chunks)):
                return
            self.waiting.remove(sequence)
            sequence.state, sequence.row = State.RUNNING, self._rows.pop()
            self.running.append(sequence)
            budget = self._take_chunks(sequence, budget, chunks)
            computing.add(key)  # published with the next step at the earliest

    def _is_worth_admitting(self) -> bool:
        """Whether the prompts that could start fill a step; small ones wait a few steps for company.

        A page of 50 tokens alone would cost as much as ten of them.
        """
        candidates = islice(self.waiting, len(self._rows))
        tokens = sum(sequence.prompt_length for sequence in candidates)
        self._held_steps = self._held_steps + 1 if 0 < tokens < self.limits.admit_tokens else 0
        return self._held_steps == 0 or self._held_steps > MAX_HELD_STEPS

    def _is_computing_prefix(self, sequence: Sequence) -> bool:
        return sequence.prefix_key is not None and sequence.computed < sequence.request.prefix_length

    def _allocate_prompt(self, sequence: Sequence, copies: list[tuple[int, int]], *, busy: bool) -> bool:
        """Blocks for the whole prompt, the shared prefix included, leaving room for the running ones to grow."""
        count = self.pool.blocks_for(sequence.prompt_length + 1)
        growth = self.expected_output_tokens / 2 * (len(self.running) + 1)
        reserve = self.pool.blocks_for(int(growth)) if busy or self.running else 0
        has_prefix = self.pool.has_prefix(sequence.prefix_key)
        fresh = count - (sequence.request.prefix_length // self.pool.block_size if has_prefix else 0)
        if self.pool.num_free < fresh + reserve and self.pool.num_available < fresh + reserve:
            return False
        if has_prefix and sequence.prefix_key is not None:
            taken = self.pool.take_prefix(sequence.prefix_key, count)
            if taken is not None:
                sequence.block_table, sequence.computed, pairs = taken
                copies += pairs
                self.prefix_hit_tokens += sequence.computed
                return True
            if self.running:
                return False
            # Nobody is left to give blocks back, and a prefix with a copy of its last block is too much for the pool.
            self.pool.drop_prefix(sequence.prefix_key)
        blocks = self.pool.allocate(count)
        if blocks is None:
            return False
        sequence.block_table = blocks
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Back to the head of the queue; computed again from its prompt (or its page's prefix, if that stays)."""
        self._leave(sequence)
        sequence.state, sequence.computed = State.WAITING, 0
        sequence.preemptions += 1
        self.preemptions += 1
        self.waiting.appendleft(sequence)

    def _leave(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.pool.release(sequence.block_table)
        sequence.block_table = []
        self._rows.append(sequence.row)
        sequence.row = -1
