"""What a cache in e4m3 does to texts and logits: `python -m benchmarks.bench_narrow_cache [--pages N]`.

No GPU is needed: on a CPU attention reads everything from the cache, so keys and values that go there through
`kv_cache.narrow` and back are those that a GPU with a narrow cache would see. The small reader reads drawn pages with
the cache in its own type and so rounded, against the truth, and against its own weights in float64 (logits,
teacher-forced); so do random weights of `mini`, whose attention is sharp. With `--quantize int4` the weights are
narrow, too, and float64 has the same numbers. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmarks import gpu_gates
from benchmarks.checkpoint import random_model
from benchmarks.reader.evaluate import CHECKPOINT, Sample, ask, draw_samples, report
from schemas.prompts import DESCRIBE, OCR
from workers.pixtral.cpu.paged_attention import PagedAttention
from workers.pixtral.model.kv_cache import narrow, widen
from workers.pixtral.model.load import load_model
from workers.pixtral.model.vision import Pixtral
from workers.pixtral.plan.scheduler import Limits
from workers.pixtral.plan.sequence import Request, Sampling
from workers.pixtral.text.processor import Processor

LIMITS = Limits(8, 2048, 4096, 4096)


@contextmanager
def rounded_cache(*, on: bool) -> Iterator[None]:
    """What is stored inside comes back as from a narrow cache."""
    store = PagedAttention.store

    def through_e4m3(self: PagedAttention, layer: int, key: Tensor, value: Tensor) -> None:
        store(self, layer, *(widen(*narrow(rows)).to(rows.dtype) for rows in (key, value)))

    if on:
        PagedAttention.store = through_e4m3  # type: ignore[method-assign]
    try:
        yield
    finally:
        PagedAttention.store = store  # type: ignore[method-assign]


def texts(samples: list[Sample], kind: str) -> tuple[dict[str, Any], list[str]]:
    from workers.engines.pixtral import PixtralEngine

    engine = PixtralEngine(CHECKPOINT, "cpu", memory_bytes=2 * 10**9, drafts=False, quantize=kind)
    try:
        answers = ask(engine, samples, (OCR, DESCRIBE))
    finally:
        engine.close()
    return report(samples, answers), [answer.text for page in answers for answer in page]


def logits_error(model: Pixtral, exact: Pixtral, requests: list[Request]) -> float:
    """The worst page's, relative to float64 with the tokens that were written."""
    return gpu_gates.read(model, exact, requests, LIMITS, 400, {})[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--pages", type=int, default=140)
    parser.add_argument("--quantize", choices=["off", "int8", "int4"], default="off")
    args = parser.parse_args()
    kind = None if args.quantize == "off" else args.quantize
    samples = draw_samples(args.pages, (256, 128))
    reader, mini = load_model(CHECKPOINT, kind=kind), random_model("mini", "cpu", torch.bfloat16)
    if kind is not None:
        gpu_gates.narrow(mini, kind)
    exact_reader, exact_mini = map(gpu_gates.exact_model, (reader, mini))  # an engine lays weights out for itself
    processor = Processor(CHECKPOINT, reader.config)
    pages = [
        processor.encode_page(str(i), one.pixels, OCR.text, Sampling(max_tokens=60))
        for i, one in enumerate(samples[:14])
    ]
    noise = [gpu_gates.page_request(i, *grid, max_tokens=12) for i, grid in enumerate(gpu_gates.GRIDS[:4])]
    found: dict[str, Any] = {"benchmark": "narrow_cache", "pages": args.pages, "quantize": args.quantize}
    read: dict[str, list[str]] = {}
    for name, on in (("own type", False), ("e4m3", True)):
        with rounded_cache(on=on):
            figures, read[name] = texts(samples, args.quantize)
            found[name] = {
                "character_error_rate": figures["character_error_rate"],
                "pages_without_error": figures["pages_without_error"],
                "reader_logits": logits_error(reader, exact_reader, pages),
                "mini_logits": logits_error(mini, exact_mini, noise),
            }
        print(name, found[name], flush=True)
    same = sum(a == b for a, b in zip(*read.values(), strict=True))
    found["same_answers"] = f"{same}/{2 * args.pages}"
    print(json.dumps(found))


if __name__ == "__main__":
    main()
