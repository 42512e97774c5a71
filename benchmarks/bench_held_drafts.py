"""Steps that drafts save under a JSON Schema, a page at a time: `python -m benchmarks.bench_held_drafts`.

The small reader of this repository knows no JSON, so its answers are nonsense, and drafts of them are what it wrote
before, with a share of the characters wrong. An answer that is not the one without drafts ends the benchmark with 1.

What a model would take that reads well is told by answers that are known beforehand, in Pixtral's tokens, through the
engine's planner and the grammar: of two pages each of four kinds that `bench_quality` draws the page's text in one
field, its lines as a list, or eight of its lines in as many fields, in any order. The draft is the page's text.
Ends in JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from benchmarks.bench_drafts import KINDS, MEMORY, read, with_errors
from benchmarks.checkpoint import real_tokenizer
from benchmarks.quality import draw
from benchmarks.reader.evaluate import CHECKPOINT, draw_samples
from pipeline.structured.check import checked
from schemas.prompts import OCR
from workers.pixtral import start
from workers.pixtral.model.load import load_model
from workers.pixtral.plan.cache_blocks import BlockPool
from workers.pixtral.plan.draft_rows import Filled
from workers.pixtral.plan.scheduler import Limits, Scheduler
from workers.pixtral.plan.sequence import Request, Sampling, Sequence
from workers.pixtral.text.grammar import Grammars
from workers.pixtral.text.processor import Processor


def schema_of(**properties: Any) -> str:
    return checked({"type": "object", "properties": properties, "required": list(properties)}, "the benchmark")


def under_schema(pages: int, canvas: tuple[int, int], seed: int) -> dict[str, dict[str, Any]]:
    """The reader's steps without drafts, with what the schema forces, and with its own answer with errors.

    Beside them, by how much less processor time that took, in one pass.
    """
    samples = draw_samples(pages, canvas, seed=seed, kinds=KINDS)
    model = load_model(CHECKPOINT)
    processor = Processor(CHECKPOINT, model.config)
    engine = start.start_engine(model, processor, MEMORY)
    drafting, found = engine.scheduler.limits, dict[str, dict[str, Any]]()
    line = {"type": "string", "maxLength": 40}
    schemas = {
        "a text": schema_of(text=line | {"maxLength": 80}),
        "lines": schema_of(lines={"type": "array", "items": line, "maxItems": 6}),
    }
    for name, schema in schemas.items():
        how, constrain = Sampling(max_tokens=400), processor.grammars.of(schema)
        plain = [processor.encode_page(one.image_hash, one.pixels, OCR.text, how) for one in samples]
        held = [replace(one, constrain=constrain) for one in plain]
        engine.scheduler.limits = replace(drafting, drafts=None)
        answers, steps, _, alone = read(engine, held, at_once=False)
        engine.scheduler.limits = drafting
        found[name] = {"tokens": sum(len(one.tokens) for one in answers), "without": [steps, 1.0]}
        for share in (None, 0.02, 0.05, 0.2):
            rng = random.Random(seed)
            texts = ["" if share is None else with_errors(one.text, share, rng) for one in answers]
            drafts = [replace(one, draft=processor.draft(text)) for one, text in zip(held, texts, strict=True)]
            again, steps, _, used = read(engine, drafts, at_once=False)
            found[name]["forced" if share is None else f"{share:g}"] = [steps, round(alone / used, 2)]
            said = [[(one.tokens, one.confidence) for one in generations] for generations in (answers, again)]
            if said[0] != said[1]:
                raise SystemExit(f"{name}, {share}: another text than without drafts")
    engine.close()
    return found


def known_answers(text: str, rng: random.Random) -> Iterator[tuple[str, str, Any]]:
    """Of a page: a name, a schema, and what is to be read."""
    line, lines = {"type": "string"}, [one.strip() for one in text.splitlines() if one.strip()]
    yield "a text", schema_of(text=line), {"text": text.strip()}
    yield "lines", schema_of(lines={"type": "array", "items": line}), {"lines": lines}
    names = ("number", "date", "seller", "buyer", "total", "address", "subject", "remark")
    fields = dict(zip(names, rng.sample(lines, min(len(names), len(lines))), strict=False))
    yield "fields", schema_of(**dict.fromkeys(fields, line)), fields


def steps_to(answer: list[int], request: Request, room: Filled | None) -> int:
    """Steps of the engine's planner, the prompt's among them, until the answer is written that is known beforehand."""
    scheduler = Scheduler(Limits(8, 2048, 8192, drafts=room), BlockPool(1024, 16), 0)
    sequence, steps = Sequence.of(replace(request, sampling=Sampling(max_tokens=len(answer)))), 0
    scheduler.add(sequence)
    while len(sequence.generated) < len(answer):
        step, steps = scheduler.plan(), steps + 1
        rows = [(chunk.last - 1, None) for chunk in step.chunks] + [(one.position, one.draft) for one in step.decodes]
        for position, fed in rows:
            sequence.pending -= 1
            if len(sequence.generated) < len(answer) and not sequence.was_wrong(position, fed):
                token = answer[len(sequence.generated)]
                sequence.take(token, 0.0, fed)
                if sequence.constraint is not None:
                    sequence.constraint.advance(token)
    return steps


def with_known_answers(seed: int) -> dict[str, Counter[str]]:
    """Steps by kind of answer and share of wrong characters, beside up to seven rows of a draft, as a CPU tries."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = MistralTokenizer.from_file(shutil.copy(real_tokenizer(), Path(folder) / "tekken.json"))
    tekken, found = tokenizer.instruct_tokenizer.tokenizer, dict[str, Counter[str]]()
    grammars = Grammars(tokenizer, tekken.n_words)
    for kind in ("letter", "receipt", "form", "ruled table"):
        for number in range(2):
            text = draw.draw(kind, number, seed)[0].text
            for name, schema, told in known_answers(text, random.Random(number)):
                counts, constrain = found.setdefault(name, Counter()), grammars.of(schema)
                answer = tekken.encode(json.dumps(told, ensure_ascii=False), bos=False, eos=False)
                counts["tokens"] += len(answer)
                counts["without"] += steps_to(answer, Request((1,), constrain=constrain), None)
                for share in (None, 0.0, 0.02, 0.05, 0.2):
                    quoted = json.dumps(text, ensure_ascii=False)[1:-1]
                    known = "" if share is None else with_errors(quoted, share, random.Random(seed))
                    draft = tuple(tekken.encode(known, bos=False, eos=False))
                    steps = steps_to(answer, Request((1,), constrain=constrain, draft=draft), Filled(8))
                    counts["forced" if share is None else f"{share:g}"] += steps
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--pages", type=int, default=16)
    parser.add_argument("--canvas", default="192x64", help="width x height in px, multiples of 16")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    width, height = map(int, args.canvas.split("x"))
    known = with_known_answers(args.seed)
    print(json.dumps({"reader": under_schema(args.pages, (width, height), args.seed), "known": known}, indent=1))


if __name__ == "__main__":
    main()
