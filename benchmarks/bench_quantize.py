"""What narrower weights change: errors, logits, time and memory, side by side in one run.

    python -m benchmarks.bench_quantize [--pages 105] [--canvas 192x64,256x128] [--rounds 2] [--a4 2]

The small reader reads pages that training never drew with each kind in turn, `rounds` times. The logits' difference is
that of one forward over the prompt, the page and what is printed on it (teacher forcing), where a character
follows: mean Kullback-Leibler divergence from the checkpoint's own type, and how often the likeliest token
is another one. `--a4` pages of the `mini` preset, 64 tokens each, show the time at the width where products weigh;
0 leaves them out. Processor time is that of all threads, which neighbours disturb less; that of fp8, which a run
refuses on a CPU, says nothing of a GPU. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.bench_engine import QUESTION, draw_page
from benchmarks.checkpoint import make_checkpoint
from benchmarks.reader.evaluate import CHECKPOINT, Sample, ask, draw_samples, error_rate
from schemas.prompts import OCR
from workers.engines.pixtral import PixtralEngine
from workers.pixtral import start
from workers.pixtral.model import decoder, vision
from workers.pixtral.model.load import load_model, weight_bytes
from workers.pixtral.model.packed import attend_packed
from workers.pixtral.model.quantize import MAKERS
from workers.pixtral.plan.sequence import Sampling
from workers.pixtral.text.processor import Processor


@torch.inference_mode()
def forced_logits(kind: str | None, samples: list[Sample]) -> Tensor:
    """Of every place whose next token is one of the text: (places, vocabulary) in float32."""
    model = load_model(CHECKPOINT, kind=kind)
    processor = Processor(CHECKPOINT, model.config)
    found = []
    for sample in samples:
        request = processor.encode_page(sample.image_hash, sample.pixels, OCR.text, Sampling())
        text = processor.draft(sample.layout.text)
        tokens = torch.tensor([*request.tokens, *text])
        pixels = [torch.from_numpy(image.pixels.copy()) for image in request.images]
        hidden = decoder.embed(model, tokens, vision.encode_images(model, pixels))
        count = len(tokens)

        def attend(_index: int, query: Tensor, key: Tensor, value: Tensor, count: int = count) -> Tensor:
            return attend_packed(query, key, value, [count], causal=True).flatten(1)

        hidden = decoder.run_layers(model, hidden, torch.arange(count), attend)
        found.append(decoder.logits(model, hidden[len(request.tokens) - 1 : -1]).float())
    return torch.cat(found)


def read_small(kinds: list[str], samples: list[Sample], rounds: int) -> dict[str, dict[str, Any]]:
    """Errors, and processor seconds of the least disturbed round."""
    figures: dict[str, dict[str, Any]] = {}
    with mock.patch.object(start, "check_kind"):  # fp8 multiplies on a CPU too, too slowly to offer it
        engines = {kind: PixtralEngine(CHECKPOINT, "cpu", quantize=kind) for kind in kinds}
    for _ in range(rounds):
        for kind, engine in engines.items():
            engine._built.engine.scheduler.pool.drop_prefixes()
            began = time.process_time()
            answers = [page[0] for page in ask(engine, samples, [OCR])]
            seconds = time.process_time() - began
            pairs = [(sample.layout.text, answer.text) for sample, answer in zip(samples, answers, strict=True)]
            tokens = sum(answer.output_tokens or 0 for answer in answers)
            one = figures.setdefault(
                kind, {"character_error_rate": round(error_rate(pairs), 5), "cpu_seconds": seconds}
            )
            one["cpu_seconds"] = round(min(one["cpu_seconds"], seconds), 2)
            one["tokens_per_cpu_second"] = round(tokens / one["cpu_seconds"])
    for engine in engines.values():
        engine.close()
    exact = forced_logits(None, samples).log_softmax(-1)
    for kind in kinds:
        logits = forced_logits(None if kind == "off" else kind, samples).log_softmax(-1)
        divergence = (exact.exp() * (exact - logits)).sum(-1)
        figures[kind] |= {
            "kl": float(f"{divergence.mean():.3g}"),
            "kl_at_most": float(f"{divergence.max():.3g}"),
            "other_token": round(float((exact.argmax(-1) != logits.argmax(-1)).float().mean()), 5),
        }
    return figures


def read_a4(kinds: list[str], pages: int, rounds: int, tokens: int = 64) -> dict[str, dict[str, Any]]:
    """161 M random parameters, 3,027 prompt tokens a page: first tokens alone, then the whole answer."""
    figures: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_checkpoint(Path(temporary), "mini", dtype=torch.bfloat16)
        engines = {}
        for kind in kinds:
            model = load_model(folder, kind=None if kind == "off" else kind)
            processor = Processor(folder, model.config)
            engines[kind] = start.start_engine(model, processor, start.available_bytes(model.device))
            engines[kind].vocabulary = replace(engines[kind].vocabulary, eos_id=-1)  # all write so many tokens
            figures[kind]["decoder_bytes"] = weight_bytes(model) - 2 * sum(
                weight.numel() for name, weight in model.named_parameters() if not name.startswith("layers.")
            )
        for _ in range(rounds):
            for kind, engine in engines.items():
                for name, count in (("prefill", 1), ("whole", tokens)):
                    engine.scheduler.pool.drop_prefixes()
                    wanted = Sampling(max_tokens=count)
                    requests = [processor.encode_page(f"{i}", draw_page(i), QUESTION, wanted) for i in range(pages)]
                    began = time.process_time()
                    for future in [engine.submit(request) for request in requests]:
                        future.result()
                    seconds = (time.process_time() - began) / pages
                    key = f"{name}_cpu_seconds_a_page"
                    figures[kind][key] = round(min(figures[kind].get(key, seconds), seconds), 3)
        for engine in engines.values():
            engine.close()
    return figures


@torch.inference_mode()
def time_products(kinds: list[str], outs: int = 14336, ins: int = 5120) -> dict[str, dict[str, float]]:
    """Milliseconds of one thread for rows times one of Pixtral 12B's largest weights, the least of three."""
    torch.set_num_threads(1)
    weight = torch.randn(outs, ins, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    figures: dict[str, dict[str, float]] = {}
    for kind in kinds:
        product = (lambda rows: F.linear(rows, weight)) if kind == "off" else MAKERS[kind](weight, torch.bfloat16)
        for count in (1, 8, 512):
            rows = torch.randn(count, ins).bfloat16()
            product(rows)
            taken = []
            for _ in range(3):
                began = time.thread_time()
                product(rows)
                taken.append(time.thread_time() - began)
            figures.setdefault(kind, {})[f"{count} rows"] = round(min(taken) * 1e3, 2)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--kinds", default="off,int8,int4")
    parser.add_argument("--pages", type=int, default=105, help="of each canvas")
    parser.add_argument("--canvas", default="192x64,256x128")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--a4", type=int, default=2)
    args = parser.parse_args()
    kinds, threads = args.kinds.split(","), torch.get_num_threads()
    samples = []
    for name in args.canvas.split(","):
        width, height = map(int, name.split("x"))
        samples += draw_samples(args.pages, (width, height))
    small = read_small(kinds, samples, args.rounds)
    for kind, one in small.items():
        print(f"small reader, {kind}: {json.dumps(one)}", flush=True)
    products = time_products(kinds)
    print(f"14,336 x 5,120, ms on one thread: {json.dumps(products)}", flush=True)
    torch.set_num_threads(threads)
    a4 = read_a4(kinds, args.a4, args.rounds) if args.a4 else {}
    for kind, one in a4.items():
        print(f"A4, mini, {kind}: {json.dumps(one)}")
    print(json.dumps({
        "benchmark": "quantize", "pages": len(samples), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 1), "reader": small, "products_ms": products, "a4": a4,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
