"""The faults of `make chaos`, by number, some in several forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.chaos import faults_batches, faults_inputs, faults_servers, faults_workers
from tests.chaos.world import World

BOTH = ("sqlite", "postgresql")


@dataclass(frozen=True)
class Fault:
    """`run` breaks a world and returns when all that must hold was checked; it raises Broken where it does not."""

    number: int
    title: str
    run: Callable[[World], None]
    databases: tuple[str, ...] = BOTH
    is_other_on_sqlite: bool = False  # the full run tries it there too
    needs_root: bool = False
    seconds: float = 600  # a trial that takes longer is stuck, on a busy machine too


FAULTS = [
    Fault(1, "kill -9 of readers and hosts", faults_workers.kill_at_random, is_other_on_sqlite=True),
    Fault(2, "kill -9 at named points of reading", faults_workers.kill_at_points),
    Fault(3, "FLUSHALL", faults_servers.flush),
    Fault(4, "broker killed, append-only file", partial(faults_servers.kill_broker, aof=True)),
    Fault(4, "broker killed, nothing kept", partial(faults_servers.kill_broker, aof=False)),
    Fault(5, "CLIENT KILL of all", faults_servers.kill_connections),
    Fault(6, "frozen past the lease", faults_workers.freeze),
    Fault(7, "PostgreSQL restarted, also in COMMIT", faults_servers.restart_database, ("postgresql",)),
    Fault(8, "SQLite locked for 30 s", faults_servers.lock_database, ("sqlite",)),
    Fault(9, "disk full: images", faults_servers.fill_images, needs_root=True),
    Fault(9, "disk full: append-only file", faults_servers.fill_broker, needs_root=True),
    Fault(9, "disk full: database", faults_servers.fill_database, needs_root=True, is_other_on_sqlite=True),
    Fault(9, "broker full", faults_servers.fill_memory),
    Fault(10, "SIGTERM, SIGTERM twice, SIGKILL", faults_workers.stop_hosts, is_other_on_sqlite=True),
    Fault(10, "rolling restart", faults_workers.restart_in_turn, ("postgresql",)),
    Fault(11, "broker silent for 70 s", faults_servers.silence_broker),
    Fault(11, "broker's connections forgotten", faults_servers.forget_connections),
    Fault(11, "a host's link down", faults_servers.cut_host, ("postgresql",), needs_root=True),
    Fault(12, "a page kills the process", partial(faults_workers.poison, engine="CrashingEngine")),
    Fault(12, "a page hangs", partial(faults_workers.poison, engine="HangingEngine")),
    Fault(12, "a page exhausts memory", partial(faults_workers.poison, engine="ExhaustedEngine")),
    Fault(13, "kill -9 at named points of ingest", faults_inputs.kill_ingest),
    Fault(13, "one file submitted ten times at once", faults_inputs.submit_at_once),
    Fault(13, "submit killed while it registers", faults_inputs.kill_submit),
    Fault(13, "kill -9 at named points of enqueueing", faults_batches.kill_dispatch, ("postgresql",)),
    Fault(14, "hostile files, unstorable text", faults_inputs.hostile_files),
    Fault(15, "a clock jumps by an hour", faults_inputs.jump_clock, is_other_on_sqlite=True),
    Fault(15, "messages twice, malformed, old, new", faults_inputs.odd_messages),
    Fault(15, "version N beside N + 1", faults_inputs.mix_versions, is_other_on_sqlite=True),
    Fault(16, "store of images silent, refusing", faults_servers.lose_store),
    Fault(17, "PostgreSQL read-only for a while", faults_servers.make_read_only, ("postgresql",)),
    Fault(18, "pause, cancel, flush, kill", faults_batches.change_batches, is_other_on_sqlite=True),
    Fault(19, "1,000 batches, notices, flushes", faults_batches.ask_a_thousand_times),
]
