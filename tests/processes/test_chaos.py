"""One trial of `make chaos`, so that its harness works on each change; see `tests/chaos`.

Killed readers and hosts are what everything else rests on, and on PostgreSQL they have several hosts to die on. What
tests of one part show already (a killed or restarted server, a lease that ran out, one file submitted many times) is
left to `make chaos`, and so is a flushed broker: a killed one has lost its messages too.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from operator import attrgetter

import pytest

from tests.chaos.points import POINTS
from tests.chaos.world import ROOT

COMMAND = [sys.executable, "-m", "tests.chaos", "--brief", "--network", "loopback"]


@pytest.mark.parametrize(("label", "database"), [("1", "postgresql")])
def test_a_fault_loses_nothing(label: str, database: str) -> None:
    command = [*COMMAND, "--only", label, "--database", database]
    trial = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, text=True)
    try:
        output, _ = trial.communicate(timeout=800)
    finally:
        trial.terminate()  # it cleans up
        trial.wait()
    assert trial.returncode == 0, output


def test_what_is_killed_at_is_there() -> None:
    """A function that was given another name would be no point any more, and `make chaos` is not run on each change."""
    for points in POINTS.values():
        for module, name, _ in points.values():
            assert callable(attrgetter(name)(importlib.import_module(module)))
