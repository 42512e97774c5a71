"""Worker processes as children of this one: started, watched, started again.

A child is known by its *slot* ("ingest", "read", or "read-2" where each GPU has its own), and by its incarnation, the
owner of its leases. When one dies, its leases go back at once; nobody waits for them to run out.

Over 300 lines: starting, watching and ending share one table of children.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.database.engine import Database
from pipeline.database.open import refuse_newer
from pipeline.errors import EXIT_FAULT, PagepackError, ProgramFault, Unavailable, UsageError
from pipeline.settings import WHOLE, Settings, is_setting
from pipeline.store.leases import Limits, give_back, has_answered, holds_pages
from pipeline.store.worker_registry import dismiss, is_enlisted
from pipeline.supervisor.forked import Forked
from pipeline.supervisor.process_slots import ProcessSlot, device_variables
from pipeline.telemetry.events import nothing_yet
from pipeline.telemetry.metrics import begin_at_zero, count

WORKERS = (sys.executable, "-P", "-m", "workers")
"""How a worker is started; -P, so that a folder named `workers` where the user stands is not taken for ours."""
STALL_SECONDS = 20.0
_STARTS_IN_A_ROW = 4  # a worker that dies this often without finishing a page will not come up
_LONGEST_WAIT_SECONDS = 60.0
_LOG_TAIL = 2_000
_RESTARTS = "pagepack_worker_restarts_total"


def ask_worker(
    settings: Settings, verb: str, devices: Sequence[str] = (), spare: Forked | None = None
) -> subprocess.CompletedProcess[str]:
    """What the worker package answers to `describe`, `name` or `doctor`, in a process of its own.

    Raises OSError: none starts. This one stays without onnxruntime and torch. With `devices` it answers as a worker on
    these GPUs. `spare` is the process, forked ahead; what it says on either stream is one text.
    """
    environment = child_environment(settings) | (device_variables(devices) if devices else {})
    if spare is not None:
        code, said = spare.ask(verb, environment)
        return subprocess.CompletedProcess(verb, code, said, said)
    return subprocess.run(
        [*WORKERS, verb],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,  # Ctrl-C is this process's to handle
    )


def child_environment(settings: Settings) -> dict[str, str]:
    """The settings as variables, so that a child process reads the same ones, and no file."""
    environment = {name: value for name, value in os.environ.items() if not is_setting(name)}
    for name, value in settings.model_dump(exclude_none=True).items():
        environment[f"PAGEPACK_{name}".upper()] = str(value)
    environment["PAGEPACK_HOME"] = str(settings.home.absolute())
    environment[WHOLE] = "1"
    return environment


@dataclass
class Child:
    """A running child, and the incarnation whose leases it takes."""

    slot: ProcessSlot
    process: subprocess.Popen[bytes] | Forked
    owner: str
    log: Path | None  # None: it writes where this process writes
    started_at: float = field(default_factory=time.monotonic)
    idle_since: float = field(default_factory=time.monotonic)
    was_ready: bool = False

    def is_ready(self, db: Database) -> bool:
        """Whether its engine is loaded; a large model takes minutes. It says so in the table of workers."""
        self.was_ready = self.was_ready or is_enlisted(db, self.owner)
        return self.was_ready

    def last_words(self) -> str:
        if self.log is None:
            return "its log is above"
        return f"its log {self.log} ends:\n{self.log.read_text(errors='replace')[-_LOG_TAIL:]}"

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)


class Children:
    """The children of one supervisor. With `gives_up` a child that does not come up ends it all; else it waits longer.

    Not thread-safe, but for `kill`.
    """

    def __init__(
        self,
        db: Database,
        settings: Settings,
        slots: list[ProcessSlot],
        say: Callable[[str], None],
        *,
        gives_up: bool,
        logs: Path | None,
        variables: Mapping[str, str] | None = None,
        spare: list[Forked] | None = None,
    ) -> None:
        """`say` is told of those that died or stalled. `spare` are processes that were forked ahead, to begin with."""
        self._db = db
        self._settings = settings
        self._slots = slots
        self._say = say
        self._gives_up = gives_up
        self._logs = logs
        self._variables = dict(variables or {})
        self._spare = spare or []
        self._limits = Limits.of(settings)
        self._running: dict[ProcessSlot, Child] = {}
        self._starts: dict[ProcessSlot, int] = {}  # in a row, without a page
        self._next_start: dict[ProcessSlot, float] = {}
        self._roles_ready: set[str] = set()
        self._dead: list[Child] = []  # dead, and their leases could not be given back yet

    def kill(self) -> None:
        """At once, from a signal handler too."""
        for child in list(self._running.values()):
            child.signal(signal.SIGKILL)

    def watch(self, broker_url: str) -> None:
        """See that all run.

        Raises:
            UsageError, ProgramFault: one does not come up; the message holds the end of its log.
            Unavailable: no process is to be had.
        """
        self._give_back_dead()
        for slot in self._slots:
            child = self._running.get(slot)
            if child is not None and child.process.poll() is None:
                continue
            if child is not None:
                self._lose(child)
            if time.monotonic() >= self._next_start.get(slot, 0.0):
                try:
                    self._running[slot] = self._start(slot, broker_url)
                except OSError as error:
                    self._put_off(slot, error)

    def are_ready(self) -> bool:
        """Whether all are running, with their engines loaded."""
        running = [self._running.get(slot) for slot in self._slots]
        return all(child is not None and child.process.poll() is None and child.is_ready(self._db) for child in running)

    def owners(self) -> set[str]:
        """The incarnations that run."""
        return {child.owner for child in self._running.values()}

    def replace_all(self, reason: str, cause: str) -> None:
        """Kill children that are not to blame; `watch` starts others."""
        for slot in list(self._running):
            self._replace(slot, reason, cause)

    def check_stall(self, depth: int) -> None:
        """Messages wait, and a reader that is ready has had no page in hand for long: start another.

        A net. The one cause that is known, acknowledgements that a dead broker swallowed, is mended in
        `delivery/redis_acks.py`. Not for a RapidOCR reader of all batches: messages for prompts that it leaves to
        others bring it no page.
        """
        if not self._gives_up and (self._settings.engine == "rapidocr" or self._settings.model is None):
            return
        for slot, child in list(self._running.items()):
            if slot.role != "read":
                continue
            if depth == 0 or not child.is_ready(self._db) or holds_pages(self._db, child.owner):
                child.idle_since = time.monotonic()
            elif time.monotonic() - child.idle_since > STALL_SECONDS:
                self._say(f"the {slot.name} worker takes no pages though some wait; starting it again")
                self._replace(slot, "the worker stalled", "stalled")

    def stop(self, is_hurried: Callable[[], bool] = lambda: False) -> None:
        """Let them finish what they can within the grace period, then end them; their leases go back."""
        children = list(self._running.values())
        for child in children:
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + self._settings.grace_seconds + 5
        for child in children:
            while child.process.poll() is None and time.monotonic() < deadline and not is_hurried():
                time.sleep(0.05)
            child.signal(signal.SIGKILL)
            child.process.wait()
            if child.process.stdin is not None:
                child.process.stdin.close()
            with suppress(PagepackError):
                self._give_back(child, "the worker was stopped", crashed=False)
        self._running.clear()
        with suppress(PagepackError):
            self._give_back_dead()

    def _start(self, slot: ProcessSlot, broker_url: str) -> Child:
        # Ends in a slash: the processes that a child forks put their own number behind it.
        owner = f"{socket.gethostname()}:{slot.name}-{uuid.uuid4().hex}/"
        log = self._logs / f"{slot.name}.log" if self._logs is not None else None
        begin_at_zero(_RESTARTS, role=slot.role, cause="died")
        nothing_yet(slot.role)
        environment = child_environment(self._settings) | self._variables
        environment |= {
            "PAGEPACK_BROKER_URL": broker_url,
            "PAGEPACK_INTERNAL_OWNER": owner,
            "PAGEPACK_INTERNAL_GUARD": "1",
        }
        if slot.device is not None:
            environment |= device_variables([slot.device])
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        if self._spare:
            forked = self._spare.pop()
            forked.begin(slot.role, environment, log)
            return Child(slot, forked, owner, log)
        with log.open("ab") if log is not None else nullcontext(sys.stderr) as stream:
            process = subprocess.Popen(
                [*WORKERS, slot.role],
                env=environment,
                stdin=subprocess.PIPE,  # held open while this process lives; its end ends the worker
                stdout=stream,
                stderr=stream,
                start_new_session=True,  # Ctrl-C is this process's to handle
            )
        return Child(slot, process, owner, log)

    def _put_off(self, slot: ProcessSlot, error: OSError) -> None:
        """No process is to be had: a run gives up soon, a host tries again, less and less often."""
        what = f"the {slot.name} worker cannot be started: {error}"
        if self._gives_up and isinstance(error, FileNotFoundError | PermissionError):
            raise UsageError(f"{what}; is {sys.executable} still installed, and may {self._settings.home} be written?")
        self._starts[slot] = starts = self._starts.get(slot, 0) + 1
        if self._gives_up and starts >= _STARTS_IN_A_ROW:
            raise Unavailable(f"{what}; free memory, processes or open files, then run the same command again")
        wait = _wait_seconds(starts)
        self._next_start[slot] = time.monotonic() + wait
        self._say(f"{what}; trying again in {wait:.0f} s")

    def _replace(self, slot: ProcessSlot, reason: str, cause: str) -> None:
        child = self._running.pop(slot)
        count(_RESTARTS, role=slot.role, cause=cause)
        child.signal(signal.SIGKILL)
        child.process.wait()
        self._give_back(child, reason, crashed=False)

    def _lose(self, child: Child) -> None:
        """One died: its leases go back at once, and it is started again, later each time if it cannot come up."""
        slot = child.slot
        del self._running[slot]
        count(_RESTARTS, role=slot.role, cause="died")
        child.signal(signal.SIGKILL)  # what it left of its process group
        if child.was_ready:
            self._roles_ready.add(slot.role)
        self._dead.append(child)
        returned = self._give_back_dead()
        self._starts[slot] = starts = self._starts.get(slot, 0) + 1 if self._was_useless(child, returned) else 0
        code = child.process.returncode
        if code == 2:
            with suppress(Unavailable):
                refuse_newer(self._db)  # migrated while we ran: no child comes up any more
        if (code == 2 and not self._was_ever_ready(slot.role)) or (self._gives_up and starts >= _STARTS_IN_A_ROW):
            words = f"the {slot.name} worker does not come up (exit code {code}); {child.last_words()}"
            raise (ProgramFault if code == EXIT_FAULT else UsageError)(words)
        wait = 0.0 if starts == 0 or self._gives_up else _wait_seconds(starts)
        self._next_start[slot] = time.monotonic() + wait
        again = "starting it again" + (f" in {wait:.0f} s" if wait else "")
        self._say(f"the {slot.name} worker died (exit code {code}); {again}")

    def _was_useless(self, child: Child, returned: int) -> bool:
        """Whether a dead child, which held `returned` pages or documents, did nothing for its start.

        A host's reader must have stored an answer: on a broken GPU it dies at every page, and shall not go on fast. Of
        a run's it is enough that it held a page: there is no other, and a page that kills it fails soon.
        """
        was_quick = time.monotonic() - child.started_at < 20
        if self._gives_up or child.slot.role != "read":
            return was_quick and not returned
        with suppress(PagepackError):
            return (was_quick or returned > 0) and not has_answered(self._db, child.owner)
        return was_quick

    def _was_ever_ready(self, role: str) -> bool:
        """Whether the settings have served for a child of that role: then one that they do not serve has bad luck."""
        with suppress(PagepackError):
            alike = [child for child in self._running.values() if child.slot.role == role]
            if role not in self._roles_ready and any(child.is_ready(self._db) for child in alike):
                self._roles_ready.add(role)
        return role in self._roles_ready

    def _give_back_dead(self) -> int:
        """Give back what dead children held; tried again while the database is away."""
        returned = 0
        while self._dead:
            try:
                returned += self._give_back(self._dead[0], "its worker died", crashed=True)
            except Unavailable:
                break
            self._dead.pop(0)
        return returned

    def _give_back(self, child: Child, reason: str, *, crashed: bool) -> int:
        returned = give_back(self._db, child.owner, reason=reason, crashed=crashed, limits=self._limits)
        dismiss(self._db, child.owner)
        return returned


def _wait_seconds(starts: int) -> float:
    """Before the next of so many starts that came to nothing; they may be thousands, where nobody looks for days."""
    return min(2.0 ** min(starts, 10), _LONGEST_WAIT_SECONDS)
