"""The engine on a GPU: first whether it is right, then how fast, against what the chip allows.

    python -m benchmarks.bench_engine_gpu [--preset 12b] [--pages 800] [--quantize fp8] [--kv-cache fp8] [--out FOLDER]

First the gates, and nothing is timed unless all hold: `gpu_kernel_gates`, `gpu_gates` and `gpu_draft_gates`, the latter
two again with narrow weights where `--quantize` asks for them. Then random weights of the preset are drawn on the
device, and pages of 768 × 1024 px handed over all at once, with output lengths drawn from 200 to 1,200 tokens and end
of sequence ignored; then the same pages three times more with their answers as drafts, of whose characters a share is
wrong (`spoiled` below). Steady figures need pages that wait, so more than run at once: by the engine's sum 184 to 256
of Pixtral 12B on an H200. For int8 and int4 the `bound` below is none: it goes by the engine's own product, which a
better kernel might exceed. Needs neither tokenizer nor network, nor mistral-inference, mistral-common, xformers. The
last line is JSON. Not yet run: no GPU was at hand.

Over 300 lines: the gates' order, the timing and the bound that it is held against are one measurement.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.checkpoint import PRESETS, random_model
from benchmarks.gpu_draft_gates import check_drafts, check_runs
from benchmarks.gpu_gates import check_engine, make_engine, page_request, run
from benchmarks.gpu_kernel_gates import check_kernels, check_varlen
from pipeline.errors import UsageError
from pipeline.planning.card_room import BLOCK_SIZE
from pipeline.planning.gpus import BITS
from workers.devices import check_capability
from workers.pixtral import start
from workers.pixtral.cuda.attention import uses_flash
from workers.pixtral.describe import describe_path
from workers.pixtral.engine import PackedEngine
from workers.pixtral.executor import Executor, Launched
from workers.pixtral.model.config import config_of
from workers.pixtral.model.load import empty_model
from workers.pixtral.model.quantize import MAKERS, check_kind
from workers.pixtral.plan.scheduler import Step
from workers.pixtral.plan.sequence import Request
from workers.pixtral.worst_step import CudaMemory, measured_sizes


class Ceilings:
    """What this chip does: a large copy, a large product, and the engine's own product with a weight of a `kind`."""

    def __init__(self, device: torch.device, kind: str | None = None) -> None:
        a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
        self.flops = self.layer_flops = 2 * 8192**3 / self._seconds(lambda: a @ b)
        if kind is not None:
            product = MAKERS[kind](b, torch.bfloat16)
            prepared = product.prepare(a)
            self.layer_flops = 2 * 8192**3 / self._seconds(lambda: product.multiply(prepared))
        source = torch.randn(2**31, device=device, dtype=torch.bfloat16)
        target = torch.empty_like(source)
        self.bytes = 2 * source.nbytes / self._seconds(lambda: target.copy_(source))

    @staticmethod
    def _seconds(work: Any) -> float:
        for _ in range(3):
            work()
        times = []
        for _ in range(10):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            work()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        return float(np.median(times))


def bound(
    preset: str,
    requests: Sequence[Request],
    running: int,
    ceilings: Ceilings,
    kind: str | None = None,
    *,
    narrow_cache: bool = False,
) -> dict[str, float]:
    """Least seconds a page: products of vision and prefill at the chip's rate, then decode's bytes at its bandwidth.

    Each decode step reads the layers and the head once for `running` sequences, and each one's own cache. Of weights of
    a `kind` the layers' products go at `layer_flops`, and are so many bits a number; attention stays as it is.
    """
    args, vision = PRESETS[preset], PRESETS[preset]["vision_encoder"]
    layer = (
        args["dim"] * args["head_dim"] * 2 * (args["n_heads"] + args["n_kv_heads"])
        + 3 * args["dim"] * args["hidden_dim"]
    )
    encoder = vision["num_hidden_layers"] * (
        4 * vision["hidden_size"] ** 2 + 3 * vision["hidden_size"] * vision["intermediate_size"]
    )
    adapter = args["dim"] * (vision["hidden_size"] + args["dim"])
    patches = requests[0].images[0].pixels.shape[0] * requests[0].images[0].pixels.shape[1] // 256
    tokens = len(requests[0].tokens)
    attention = 4 * patches**2 * vision["hidden_size"] * vision["num_hidden_layers"]
    attention += 2 * tokens**2 * args["n_heads"] * args["head_dim"] * args["n_layers"]
    flops = 2 * patches * (encoder + adapter) + attention
    output = float(np.mean([request.sampling.max_tokens for request in requests]))
    weights = layer * args["n_layers"] * BITS.get(kind or "", 16) / 8 + 2 * args["dim"] * args["vocab_size"]
    token = 2 * args["n_layers"] * args["n_kv_heads"] * (args["head_dim"] + 4 if narrow_cache else 2 * args["head_dim"])
    step = weights / running + token * (tokens + output / 2)
    prefill = flops / ceilings.flops + 2 * tokens * layer * args["n_layers"] / ceilings.layer_flops
    decode = output * step / ceilings.bytes
    return {"prefill_seconds": prefill, "decode_seconds": decode, "pages_per_second": 1 / (prefill + decode)}


class TimedExecutor:
    """Wraps an executor's `launch`: device time of every step by events, host time, and what it held."""

    def __init__(self, executor: Executor) -> None:
        self.steps: list[tuple[Step, Any, Any, float]] = []
        self.launch_inside = executor.launch

    def launch(self, step: Step) -> Launched:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        began = time.perf_counter()
        start.record()
        launched = self.launch_inside(step)
        end.record()
        self.steps.append((step, start, end, time.perf_counter() - began))
        return launched

    def phases(self) -> dict[str, float]:
        torch.cuda.synchronize()
        rows: dict[str, list[tuple[float, float, int, int]]] = {"decode": [], "mixed": []}
        for step, begin, end, host in self.steps:
            prefill = sum(chunk.last - chunk.first for chunk in step.chunks)
            kind = "mixed" if step.chunks else "decode"
            rows[kind].append((begin.elapsed_time(end), host * 1e3, prefill, len(step.decodes)))
        out: dict[str, float] = {}
        for kind, values in rows.items():
            if values:
                device, host, prefill_rows, decodes = np.asarray(values, float).T
                out |= {
                    f"{kind}_steps": len(values),
                    f"{kind}_device_seconds": device.sum() / 1e3,
                    f"{kind}_device_ms_median": float(np.median(device)),
                    f"{kind}_host_ms_median": float(np.median(host)),
                    f"{kind}_prefill_tokens": prefill_rows.sum(),
                    f"{kind}_decodes_mean": decodes.mean(),
                }
        return out


def spoiled(tokens: Sequence[int], share: float, rng: random.Random) -> tuple[int, ...]:
    """An answer as a draft with that share of its characters wrong, at four characters a token.

    Of the tokens that have a wrong one, a third each is replaced, left out, and doubled by another.
    """
    out: list[int] = []
    for token in tokens:
        other = rng.randrange(20, 220)
        is_wrong, how = rng.random() < 1 - (1 - share) ** 4, rng.randrange(3)
        out += ((), (other,), (token, other))[how] if is_wrong else (token,)
    return tuple(out)


def time_drafts(
    engine: PackedEngine, requests: Sequence[Request], answers: Sequence[tuple[int, ...]], seconds: float
) -> dict[str, Any]:
    """By the share of wrong characters: pages/s over those of `seconds` without drafts, steps, what was accepted."""
    found: dict[str, Any] = {}
    for share in (0.02, 0.05, 0.2):
        rng = random.Random(0)
        drafted = [
            replace(request, draft=spoiled(answer, share, rng))
            for request, answer in zip(requests, answers, strict=True)
        ]
        engine.scheduler.pool.drop_prefixes()
        before, started = engine.stats(), time.perf_counter()
        texts = run(engine, drafted)
        wall, after = time.perf_counter() - started, engine.stats()
        tried, accepted = (after[name] - before[name] for name in ("drafted_tokens", "accepted_tokens"))
        found[f"{share:g}"] = {
            "pages_per_second": len(requests) / wall,
            "over_without": seconds / wall,
            "steps": after["steps"] - before["steps"],
            "accepted": accepted / max(1.0, tried),
            "of_answers_by_draft": accepted / sum(map(len, answers)),
            "same_text": float(np.mean([a == b for a, b in zip(texts, answers, strict=True)])),
        }
    return found


def time_engine(
    device: torch.device, preset: str, pages: int, kind: str | None, *, narrow_cache: bool
) -> dict[str, Any]:
    """All pages at once; steady pages/s are those finished while others still wait."""
    ceilings = Ceilings(device, kind)
    torch.cuda.empty_cache()
    granted = start.available_bytes(device)
    model = random_model(preset, str(device), torch.bfloat16, kind=kind)
    torch.cuda.empty_cache()  # what narrow weights were made of
    make = partial(start.make_backend, narrow_cache=narrow_cache)
    fit = start.fit_of(model, granted, device, narrow_cache=narrow_cache)
    fit = measured_sizes(model, fit, granted, CudaMemory(device), make, narrow_cache=narrow_cache)
    backend = make(model, fit.limits, fit.num_blocks, BLOCK_SIZE, fit.prefill_tile)
    executor = Executor(backend, fit.limits)
    engine = make_engine(model, replace(fit.limits, drafts=backend.drafts), fit.num_blocks, executor)
    lengths = np.random.default_rng(0).integers(200, 1201, pages)
    requests = [page_request(i, 64, 48, int(length)) for i, length in enumerate(lengths)]
    run(engine, [page_request(10_000 + i, 64, 48, 8) for i in range(4)])  # kernels compile, the graph is recorded
    engine.scheduler.pool.drop_prefixes()
    timed = TimedExecutor(executor)
    executor.launch = timed.launch  # type: ignore[method-assign]
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    futures = [engine.submit(request) for request in requests]
    finished, steady = [], 0.0
    for future in futures:
        future.add_done_callback(lambda _: finished.append(time.perf_counter()))
    while not all(future.done() for future in futures):
        time.sleep(0.05)
        if engine.stats()["waiting"]:
            steady = time.perf_counter()
    assert all(len(future.result().tokens) == length for future, length in zip(futures, lengths, strict=True))
    wall = time.perf_counter() - started
    in_steady = [moment for moment in finished if moment <= steady]
    phases, stats = timed.phases(), engine.stats()
    executor.launch = timed.launch_inside  # type: ignore[method-assign]
    busy = sum(value for name, value in phases.items() if name.endswith("device_seconds"))
    limit = bound(preset, requests, fit.limits.max_sequences, ceilings, kind, narrow_cache=narrow_cache)
    drafts = time_drafts(engine, requests, [future.result().tokens for future in futures], wall)
    steady_rate = (len(in_steady) - 1) / (in_steady[-1] - in_steady[0]) if len(in_steady) > 10 else 0.0
    engine.close()
    return {
        "pages": pages, "sizes": fit.arithmetic, "granted_bytes": granted,
        "peak_bytes": torch.cuda.max_memory_reserved(), "seconds": wall,
        "pages_per_second": pages / wall, "steady_pages_per_second": steady_rate,
        "output_tokens_per_second": float(lengths.sum()) / wall, "device_busy": busy / wall,
        "teraflops_measured": ceilings.flops / 1e12, "layer_teraflops_measured": ceilings.layer_flops / 1e12,
        "terabytes_per_second_measured": ceilings.bytes / 1e12,
        "bound": limit, "of_bound": pages / wall / limit["pages_per_second"],
        "steady_of_bound": steady_rate / limit["pages_per_second"], "phases": phases,
        "preemptions": stats["preemptions"], "packing_efficiency": stats["packing_efficiency"], "drafts": drafts,
    }  # fmt: skip


def check_serves(device: torch.device, preset: str, kind: str | None, *, narrow_cache: bool) -> None:
    """Before minutes of gates. Raises UsageError: the device is too old, or too small for the preset."""
    check_capability(device)
    if kind is not None:
        check_kind(kind, device)
    empty = empty_model(config_of(PRESETS[preset])).to(torch.bfloat16)
    start.fit_of(empty, start.available_bytes(device), device, kind, narrow_cache=narrow_cache)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--preset", choices=PRESETS, default="12b")
    parser.add_argument("--pages", type=int, default=800)
    parser.add_argument("--quantize", choices=["off", *MAKERS], default="off")
    parser.add_argument("--kv-cache", choices=["model", "fp8"], default="model")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA device; benchmarks.bench_engine runs on a CPU")
    device = torch.device("cuda")
    kind, narrow_cache = None if args.quantize == "off" else args.quantize, args.kv_cache == "fp8"
    if narrow_cache and torch.cuda.get_device_capability(device) < (8, 9):
        raise SystemExit(f"--kv-cache fp8 needs an Ada or Hopper GPU, and {torch.cuda.get_device_name()} is older")
    try:
        check_serves(device, args.preset, kind, narrow_cache=narrow_cache)
    except UsageError as error:
        raise SystemExit(str(error)) from error
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    assert uses_flash(device, torch.bfloat16), describe_path(device, torch.bfloat16)
    result: dict[str, Any] = {
        "benchmark": "engine_gpu",
        "preset": args.preset,
        "quantize": args.quantize,
        "kv_cache": args.kv_cache,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(),
        "path": describe_path(device, torch.bfloat16),
    }
    for name, check in (
        ("kernel_errors", lambda: check_kernels(device)),
        ("varlen_errors", lambda: check_varlen(device)),
        ("rows_of_drafts", lambda: check_runs(device)),
        *(
            (
                f"{name}_{preset}" + (f"_{each}" if each else ""),
                lambda gate=gate, preset=preset, each=each: gate(
                    random_model(preset, str(device), torch.bfloat16, kind=each)
                ),
            )
            for each in dict.fromkeys((None, kind))
            for name, gate in (("engine", check_engine), ("drafts", check_drafts))
            for preset in ("tiny", "mini")
        ),
        ("timing", lambda: time_engine(device, args.preset, args.pages, kind, narrow_cache=narrow_cache)),
    ):
        started = time.perf_counter()
        result[name] = check()
        print(
            f"{name} ({time.perf_counter() - started:.0f} s): {json.dumps(result[name], default=float)}",
            flush=True,
        )
        if args.out:
            (args.out / "bench_engine_gpu.json").write_text(json.dumps(result, default=float, indent=1))
    print(json.dumps(result, default=float))


if __name__ == "__main__":
    main()
