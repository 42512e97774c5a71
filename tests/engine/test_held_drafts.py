"""Drafts under a JSON Schema: the answer is that of reading without them, to the bit, in fewer steps.

The reader has learnt to transcribe, so under a schema it writes nonsense; what it wrote is a draft like any other.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks.bench_drafts import with_errors
from benchmarks.reader.evaluate import draw_samples
from pipeline.structured.check import checked
from pipeline.structured.fit import fitted
from tests.conftest import examples
from tests.engine.test_drafts import Reader, said
from workers.pixtral.plan.cache_blocks import BlockPool
from workers.pixtral.plan.draft_rows import Filled, Grouped
from workers.pixtral.plan.scheduler import Limits, Scheduler
from workers.pixtral.plan.sequence import Sampling, Sequence
from workers.pixtral.text.grammar import _Walk

pytestmark = pytest.mark.xdist_group("reader")

LINE = {"type": "string", "maxLength": 8}


def _object(**properties):
    return checked({"type": "object", "properties": properties, "required": list(properties)}, "x")


SCHEMAS = (
    _object(text={"type": "string", "maxLength": 16}),
    _object(lines={"type": "array", "items": LINE, "maxItems": 3}),
    _object(
        number={"type": "integer", "minimum": 0, "maximum": 9999},
        kind={"enum": ["letter", "ledger"]},
        paid={"type": "boolean"},
        rest=LINE,
    ),
    _object(of={"type": "object", "properties": {"a": LINE, "b": {"const": "quite a long word"}}, "required": ["b"]}),
)
SAMPLING = ({}, {"temperature": 0.9, "top_p": 0.95, "seed": 5}, {"max_tokens": 17}, {"stop": ("ar",)})


def asked(reader, page, schema, draft="", written=(), **how):
    request = reader.request(page, draft, written, **{"max_tokens": 200} | how)
    return replace(request, constrain=reader.processor.grammars.of(schema))


@pytest.fixture(scope="module")
def pages():
    return draw_samples(3, (128, 48), seed=4, kinds=("words", "numbers", "random"))


@pytest.fixture(scope="module")
def plain(model, processor, pages):
    """What is said of each page under each schema, and of one page in each other way to sample, without drafts."""
    with Reader(model, processor, tile=0, blocks=400) as reader:
        requests = {
            (page, schema, how): asked(reader, pages[page], SCHEMAS[schema], **SAMPLING[how])
            for page in range(len(pages))
            for schema in range(len(SCHEMAS))
            for how in range(len(SAMPLING))
            if how == 0 or page == (schema + how) % len(pages)
        }
        return dict(zip(requests, reader.read(list(requests.values()))[0], strict=True))


def a_draft(rng, page, whole):
    """Nothing, garbage, the page as it is printed or as JSON quotes it, an answer with errors, JSON of another form."""
    text = page.layout.text
    return rng.choice(
        [
            "",
            "".join(chr(rng.randrange(32, 127)) for _ in range(60)),
            text,
            json.dumps(text)[1:-1],
            with_errors(whole, rng.choice([0.02, 0.1, 0.4]), rng),
            whole + whole,
            json.dumps({"other": [text, 17], "kind": None}),
        ]
    )


@examples(5)
@example(seed=52)  # four pages in so small a cache that one of them is preempted, eight times in all
@given(seed=st.integers(0, 2**32))
def test_an_answer_is_the_same_whatever_its_draft_and_its_company(model, processor, pages, plain, seed):
    """Also where the cache is so small that pages are preempted, and where a draft has what the schema forbids."""
    rng = random.Random(seed)
    tile, blocks = rng.choice([2, 5, 16]), rng.choice([16, 40, 400])
    keys = rng.choices(list(plain), k=rng.choice([1, 4]))
    with Reader(model, processor, tile, blocks) as reader:
        requests = [
            asked(reader, pages[page], SCHEMAS[schema], a_draft(rng, pages[page], plain[page, schema, 0].text), **how)
            for page, schema, how in ((page, schema, SAMPLING[how]) for page, schema, how in keys)
        ]
        read, _ = reader.read(requests)
    assert [said(one) for one in read] == [said(plain[key]) for key in keys]
    assert all(one.accepted <= one.drafted for one in read)
    assert seed != 52 or sum(one.preemptions for one in read) > 0


def test_what_the_schema_forces_and_what_an_older_answer_said_save_steps(model, processor, pages, plain):
    with Reader(model, processor, tile=64) as reader:
        for number, schema in enumerate(SCHEMAS):
            place = number % len(pages)
            whole, taken = plain[place, number, 0], {}
            drafts = {"nothing": "", "5 %": with_errors(whole.text, 0.05, random.Random(0)), "garbage": "~^" * 90}
            for name, draft in drafts.items():
                (read,), taken[name] = reader.read([asked(reader, pages[place], schema, draft)])
                assert said(read) == said(whole) and fitted(read.text, schema) == read.text
                assert 0 < read.accepted <= read.drafted
            without = len(whole.tokens)
            assert taken["nothing"] < without - 8, "keys and punctuation are written at once"
            assert 2 * taken["5 %"] < without and taken["garbage"] <= taken["nothing"], (taken, without)


def test_an_answer_that_was_cut_goes_on_with_its_draft(model, processor, pages, plain):
    whole = plain[0, 1, 0]
    written = whole.tokens[:19]
    with Reader(model, processor, tile=16) as reader:
        (on,), steps = reader.read([asked(reader, pages[0], SCHEMAS[1], whole.text, written)])
    with Reader(model, processor, tile=0) as reader:
        (without,), one_by_one = reader.read([asked(reader, pages[0], SCHEMAS[1], "", written)])
    assert on.tokens == whole.tokens and said(on) == said(without) and 3 * steps < one_by_one


def test_where_a_grammar_cannot_go_ahead_the_answer_is_written_without(model, processor, pages, plain, monkeypatch):
    """It may grow beyond its limits on a draft, where the answer itself does not."""
    masks = _Walk.masks

    def break_off(walk, tokens):
        found = masks(walk, tokens)
        found[2:] = 0
        walk._masks = walk._masks[:1]
        return found

    monkeypatch.setattr(_Walk, "masks", break_off)
    whole = plain[0, 0, 0]
    with Reader(model, processor, tile=64) as reader:
        (read,), steps = reader.read([asked(reader, pages[0], SCHEMAS[0], whole.text)])
    assert said(read) == said(whole) and 0 < read.accepted <= 1 and steps >= len(whole.tokens) - 1


def test_a_gpu_tries_no_draft_under_a_schema(processor):
    """Its host would make the masks of many rows while it waits."""
    rooms = {"cpu": Filled(16), "gpu": Grouped((8, 16), 4, 8, 0.1)}
    drafting = {}
    for name, room in rooms.items():
        scheduler = Scheduler(Limits(8, 64, 64, 400, drafts=room), BlockPool(32, 16), 0)
        page = draw_samples(1, (64, 32), seed=1)[0]
        request = processor.encode_page("x", page.pixels, "read", Sampling(8))
        held = replace(request, draft=(1, 2), constrain=processor.grammars.of(SCHEMAS[0]))
        for one in (held, replace(held, constrain=None)):
            sequence = Sequence.of(one)
            scheduler.add(sequence)
            drafting[name, one.constrain is not None] = sequence.is_drafting
    assert drafting == {("cpu", True): True, ("cpu", False): True, ("gpu", True): False, ("gpu", False): True}
