"""The engine's start in a process that may take little more: what it says is printed.

64 MiB once the model is loaded; or with `tokenizer` 8 MiB, and Pixtral's tekken.json of 19 MB is to be read. With one
thread, for oneDNN's threads die of it.
"""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.checkpoint import real_tokenizer
from benchmarks.reader.evaluate import CHECKPOINT
from pipeline.errors import UsageError
from workers.pixtral.model.load import load_model
from workers.pixtral.start import start_engine
from workers.pixtral.text.processor import Processor


def limit(more: int) -> None:
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + more, resource.RLIM_INFINITY))


if __name__ == "__main__":
    torch.set_num_threads(1)
    model = load_model(CHECKPOINT)
    processor = Processor(CHECKPOINT, model.config)
    try:
        if sys.argv[1:] == ["tokenizer"]:
            with tempfile.TemporaryDirectory() as folder:
                shutil.copy(real_tokenizer(), Path(folder) / "tekken.json")
                limit(8 * 2**20)
                Processor(Path(folder), model.config)
        limit(64 * 2**20)
        start_engine(model, processor, 10_000_000_000)
    except UsageError as error:
        print(error)
