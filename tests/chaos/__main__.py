"""`python -m tests.chaos`: the faults, one trial for each seed, as a table; the last line is JSON.

Exit code 1 where a trial fails; its folder (logs, database) is kept and named.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from tests.chaos.faults import FAULTS, Fault
from tests.chaos.network import Loopback, Namespaces, best_network
from tests.chaos.world import Broken, World
from tests.postgres import PostgresServer


@dataclass
class Result:
    """Of all trials of a fault."""

    fault: Fault
    pages: int = 0
    seconds: float = 0.0
    repeated: int = 0
    explained: int = 0
    failed: int = 0


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="trials of each fault")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--only", default="", help="numbers of faults, like 3,7; 12b is the second form of 12")
    parser.add_argument(
        "--database",
        choices=["sqlite", "postgresql"],
        help="default: PostgreSQL, and SQLite where it differs",
    )
    parser.add_argument("--brief", action="store_true", help="fewer pages and kills, where a fault knows how")
    parser.add_argument("--network", choices=["namespaces", "loopback"], help="default: namespaces where root is given")
    given = parser.parse_args(words)
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is cleaned up
    network = Loopback() if given.network == "loopback" else best_network()
    if given.network == "namespaces" and not network.can_cut:
        print("network namespaces need root", file=sys.stderr)
        return 2
    results = []
    began = time.monotonic()
    print(f"Valkey, hosts in {network.name}, seeds {seeds.start} to {seeds.stop - 1}", flush=True)
    try:
        for label, fault, database in chosen(given.only, given.database):
            results.append(run(label, fault, database, seeds, network, given.brief))
    finally:
        network.close()
    if not results:
        print(f"--only {given.only}: there is no such fault here (some need root)", file=sys.stderr)
        return 2
    summary = {
        "network": network.name,
        "trials": len(results) * len(seeds),
        "failed": sum(result.failed for result in results),
        "pages": sum(result.pages for result in results),
        "repeated_readings": sum(result.repeated for result in results),
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(summary))
    return 1 if summary["failed"] else 0


def chosen(only: str, database: str | None) -> list[tuple[str, Fault, str]]:
    """Faults with their labels (3, or 12a, 12b, 12c where there are several forms) and the database to try them on."""
    labelled = []
    numbers = [fault.number for fault in FAULTS]
    for index, fault in enumerate(FAULTS):
        form = numbers[:index].count(fault.number)
        label = f"{fault.number}{chr(ord('a') + form)}" if numbers.count(fault.number) > 1 else str(fault.number)
        labelled.append((label, fault))
    wanted = {word.strip() for word in only.split(",") if word.strip()}
    return [
        (label, fault, kind)
        for label, fault in labelled
        for kind in ([database] if database is not None else _databases(fault))
        if kind in fault.databases
        and (not fault.needs_root or os.geteuid() == 0 or print(f"{label}: left out, it needs root", file=sys.stderr))
        and (not wanted or label in wanted or str(fault.number) in wanted)
    ]


def _databases(fault: Fault) -> list[str]:
    kinds = ["postgresql", "sqlite"] if fault.is_other_on_sqlite else ["postgresql"]
    return kinds if "postgresql" in fault.databases else ["sqlite"]


def run(
    label: str,
    fault: Fault,
    database: str,
    seeds: range,
    network: Loopback | Namespaces,
    is_brief: bool,
    lent: PostgresServer | None = None,
) -> Result:
    """All seeds of a fault, and its line of the table."""
    result = Result(fault)
    for seed in seeds:
        trial(fault, World(seed, database, new_folder(), network, is_brief, lent), result)
    verdict = "holds" if not result.failed else f"{result.failed} of {len(seeds)} FAILED"
    print(
        f"{label:>4}  {fault.title:<40} {database:<10} {len(seeds):>3} seeds {result.pages:>6} pages "
        f"{result.seconds:>6.1f} s  {result.repeated:>4} of at most {result.explained:>4} read again   {verdict}",
        flush=True,
    )
    return result


def new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="pagepack-chaos-"))
    folder.chmod(0o755)  # PostgreSQL's user comes through
    return folder


def trial(fault: Fault, world: World, result: Result) -> None:
    """What the world was is added to the result, and what broke in it is printed."""
    network, folder = world.network, world.folder
    began = time.monotonic()
    before = set(network.hosts)
    is_whole = False
    try:
        with watchdog(fault.seconds), world:
            try:
                fault.run(world)
                is_whole = True
            finally:
                result.pages += sum(world.expected.values())
                result.repeated += world.repeated()
                result.explained += world.explained
    except Exception as error:
        result.failed += 1
        text = str(error) if isinstance(error, Broken) else traceback.format_exc()
        print(
            f"fault {fault.number} ({fault.title}), seed {world.seed}, {folder}:\n{text}", file=sys.stderr, flush=True
        )
    finally:
        network.remove(set(network.hosts) - before)
        result.seconds += time.monotonic() - began
    if is_whole:
        shutil.rmtree(folder, ignore_errors=True)


class watchdog:  # noqa: N801  (read as a word of the language: with watchdog(60))
    """Raises Broken in the main thread when the time is over."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        signal.signal(signal.SIGALRM, self._bark)
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _bark(self, number: int, frame: FrameType | None) -> None:
        raise Broken(f"stuck: it took over {self._seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
