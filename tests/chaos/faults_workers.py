"""Workers that die, freeze, are told to stop, or meet a page that kills them."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

import psutil

from tests.chaos.points import POINTS, prepare
from tests.chaos.world import World

BUSY = 4  # pages in hand somewhere: worth a fault
IN_FLIGHT = 5  # pages that a reader has in hand when it dies: four are read, one more was and is not stored


def kill_at_random(world: World) -> None:
    """Readers, and now and then a whole host; no page may be condemned, for none is to blame. In brief, one of each."""
    kills, files = (2, 1) if world.is_brief else (5, 6)
    world.variables["PAGEPACK_MAX_CRASHES"] = str(kills + 1)
    if world.is_brief:
        world.variables["PAGEPACK_INTERNAL_PAGE_SECONDS"] = "0.8"  # two readers have work for five seconds
    world.open()
    world.start_hosts()
    world.draw(files, 50)
    world.submit()
    for turn in range(kills):
        world.wait(lambda: world.count("page_tasks", "state = 'leased'") >= BUSY)
        world.pause(0.0, 1.0)
        world.explained += IN_FLIGHT
        readers = world.readers()
        if readers and (turn == 0 if world.is_brief else world.random.random() < 0.75):
            kill_group(world.random.choice(readers))
        else:
            host = world.hosts[world.random.choice(sorted(world.hosts))]
            if world.kind == "sqlite":  # one host has both readers
                world.explained += IN_FLIGHT
            os.killpg(host.process.pid, signal.SIGKILL)  # its children have groups of their own, and follow by a pipe
            host.process.wait()
            world.restart_host(host.name)
    world.settle()
    world.check()


def kill_at_points(world: World) -> None:
    deaths = 2
    points = list(POINTS["read"])
    prepare(world.folder / "points", points, deaths)
    world.variables |= {
        "PAGEPACK_INTERNAL_KILL": str(world.folder / "points"),
        "PAGEPACK_MAX_CRASHES": str(len(points) * deaths + 1),
    }
    world.open()
    world.start_hosts()
    world.draw(4, 40)
    world.submit()
    world.explained = len(points) * deaths * IN_FLIGHT
    world.settle()
    world.require(
        all((world.folder / "points" / point).read_text() == "0" for point in points), "not every point was met"
    )
    world.check()


def freeze(world: World) -> None:
    """SIGSTOP past the lease; after SIGCONT the pages are another's, and the late answers change nothing.

    Twice, and again while no lease ran out: whoever is stopped with SQLite's write lock stops the sweep too.
    """
    ran_out = "error = 'lease expired'"
    world.open()
    world.start_hosts(PAGEPACK_INTERNAL_PAGE_SECONDS="0.4")
    world.draw(4, 50)
    world.submit()
    for turn in range(6):
        if turn > 1 and world.count("task_attempts", ran_out):
            break
        world.wait(lambda: world.count("page_tasks", "state = 'leased'") >= BUSY)
        frozen = world.random.choice(world.readers())
        frozen.suspend()
        time.sleep(world.random.uniform(4.5, 6.0))
        frozen.resume()
        world.explained += IN_FLIGHT + 1
        world.pause(0.2, 1.0)
    if world.kind == "postgresql":  # and whoever dispatches and sweeps: the other takes over
        ((holder,),) = world.database.rows("SELECT owner FROM leaders")
        pid = int(holder.rpartition(":")[2])
        os.kill(pid, signal.SIGSTOP)
        world.wait(lambda: world.database.rows("SELECT owner FROM leaders") != [(holder,)])
        os.kill(pid, signal.SIGCONT)
    world.settle()
    world.require(world.count("task_attempts", ran_out) > 0, "no lease ran out")
    world.check()


def stop_hosts(world: World) -> None:
    """With more in hand than the grace period lets finish. No page is to blame for any of it."""
    slow = {"PAGEPACK_INTERNAL_PAGE_SECONDS": "1.0", "PAGEPACK_GRACE_SECONDS": "0.3"}
    world.open()
    world.start_hosts(**slow)
    world.draw(3, 20)
    world.submit()
    for turn in ("once", "twice", "and killed"):
        world.wait(lambda: world.count("page_tasks", "state = 'leased'") >= BUSY)
        world.pause(0.0, 1.0)
        host = world.hosts["h0"]
        world.explained += IN_FLIGHT * len(host.children("read"))
        began = time.monotonic()
        host.process.terminate()
        if turn != "once":
            time.sleep(world.random.uniform(0.0, 0.3))
            host.process.terminate()
        if turn == "and killed":
            host.process.kill()
        host.process.wait(300)
        world.require(time.monotonic() - began < 12, f"SIGTERM {turn}: gone after {time.monotonic() - began:.0f} s")
        if turn != "and killed":
            held = world.count("page_tasks", "owner IS NOT NULL") if world.kind == "sqlite" else 0
            world.require(held == 0, f"SIGTERM {turn}: {held} leases left")
            world.require(world.count("page_tasks", "crashes > 0") == 0, f"SIGTERM {turn}: pages are blamed")
        world.restart_host("h0", **slow)
    world.settle()
    world.check()


def restart_in_turn(world: World) -> None:
    """One host after the other, each drained within its grace period: no page is begun twice."""
    world.open()
    world.start_hosts()
    world.draw(6, 50)
    world.submit()
    for name in ("h0", "h1", "h0"):
        world.wait(lambda: world.count("page_tasks", "state = 'leased'") >= BUSY)
        code = world.hosts[name].end()
        world.require(code == 0, f"{name} ended with {code}")
        world.restart_host(name)
        world.pause(2.0, 4.0)
    world.settle()
    world.check()


def poison(world: World, engine: str) -> None:
    """Two pages of sixty do harm; those fail, whoever was in flight with them is read, and a retry is answered."""
    crashes = 3
    world.variables["PAGEPACK_MAX_CRASHES"] = str(crashes)
    world.open()
    world.start_hosts(engine=engine, PAGEPACK_PAGE_SECONDS="2")
    dark = [(world.random.randrange(3), world.random.randrange(10)), (2, world.random.randrange(10, 20))]
    paths = world.draw(3, 20, dark)
    poisoned = [(str(paths[file]), page + 1) for file, page in dark]
    world.submit()
    world.settle()
    world.explained = len(dark) * (crashes * IN_FLIGHT)
    failed = world.database.rows("SELECT source_path, page_number FROM failures ORDER BY 1, 2")
    world.require(failed == sorted(poisoned), f"failed are {failed}, not {poisoned}")
    world.check(failed=poisoned)
    for host in world.hosts.values():
        host.end()
    causes = {cause for (cause,) in world.database.rows("SELECT cause FROM failures")}
    for cause in causes:
        world.pagepack("retry", "--cause", cause)
    world.explained += len(dark)
    for name in list(world.hosts):
        world.restart_host(name)
    world.settle()
    world.check(reopened=True)


def kill_group(process: psutil.Process) -> None:
    """A worker with all that it forked, as its machine's memory killer would not: that takes one."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
