"""A short selection of `make chaos`, one trial each; see `tests/chaos`. All at once, for they mostly wait."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.chaos.world import ROOT

pytestmark = pytest.mark.xdist_group("chaos")  # one test process pays for what they share

SELECTION = [("1", "postgresql"), ("3", "sqlite"), ("6", "sqlite"), ("7", "postgresql"), ("13b", "sqlite")]
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
