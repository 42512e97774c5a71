"""How many drafted rows a GPU's step has, and whose: no device, tokens told by the test in the model's place."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.planning.step_room import MOST_ROWS, buckets
from tests.conftest import examples
from workers.pixtral.plan.cache_blocks import BlockPool
from workers.pixtral.plan.draft_rows import RIDGE, Grouped, Wish, runs_of
from workers.pixtral.plan.scheduler import Limits, Scheduler
from workers.pixtral.plan.sequence import Request, Sampling, Sequence, State

KEY_ROWS = RIDGE * 163_840 / 23.2e9  # Pixtral 12B in bfloat16


def grouped(max_sequences: int, run: int = 4) -> Grouped:
    return Grouped(buckets(max_sequences, run, 128), run, max_sequences, KEY_ROWS)


def each(count: int, agreed: float, max_sequences: int = 128) -> int:
    (share,) = set(grouped(max_sequences).shares([Wish(32, agreed, 3600)] * count, 0, 0))
    return share


def test_graphs_have_a_row_for_each_sequence_and_more_for_drafts() -> None:
    assert buckets(184, 4, 128) == (128, 184, 256, 512) and buckets(256, 4, 128) == (128, 256, 512)
    assert buckets(8, 4, 128) == (8, 16, 32) and buckets(184, 1, 128) == (128, 184)
    a, b = (Sequence.of(Request((1, 2))) for _ in range(2))
    assert runs_of([a, a, a, a, a, b], 4) == [(0, 4), (4, 1), (5, 1)] and runs_of([], 4) == []


def test_few_pages_have_many_drafts_many_have_three_and_what_does_not_hold_has_none() -> None:
    assert each(1, 0.94) == 31 and each(8, 0.8) == 7 and each(32, 0.8) == each(64, 0.8) == each(128, 0.8) == 3
    assert each(128, 0.3) == each(1, 0.2) == 0
    assert each(128, 0.8, 256) == 3 and each(256, 0.8, 256) == 1, "a graph has 512 rows"
    some = grouped(128).shares([Wish(32, 0.8, 3600)] * 40 + [Wish(0, 1.0, 3600)] * 88, 0, 0)
    assert some == [3] * 40 + [0] * 88


@examples(100)
@given(seed=st.integers(0, 2**32))
def test_no_step_has_more_rows_or_runs_than_its_graph_and_none_gives_less_than_without(seed: int) -> None:
    rng = random.Random(seed)
    most, run = rng.choice([1, 3, 8, 100, 128, 184, 256]), rng.choice([1, 2, 4, 16])
    room, samples = grouped(most, run), rng.randrange(min(3, most))
    wishes = [
        Wish(rng.choice([0, 1, 5, 32]), rng.random(), rng.randrange(1, 9000))
        for _ in range(rng.randint(0, most - samples))
    ]
    prefill = rng.choice([0, 8192])
    shares = room.shares(wishes, samples, prefill)
    rows = len(wishes) + samples + sum(shares)
    assert rows <= room.buckets[-1] <= max(most, MOST_ROWS)
    assert samples + sum(-(-(1 + share) // run) for share in shares) <= most
    assert all(
        share <= wish.tokens and (wish.agreed >= 1 / 3 or not share) for share, wish in zip(shares, wishes, strict=True)
    )

    def tokens_by_cost(shares: list[int]) -> float:
        gained = sum(wish.agreed**i for wish, share in zip(wishes, shares, strict=True) for i in range(1, share + 1))
        read = sum(wish.keys * -(-(1 + share) // run) for wish, share in zip(wishes, shares, strict=True))
        graph = next(size for size in room.buckets if size >= len(wishes) + samples + sum(shares))
        return (len(wishes) + samples + gained) / (max(RIDGE, prefill + graph) + KEY_ROWS * read)

    assert tokens_by_cost(shares) >= tokens_by_cost([0] * len(wishes)) * 0.999


def read(count: int, *, wrong: bool, lookahead: bool) -> tuple[list[Sequence], list[dict[int, int]]]:
    """Pages of 40 tokens to the end; of each step that decodes the rows of each page."""
    answers = {}
    scheduler = Scheduler(Limits(128, 64, 512, drafts=grouped(128)), BlockPool(2000, 8), 0)
    for number in range(count):
        answer = tuple(random.Random(number).choices(range(100, 999), k=40))
        made = Sequence.of(Request((1, 2, 3), sampling=Sampling(max_tokens=40), draft=(answer, (7,) * 40)[wrong]))
        answers[made] = answer
        scheduler.add(made)
    launched, steps = [], []
    while scheduler.running or scheduler.waiting:
        step = scheduler.plan()
        launched.append(step)
        if step.decodes and not step.chunks:
            rows: dict[int, int] = {}
            for decode in step.decodes:
                rows[decode.sequence.number] = rows.get(decode.sequence.number, 0) + 1
            steps.append(rows)
        if lookahead and len(launched) < 2:
            continue
        done = launched.pop(0)
        for work in (*done.chunks, *done.decodes):
            sequence, position = work.sequence, getattr(work, "position", 2)
            if not work.samples:
                continue
            sequence.pending -= 1
            if sequence.state is State.FINISHED or sequence.was_wrong(position, getattr(work, "draft", None)):
                continue
            sequence.take(answers[sequence][len(sequence.generated)], 0.0, getattr(work, "draft", None))
            if len(sequence.generated) == 40:
                scheduler.finish(sequence, "length")
    scheduler.pool.check([])
    assert all(tuple(one.generated) == answer for one, answer in answers.items())
    return list(answers), steps


def test_of_many_pages_with_a_draft_two_halves_take_turns() -> None:
    _, steps = read(100, wrong=False, lookahead=True)
    full = [rows for rows in steps if len(rows) == 50]
    assert len(full) >= 10 and max(map(len, steps)) == 50
    for first, second in pairwise(full):
        assert not first.keys() & second.keys()
    assert all(count >= 4 for rows in full[:6] for count in rows.values())


def test_few_pages_with_a_draft_are_in_every_second_plan_and_what_does_not_hold_in_every_one() -> None:
    pages, steps = read(10, wrong=False, lookahead=True)
    assert all(len(rows) == 10 for rows in steps[:2]) and len(steps) < 12
    pages, steps = read(10, wrong=True, lookahead=True)
    assert all(page.accepted == 0 and page.drafted < 200 for page in pages)
    late = steps[-8:-2]
    assert all(len(rows) == 10 and set(rows.values()) == {1} for rows in late), late
