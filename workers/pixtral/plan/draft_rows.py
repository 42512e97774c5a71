"""Which drafted tokens a step tries: as many as cost no product.

The decode rows of a step are computed in whole tiles (see `cpu/tiles.py`). What would be padding in the last one is
shared among the sequences that have a draft. With tiles of 64:

    one page alone            1 row its own, up to 32 drafted (`drafts.py`)
    20 pages                  20 rows, 44 drafted, two or three for each
    64 pages                  64 rows, none drafted

A row of a sequence sees the keys of those before it, drafted ones too, as it would have a step later, in the same
shapes. So what it gives is what the model would have given there, to the bit, if the rows before it were right.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as AbstractSequence

from workers.pixtral.plan.cache_blocks import BlockPool
from workers.pixtral.plan.sequence import Sequence


def draft_rows(
    sequences: AbstractSequence[Sequence], free: int, pool: BlockPool
) -> Iterator[tuple[Sequence, int, bool, int | None]]:
    """At most `free` more rows for these, which have one each: (sequence, position, samples, drafted token or None).

    Also those of an answer that is known after preemption, and fed again. Only blocks that are free are taken, never
    another sequence's; they stay with the sequence, whose answer will come to them.
    """
    drafting = [(sequence, ahead) for sequence in sequences if (ahead := sequence.ahead())]
    for place, (sequence, ahead) in enumerate(drafting):
        share = -(-free // (len(drafting) - place))
        for token in ahead[:share]:
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
            free -= 1
