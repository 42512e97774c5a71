"""What it costs to hold an answer to a JSON Schema, a token.

    python -m benchmarks.bench_structured [--preset mini] [--rows 8] [--tokens 32] [--rounds 3]

The same rows are decoded with and without a schema, in turns, in one process, on a random checkpoint with Pixtral's
tokenizer (131,072 tokens), and half of them with one. End of sequence is ignored, so that all write as many tokens.
Processor time is that of all threads; others on the machine disturb it less than the clock. The host's part alone,
taking a token and making the next mask, is timed over the tokens that were written, and so is the mask's way into the
logits. With OMP_NUM_THREADS=1 no thread spins while it waits for another. The last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.checkpoint import random_model, real_tokenizer
from pipeline.structured.check import checked
from workers.pixtral import start
from workers.pixtral.model import sampling
from workers.pixtral.model.load import DTYPES
from workers.pixtral.plan.sequence import Request, Sampling
from workers.pixtral.text.processor import Processor

SCHEMA = checked(
    {
        "type": "object",
        "properties": {
            "number": {"type": "string", "minLength": 4, "maxLength": 20},
            "date": {"type": ["string", "null"], "format": "date"},
            "lines": {
                "type": "array",
                "minItems": 500,  # so that none is whole before its time
                "items": {
                    "type": "object",
                    "properties": {
                        "what": {"type": "string", "maxLength": 40},
                        "amount": {"type": "number", "multipleOf": 0.01, "minimum": 0, "maximum": 99999},
                    },
                    "required": ["what", "amount"],
                },
            },
        },
        "required": ["number", "date", "lines"],
    },
    "the benchmark",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--preset", choices=["tiny", "mini"], default="mini")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    args = parser.parse_args()
    model = random_model(args.preset, "cpu", DTYPES[args.dtype])
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(real_tokenizer(), Path(folder) / "tekken.json")
        processor = Processor(Path(folder), model.config)
    begun = time.perf_counter()
    constrain = processor.grammars.of(SCHEMA)
    first_seconds = time.perf_counter() - begun
    engine = start.start_engine(model, processor, start.available_bytes(torch.device("cpu")))
    engine.vocabulary = dataclasses.replace(engine.vocabulary, eos_id=-1)

    def request(number: int, *, held: bool) -> Request:
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        how = Sampling(args.tokens)
        plain = processor.encode_page(f"p{number}", pixels, "Fill in.", how)
        return dataclasses.replace(plain, constrain=constrain if held else None)

    def decode(num_held: int) -> tuple[dict[str, float], list[Any]]:
        asked = [request(number, held=number < num_held) for number in range(args.rows)]
        engine.scheduler.pool.drop_prefixes()
        wall, cpu = time.perf_counter(), time.process_time()
        with engine._wake:  # all wait before the first step, or the others are held back for company
            futures = [engine.submit(one) for one in asked]
        read = [future.result() for future in futures]
        steps = {"wall_ms": (time.perf_counter() - wall) * 1e3, "cpu_ms": (time.process_time() - cpu) * 1e3}
        assert all(len(one.tokens) == args.tokens for one in read)
        return {name: spent / args.tokens for name, spent in steps.items()}, read

    kinds = {"none": 0, "half": args.rows // 2, "all": args.rows}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    try:
        decode(args.rows)  # warm up
        for _ in range(args.rounds):
            for name, num_held in kinds.items():
                spent, read = decode(num_held)
                rounds[name].append(spent)
    finally:
        engine.close()
    host = []
    for one in read:
        walk = constrain()
        begun = time.process_time()
        for token in one.tokens:
            walk.advance(token)
        host.append((time.process_time() - begun) / len(one.tokens) * 1e6)
    logits = torch.randn(args.rows, model.config.vocab_size)
    masks = np.stack([constrain().mask] * args.rows)
    sampling.constrain(logits, range(args.rows), masks)
    begun = time.process_time()
    for _ in range(20):
        sampling.constrain(logits, range(args.rows), masks)
    on_logits = (time.process_time() - begun) / 20 / args.rows * 1e6
    result = {
        "preset": args.preset, "dtype": args.dtype, "rows": args.rows, "tokens": args.tokens,
        "threads": torch.get_num_threads(), "first_schema_seconds": round(first_seconds, 2),
        "step_cpu_ms": {name: round(statistics.median(r["cpu_ms"] for r in of), 2) for name, of in rounds.items()},
        "step_wall_ms": {name: round(statistics.median(r["wall_ms"] for r in of), 2) for name, of in rounds.items()},
        "mask_us_a_token": round(statistics.median(host), 1), "logits_us_a_token": round(on_logits, 1),
    }  # fmt: skip
    for name, of in rounds.items():
        print(name, *(f"{r['cpu_ms']:.1f}/{r['wall_ms']:.1f}" for r in of), "ms a step, processor/clock")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
