"""One trial of `make chaos`, so that its harness works on each change; see `tests/chaos`.

Killed readers and hosts are what everything else rests on, and on PostgreSQL they have several hosts to die on. What
tests of one part show already (a killed or restarted server, a lease that ran out, one file submitted many times) is
left to `make chaos`, and so is a flushed broker: a killed one has lost its messages too.
"""

from __future__ import annotations

import importlib
import signal
from collections.abc import Iterator
from operator import attrgetter

import pytest

from tests.chaos.__main__ import chosen, main, run
from tests.chaos.network import Loopback
from tests.chaos.points import POINTS
from tests.postgres import PostgresServer


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Those of this process, which `main` and a trial's watchdog set, and the timer of the test's own time limit."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}
    left = signal.getitimer(signal.ITIMER_REAL)[0]
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.setitimer(signal.ITIMER_REAL, left)


@pytest.mark.parametrize(("label", "database"), [("1", "postgresql")])
def test_a_fault_loses_nothing(postgres: PostgresServer, label: str, database: str) -> None:
    """In this process, with hosts that are forked, on the server of all tests: nothing of that is broken here."""
    ((label, fault, kind),) = chosen(label, database)
    network = Loopback()
    result = run(label, fault, kind, range(1, 2), network, is_brief=True, lent=postgres)
    assert result.failed == 0 and result.pages == 50, "what broke is printed"


def test_a_fault_that_is_not_there_is_said() -> None:
    assert main(["--only", "99", "--network", "loopback"]) == 2


def test_what_is_killed_at_is_there() -> None:
    """A function that was given another name would be no point any more, and `make chaos` is not run on each change."""
    for points in POINTS.values():
        for module, name, _ in points.values():
            assert callable(attrgetter(name)(importlib.import_module(module)))
