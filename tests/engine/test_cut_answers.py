"""Answers that reach their length: the usual one is gone over, one that was set cuts, and what was cut goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.reader.evaluate import CHECKPOINT, draw_samples
from schemas import prompts
from schemas.prompts import OCR
from workers.engines import Begun
from workers.engines.pixtral import PixtralEngine
from workers.pixtral.model.load import load_model
from workers.pixtral.plan.cache_blocks import BlockPool
from workers.pixtral.plan.scheduler import Limits, Scheduler
from workers.pixtral.plan.sequence import Request, Sampling, Sequence
from workers.pixtral.text.processor import Processor

pytestmark = pytest.mark.xdist_group("reader")


@pytest.fixture(scope="module")
def engine():
    engine = PixtralEngine(CHECKPOINT, "cpu", memory_bytes=2_000_000_000, most_tokens=40)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def pages():
    return [page for page in draw_samples(20, (192, 64), seed=21) if len(page.layout.text) > 30][:6]


def ask(engine, pages, prompt, begun=None):
    futures = [
        engine.submit(page.image_hash, page.pixels, [prompt], begun=[begun[index]] if begun else ())[0]
        for index, page in enumerate(pages)
    ]
    return [future.result(60) for future in futures]


def test_an_answer_that_was_cut_goes_on_from_its_own_tokens_to_the_same_text(engine, pages):
    whole = ask(engine, pages, replace(OCR, max_tokens=400))
    cut = ask(engine, pages, replace(OCR, max_tokens=12))
    assert {answer.finish_reason for answer in whole} == {"stop"}
    assert {(answer.finish_reason, answer.output_tokens, len(answer.token_ids)) for answer in cut} == {
        ("length", 12, 12)
    }
    assert all(one.text.startswith(other.text) for one, other in zip(whole, cut, strict=True))
    begun = [Begun(answer.token_ids, answer.confidence) for answer in cut]
    further = ask(engine, pages, replace(OCR, max_tokens=20), begun)
    assert {(answer.finish_reason, answer.output_tokens) for answer in further} == {("length", 20)}, "cut again"
    begun = [Begun(answer.token_ids, answer.confidence) for answer in further]
    ended = ask(engine, pages, replace(OCR, max_tokens=400), begun)
    assert [answer.text for answer in ended] == [answer.text for answer in whole]
    assert [(answer.finish_reason, answer.output_tokens, answer.token_ids) for answer in ended] == [
        ("stop", answer.output_tokens, ()) for answer in whole
    ]
    for one, other in zip(ended, whole, strict=True):  # bfloat16: prefill of what was written, in other shapes
        assert one.prompt_tokens == other.prompt_tokens
        assert one.confidence == pytest.approx(other.confidence, abs=0.002)
        assert all(one.text[a:b] == text for a, b, _, text in one.details.get("doubts", []))


def test_the_usual_length_is_gone_over_up_to_the_cap_and_a_length_that_was_set_is_not(engine, pages, monkeypatch):
    monkeypatch.setattr(prompts, "LONG_TOKENS", 16)
    usual, chosen = replace(OCR, max_tokens=16), replace(OCR, max_tokens=17)
    assert usual.goes_on and not chosen.goes_on and prompts.DESCRIBE.goes_on
    over = ask(engine, pages, usual)
    assert {answer.finish_reason for answer in over} == {"stop", "length"}
    cut = [answer for answer in over if answer.finish_reason == "length"]
    assert {(answer.output_tokens, len(answer.token_ids)) for answer in cut} == {(40, 40)}
    assert all(answer.output_tokens > 16 for answer in over)
    assert {(answer.finish_reason, answer.output_tokens) for answer in ask(engine, pages, chosen)} == {("length", 17)}
    monkeypatch.undo()
    lower = ask(engine, [page for page, answer in zip(pages, over, strict=True) if answer in cut][:2], OCR)
    assert {(answer.finish_reason, answer.output_tokens) for answer in lower} == {("length", 40)}, "below the usual one"


def test_a_long_answer_may_take_the_room_of_tiles_and_no_more():
    limits = Limits(2, 8, 8, max_context=32, tile_tokens=40)
    scheduler = Scheduler(limits, BlockPool(20, 8))
    request = Request(tuple(range(10)), sampling=Sampling(max_tokens=500))
    sequence, begun = Sequence.of(request), Sequence.of(replace(request, tokens=tuple(range(30)), written=20))
    scheduler.add(sequence)
    scheduler.add(begun)
    assert sequence.max_tokens == 32 + 40 - 10
    assert begun.max_tokens == 32 + 40 - 30 and list(begun.generated) == list(range(10, 30))


def test_what_was_written_is_computed_in_chunks_and_not_token_by_token(pages):
    """A hundred tokens of an answer take two steps before the next one comes."""
    model = load_model(CHECKPOINT)
    processor = Processor(CHECKPOINT, model.config)
    request = processor.encode_page("x", pages[0].pixels, OCR.text, Sampling(max_tokens=200))
    begun = replace(request, tokens=(*request.tokens, *[40] * 100), written=100)
    scheduler = Scheduler(Limits(2, 128, 128), BlockPool(64, 16))
    scheduler.add(Sequence.of(begun))
    steps = [scheduler.plan() for _ in range(2)]
    assert sum(step.num_tokens for step in steps) == len(begun.tokens) and steps[1].chunks[-1].samples
    assert torch.is_tensor(model.output.weight)
