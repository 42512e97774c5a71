"""One trial: servers and hosts of its own in a folder of its own, what was submitted, and how to wait for its end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.chaos import history
from tests.chaos.documents import draw_pdf
from tests.chaos.network import Loopback, Namespaces
from tests.chaos.servers import PostgreSQL, SqliteFile, Valkey
from tests.postgres import PostgresServer
from tests.running import pagepack, processes_of, start_into, variables_around

ROOT = Path(__file__).parents[2]
_PAGEPACK = [sys.executable, "-P", "-m", "pipeline"]
SHORT = {
    "PAGEPACK_LEASE_SECONDS": "3",
    "PAGEPACK_SWEEP_SECONDS": "1",
    "PAGEPACK_GRACE_SECONDS": "2",
    "PAGEPACK_MAX_SIDE_PX": "128",
    "PAGEPACK_INGEST_PROCESSES": "1",
}
"""A fault that costs a minute with the default settings costs seconds."""


class Broken(Exception):
    """What was promised does not hold; the text says what."""


@dataclass
class Host:
    """A `pagepack worker` in a process group of its own."""

    name: str
    flags: tuple[str, ...]
    process: subprocess.Popen[Any]
    log: Path

    def children(self, role: str) -> list[psutil.Process]:
        """The worker processes that it supervises, in the order of their start."""
        found = []
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children():
                with suppress(psutil.NoSuchProcess):
                    if child.name() == f"pagepack:{role}":
                        found.append(child)
        return found

    def end(self, number: int = signal.SIGTERM, seconds: float = 300) -> int:
        self.process.send_signal(number)
        return self.process.wait(seconds)


@dataclass
class World:
    """`with World(…) as world:`. `random` is the fault's own source, so that a seed repeats it."""

    seed: int
    kind: str  # sqlite or postgresql
    folder: Path
    network: Loopback | Namespaces
    is_brief: bool = False  # what is large only to meet more of the same may be small
    lent: PostgresServer | None = None  # a server that outlives the trial
    random: random.Random = field(init=False)
    hosts: dict[str, Host] = field(default_factory=dict)
    expected: dict[str, int] = field(default_factory=dict)  # path → pages
    variables: dict[str, str] = field(default_factory=dict)  # of every process
    has_clocks: bool = False  # whether each host's clock is wrong by the seconds in its file
    explained: int = 0  # repeated readings that the fault accounts for
    docs: Path = field(init=False)
    homes: Path = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.docs = self.folder / "docs"
        self.docs.mkdir(parents=True)
        self.homes = self.folder / "homes"
        self.log = self.folder / "began"
        self._stack = ExitStack()
        self._pdfs = 0

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        """Whatever still runs ends, however it was left."""
        for host in self.hosts.values():
            with suppress(ProcessLookupError):
                os.killpg(host.process.pid, signal.SIGKILL)
            host.process.wait()
        for process in processes_of(self.folder):
            with suppress(psutil.Error):
                if self._is_own(process):
                    process.kill()
        self._stack.close()

    def _is_own(self, process: psutil.Process) -> bool:
        """Of those that name the folder. Others may: somebody's `tail -f` of a log, a shell that was begun in it."""
        words = process.cmdline()
        if "tests.warm_start" in words:  # forked: it has a file of the folder open
            return True
        of_broker = words[words.index("--dir") + 1] if "--dir" in words[:-1] else ""
        return any(
            path.startswith(f"{self.folder}/") for path in (process.environ().get("PAGEPACK_HOME", ""), of_broker)
        )

    @property
    def is_forked(self) -> bool:
        """Whether processes are forked, as `tests/warm_start.py` says: not where Python is prepared when it starts."""
        is_plain = not self.has_clocks and "PAGEPACK_INTERNAL_KILL" not in self.variables
        return self.is_brief and is_plain and not self.network.can_cut

    def open(self, *, aof: bool = False, broker: Valkey | None = None, **options: Any) -> None:
        """Broker and database, with the history's triggers; options are those of `PostgreSQL`."""
        self.broker = broker or Valkey(self.folder / "broker", self.network, aof=aof)
        self._stack.callback(self.broker.kill)
        self.broker.start()
        self.broker_url = self.broker.url
        self.database: SqliteFile | PostgreSQL
        if self.kind == "sqlite":
            self.database = SqliteFile(self.homes / "h0")
        else:
            self.database = PostgreSQL(self.network, lent=self.lent, **options)
        self._stack.callback(self.database.close)
        self.pagepack("db", "upgrade")
        history.install(self.database)

    def close_with(self, callback: Callable[[], object]) -> None:
        """Called when the trial ends."""
        self._stack.callback(callback)

    def enter(self, context: Any) -> Any:
        return self._stack.enter_context(context)

    def environment(self, host: str, engine: str, root: Path = ROOT, **variables: Any) -> dict[str, str]:
        if self.has_clocks:
            variables["PAGEPACK_INTERNAL_CLOCK"] = str(self.folder / f"clock-{host}")
        path = str(root) if self.is_forked else f"{root / 'tests' / 'chaos' / 'site'}:{root}"
        return (
            variables_around()
            | SHORT
            | {
                "PAGEPACK_HOME": str(self.homes / host),
                "PAGEPACK_BROKER_URL": self.broker_url,
                "PAGEPACK_INTERNAL_ENGINE": f"tests.chaos.engines:{engine}",
                "PAGEPACK_INTERNAL_LOG": str(self.log),
                "PYTHONPATH": path,
            }
            | self.database.variables
            | self.variables
            | variables
        )

    def start_hosts(self, count: int = 2, engine: str = "NotingEngine", **variables: Any) -> None:
        """Readers for all, two by default: on PostgreSQL a host for each, on SQLite, which has one host, its children.

        Returns when they are ready.
        """
        if self.kind == "sqlite":
            devices = ",".join(str(number) for number in range(count))
            self.start_host("h0", engine, "--devices", devices, **variables)
        else:
            for number in range(count):
                self.start_host(f"h{number}", engine, **variables)
        self.wait(lambda: self.count("worker_processes") >= (count + 1 if self.kind == "sqlite" else 2 * count), 150)

    def restart_host(self, name: str, engine: str = "NotingEngine", **variables: Any) -> Host:
        return self.start_host(name, engine, *self.hosts[name].flags, **variables)

    def start_host(self, name: str, engine: str = "NotingEngine", *flags: str, **variables: Any) -> Host:
        if name not in self.hosts:
            self.network.add(name)
        home = self.homes / name
        home.mkdir(parents=True, exist_ok=True)
        if self.kind == "postgresql" and not (home / "images").exists():  # one store for all hosts
            (self.folder / "images").mkdir(exist_ok=True)
            (home / "images").symlink_to(self.folder / "images")
        log = self.folder / f"{name}.log"
        environment = self.environment(name, engine, **variables)
        if self.is_forked:
            process = start_into(log, log, ["worker", *flags], environment)
        else:
            with self.network.entered(name), log.open("ab") as stream:
                process = subprocess.Popen(
                    [*_PAGEPACK, "worker", *flags],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    start_new_session=True,
                )
        self.hosts[name] = Host(name, flags, process, log)
        return self.hosts[name]

    def readers(self) -> list[psutil.Process]:
        return [child for host in self.hosts.values() for child in host.children("read")]

    def draw(self, files: int, pages: int, dark: Collection[tuple[int, int]] = ()) -> list[Path]:
        """More PDFs into the folder; `dark` are (file, page index) of this call's."""
        drawn = []
        for index in range(files):
            path = self.docs / f"{self._pdfs:03}.pdf"
            self._pdfs += 1
            draw_pdf(path, str(self.seed), pages, [page for file, page in dark if file == index])
            self.expected[str(path)] = pages
            drawn.append(path)
        return drawn

    def submit(self, *paths: Path, **variables: Any) -> None:
        self.pagepack("submit", *(paths or (self.docs,)), **variables)

    def pagepack(self, *words: str | Path, codes: Collection[int] = (0,), **variables: Any) -> str:
        """A command on the first host; what it printed. Raises Broken where it ends with none of these codes."""
        if self.is_forked:
            done = pagepack(*words, **self.environment("h0", "NotingEngine", **variables))
            code, output, errors = done.returncode, done.stdout, done.stderr
        else:
            started = self.begin_pagepack(*words, **variables)
            output, errors = started.communicate(timeout=500)
            code = started.returncode
        if code not in codes:
            raise Broken(f"pagepack {words[0]} ended with {code}: {errors[-500:]}")
        return output

    def begin_pagepack(self, *words: str | Path, **variables: Any) -> subprocess.Popen[str]:
        with self.network.entered("hub"):
            return subprocess.Popen(
                [*_PAGEPACK, *map(str, words)],
                env=self.environment("h0", "NotingEngine", **variables),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )

    def count(self, table: str, where: str = "1 = 1") -> int:
        return int(self.database.rows(f"SELECT count(*) FROM {table} WHERE {where}")[0][0])

    def done(self) -> int:
        return self.count("page_tasks", "state = 'done'")

    def wait(self, condition: Callable[[], bool], seconds: float = 500) -> None:
        """Until it holds. Raises Broken where it does not in time; a database that is away counts as not yet."""
        deadline = time.monotonic() + seconds
        last: Exception | None = None
        while True:
            try:
                if condition():
                    return
            except Broken:  # the watchdog, or a condition that says so
                raise
            except Exception as error:  # the server is being restarted, the table is being migrated
                last = error
            if time.monotonic() > deadline:
                raise Broken(f"it did not come to pass within {seconds:.0f} s ({last})\n{self.tails()}")
            time.sleep(0.1)

    def pause(self, least: float, most: float) -> None:
        time.sleep(self.random.uniform(least, most))

    def settle(self, seconds: float = 500) -> None:
        """Until nothing is open. Raises Broken with what is."""
        try:
            self.wait(lambda: not history.what_is_open(self.database), seconds)
        except Broken as error:
            raise Broken(f"not settled: {history.what_is_open(self.database)}: {error}") from None

    def check(
        self, failed: Collection[tuple[str, int]] = (), reopened: bool = False, clock_is_true: bool = True
    ) -> None:
        """Raises Broken with all that does not hold."""
        wrong = history.check(self.database, self.expected, failed, reopened, clock_is_true)
        if self.repeated() > self.explained:
            wrong.append(f"{self.repeated()} pages begun again, {self.explained} explained by the fault")
        if wrong:
            raise Broken("\n".join(wrong[:10]) + f"\n{self.tails()}")

    def require(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise Broken(f"{otherwise}\n{self.tails()}")

    def repeated(self) -> int:
        return history.repeated_readings(self.log.read_text().splitlines()) if self.log.exists() else 0

    def tails(self) -> str:
        """The ends of the hosts' logs."""
        return "\n".join(
            f"--- {host.name}:\n{host.log.read_text(errors='replace')[-1500:]}" for host in self.hosts.values()
        )
