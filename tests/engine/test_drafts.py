"""Drafts: the text is that of reading without them, token by token and as likely, only in fewer steps."""

from __future__ import annotations

import random
import string
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks.bench_drafts import with_errors
from benchmarks.reader.evaluate import draw_samples
from schemas.prompts import OCR
from tests.conftest import examples
from workers.pixtral.cpu.backend import CpuBackend
from workers.pixtral.engine import PackedEngine
from workers.pixtral.executor import Executor
from workers.pixtral.model import sampling
from workers.pixtral.plan.batch import slots_of
from workers.pixtral.plan.cache_blocks import BlockPool
from workers.pixtral.plan.draft_rows import Filled
from workers.pixtral.plan.drafts import JUMP, JUMP_TO_FIELD, Drafter
from workers.pixtral.plan.scheduler import Limits, Scheduler
from workers.pixtral.plan.sequence import Sampling

pytestmark = pytest.mark.xdist_group("reader")


@pytest.fixture(scope="module")
def pages():
    return draw_samples(3, (128, 48), seed=4, kinds=("words", "numbers", "random"))


class Reader:
    """The small reader with a tile of rows and a cache as the test wants them."""

    def __init__(self, model, processor, tile=16, blocks=200, executor=Executor, size=8):
        limits = Limits(16, 256, 512, 400, drafts=Filled(tile) if tile else None)
        self.processor = processor
        self.executor = executor(CpuBackend(model, limits, blocks, size, 64), limits)
        self.scheduler = Scheduler(limits, BlockPool(blocks, size), expected_output_tokens=0)
        decode, eos, piece = processor.decode, processor.eos_id, processor.piece
        self.engine = PackedEngine(self.executor, self.scheduler, decode, eos, piece=piece, lookahead=False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.engine.close()
        self.scheduler.pool.check([])

    def request(self, page, draft="", written=(), **sampling):
        fields = {"max_tokens": 120, "page_lines": 100} | sampling
        made = self.processor.encode_page(page.image_hash, page.pixels, OCR.text, Sampling(**fields))
        tokens = made.tokens + tuple(written)
        return replace(made, tokens=tokens, written=len(written), draft=self.processor.draft(draft))

    def read(self, requests):
        """All at once → (generations, steps)."""
        before = self.engine.stats()["steps"]
        with self.engine._wake:
            futures = [self.engine.submit(request) for request in requests]
        return [future.result(60) for future in futures], self.engine.stats()["steps"] - before


def said(generation):
    return (generation.tokens, generation.text, generation.finish_reason, generation.confidence, generation.loop)


SAMPLING = ({}, {"temperature": 0.9, "top_p": 0.95, "seed": 5}, {"max_tokens": 7}, {"stop": ("e", "1")})


@pytest.fixture(scope="module")
def plain(model, processor, pages):
    """What each page says under each way to sample, without drafts: all in one company, to save steps."""
    with Reader(model, processor, tile=0) as reader:
        read, _ = reader.read([reader.request(page, **how) for how in SAMPLING for page in pages])
    return [[said(one) for one in read[first : first + len(pages)]] for first in range(0, len(read), len(pages))]


def a_draft(rng, truth):
    """Garbage, nothing, the truth, the truth with errors, the truth and more, its end, another order."""
    kind = rng.randrange(7)
    if kind == 0:
        return "".join(rng.choices(string.printable, k=rng.randrange(1, 90)))
    if kind == 1:
        return ""
    if kind == 2:
        return truth
    if kind == 3:
        return with_errors(truth, rng.choice([0.02, 0.05, 0.2, 0.6]), rng)
    if kind == 4:
        return truth + truth * 20
    if kind == 5:
        return truth[len(truth) // 2 :]
    return " ".join(rng.sample(truth.split(), len(truth.split())))


@examples(5)
@example(seed=64)  # nine pages in so small a cache that they are preempted, eleven times in all
@given(seed=st.integers(0, 2**32))
def test_a_page_says_the_same_whatever_its_draft_and_its_company(model, processor, pages, plain, seed):
    """Also where the cache is so small that pages are preempted, and with pages that bring none."""
    rng = random.Random(seed)
    tile, blocks = rng.choice([2, 5, 16]), rng.choice([18, 24, 200])
    with Reader(model, processor, tile, blocks) as reader:
        picked = [(rng.randrange(len(SAMPLING)), rng.randrange(len(pages))) for _ in range(rng.choice([1, 3, 9]))]
        requests = [
            reader.request(pages[page], a_draft(rng, pages[page].layout.text), **SAMPLING[how]) for how, page in picked
        ]
        read, _ = reader.read(requests)
        assert [said(one) for one in read] == [plain[how][page] for how, page in picked]
        assert all(one.accepted <= one.drafted for one in read)
        assert seed != 64 or sum(one.preemptions for one in read) > 0


def test_a_draft_with_errors_saves_steps_and_garbage_costs_none(model, processor, pages):
    with Reader(model, processor, tile=64) as reader:
        steps = {}
        for name in ("without", "2 %", "garbage"):
            rng = random.Random(3)
            steps[name] = 0
            for page in pages[:2]:
                share = {"2 %": 0.02, "garbage": 1.0}.get(name)
                draft = "" if share is None else with_errors(page.layout.text, share, rng)
                (read,), taken = reader.read([reader.request(page, draft)])
                steps[name] += taken
                assert (read.drafted > 0) == bool(draft)
        stats = reader.engine.stats()
    assert steps["without"] > 4 * steps["2 %"] and steps["garbage"] <= steps["without"], steps
    assert 0 < stats["accepted_tokens"] < stats["drafted_tokens"]


def test_a_cut_answer_goes_on_with_its_draft(model, processor, pages, plain):
    page, whole = pages[0], plain[0][0]
    written = whole[0][:9]
    with Reader(model, processor, tile=16) as reader:
        (on,), steps = reader.read([reader.request(page, page.layout.text, written)])
        (without,), one_by_one = reader.read([reader.request(page, "", written)])
    assert on.tokens == whole[0] and said(on) == said(without) and 3 * steps < one_by_one


def test_a_preempted_answer_is_fed_again_many_tokens_at_once(model, processor, pages, plain):
    """Known tokens are rows like drafted ones, for pages without a draft too."""

    class Preempted(Executor):
        steps_of_answer = 0

        def launch(self, step):
            self.steps_of_answer += bool(step.decodes)
            return super().launch(step)

    with Reader(model, processor, tile=16, executor=Preempted) as reader:
        sequence = None
        plan = reader.scheduler.plan

        def plan_and_preempt():
            nonlocal sequence
            running = reader.scheduler.running
            if sequence is None and running and len(running[0].generated) == 20:
                sequence = running[0]
                reader.scheduler._preempt(sequence)
                reader.executor.steps_of_answer = 0
            return plan()

        reader.scheduler.plan = plan_and_preempt
        (read,), _ = reader.read([reader.request(pages[0])])
    assert said(read) == plain[0][0] and read.preemptions == 1
    rest = len(read.tokens) + 1 - 20
    assert reader.executor.steps_of_answer <= rest + 2, "19 known tokens in two steps"


def test_what_is_no_number_after_a_wrong_draft_leaves_nothing(model, processor, pages, plain):
    """Rows of wrong drafts overflow, as they might in half precision; the answer's own do not."""
    whole = plain[0][0][0]

    class Overflows(Executor):
        wrong = 0

        @torch.inference_mode()
        def launch(self, step):
            launched, is_wrong = super().launch(step), False
            rows = zip(launched.sequences, launched.positions, launched.drafts, strict=True)
            for place, (sequence, position, draft) in enumerate(rows):
                number = position - sequence.prompt_length
                is_wrong |= draft is not None and [draft] != list(whole[number : number + 1])
                if is_wrong:
                    self.wrong += 1
                    launched.sampled[0, place] = sampling.NOT_FINITE
                    slot = slots_of(sequence.block_table, position, position + 1, 64)
                    for store in (*self.backend.cache.keys, *self.backend.cache.values):
                        store[slot] = torch.nan
            return launched

    with Reader(model, processor, tile=64, blocks=16, executor=Overflows, size=64) as reader:
        (read,), _ = reader.read([reader.request(pages[0], "~" * 60)])
        assert reader.executor.wrong > 60
    assert read.tokens == whole


def test_a_row_that_is_no_number_beside_a_draft_is_computed_again_without(model, processor, pages, plain):
    """What a wrong draft leaves may spoil the row before it, of which it is masked only: 0 × ∞."""

    class Spoils(Executor):
        spoiled = 0

        @torch.inference_mode()
        def launch(self, step):
            launched = super().launch(step)
            if any(draft is not None for draft in launched.drafts):
                self.spoiled += 1
                launched.sampled[0, 0] = sampling.NOT_FINITE
            return launched

    with Reader(model, processor, tile=64, executor=Spoils) as reader:
        (read,), _ = reader.read([reader.request(pages[0], pages[0].layout.text)])
        assert reader.executor.spoiled == 1
    assert said(read) == plain[0][0] and read.drafted and not read.accepted


def test_a_loop_is_cut_at_the_same_token(tmp_path):
    from tests.chain_checkpoint import chain_checkpoint
    from workers.pixtral.start import build_engine

    folder = chain_checkpoint(tmp_path / "m", "ab", "cdef\n")
    built = build_engine(folder, torch.device("cpu"), memory_bytes=400_000_000)
    try:
        pixels = draw_samples(1, (64, 32), seed=1)[0].pixels
        plain = built.processor.encode_page("x", pixels, "read", Sampling(max_tokens=2000, page_lines=100))
        drafted = replace(plain, draft=built.processor.draft("abcdef\n" + "cdef\n" * 300))
        one, other = (built.engine.submit(request).result(60) for request in (plain, drafted))
    finally:
        built.engine.close()
    assert one.finish_reason == "repetition" and said(one) == said(other)
    assert other.accepted > 0.9 * len(other.tokens)


def test_the_drafter_finds_its_place_again():
    """After a wrong token, one too many, one too few, and where the text goes on elsewhere."""
    source = list(range(100, 160))
    for written, then in (
        ([100, 101, 7], 103),
        ([100, 101, 7, 102, 103], 104),
        ([100, 101, 105, 106], 107),
        ([*range(100, 110), *range(140, 146)], 146),
        ([7, 7, 7, 7, 7, 7, *range(120, 126)], 126),
    ):
        drafter = Drafter(source)
        for token in written:
            drafter.take(token)
        assert drafter.ahead()[:1] == [then], written


def test_in_another_field_the_drafter_finds_its_place_sooner_than_in_a_text():
    """A key that the page does not show, then words that stand far from the last ones."""
    found = {}
    for jump in (JUMP, JUMP_TO_FIELD):
        drafter = Drafter(list(range(100, 160)), jump)
        for token in (*range(100, 110), 7, 8, 7):
            drafter.take(token)
        words = iter(range(140, 160))
        while drafter.ahead()[:1] != [(word := next(words))]:
            drafter.take(word)
        found[jump] = word - 140
    assert found[JUMP_TO_FIELD] <= 2 < found[JUMP], found


def test_a_draft_that_never_holds_is_tried_a_token_at_a_time():
    drafter = Drafter(list(range(500)))
    assert len(drafter.ahead()) > 16
    for _ in range(60):
        drafter.take(7_000)
    assert len(drafter.ahead()) <= 2
