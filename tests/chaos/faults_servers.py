"""Broker and database that die, forget, lock, fill up or fall silent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tests.chaos.faults_workers import IN_FLIGHT
from tests.chaos.servers import S3, PostgreSQL, Proxy, Valkey, small_disk
from tests.chaos.world import World


def flush(world: World) -> None:
    """Every message is gone, those that were answered too. Nothing is read again for it."""
    _begin(world)
    for _ in range(4):
        world.pause(0.3, 1.5)
        world.broker.client().flushall()
    world.settle()
    world.check()


def kill_broker(world: World, aof: bool) -> None:
    world.open(aof=aof)
    world.start_hosts()
    world.draw(5, 40)
    world.submit()
    for _ in range(2):
        world.pause(0.5, 2.0)
        world.broker.kill()
        world.pause(0.2, 4.0)
        world.broker.start()
    world.settle()
    world.check()


def kill_connections(world: World) -> None:
    _begin(world)
    for _ in range(6):
        world.pause(0.2, 1.2)
        world.broker.client().client_kill_filter(_type="normal")
    world.settle()
    world.check()


def restart_database(world: World) -> None:
    """Every few seconds, by an order, by a crash and by kill -9; commits take long, so that some are cut in two."""
    world.open(commit_delay="30000", commit_siblings="0")
    world.start_hosts()
    world.draw(6, 40)
    world.submit()
    assert isinstance(world.database, PostgreSQL)
    for mode in ("fast", "immediate", "kill", "immediate", "kill"):
        world.pause(1.0, 2.5)
        if mode == "kill":
            _kill_with_children(world.database.server.pid)
        else:
            world.database.server.stop(mode)
        world.pause(0.0, 1.5)
        world.database.start()
        world.explained += 2 * IN_FLIGHT  # answers that could not be stored in time
    world.settle()
    world.check()


def lock_database(world: World) -> None:
    """Another process holds the one write lock; leases of 3 s cannot be renewed for 30 s. Nothing is read again."""
    _begin(world)
    world.pause(0.5, 2.5)
    hold = (
        "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None); "
        "c.execute('BEGIN IMMEDIATE'); time.sleep(30); c.execute('ROLLBACK')"
    )
    subprocess.run([sys.executable, "-c", hold, str(world.homes / "h0" / "pagepack.db")], check=True)
    world.settle()
    world.check()


def fill_images(world: World) -> None:
    folder = world.folder / "images" if world.kind == "postgresql" else world.homes / "h0" / "images"
    disk = world.enter(small_disk(folder, 8))
    _begin(world)
    world.pause(0.2, 1.0)
    _fill_for(world, disk, 5)
    world.settle()
    world.check()


def fill_broker(world: World) -> None:
    disk = world.enter(small_disk(world.folder / "broker", 8))
    world.open(broker=Valkey(disk, world.network, aof=True))
    world.start_hosts()
    world.draw(5, 40)
    world.submit()
    world.pause(0.2, 1.5)
    _fill_for(world, disk, 6)
    world.settle()
    world.check()


def fill_database(world: World) -> None:
    """SQLite: the whole home. PostgreSQL: the tablespace, so that the log still has room."""
    if world.kind == "postgresql":
        disk = world.enter(small_disk(world.folder / "tablespace", 32))
        world.open(tablespace=disk)
    else:
        disk = world.enter(small_disk(world.homes / "h0", 32))
        world.open()
    world.start_hosts()
    world.draw(5, 40)
    world.submit()
    world.pause(0.2, 1.5)
    _fill_for(world, disk, 6)
    world.explained += 4 * IN_FLIGHT  # read, and no room for the answer
    world.settle()
    world.check()


def fill_memory(world: World) -> None:
    """The broker is at its limit and takes nothing more, until somebody raises it."""
    _begin(world)
    world.pause(0.3, 1.5)
    world.broker.client().config_set("maxmemory", "1")
    time.sleep(8)
    world.broker.client().config_set("maxmemory", "0")
    world.settle()
    world.check()


def silence_broker(world: World) -> None:
    """Connections stay open and nothing comes; later all goes on as if nothing had been."""
    proxy = _behind_proxy(world)
    proxy.tell("silent")
    time.sleep(70)
    proxy.tell("pass")
    world.settle()
    world.check()


def forget_connections(world: World) -> None:
    """What a firewall does that lost its table: old connections are silent for ever, new ones go through."""
    proxy = _behind_proxy(world)
    proxy.tell("forget")
    world.settle()
    world.check()


def lose_store(world: World) -> None:
    """The page images' store falls silent, and refuses: nothing is condemned for it, and it goes on by itself."""
    store = S3(world.network)
    world.close_with(store.stop)
    world.variables |= store.variables
    _begin(world)
    world.wait(lambda: world.done() > 0)
    for mode in ("silent", "refuse"):
        world.pause(0.2, 1.0)
        store.proxy.tell(mode)
        world.pause(12, 16)
        store.proxy.tell("pass")
    world.settle()
    world.check()


def make_read_only(world: World) -> None:
    """As where the servers change over: the one that is asked is a standby for a while."""
    world.open()
    world.start_hosts()
    world.draw(6, 40)
    world.submit()
    assert isinstance(world.database, PostgreSQL)
    server = world.database.server
    for _ in range(2):
        world.pause(0.5, 2.0)
        server.execute("ALTER DATABASE pagepack SET default_transaction_read_only = on")
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'pagepack'")
        world.pause(4, 8)
        server.execute("ALTER DATABASE pagepack RESET default_transaction_read_only")
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'pagepack'")
        world.explained += 2 * IN_FLIGHT  # answers that could not be stored in time
    world.settle()
    world.check()


def cut_host(world: World) -> None:
    """One host of two is away for longer than its leases, and comes back with answers that are not wanted any more."""
    _begin(world)
    world.pause(0.5, 2.0)
    for name in ("h1", "h0"):
        world.network.set_link(name, False)
        world.pause(5, 12)
        world.network.set_link(name, True)
        world.explained += 2 * IN_FLIGHT
        world.pause(0.5, 2.0)
    world.settle()
    world.check()


def _begin(world: World) -> None:
    """200 pages, which take two readers five seconds."""
    world.open()
    world.start_hosts()
    world.draw(5, 40)
    world.submit()


def _behind_proxy(world: World) -> Proxy:
    world.open()
    proxy = Proxy(world.network, world.broker.port)
    world.close_with(proxy.stop)
    world.broker_url = world.broker.url.replace(f":{world.broker.port}/", f":{proxy.port}/")
    world.start_hosts()
    world.draw(5, 40)
    world.submit()
    world.wait(lambda: world.done() > 0)
    world.pause(0.0, 2.0)
    return proxy


def _fill_for(world: World, disk: Path, seconds: float) -> None:
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    time.sleep(seconds)
    ballast.unlink()


def _kill_with_children(pid: int) -> None:
    """The postmaster at once; its children see it and end, and till then no other one may start."""
    server = psutil.Process(pid)
    children = server.children(recursive=True)
    os.kill(pid, signal.SIGKILL)
    _, alive = psutil.wait_procs([server, *children], timeout=5)
    for child in alive:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(alive, timeout=5)
