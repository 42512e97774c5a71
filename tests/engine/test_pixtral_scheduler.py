"""The pure half: block pool, chunks and scheduling under thousands of random steps."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import examples
from workers.pixtral.plan import batch
from workers.pixtral.plan.cache_blocks import BlockPool
from workers.pixtral.plan.scheduler import Limits, Scheduler
from workers.pixtral.plan.sequence import Request, Sampling, Sequence, State


def sequence(prompt, prefix=0, page=0, max_tokens=8):
    tokens = (
        tuple([1, 3] + [10 + page] * (prefix - 2) + list(range(100, 100 + prompt - prefix)))
        if prefix
        else tuple(range(prompt))
    )
    return Sequence.of(Request(tokens, (), prefix, prefix, Sampling(max_tokens=max_tokens)))


def commit(step, finish):
    """What the engine does after a step: read tokens, end who is done."""
    for work in (*step.chunks, *step.decodes):
        seq = work.sequence
        if not work.samples:
            continue
        seq.pending -= 1
        if seq.state is not State.FINISHED:
            seq.tokens.append(7)
            if len(seq.generated) >= seq.max_tokens:
                finish(seq, "length")


@examples(30)
@given(
    seed=st.integers(0, 2**32),
    blocks=st.integers(8, 60),
    block_size=st.sampled_from([1, 3, 8]),
    lookahead=st.booleans(),
)
def test_random_workload_returns_every_block_and_finishes_everyone(seed, blocks, block_size, lookahead):
    """About 200 steps each: arrivals, shared pages, cancels, failed steps, preemption, with and without lookahead."""
    rng = random.Random(seed)
    pool = BlockPool(blocks, block_size)
    scheduler = Scheduler(Limits(rng.randint(1, 6), 8, rng.choice([8, 16, 64]), 200), pool, rng.choice([0, 4]))
    everyone, cached, launched = [], {}, []
    for step_number in range(2000):
        if step_number < 150 and rng.random() < 0.3:
            prompt = rng.randint(2, 40)
            prefix = rng.choice([0, rng.randint(2, prompt - 1) if prompt > 2 else 0])
            new = sequence(prompt, prefix, rng.randint(0, 2), rng.randint(1, 30))
            if scheduler.fits(new):
                scheduler.add(new)
                everyone.append(new)
        step = scheduler.plan()
        check_step(step, scheduler, cached)
        pool.check([seq.block_table for seq in scheduler.running])
        launched.append(step)
        if not lookahead or len(launched) > 1:
            commit(launched.pop(0), scheduler.finish)
        if rng.random() < 0.02 and scheduler.running:
            scheduler.finish(rng.choice(scheduler.running), "cancelled")
        if rng.random() < 0.02 and scheduler.waiting:
            scheduler.finish(rng.choice(list(scheduler.waiting)), "cancelled")
        if step_number >= 150 and not scheduler.running and not scheduler.waiting:
            break
    assert all(seq.state is State.FINISHED for seq in everyone), "someone never ends"
    for step in launched:
        commit(step, scheduler.finish)
    assert all(seq.pending == 0 for seq in everyone)
    pool.check([])
    pool.drop_prefixes()
    assert pool.num_free == blocks


@examples(200)
@given(
    blocks=st.integers(2, 7),
    block_size=st.integers(1, 5),
    pages=st.lists(st.tuples(st.integers(3, 30), st.integers(0, 4), st.integers(0, 2), st.integers(1, 6)), max_size=8),
    max_sequences=st.integers(1, 3),
    lookahead=st.booleans(),
)
def test_a_tight_cache_never_plans_nothing_for_ever(blocks, block_size, pages, max_sequences, lookahead):
    """Prompts and prefixes near the size of the whole pool. A plan may be empty once: who came last gave its blocks."""
    pool = BlockPool(blocks, block_size)
    scheduler = Scheduler(Limits(max_sequences, 8, 8), pool, 0)
    for prompt, tail, number, max_tokens in pages:
        new = sequence(prompt, max(0, prompt - 1 - tail), number, max_tokens)
        if scheduler.fits(new):
            scheduler.add(new)
    launched, empty = [], 0
    while scheduler.waiting or scheduler.running:
        step = scheduler.plan()
        launched.append(step)
        waits = lookahead and len(launched) == 1
        empty = empty + 1 if step.is_empty and not waits else 0
        assert empty <= 2, (scheduler.waiting, scheduler.running)
        if not waits:
            commit(launched.pop(0), scheduler.finish)
    pool.check([])


def test_a_prefix_too_large_to_be_copied_is_computed_afresh():
    """4 blocks of 4: a prefix of 10 holds 3, and a prompt of 14 beside the copy of the third needs 5."""
    scheduler = Scheduler(Limits(4, 8, 64), BlockPool(4, 4), 0)
    for prompt in (12, 14):
        seq = sequence(prompt, prefix=10, max_tokens=2)
        assert scheduler.fits(seq)
        scheduler.add(seq)
        for _ in range(6):
            commit(scheduler.plan(), scheduler.finish)
        assert seq.state is State.FINISHED, "planning spins"
    assert scheduler.prefix_hit_tokens == 0


def check_step(step, scheduler, cached):
    """No slot is written twice, none that another reads as its own, and every read was written before."""
    size = scheduler.pool.block_size
    for source, target in step.copies:
        for offset in range(size):
            cached[target * size + offset] = cached.get(source * size + offset)
    written = {}
    for chunk in step.chunks:
        for position in range(chunk.first, chunk.last):
            write(written, cached, chunk.sequence, position, size)
    for decode in step.decodes:
        write(written, cached, decode.sequence, decode.position, size)
    for work in (*step.chunks, *step.decodes):
        seq, last = work.sequence, getattr(work, "last", getattr(work, "position", 0) + 1)
        for position in range(last):
            slot = seq.block_table[position // size] * size + position % size
            token = seq.request.tokens[position] if position < seq.prompt_length else "generated"
            assert cached.get(slot) == (position, token), "a sequence reads what is not its own"
    assert sum(chunk.last - chunk.first for chunk in step.chunks) <= scheduler.limits.token_budget
    assert len(scheduler.running) <= scheduler.limits.max_sequences


def write(written, cached, seq, position, size):
    slot = seq.block_table[position // size] * size + position % size
    assert slot not in written, "two rows write one slot"
    written[slot] = True
    token = seq.request.tokens[position] if position < seq.prompt_length else "generated"
    cached[slot] = (position, token)


def test_chunks_end_at_fixed_places_of_the_prompt():
    seq = sequence(40, prefix=21)
    ends = []
    while seq.computed < 40:
        seq.computed = seq.chunk_end(16)
        ends.append(seq.computed)
    assert ends == [16, 21, 32, 40]


def test_a_second_prompt_takes_full_blocks_and_copies_the_partial_one():
    pool = BlockPool(10, 4)
    first = pool.allocate(4)
    pool.keep_prefix("page", first[:3], 10)
    table, length, copies = pool.take_prefix("page", 5)
    assert length == 10 and table[:2] == first[:2] and table[2] not in first
    assert copies == [(first[2], table[2])]
    pool.release(first)
    pool.release(table)
    pool.check([])
    assert pool.num_free == 7 and pool.num_available == 10
    assert pool.allocate(10) is not None, "an unused prefix is given back when blocks are needed"
    assert not pool.has_prefix("page")


def test_a_prefix_in_use_is_not_dropped():
    pool = BlockPool(4, 4)
    blocks = pool.allocate(3)
    pool.keep_prefix("page", blocks, 12)
    assert pool.allocate(2) is None and pool.has_prefix("page")


def test_prefix_key_holds_the_image_hash():
    from dataclasses import replace

    import numpy as np

    from workers.pixtral.plan.sequence import Image

    pixels = np.zeros((16, 16, 3), np.uint8)
    one = Request((1, 3, 10, 13, 50), (Image("a", pixels),), 4, 4)
    assert one.prefix_key != replace(one, images=(Image("b", pixels),)).prefix_key
    assert one.prefix_key == replace(one, tokens=(1, 3, 10, 13, 60)).prefix_key


def test_who_came_last_is_preempted_and_comes_back_first():
    scheduler = Scheduler(Limits(4, 8, 64), BlockPool(4, 4), 0)
    old, young = sequence(7, max_tokens=9), sequence(7, max_tokens=9)
    scheduler.add(old)
    scheduler.add(young)
    steps = [scheduler.plan()]
    commit(steps[-1], scheduler.finish)
    while not scheduler.preemptions:
        commit(scheduler.plan(), scheduler.finish)
    assert young.state is State.WAITING and old.state is State.RUNNING
    while scheduler.running or scheduler.waiting:
        commit(scheduler.plan(), scheduler.finish)
    assert len(old.generated) == len(young.generated) == 9


def test_a_failed_step_is_split_with_its_copies():
    scheduler = Scheduler(Limits(4, 8, 64), BlockPool(20, 4), 0)
    for _ in range(3):
        scheduler.add(sequence(12, prefix=6, page=1))
    commit(scheduler.plan(), scheduler.finish)
    step = scheduler.plan()
    assert len(step.copies) == 2
    first, second = step.halves()
    assert set(first.sequences) | set(second.sequences) == set(step.sequences)
    assert not set(first.sequences) & set(second.sequences)
    assert sorted(first.copies + second.copies) == sorted(step.copies)


@pytest.mark.parametrize(("lengths", "expected"), [([3, 5], [0, 3, 8]), ([], [0])])
def test_cumulative_lengths(lengths, expected):
    assert batch.cumulative(lengths) == expected


def test_slots_follow_the_block_table():
    assert batch.slots_of([7, 2], 3, 6, 4).tolist() == [31, 8, 9]


def test_layout_pads_both_kinds_of_rows_and_padding_writes_nowhere():
    scheduler = Scheduler(Limits(4, 8, 64), BlockPool(20, 4), 0)
    scheduler.add(sequence(5))
    commit(scheduler.plan(), scheduler.finish)
    scheduler.add(sequence(6))
    layout = batch.lay_out(scheduler.plan(), 4, 10, lambda rows: -(-rows // 8) * 8, 4)
    assert layout.first_decode == 8 and len(layout.positions) == 12 and layout.useful_rows == 7
    assert (layout.slots >= 0).tolist() == [True] * 6 + [False] * 2 + [True] + [False] * 3
