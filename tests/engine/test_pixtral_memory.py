"""Memory in use stays within the grant, measured on a process of its own."""

from __future__ import annotations

import json
import os
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
         *(["--step", step] if step else [])],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    figures = json.loads(run.stdout.splitlines()[-1])
    assert figures["within"] and figures["failed"] == 0 and figures["requests"] == 50
