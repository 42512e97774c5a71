"""Two trials of `make chaos`, side by side, so that its harness works on each change; see `tests/chaos`.

Killed readers and hosts are what everything else rests on, and a flushed broker is the cheapest of the others. What
tests of one part show already (a restarted server, a lease that ran out, one file submitted many times) is left to it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.chaos.world import ROOT

pytestmark = pytest.mark.xdist_group("chaos")  # one test process pays for what they share

SELECTION = [("1", "postgresql"), ("3", "sqlite")]
COMMAND = [sys.executable, "-m", "tests.chaos", "--seeds", "1", "--network", "loopback"]


@pytest.fixture(scope="module")
def trials() -> Iterator[dict[str, subprocess.Popen[str]]]:
    started = {
        label: subprocess.Popen(
            [*COMMAND, "--only", label, "--database", database],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            text=True,
        )
        for label, database in SELECTION
    }
    yield started
    for process in started.values():
        process.terminate()  # it cleans up
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("label", [label for label, _ in SELECTION])
def test_a_fault_loses_nothing(label: str, trials: dict[str, subprocess.Popen[str]]) -> None:
    output, _ = trials[label].communicate(timeout=800)
    assert trials[label].returncode == 0, output
