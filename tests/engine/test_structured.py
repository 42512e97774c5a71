"""Answers held to a JSON Schema in the packed engine: whatever the weights, they fit, and no other text changes.

The reader has learnt to transcribe, not to fill in, and the tiny models know nothing at all: what they write is
nonsense, and must fit all the same.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.checkpoint import PRESETS, make_checkpoint, random_tensors, real_tokenizer, write_checkpoint
from benchmarks.reader.evaluate import CHECKPOINT, draw_samples
from pipeline.errors import PageFailed
from pipeline.settings import Settings
from pipeline.structured.check import checked
from pipeline.structured.fit import fitted
from schemas.prompts import DESCRIBE, OCR, Prompt
from tests.engine.test_reader import read as read_pages
from tests.model_server import ModelServer, ok
from workers.engines.endpoint import EndpointEngine
from workers.engines.pixtral import PixtralEngine
from workers.pixtral.cpu.backend import CpuBackend
from workers.pixtral.engine import PackedEngine
from workers.pixtral.executor import Executor
from workers.pixtral.model import sampling
from workers.pixtral.model.load import load_model
from workers.pixtral.plan.cache_blocks import BlockPool
from workers.pixtral.plan.scheduler import Limits, Scheduler
from workers.pixtral.plan.sequence import Sampling
from workers.pixtral.text.processor import Processor

pytestmark = pytest.mark.xdist_group("reader")

TEXT = {"type": "string", "maxLength": 4}
SCHEMA = checked(
    {  # each kind that there is, and an end to each: of 300 tokens an answer is whole whatever is drawn
        # Keys are short, for each of their letters is a step.
        "type": "object",
        "properties": {
            "is": {"enum": ["invoice", "letter", 3, None]},
            "no": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,2}$"},
            "on": {"type": ["string", "null"], "format": "date"},
            "px": {"type": "integer", "minimum": 0, "maximum": 99},
            "by": {"$ref": "#/$defs/party"},
            "of": {
                "type": "array",
                "maxItems": 2,
                "items": {
                    "type": "object",
                    "properties": {"a": TEXT, "n": {"enum": [1, 2]}},
                    "required": ["a"],
                },
            },
            "or": {
                "anyOf": [{"type": "null"}, {"type": "array", "prefixItems": [{"type": "boolean"}], "items": False}]
            },
        },
        "required": ["is", "no", "on", "px", "by", "of", "or"],
        "$defs": {"party": {"type": "object", "properties": {"a": TEXT}, "required": ["a"]}},
    },
    "x",
)


def held(**how: Any) -> Prompt:
    """Without the schema in its text, which these models do not read: of single bytes it would be a long prompt."""
    return Prompt("invoice", "fill in", 300, schema=SCHEMA, **how)


ASKED = held()
LIVELY = [held(temperature=2.0, top_p=1.0, seed=1), held(temperature=2.0, top_p=0.9, seed=2)]


class Rig:
    """An engine whose steps and cache the test chooses."""

    def __init__(self, folder, *, blocks=1024, lookahead=False, chunk=512):
        self.model = load_model(folder)
        self.processor = Processor(folder, self.model.config)
        self.blocks, self.lookahead, self.chunk = blocks, lookahead, chunk

    def read(self, asked, **other: Any):
        """Every (page, prompt) through a fresh engine, all at once → generations in that order."""
        blocks = other.get("blocks", self.blocks)
        limits = Limits(64, self.chunk, 4 * self.chunk, 4096)
        executor = Executor(CpuBackend(self.model, limits, blocks, 16, 64), limits)
        scheduler = Scheduler(limits, BlockPool(blocks, 16), expected_output_tokens=0)
        processor, lookahead = self.processor, other.get("lookahead", self.lookahead)
        engine = PackedEngine(
            executor, scheduler, processor.decode, processor.eos_id, lookahead=lookahead, piece=processor.piece
        )
        try:
            requests = [self.request(page, prompt) for page, prompt in asked]
            with engine._wake:  # so that all wait before the first step
                futures = [engine.submit(request) for request in requests]
            return [future.result(120) for future in futures]
        finally:
            engine.close()
            scheduler.pool.check([])

    def request(self, page, prompt: Prompt):
        how = Sampling(prompt.max_tokens, prompt.temperature, prompt.top_p, prompt.seed, prompt.stop)
        request = self.processor.encode_page(page.image_hash, page.pixels, prompt.text, how)
        return replace(request, constrain=self.processor.grammars.of(prompt.schema) if prompt.schema else None)


def texts(generations):
    return [generation.text for generation in generations]


@pytest.fixture(scope="module")
def pages():
    return draw_samples(3, (64, 32), seed=40)


@pytest.fixture(scope="module")
def reader():
    return Rig(CHECKPOINT)


@pytest.fixture(scope="module")
def mixed(reader, pages):
    """All prompts about all pages at once: with a schema and without, greedy and drawn."""
    asked = [(page, prompt) for page in pages for prompt in (OCR, ASKED, DESCRIBE, *LIVELY)]
    return asked, reader.read(asked)


def test_every_answer_of_the_reader_parses_and_fits(mixed):
    asked, read = mixed
    answers = [one for (_, prompt), one in zip(asked, read, strict=True) if prompt.schema]
    assert len(answers) == 9 and {one.finish_reason for one in answers} == {"stop"}
    for one in answers:
        assert fitted(one.text, SCHEMA) == one.text and "\n" not in one.text
    assert len(set(texts(answers))) > 6, "the model chooses nothing"


def test_rows_without_a_schema_read_as_if_there_were_none(reader, pages, mixed):
    asked, read = mixed
    plain = [pair for pair in asked if pair[1].schema is None]
    alone = reader.read(plain)
    assert texts(alone) == [one.text for pair, one in zip(asked, read, strict=True) if pair[1].schema is None]
    before = read_pages(reader.model, reader.processor, pages, (OCR, DESCRIBE))[0]
    assert texts(alone) == texts(before)


def test_an_answer_is_the_same_alone_and_in_company(reader, mixed):
    """A drawn one; the beginning of a greedy one is read alone where it meets its limit."""
    asked, read = mixed
    assert asked[14][1].schema
    assert reader.read([asked[14]])[0].tokens == read[14].tokens


@pytest.mark.parametrize("other", [{"blocks": 18}, {"lookahead": True, "blocks": 18}], ids=["preempted", "ahead"])
def test_an_answer_survives_preemption_and_a_host_that_plans_ahead(reader, mixed, other):
    """With `lookahead`, as on a GPU, the next step is planned before the last one's tokens are read."""
    asked, read = mixed[0][:5], mixed[1][:5]
    again = reader.read(asked, **other)
    assert texts(again) == texts(read)
    assert any(one.preemptions for one, (_, prompt) in zip(again, asked, strict=True) if prompt.schema)


@pytest.fixture(scope="module", params=["bytes", "tekken"])
def random_rig(request, tmp_path_factory):
    """Random weights, with single bytes as tokens, and with the first 8,192 of Pixtral's, which are longer.

    All 131,072 have no other way through the code, and 16 times as much to sort, to mask and to draw from.
    """
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "bytes":
        return Rig(make_checkpoint(folder, "tiny", seed=5), chunk=64)
    whole = json.loads(real_tokenizer().read_text(encoding="utf-8"))
    special = whole["config"]["default_num_special_tokens"]
    config = whole["config"] | {"default_vocab_size": 8_192, "num_vocab_tokens": 8_192 - special}
    params = PRESETS["tiny"] | {"vocab_size": 8_192}
    first = whole | {"config": config, "vocab": whole["vocab"][: 8_192 - special]}
    return Rig(write_checkpoint(folder, params, random_tensors(params, 5), first), chunk=64)


def test_random_weights_give_json_that_fits_always(random_rig):
    (page,) = draw_samples(1, (64, 32), seed=50)
    drawn = [held(temperature=t, seed=seed) for seed, t in enumerate([0.0, 1.0, 2.0])]
    read = random_rig.read([(page, prompt) for prompt in drawn])
    assert {one.finish_reason for one in read} == {"stop"}
    for one in read:
        assert fitted(one.text, SCHEMA) == one.text
    assert len({one.text for one in read}) == 3


def test_an_answer_that_meets_its_limit_is_the_beginning_of_one_that_fits(reader, mixed):
    (page, prompt), whole = mixed[0][1], mixed[1][1]
    (cut,) = reader.read([(page, replace(prompt, max_tokens=20))])
    assert (cut.finish_reason, whole.finish_reason) == ("length", "stop")
    assert whole.text.startswith(cut.text) and len(cut.text) < len(whole.text)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_takes_tokens_from_its_own_rows_alone(dtype):
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(5, 300))).to(dtype)
    may_follow = rng.random((2, 320)) < 0.05
    may_follow[:, 7] = True
    masks = np.packbits(may_follow, axis=1, bitorder="little").view(np.int32)
    kept = logits.clone()
    sampling.constrain(kept, [3, 1], masks)
    for row, mask in ((3, may_follow[0]), (1, may_follow[1])):
        allowed = torch.from_numpy(mask[:300])
        assert torch.equal(kept[row][allowed], logits[row][allowed])
        assert torch.isinf(kept[row][~allowed]).all() and (kept[row][~allowed] < 0).all()
    for row in (0, 2, 4):
        assert torch.equal(kept[row], logits[row])


@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_what_may_not_follow_is_never_drawn_however_late_in_the_distribution_one_looks(top_p):
    """The largest number below 1 lies beyond the sum of float32 exponents now and then."""
    logits = torch.from_numpy(np.random.default_rng(1).normal(size=(64, 500))).float()
    masks = np.zeros((64, 16), np.int32)
    masks[:, 3] = 0b1011
    sampling.constrain(logits, range(64), masks)
    last = float(np.nextafter(1.0, 0.0))
    for number in (0.0, 0.5, last):
        drawn = sampling.choose(logits, [1.0] * 64, [top_p] * 64, [number] * 64)
        assert set(drawn.tolist()) <= {96, 97, 99}


def test_a_server_is_asked_for_json_that_fits(pages):
    whole = checked(
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, "x"
    )  # fmt: skip
    some = checked({"type": "object", "properties": {"a": {"type": "string"}}}, "x")
    asked = [OCR, Prompt("Rechnung / 2", "x", schema=whole), Prompt("b", "x", schema=some)]
    bodies = {}
    for prompt in asked:
        with ModelServer(ok('{"a": "b"}')) as server:
            engine = EndpointEngine(Settings(endpoint_url=server.url, endpoint_model="small"))
            try:
                (future,) = engine.submit("hash", pages[0].pixels, [prompt])
                assert engine.supports(prompt) and future.result(60).text == '{"a": "b"}'
            finally:
                engine.close()
            bodies[prompt.name] = server.exchanges[0].body.get("response_format")
    shut = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}
    assert bodies == {
        "ocr": None,
        "Rechnung / 2": {
            "type": "json_schema",
            "json_schema": {"name": "Rechnung_2", "schema": shut | {"required": ["a"]}, "strict": True},
        },
        "b": {"type": "json_schema", "json_schema": {"name": "b", "schema": shut}},
    }


def test_the_engine_answers_a_page_with_and_without_a_schema(pages):
    engine = PixtralEngine(CHECKPOINT, "cpu")
    try:
        assert engine.supports(ASKED)
        plain, held = engine.submit(pages[0].image_hash, pages[0].pixels, [OCR, ASKED])
        answer = held.result(60)
        assert json.loads(answer.text)["is"] in ("invoice", "letter", 3, None)
        assert answer.finish_reason == "stop" and answer.output_tokens > 20 and plain.result(60).text
        # Checked schemas do not come here; one that a newer pagepack stored might.
        unheld = Prompt("odd", "x", schema='{"type": "object", "properties": {"a": {"not": {}}}}')
        (refused,) = engine.submit(pages[0].image_hash, pages[0].pixels, [unheld])
        with pytest.raises(PageFailed, match=r"could not be held to its JSON Schema: .*not") as error:
            refused.result(60)
        assert error.value.cause == "schema"
    finally:
        engine.close()
