"""Whether the engine stays within the memory it was granted: `python -m benchmarks.bench_memory [--granted-gb 3]`.

Many pages of mixed sizes, from a corner of 64 × 64 px to a full 1024 × 1024 px, handed over at once, with answers of
mixed lengths and two prompts for every fourth page. What counts is resident memory that no file backs (RssAnon), at its
peak (sampled every 10 ms), minus what the process had before the model was loaded: imports, tokenizer and the pages
themselves, which belong to the caller. It must not pass the grant, of which the weights are a part.
`peak_resident_bytes` is the kernel's own peak over the whole process, with libraries and the mapped checkpoint in it.
Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from benchmarks.bench_engine import QUESTION
from benchmarks.checkpoint import PRESETS, make_checkpoint
from workers.pixtral import start
from workers.pixtral.model.config import read_config
from workers.pixtral.model.load import load_model
from workers.pixtral.plan import sizes
from workers.pixtral.plan.sequence import Request, Sampling
from workers.pixtral.text.processor import Processor

SIDES_PX = (64, 256, 512, 736, 1024)
SAMPLE_SECONDS = 0.01


def status_bytes(name: str) -> int:
    """A line of /proc/self/status, such as RssAnon or VmHWM."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


class Peak:
    """The largest RssAnon seen."""

    def __init__(self) -> None:
        self.bytes = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        stop = threading.Event()

        def watch() -> None:
            while not stop.is_set():
                self.bytes = max(self.bytes, status_bytes("RssAnon"))
                stop.wait(SAMPLE_SECONDS)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def flood(processor: Processor, pages: int, tokens: int) -> list[Request]:
    """Requests in an order that mixes sizes; every fourth page is asked twice."""
    rng = np.random.default_rng(0)
    requests = []
    for number in range(pages):
        height, width = (int(side) for side in rng.choice(SIDES_PX, 2))
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        questions = [QUESTION, "Describe this page."][: 2 if number % 4 == 0 else 1]
        sampling = Sampling(max_tokens=int(rng.integers(1, tokens + 1)))
        requests += [processor.encode_page(f"page {number}", pixels, question, sampling) for question in questions]
    return requests


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--preset", choices=PRESETS, default="mini")
    parser.add_argument("--granted-gb", type=float, default=3.0)
    parser.add_argument("--pages", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=48, help="answers have 1 to so many tokens")
    parser.add_argument("--step", metavar="CHUNK,BUDGET,SEQUENCES", help="as small as on a small card: 512,512,4")
    args = parser.parse_args()
    if args.step:
        chunk, budget, most = map(int, args.step.split(","))
        sizes.cpu_step = lambda config: (chunk, budget, most)
    granted = int(args.granted_gb * 1e9)
    peak = Peak()
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_checkpoint(Path(temporary), args.preset, dtype=torch.bfloat16)
        processor = Processor(folder, read_config(folder))
        requests = flood(processor, args.pages, args.tokens)
        ctypes.CDLL(None).malloc_trim(0)  # what making the checkpoint left behind is no part of the baseline
        baseline = status_bytes("RssAnon")
        with peak.watching():
            engine = start.start_engine(load_model(folder, dtype=torch.bfloat16), processor, granted)
            engine.eos_id = -1
            began = time.perf_counter()
            failed = sum(future.exception() is not None for future in [engine.submit(request) for request in requests])
            seconds = time.perf_counter() - began
            stats = engine.stats()
            engine.close()
    used = peak.bytes - baseline
    print(json.dumps({
        "benchmark": "memory", "preset": args.preset, "step": args.step, "pages": args.pages,
        "requests": len(requests), "failed": failed,
        "granted_bytes": granted, "used_bytes": used, "share": round(used / granted, 3), "within": used <= granted,
        "baseline_bytes": baseline, "peak_resident_bytes": status_bytes("VmHWM"),
        "preemptions": stats["preemptions"], "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(), "cores": os.cpu_count(), "torch": torch.__version__,
    }))  # fmt: skip
    assert used <= granted and not failed


if __name__ == "__main__":
    main()
