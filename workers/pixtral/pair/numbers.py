"""What the second process must know of a step: the numbers of its layout, without pages, texts and who they are for."""

from __future__ import annotations

from dataclasses import replace

from workers.pixtral.plan.batch import Layout
from workers.pixtral.plan.scheduler import Step
from workers.pixtral.plan.sequence import Request, Sequence


def numbers_of(step: Step, layout: Layout) -> tuple[Step, Layout]:
    """The same for a backend, with sequences that have nothing but their row and their blocks."""
    nothing, kept = Request(()), dict[int, Sequence]()

    def bare(sequence: Sequence) -> Sequence:
        if sequence.number not in kept:
            made = Sequence(nothing, [], None, sequence.number)
            made.row, made.block_table = sequence.row, sequence.block_table
            kept[sequence.number] = made
        return kept[sequence.number]

    return (
        replace(
            step,
            chunks=tuple(replace(chunk, sequence=bare(chunk.sequence)) for chunk in step.chunks),
            decodes=tuple(replace(decode, sequence=bare(decode.sequence)) for decode in step.decodes),
        ),
        replace(layout, feature_ranges=[], sample_sequences=[bare(one) for one in layout.sample_sequences]),
    )
