"""Which drafted tokens a step tries, beside the one row that each decoding sequence has.

A row of a sequence sees the keys of those before it, drafted ones too, as it would have a step later. So what it gives
is what the model would have given there if the rows before it were right; the engine keeps no other.

**A CPU** computes decode rows in tiles (`cpu/tiles.py`). What is left of the last one is shared among the sequences
that have a draft: none costs one more product, and a product of 64 rows takes 1.6 times as long as one of 32. With
tiles of 64:

    one page alone            1 row its own, up to 32 drafted (`drafts.py`)
    20 pages                  20 rows, 44 drafted, two or three for each
    64 pages                  64 rows, none drafted

**A GPU** computes as many rows as the graph that is replayed, and reads a sequence's cache once for `run` rows of it
(`cuda/kernels.py`). Below RIDGE rows a product waits for its weights, and rows are free; each above costs a RIDGE-th of
them. A step's cost in such rows, for Pixtral 12B in bf16 on an H200 at 3,600 tokens a sequence (590 MB of cache beside
23.2 GB of weights: 4.6 rows), and the tokens that it gives where four of five drafted ones hold:

    sequences  rows each  products    cache            cost     tokens   tokens by cost, none drafted = 1
    128        1          180         128 × 4.6        766      128
    128        4          512         128 × 4.6        1,098    378      2.1
    128        16         2,048       4 × 128 × 4.6    4,391    622      0.85
    32         4          180         32 × 4.6         326      94       2.95
    1          16         180         4 × 4.6          198      4.9      4.5
    1          32         180         8 × 4.6          217      14.4     12, where fifteen of sixteen hold

So few sequences have many drafts, many have three, and those whose drafts do not hold have none: `Grouped` tries what
each graph would give. A draft begins with the token before it, so a sequence that has one cannot be in a step before
the last one's tokens are read. Where there are enough for two steps that compute longer than they read weights, half
of the sequences are in each, and the host plans for one half while the other is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as AbstractSequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar, Protocol

import numpy as np

from workers.pixtral.plan.cache_blocks import BlockPool
from workers.pixtral.plan.drafts import LEAST
from workers.pixtral.plan.sequence import Sequence

RIDGE = 180  # rows whose products take as long as their weights' reading: 780 TFLOP/s by 4.3 TB/s, seen on an H200


@dataclass(frozen=True, slots=True)
class Wish:
    """What one decoding sequence would try beside its own row."""

    tokens: int
    agreed: float  # share of its latest tokens that were as its draft said
    keys: int  # that its row sees


class DraftRoom(Protocol):
    """How many drafted rows a device takes."""

    @property
    def under_schema(self) -> bool:
        """Whether answers under a JSON Schema have some: each takes a mask of the host's time."""
        ...

    @property
    def most_rows(self) -> int:
        """That decode in one step; 0 where a draft takes no row that there is not anyway."""
        ...

    def shares(self, wishes: AbstractSequence[Wish], samples: int, prefill: int) -> list[int]:
        """Rows for each, in a step with `prefill` rows of prompts, of which `samples` are sampled."""
        ...

    def at_once(self, running: AbstractSequence[Sequence]) -> int:
        """How many of these that try a draft one step takes."""
        ...


@dataclass(frozen=True, slots=True)
class Filled:
    """A CPU's: what is left of the last tile of rows, were it whole."""

    tile: int
    most_rows: ClassVar[int] = 0
    under_schema: ClassVar[bool] = True

    def shares(self, wishes: AbstractSequence[Wish], samples: int, prefill: int) -> list[int]:
        free, shares = -(len(wishes) + samples) % self.tile, []
        left = sum(wish.tokens > 0 for wish in wishes)
        for wish in wishes:
            shares.append(min(wish.tokens, -(-free // left)) if left else 0)
            left -= wish.tokens > 0
            free -= shares[-1]
        return shares

    def at_once(self, running: AbstractSequence[Sequence]) -> int:
        return len(running)


@dataclass(frozen=True, slots=True)
class Grouped:
    """A GPU's: graphs of `buckets` rows, `most_runs` runs of `run` rows, each of which reads its sequence's cache."""

    buckets: tuple[int, ...]
    run: int
    most_runs: int
    key_rows: float  # what reading one key costs, in rows
    under_schema: ClassVar[bool] = False  # 128 pages with three rows more each: 400 masks, while a step takes 30 ms

    @property
    def most_rows(self) -> int:
        return self.buckets[-1]

    def shares(self, wishes: AbstractSequence[Wish], samples: int, prefill: int) -> list[int]:
        """As many for each as give the most tokens by cost, none where that is best; whole runs, if there is room."""
        rows = len(wishes) + samples
        tokens, keys = (np.asarray([getattr(wish, name) for wish in wishes]) for name in ("tokens", "keys"))
        agreed = np.asarray([wish.agreed for wish in wishes]).clip(0, 0.99)
        tokens[agreed < LEAST] = 0
        best, chosen = 0.0, np.zeros(len(wishes), np.int64)
        for bucket in self.buckets:
            if bucket < rows:
                continue
            free = (bucket - rows) // max(1, int((tokens > 0).sum()))
            for each in sorted({0, *(min(free, self.run * times - 1) for times in (1, 2, 4, 8))}):
                share = np.minimum(tokens, each)
                runs = share // self.run  # more than the one that each has
                cost = max(prefill + bucket, RIDGE) + self.key_rows * float(keys.sum() + (runs * keys).sum())
                rate = (rows + float((agreed * (1 - agreed**share) / (1 - agreed)).sum())) / cost
                if rate > best and rows + runs.sum() <= self.most_runs:
                    best, chosen = rate, share
        shares: list[int] = chosen.tolist()
        return shares

    def at_once(self, running: AbstractSequence[Sequence]) -> int:
        drafting = sum(sequence.is_drafting and not sequence.is_prefilling for sequence in running)
        return drafting if drafting * self.run < 2 * RIDGE else -(-drafting // 2)


def draft_rows(
    rows: AbstractSequence[tuple[Sequence, int, bool]],
    pieces: AbstractSequence[tuple[int, bool]],
    room: DraftRoom,
    pool: BlockPool,
) -> Iterator[tuple[Sequence, int, bool, int | None]]:
    """What decodes, and more rows of the same after each: (sequence, position, samples, drafted token or None).

    `rows` are (sequence, position, samples), `pieces` of prompts in the step (rows, whether the last is sampled).
    Also those of an answer that is known after preemption, and fed again. Only blocks that are free are taken, never
    another sequence's; they stay with the sequence, whose answer will come to them.
    """
    ahead = [sequence.ahead() for sequence, _, _ in rows]
    wishes = [
        Wish(len(tokens), sequence.agreed, sequence.computed)
        for (sequence, _, _), tokens in zip(rows, ahead, strict=True)
    ]
    sampled, prefill = sum(samples for _, samples in pieces), sum(length for length, _ in pieces)
    shares = room.shares(wishes, sampled, prefill) if any(ahead) else [0] * len(rows)
    for (sequence, place, samples), tokens, share in zip(rows, ahead, shares, strict=True):
        yield sequence, place, samples, None
        for token in tokens[:share]:
            position, is_drafted = sequence.computed, sequence.computed >= len(sequence.tokens)
            samples = position == len(sequence.tokens) + sequence.pending - 1
            if samples and sequence.num_generated >= sequence.max_tokens:
                break
            if position >= len(sequence.block_table) * pool.block_size:
                if not pool.num_free:
                    break
                sequence.block_table += pool.allocate(1) or []
            yield sequence, position, samples, token if is_drafted else None
            sequence.computed += 1
            sequence.pending += samples
            sequence.drafted += is_drafted


def runs_of(sequences: AbstractSequence[Sequence], most: int) -> list[tuple[int, int]]:
    """Rows of one sequence that follow one another, `most` in a run: [a a a a a b], 4 → [(0, 4), (4, 1), (5, 1)]."""
    runs: list[tuple[int, int]] = []
    first = 0
    for _, rows in groupby(sequences, key=id):
        last = first + len(list(rows))
        runs += [(start, min(most, last - start)) for start in range(first, last, most)]
        first = last
    return runs
