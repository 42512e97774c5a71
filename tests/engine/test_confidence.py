"""How sure the model was of what it wrote: the figure, its places in the text, the same alone and in company."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks.reader.evaluate import CHECKPOINT, distance, draw_samples
from schemas.prompts import OCR
from tests.engine.test_reader import read
from workers.engines.pixtral import PixtralEngine
from workers.pixtral.model import sampling
from workers.pixtral.text.confidence import DOUBTED, Doubt, confidence_of, without
from workers.pixtral.text.seams import doubled_seams, without_doubled_seams

pytestmark = pytest.mark.xdist_group("reader")


DRAWN = ("words", "random", "numbers", "table", "inverse")  # for a PDF page a process would have to start


@pytest.fixture(scope="module")
def pages():
    return draw_samples(12, (128, 48), seed=3, kinds=DRAWN)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_plain_definition_whatever_the_batch(dtype):
    """Against log-softmax in float64; 80 rows are three groups. Sums of 3,000 float32 exponents: 1e-5."""
    logits = (torch.randn(80, 3000, generator=torch.Generator().manual_seed(2)) * 4).to(dtype)
    tokens = logits.argmax(-1)
    tokens[::3] = 7  # what was drawn need not be the likeliest
    expected = logits.double().log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)
    found = sampling.log_probabilities(logits, tokens)
    assert found.dtype == torch.float32 and (found.double() - expected).abs().max() < 1e-5
    alone = torch.cat([sampling.log_probabilities(logits[row : row + 1], tokens[row : row + 1]) for row in range(80)])
    assert (alone - found).abs().max() < 1e-5


def test_a_page_is_read_with_the_same_confidence_alone_in_company_and_after_preemption(model, processor, pages):
    packed = read(model, processor, pages)[0]
    assert len({round(generation.confidence.mean, 6) for generation in packed}) > 10, "a leak would not show"
    tight = read(model, processor, pages, blocks=20)[0]
    assert sum(generation.preemptions for generation in tight) > 0
    alone = [read(model, processor, [page])[0][0] for page in pages[:3]]
    for one, other in [*zip(packed, tight, strict=True), *zip(packed[:3], alone, strict=True)]:
        assert one.tokens == other.tokens
        assert one.confidence.mean == pytest.approx(other.confidence.mean, abs=1e-5)
        assert one.confidence.lowest == pytest.approx(other.confidence.lowest, abs=1e-5)


def test_it_is_what_another_forward_says_of_the_same_text(model, processor, pages):
    """Prefill of prompt and answer gives the likelihoods that decoding gave; bfloat16, so to two places."""
    from workers.pixtral.model import decoder, vision
    from workers.pixtral.model.packed import attend_packed
    from workers.pixtral.plan.sequence import Sampling

    page = max(pages, key=lambda page: len(page.layout.text))
    generation = read(model, processor, [page])[0][0]
    request = processor.encode_page("x", page.pixels, OCR.text, Sampling())
    tokens = torch.tensor([*request.tokens, *generation.tokens, processor.eos_id])
    with torch.inference_mode():
        features = vision.encode_images(model, [torch.from_numpy(np.ascontiguousarray(page.pixels))])
        hidden = decoder.embed(model, tokens, features)
        attend = lambda _l, q, k, v: attend_packed(q, k, v, [len(tokens)], causal=True).flatten(1)  # noqa: E731
        hidden = decoder.run_layers(model, hidden, torch.arange(len(tokens)), attend)
        logits = decoder.logits(model, hidden[len(request.tokens) - 1 : -1]).double()
    likely = logits.log_softmax(-1).gather(1, tokens[len(request.tokens) :, None])
    assert generation.confidence.mean == pytest.approx(math.exp(likely.mean()), abs=0.01)
    assert generation.confidence.lowest == pytest.approx(math.exp(likely.min()), abs=0.05)


def test_doubts_are_places_in_the_text_least_likely_first():
    pieces = [b"Th", b"e ", "å".encode()[:1], "å".encode()[1:], b" cat", b"s", b""]
    sure, unsure = math.log(0.99), math.log(0.3)
    text = "The å cats"
    found = confidence_of(pieces, [sure, sure, unsure, math.log(0.5), sure, math.log(0.7), sure], len(text))
    assert [text[doubt.first : doubt.last] for doubt in found.doubts] == ["å", "s"]
    assert [doubt.confidence for doubt in found.doubts] == [0.3, 0.7]
    assert found.lowest == pytest.approx(0.3)
    assert found.mean == pytest.approx((0.99**4 * 0.3 * 0.5 * 0.7) ** (1 / 7))
    ended = confidence_of([b"The", b""], [sure, unsure], 3)
    assert ended.doubts == (Doubt(3, 3, 0.3),), "that the answer ends there is in doubt"
    cut = confidence_of([b"one two", b" END"], [sure, unsure], 7)  # a stop string ended it
    assert cut.doubts == (Doubt(7, 7, 0.3),)
    assert confidence_of([], [], 0) is None


def test_places_move_with_the_lines_that_a_seam_doubled():
    lines = [f"{number} the quick brown fox {number}" for number in range(12)]
    text = "\n".join([*lines[:8], *lines[4:8], *lines[8:]])
    cuts = doubled_seams(text, 1)
    joined = without_doubled_seams(text, 1)[0]
    assert joined == "\n".join(lines)
    spans = [(text.index("quick"), "quick"), (text.rindex("brown"), "brown"), (text.index("4 the", 190), "4 the")]
    doubts = [Doubt(place, place + len(word), 0.5) for place, word in spans]
    moved = without(doubts, cuts)
    assert [joined[doubt.first : doubt.last] for doubt in moved] == ["quick", "brown"], "one stood in what went"


def test_the_adapter_stores_it_and_doubted_pages_hold_the_errors():
    """Of 70 pages of the small reader, the fifth that it is least sure of holds most of its errors."""
    samples = draw_samples(70, (128, 48), seed=5, kinds=DRAWN)
    engine = PixtralEngine(CHECKPOINT, "cpu")
    try:
        futures = [engine.submit(page.image_hash, page.pixels, [OCR])[0] for page in samples]
        answers = [future.result(120) for future in futures]
    finally:
        engine.close()
    assert all(0 <= answer.lowest_confidence <= answer.confidence <= 1 for answer in answers)
    wrong = [distance(page.layout.text, answer.text) for page, answer in zip(samples, answers, strict=True)]
    order = sorted(range(len(samples)), key=lambda index: answers[index].lowest_confidence)
    assert sum(wrong[index] for index in order[: len(order) // 5]) > 0.5 * sum(wrong) > 0
    doubted = [answer for answer in answers if "doubts" in answer.details]
    assert doubted and all(
        answer.text[first:last] == text and confidence < DOUBTED
        for answer in doubted
        for first, last, confidence, text in answer.details["doubts"]
    )
