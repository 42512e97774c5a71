"""A machine that was suspended: leases ran out by the wall clock, and nobody was there to renew them."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import pytest

from pipeline.database import boottime as clocks
from pipeline.delivery import dispatcher as dispatch
from pipeline.delivery.broker import make_app
from pipeline.delivery.dispatcher import Dispatcher
from pipeline.settings import Settings
from pipeline.store import leases
from pipeline.store.claims import PageClaim
from pipeline.store.leases import expire, renew_tasks
from pipeline.supervisor import local_run
from pipeline.supervisor.local_run import Run, Stopped
from tests.conftest import LIMITS, Archive
from tests.running import wait_until

DATABASES = ("sqlite", "postgresql")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere CLOCK_MONOTONIC counts sleep")
def test_the_clock_counts_the_time_that_the_machine_sleeps() -> None:
    asked = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert clocks._CLOCK == time.CLOCK_BOOTTIME and asked <= clocks.boottime() < asked + 3_600


class Machine:
    """Its boot-time clock, and what a suspend does to the leases: their clock goes on, CLOCK_MONOTONIC stands."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self.slept = 0.0
        self.looks = 0

    def boottime(self) -> float:
        self.looks += 1
        return clocks.boottime() + self.slept

    def suspend(self, seconds: float) -> None:
        self.slept += seconds
        for table in ("documents", "page_tasks"):
            self._archive.execute(
                f"UPDATE {table} SET lease_until = lease_until - :seconds WHERE state = 'leased'", seconds=seconds
            )


@pytest.fixture
def machine(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(archive)
    for module in (dispatch, leases, local_run):
        monkeypatch.setattr(module, "boottime", machine.boottime)
    return machine


@pytest.fixture
def claim(archive: Archive) -> PageClaim:
    """A page in the hands of a reader that lives."""
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, ["x"])
    claim = archive.claim(page)
    assert claim is not None
    return claim


def task(archive: Archive) -> tuple[str, int]:
    row: tuple[str, int] = archive.rows("SELECT state, crashes FROM page_tasks")[0]
    return row


def test_who_slept_with_all_others_condemns_none_before_they_could_renew(
    archive: Archive, broker: str, settings: Settings, machine: Machine, claim: PageClaim
) -> None:
    dispatcher, app = Dispatcher(archive.db, settings, print), make_app(broker)
    dispatcher.tick(app)
    dispatcher._next_sweep = 0.0  # it is due when the machine wakes
    machine.suspend(3600)
    dispatcher.tick(app)
    assert task(archive) == ("leased", 0)
    assert 0.4 * settings.lease_seconds < dispatcher._next_sweep - time.monotonic() <= settings.lease_seconds / 2
    assert renew_tasks(archive.db, "read/1", [claim.tasks[0].task_id], 60)
    dispatcher._next_sweep = 0.0
    dispatcher.tick(app)
    assert task(archive) == ("leased", 0)
    archive.execute("UPDATE page_tasks SET lease_until = 1")  # and its reader died
    dispatcher._next_sweep = 0.0
    dispatcher.tick(app)
    assert task(archive) == ("pending", 1)


def test_a_suspend_in_the_middle_of_a_sweep_condemns_nobody(
    archive: Archive, settings: Settings, machine: Machine, claim: PageClaim, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = Dispatcher(archive.db, settings, print)
    monkeypatch.setattr(dispatcher._outbox, "try_all_again", lambda: machine.suspend(3600))
    dispatcher.sweep()
    assert task(archive) == ("leased", 0)
    assert expire(archive.db, LIMITS) == 1, "it knows of no sleep"


@pytest.mark.only("sqlite")
def test_a_clock_that_is_set_on_is_as_a_sleep_where_leases_run_by_it(
    archive: Archive, broker: str, settings: Settings, claim: PageClaim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is a virtual machine that was paused: its boot-time clock stood, too."""
    dispatcher, app, true = Dispatcher(archive.db, settings, print), make_app(broker), time.time
    dispatcher.tick(app)
    dispatcher._next_sweep = 0.0
    Machine(archive).suspend(3600)
    monkeypatch.setattr(time, "time", lambda: true() + 3600)
    dispatcher.tick(app)
    assert task(archive) == ("leased", 0)


class Supervisor:
    """Of a run that has nothing to do itself."""

    def hear_alarm(self) -> None:
        pass


def test_a_run_that_slept_condemns_nobody_whose_pages_it_waits_for(
    archive: Archive, settings: Settings, machine: Machine, claim: PageClaim
) -> None:
    archive.see("/in/b.pdf", "/in/a.pdf", batch="ours")  # the same content: read by another batch's worker
    quick = settings.model_copy(update={"sweep_seconds": 0.05})
    job = Run(quick, [], [], "ours", print, lambda *_: None)
    job._done_seeing.set()
    supervisor: Any = Supervisor()
    ended: list[BaseException] = []

    def loop() -> None:
        try:
            job._loop(archive.db, archive.batches["ours"], supervisor)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    wait_until(lambda: machine.looks > 6 or ended != [])
    machine.suspend(3600)
    looks = machine.looks
    wait_until(lambda: machine.looks > looks + 6 or ended != [])
    job.stop()
    thread.join(60)
    assert task(archive) == ("leased", 0) and [type(error) for error in ended] == [Stopped]
