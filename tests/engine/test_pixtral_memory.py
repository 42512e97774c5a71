"""Memory in use stays within the grant, measured on a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/self/status is Linux's")
@pytest.mark.parametrize(("step", "granted"), [("", "0.22"), ("512,512,4", "0.165")])
def test_a_flood_of_mixed_pages_stays_within_the_grant(step, granted):
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_memory", "--preset", "tiny", "--granted-gb", granted, "--pages", "40",
         "--tokens", "12", *(["--step", step] if step else [])],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    figures = json.loads(run.stdout.splitlines()[-1])
    assert figures["within"] and figures["failed"] == 0 and figures["requests"] == 50


START_WITHOUT_MEMORY = """
import resource
from pathlib import Path
from benchmarks.reader.evaluate import CHECKPOINT
from pipeline.errors import UsageError
from workers.pixtral.model.load import load_model
from workers.pixtral.start import start_engine
from workers.pixtral.text.processor import Processor
model = load_model(CHECKPOINT)
processor = Processor(CHECKPOINT, model.config)
in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + 64 * 2**20, resource.RLIM_INFINITY))
try:
    start_engine(model, processor, 10_000_000_000)
except UsageError as error:
    print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/self/statm is Linux's")
def test_memory_that_is_gone_when_the_cache_is_made_is_said_in_one_line():
    """In a process of its own, with one thread: the limit is a whole process's, and oneDNN's threads die of it."""
    run = subprocess.run(
        [sys.executable, "-c", START_WITHOUT_MEMORY],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-4000:]
    told = r"a cache of [\d,]+ blocks does not fit the memory of cpu any more .*free.*\n"
    assert re.fullmatch(told, run.stdout), run.stdout + run.stderr[-4000:]
