"""One request on its way through the engine.

`tokens` grows from the prompt by what is sampled; `computed` counts the tokens whose keys and values lie in the cache
(or are on their way: a step is counted when it is launched). With a prompt of 5 tokens, after the prefill and two
decode steps:

    tokens    p p p p p a b c        the last one, c, is sampled but not yet fed
    computed  7                      p … b lie in the cache, c is fed next, at position 7

After preemption `computed` is 0 again. The prompt is computed again in the same chunks, and the known answer is fed
token by token as decode rows, in the same shapes as the first time: the text cannot change.

Tokens of a draft are fed before it is known that they are the answer's. Those that are not are as if they had never
been: `computed` goes back, and their places in the cache are written again before anyone looks there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from collections.abc import Sequence as AbstractSequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from workers.pixtral.plan.drafts import JUMP, JUMP_TO_FIELD, LEAST, MOST_AHEAD, Drafter

_ids = count()


class Constraint(Protocol):
    """What may follow in one answer; it follows the answer token by token."""

    mask: NDArray[np.int32]
    """(⌈V / 32⌉,) a bit for each token, the lowest first: 1 where it may be the next."""

    def ahead(self, draft: AbstractSequence[int], most: int) -> list[int]:
        """At most so many tokens that may follow one another here: those that must, and of the draft what fits."""
        ...

    def masks(self, tokens: AbstractSequence[int]) -> NDArray[np.int32]:
        """(1 + len(tokens), ⌈V / 32⌉): the mask, and those that would stand after each token of what is `ahead`."""
        ...

    def advance(self, token: int) -> bool:
        """Take the token that was sampled and renew the mask; whether the answer is whole, and nothing may follow."""
        ...

    def follow(self, tokens: AbstractSequence[int]) -> None:
        """Take an answer's beginning that was written before; a mask is made for what comes after it alone."""
        ...


class State(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a prompt: uint8 (H, W, 3), or float32 where it is normalised already."""

    digest: str  # names the pixels: same digest, same pixels
    pixels: NDArray[np.uint8] | NDArray[np.float32]  # not to be changed: it may be a view of the page's


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen and when to end. `temperature` 0 is greedy."""

    max_tokens: int = 4096
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    page_lines: int = 0  # that the page has room for: an answer that repeats itself for more is a loop; 0: none is


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt as the processor laid it out. `prefix_length` tokens, through the last image, may be shared."""

    tokens: tuple[int, ...]
    images: tuple[Image, ...] = ()
    prefix_length: int = 0
    image_end: int = 0  # tokens through the last image's end, 0 without images
    sampling: Sampling = Sampling()
    deadline: float | None = None  # a time.monotonic() moment
    tile_tokens: int = 0  # of the images after a page's first; they leave its room for text as it is
    written: int = 0  # of the tokens, the last: an answer that was cut, which goes on
    constrain: Callable[[], Constraint] | None = None  # begins the answer's constraint; None: any token may follow
    draft: tuple[int, ...] = ()  # what the answer may be, by a text that the page is known to have

    @property
    def prefix_key(self) -> str | None:
        """Names the shared prefix. All image tokens have one id, so the images' digests must be part of it."""
        if not self.prefix_length:
            return None
        digest = hashlib.sha256(np.asarray(self.tokens[: self.prefix_length], np.int64).tobytes())
        for image in self.images:
            digest.update(f"|{image.digest} {image.pixels.shape}".encode())
        return digest.hexdigest()


@dataclass(slots=True, eq=False)
class Sequence:
    """The state of a request; the scheduler moves `computed`, the blocks and the state, the engine the tokens."""

    request: Request
    tokens: list[int]
    prefix_key: str | None
    number: int = field(default_factory=lambda: next(_ids))
    state: State = State.WAITING
    computed: int = 0
    pending: int = 0  # sampled on the device, not yet read by the host
    block_table: list[int] = field(default_factory=list)
    row: int = -1  # of the device's table of last tokens, while running
    max_tokens: int = 0  # that may still be written: the request's, or less where the cache ends earlier
    finish_reason: str = ""
    error: str = ""
    preemptions: int = 0
    log_probabilities: list[float] = field(default_factory=list)  # of the tokens after the prompt
    constraint: Constraint | None = None  # of the next token; it stays through preemption, for tokens do
    drafter: Drafter | None = None  # follows the answer through the request's draft; it stays, too
    drafted: int = 0  # tokens of the draft that were tried
    accepted: int = 0  # of them, that the model chose itself

    @classmethod
    def of(cls, request: Request) -> Sequence:
        sequence = cls(request, list(request.tokens), request.prefix_key)
        sequence.constraint = request.constrain() if request.constrain else None
        if sequence.constraint is not None and request.written:
            sequence.constraint.follow(sequence.generated)
        return sequence

    @property
    def prompt_length(self) -> int:
        return len(self.request.tokens)

    @property
    def generated(self) -> AbstractSequence[int]:
        """The answer, with what was written of it before."""
        return self.tokens[self.prompt_length - self.request.written :]

    @property
    def num_generated(self) -> int:
        """Sampled so far, those in flight included."""
        return len(self.tokens) + self.pending - self.prompt_length

    @property
    def is_prefilling(self) -> bool:
        return self.computed < self.prompt_length

    @property
    def can_decode(self) -> bool:
        """Whether a next token is known or on its way, and more are wanted."""
        if self.is_prefilling or self.state is not State.RUNNING:
            return False
        if self.computed < len(self.tokens) - 1:
            return True  # feeding a known answer again after preemption
        if (self.constraint is not None or self.is_drafting) and self.pending:
            return False  # what may follow is known when the host has read the last token
        return self.num_generated < self.max_tokens and self.computed < len(self.tokens) + self.pending

    @property
    def agreed(self) -> float:
        """Share of the latest tokens that were as the draft says; known ones all are."""
        return 1.0 if self.drafter is None else self.drafter.agreed

    @property
    def is_drafting(self) -> bool:
        """Whether it waits for its last token, to try what may come after. A draft that does not hold is followed only:
        the sequence goes on with the others, and may come back to it."""
        return self.drafter is not None and self.drafter.agreed >= LEAST

    def begin_drafts(self, *, under_schema: bool) -> None:
        """Follow the request's draft; with `under_schema` also under a constraint, which needs none to know of some."""
        if (bool(self.request.draft) and self.constraint is None) or (under_schema and self.constraint is not None):
            self.drafter = Drafter(self.request.draft, JUMP if self.constraint is None else JUMP_TO_FIELD)
            for token in self.generated:
                self.drafter.take(token)

    def ahead(self) -> list[int]:
        """Tokens to feed next: those that are known, else what the draft says; none while the last is under way."""
        if self.computed > len(self.tokens):
            return []
        known = self.tokens[self.computed :]
        if known or self.drafter is None:
            return known
        drafted = self.drafter.ahead()
        return drafted if self.constraint is None else self.constraint.ahead(drafted, MOST_AHEAD)

    def was_wrong(self, position: int, draft: int | None) -> bool:
        """Whether a row was fed what is not the answer, there or before; then nothing has been computed from there on.

        Rows are told in order. After a wrong one the answer does not come to the positions of the next.
        """
        if draft is None or (position < len(self.tokens) and self.tokens[position] == draft):
            return False
        self.computed = min(self.computed, position)
        return True

    def drop_draft(self, position: int) -> bool:
        """After a row that gave no number: whether drafted ones may have stood beside it, and it goes again without.

        What a wrong draft leaves is masked, which is not enough where it overflowed: 0 × ∞ is no number.
        """
        if self.drafter is None or position < self.prompt_length:
            return False
        self.drafter, self.computed = None, min(self.computed, position)
        return True

    def take(self, token: int, log_probability: float, draft: int | None) -> None:
        """The token that was sampled after the answer so far."""
        self.tokens.append(token)
        self.log_probabilities.append(log_probability)
        self.accepted += draft is not None
        if self.drafter is not None:
            self.drafter.take(token)

    def chunk_end(self, chunk_tokens: int, start: int | None = None) -> int:
        """Where the chunk at `start` (default: the next) ends: at a multiple of `chunk_tokens`,
        at the end of the shared prefix or of the prompt.

        The ends depend on the prompt alone, never on the load, so that a page is always computed in the same pieces.
        """
        start = self.computed if start is None else start
        ends = [(start // chunk_tokens + 1) * chunk_tokens, self.prompt_length]
        if start < self.request.prefix_length:
            ends.append(self.request.prefix_length)
        return min(ends)
