"""Steps and pages a second with drafts, by how many of their characters are wrong: `python -m benchmarks.bench_drafts`.

The small reader of this repository reads unseen drawn pages on a CPU, greedily, with the product's engine. A page's
draft is what is printed on it with a share of its characters wrong: a third each replaced, left out, and doubled by
another. Each share reads all pages, one at a time and all at once, in turn with reading without drafts; the order turns
from round to round, no page's prefix is kept, and each way's fastest round counts, by the clock and by processor time.
Steps are exact, whatever else the machine does. A text that is not the one without drafts ends the benchmark with 1.
Ends in one line of JSON.

`--host` measures another thing: what a GPU's decode step of 128 pages costs the host, with drafts and without. No GPU
computes: the tokens of 700 a page are known beforehand, of 3,000 a prompt.
"""

from __future__ import annotations

import argparse
import json
import random
import string
import time
from collections import Counter
from collections.abc import Sequence as AbstractSequence
from dataclasses import replace

import torch

from benchmarks.reader.evaluate import CHECKPOINT, draw_samples
from pipeline.planning.step_room import FEWER_ROWS, buckets
from schemas.prompts import OCR
from workers.pixtral import start
from workers.pixtral.engine import PackedEngine
from workers.pixtral.model.load import load_model
from workers.pixtral.plan.batch import lay_out
from workers.pixtral.plan.cache_blocks import BlockPool
from workers.pixtral.plan.draft_rows import RIDGE, Grouped, runs_of
from workers.pixtral.plan.scheduler import Limits, Scheduler, Step
from workers.pixtral.plan.sequence import Request, Sampling, Sequence
from workers.pixtral.text.generation import Generation
from workers.pixtral.text.processor import Processor

KINDS = ("words", "random", "numbers", "table")
MEMORY = 1_000_000_000
ROW_SECONDS = 2 * 11.6e9 / 780e12  # a row's products with Pixtral 12B's decoder and head, at the rate of an H200
GARBAGE = 1.0  # the share at which a draft has nothing of the page


def with_errors(text: str, share: float, rng: random.Random) -> str:
    """The text with that share of its characters wrong."""
    if share >= GARBAGE:
        return "".join(rng.choices(string.ascii_letters + string.digits, k=len(text)))
    out = []
    for letter in text:
        other = rng.choice(string.ascii_letters + string.digits)
        is_wrong, how = rng.random() < share, rng.randrange(3)
        out.append(("", other, letter + other)[how] if is_wrong else letter)
    return "".join(out)


def read(
    engine: PackedEngine, requests: AbstractSequence[Request], *, at_once: bool
) -> tuple[list[Generation], int, float, float]:
    """Generations, steps, seconds, and seconds of processor time."""
    engine.scheduler.pool.drop_prefixes()
    steps, began, used = engine.stats()["steps"], time.perf_counter(), time.process_time()
    if at_once:
        generations = [future.result() for future in [engine.submit(request) for request in requests]]
    else:
        generations = [engine.submit(request).result() for request in requests]
    seconds, used = time.perf_counter() - began, time.process_time() - used
    return generations, int(engine.stats()["steps"] - steps), seconds, used


def host_part(share: float | None, pages: int = 128, steps: int = 300) -> dict[str, float]:
    """Of a step: rows, tokens, processor milliseconds of planning it, laying out its rows and taking its tokens.

    And the milliseconds that an H200 would take by arithmetic (`plan/draft_rows.py`). `share` are the tokens of a draft
    that are wrong, of four characters each: 0.08 is 2 % of the characters, 0.19 is 5 %, 0.59 is 20 %. None: no page
    has one.
    """
    room = Grouped(buckets(pages, 4, FEWER_ROWS), 4, pages, RIDGE * 163_840 / 23.2e9)  # as of Pixtral 12B in bfloat16
    limits = Limits(pages, 2048, 8192, 8556, drafts=None if share is None else room)
    scheduler, rng = Scheduler(limits, BlockPool(pages * 64, 64), 0), random.Random(0)
    answers: dict[Sequence, list[int]] = {}
    for _ in range(pages):
        answer = rng.choices(range(20, 30_000), k=700)
        draft = () if share is None else tuple(7 if rng.random() < share else token for token in answer)
        answers[Sequence.of(Request((1,) * 3000, sampling=Sampling(max_tokens=700), draft=draft))] = answer
    for sequence in answers:
        scheduler.add(sequence)
    launched: list[Step] = []
    spent: Counter[str] = Counter()
    while spent["steps"] < steps:
        is_counted = not scheduler.waiting and not any(one.is_prefilling for one in scheduler.running)
        began = time.process_time()
        launched.append(scheduler.plan())
        planned = time.process_time()
        count = len(launched[-1].decodes)
        rows = next((size for size in room.buckets if size >= count), 0)
        lay_out(launched[-1], 64, 10, lambda num_rows: num_rows, rows)
        laid_out, tokens = time.process_time(), 0
        decodes = launched[-1].decodes
        keys = sum(decodes[first].position + one for first, one in runs_of([one.sequence for one in decodes], room.run))
        if len(launched) > 1:  # the step before is computed meanwhile
            step = launched.pop(0)
            rows_of = [(chunk.sequence, chunk.last - 1, None) for chunk in step.chunks if chunk.samples]
            rows_of += [(one.sequence, one.position, one.draft) for one in step.decodes if one.samples]
            for sequence, position, fed in rows_of:
                sequence.pending -= 1
                if not sequence.was_wrong(position, fed):
                    sequence.take(answers[sequence][len(sequence.generated)], 0.0, fed)
                    tokens += 1
        if is_counted and count:
            spent.update(steps=1, rows=count, tokens=tokens)
            spent["H200"] += (max(rows, RIDGE) + room.key_rows * keys) * ROW_SECONDS
            spent["planning"] += planned - began
            spent["layout"] += laid_out - planned
            spent["tokens taken"] += time.process_time() - laid_out
    per_step = {name: spent[name] / steps for name in ("rows", "tokens")}
    return per_step | {
        f"{name}, ms": 1e3 * spent[name] / steps for name in ("planning", "layout", "tokens taken", "H200")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--pages", type=int, default=24)
    parser.add_argument("--canvas", default="192x64", help="width x height in px, multiples of 16")
    parser.add_argument("--shares", default="0,0.02,0.05,0.2,1", help="of characters that are wrong; 1: garbage")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--host", action="store_true", help="the host's part of a GPU's step")
    args = parser.parse_args()
    if args.host:
        ways = {"without": None, **{f"{share:g}": share for share in (0.08, 0.19, 0.59, 1.0)}}
        print(json.dumps({name: {k: round(v, 2) for k, v in host_part(share).items()} for name, share in ways.items()}))
        return
    width, height = map(int, args.canvas.split("x"))
    samples = draw_samples(args.pages, (width, height), seed=args.seed, kinds=KINDS)
    model = load_model(CHECKPOINT)
    processor = Processor(CHECKPOINT, model.config)
    engine = start.start_engine(model, processor, MEMORY)
    plain = [
        processor.encode_page(one.image_hash, one.pixels, OCR.text, Sampling(max_tokens=400, page_lines=100))
        for one in samples
    ]
    ways = {"without": plain}
    for share in map(float, args.shares.split(",")):
        rng = random.Random(args.seed)
        drafts = [processor.draft(with_errors(one.layout.text, share, rng)) for one in samples]
        ways[f"{share:g}"] = [replace(one, draft=draft) for one, draft in zip(plain, drafts, strict=True)]
    names = list(ways)
    found: dict[tuple[str, bool], tuple[int, float, float]] = {}
    accepted: dict[str, float] = {}
    is_same = True
    read(engine, plain[:4], at_once=True)
    expected = [one.tokens for one in read(engine, plain, at_once=False)[0]]
    for turn in range(args.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            for at_once in (False, True):
                generations, steps, seconds, used = read(engine, ways[name], at_once=at_once)
                _, best, least = found.get((name, at_once), (0, seconds, used))
                found[name, at_once] = steps, min(best, seconds), min(least, used)
                is_same &= [one.tokens for one in generations] == expected
                if not at_once and name != "without":
                    tried = sum(one.drafted for one in generations)
                    accepted[name] = sum(one.accepted for one in generations) / max(1, tried)
    engine.close()
    tokens = sum(len(one) + 1 for one in expected)
    alone, alone_seconds, alone_used = found["without", False]
    packed, packed_seconds, packed_used = found["without", True]
    print(f"{'wrong':8} {'steps':>7} {'fewer':>6} {'accepted':>8} {'pages/s':>8} | {'at once: steps':>14} {'fewer':>6}")
    figures = {}
    for name in names:
        (steps, seconds, used), (some, some_seconds, some_used) = found[name, False], found[name, True]
        figures[name] = {
            "steps": steps,
            "fewer_steps": round(alone / steps, 2),
            "accepted": round(accepted.get(name, 0.0), 3),
            "pages_per_second_over_without": round(alone_seconds / seconds, 2),
            "processor_time_less": round(alone_used / used, 2),
            "steps_at_once": some,
            "fewer_steps_at_once": round(packed / some, 2),
            "pages_per_second_at_once_over_without": round(packed_seconds / some_seconds, 2),
            "processor_time_at_once_less": round(packed_used / some_used, 2),
        }
        print(
            f"{name:8} {steps:7} {alone / steps:6.2f} {accepted.get(name, 0.0):8.2f} {len(samples) / seconds:8.2f} | "
            f"{some:14} {packed / some:6.2f}"
        )
    threads, dtype = torch.get_num_threads(), str(model.dtype).removeprefix("torch.")
    conditions = {"pages": len(samples), "canvas": args.canvas, "tokens": tokens, "threads": threads, "dtype": dtype}
    print(json.dumps(conditions | {"rounds": args.rounds, "same_text": is_same, "drafts": figures}))
    raise SystemExit(0 if is_same else 1)


if __name__ == "__main__":
    main()
