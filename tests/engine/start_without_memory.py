"""The engine's start in a process that may take 64 MiB more, once the model is loaded: what it says is printed.

With one thread, for oneDNN's threads die of it.
"""

from __future__ import annotations

import resource
from pathlib import Path

import torch

from benchmarks.reader.evaluate import CHECKPOINT
from pipeline.errors import UsageError
from workers.pixtral.model.load import load_model
from workers.pixtral.start import start_engine
from workers.pixtral.text.processor import Processor

if __name__ == "__main__":
    torch.set_num_threads(1)
    model = load_model(CHECKPOINT)
    processor = Processor(CHECKPOINT, model.config)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 64 * 2**20, resource.RLIM_INFINITY))
    try:
        start_engine(model, processor, 10_000_000_000)
    except UsageError as error:
        print(error)
