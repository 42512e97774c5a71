"""`pagepack run`: the whole job on this machine. Starts what a large installation keeps running, and watches it.

    this process   the home's lock · sees files · rings · sweeps · shows progress
    broker         an embedded Valkey server, unless PAGEPACK_BROKER_URL names one
    ingest worker  Celery, prefork: documents → pages
    read worker    Celery, threads around one engine: pages → answers

All state is in the database, so this may die at any moment: the same command goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from celery import Celery

from pipeline.batches import OpenBatch, finish_batch, finish_batches, open_batch
from pipeline.broker import heard_alarm, make_app, queue_depth, ring_documents, ring_pages
from pipeline.database import Database, open_database
from pipeline.discover import absolute, discover
from pipeline.embedded import EmbeddedBroker, HomeLock
from pipeline.errors import DiskFull, NothingToDo, PagepackError, Unavailable, UsageError
from pipeline.ingest import check_storage, register
from pipeline.leases import Limits, expire, forget_bells, give_back, take_due_documents, take_due_pages
from pipeline.progress import Open, Progress, pages_waiting, progress, what_is_open
from pipeline.settings import Settings, is_setting
from schemas.messages import READ_QUEUE
from schemas.prompts import Prompt

WORKERS = (sys.executable, "-P", "-m", "workers")
"""How a worker is started; -P, so that a folder named `workers` where the user stands is not taken for ours."""
_TICK_SECONDS = 0.2
_DOCUMENTS_RUNG = 64  # enough that ingest never waits for the next tick; small documents take 20 ms
_STALL_SECONDS = 20.0
_BROKER_SECONDS = 60.0  # a broker that is silent so long stops the run; rows wait, nothing is lost
_LOOK_SECONDS = 1.0  # asking the broker opens a connection; new pages are rung for by ingest, this is for the rest
_STARTS_IN_A_ROW = 4  # a worker that dies this often without finishing a page will not come up
_LOG_TAIL = 2_000


class Stopped(Exception):
    """The user asked to stop; `num_stored` answers of the batch are in the database."""

    num_stored = 0


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """What the settings' engine turned out to be: the line that `run` logs, and the key of its answers."""

    engine: str
    model: str
    reason: str
    only_prompts: list[str] | None


def describe_engine(settings: Settings) -> EngineChoice:
    """Ask the worker package, in a process of its own: this one stays without onnxruntime and torch.

    Raises:
        UsageError: the engine cannot run here; the message says why.
    """
    done = subprocess.run(
        [*WORKERS, "describe"],
        env=child_environment(settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,  # Ctrl-C is this process's to handle
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.strip().splitlines() if line] or ["no word from it"]
        raise UsageError(lines[-1].removeprefix("pagepack: "))
    return EngineChoice(**json.loads(done.stdout.strip().splitlines()[-1]))


@dataclass
class Worker:
    """A child process, its log, and the incarnation whose leases it takes."""

    role: str
    process: subprocess.Popen[bytes]
    owner: str
    log: Path
    log_start: int  # where this process began to write
    started_at: float = field(default_factory=time.monotonic)

    def is_ready(self) -> bool:
        """Whether its engine is loaded; a large model takes minutes."""
        return b'{"ready": true}' in self.log.read_bytes()[self.log_start :]

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-_LOG_TAIL:]

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)


class Run:
    """One batch, from its paths to its last page. `on_progress` is called a few times a second."""

    def __init__(
        self,
        settings: Settings,
        paths: Sequence[str | Path],
        prompts: Sequence[Prompt],
        batch_name: str | None,
        say: Callable[[str], None],
        on_progress: Callable[[Progress, int, bool], None],
        pages: Sequence[tuple[int, int]] = (),
    ) -> None:
        self._settings = settings
        self._paths = paths
        self._prompts = prompts
        self._batch_name = batch_name
        self._say = say
        self._on_progress = on_progress
        self._pages = pages
        self._limits = Limits(settings.lease_seconds, settings.max_attempts, settings.max_crashes)
        self._workers: dict[str, Worker] = {}
        self._starts: dict[str, int] = {}
        self._broker: EmbeddedBroker | None = None
        self._app: Celery | None = None
        self._stop_signals = 0
        self._next_look = 0.0
        self._idle_since = time.monotonic()
        self._seen = 0
        self._answered_at = time.monotonic()
        self._done_seeing = threading.Event()
        self._seeing_failed: BaseException | None = None

    def stop(self) -> None:
        """Ctrl-C: once, stop cleanly; twice, at once. Safe in a signal handler."""
        self._stop_signals += 1
        if self._stop_signals > 1:
            for worker in self._workers.values():
                worker.signal(signal.SIGKILL)

    def execute(self) -> OpenBatch:
        """Do the job; returns its batch when every page is done or failed.

        Raises:
            Stopped: the user stopped it. UsageError: it cannot start. Unavailable: a part of it cannot go on.
        """
        # Before anything is made: a path that is not there, a folder without files.
        if next(discover(self._paths, self._settings), None) is None:
            raise NothingToDo(f"no file found at {', '.join(map(str, self._paths))}")
        with ExitStack() as stack:
            stack.enter_context(HomeLock(self._settings.home))
            check_storage(self._settings)
            choice = describe_engine(self._settings)
            if self._stop_signals:
                raise Stopped
            self._check_prompts(choice)
            self._say(f"engine {choice.engine} ({choice.model}): {choice.reason}")
            db = open_database(self._settings, create=True)
            stack.callback(db.dispose)
            # The lock is ours, so whoever held a lease in this home is dead; no page is to blame.
            give_back(db, "", reason="the run before ended early", crashed=False, limits=self._limits)
            forget_bells(db)
            batch = self._open_batch(db, choice)
            seeing = threading.Thread(target=self._see, args=(db, batch), name="discover", daemon=True)
            seeing.start()
            stack.callback(self._join, seeing)
            try:
                self._loop(db, batch)
            except Stopped as stopped:
                self._stop_workers(db)
                stopped.num_stored = progress(db, batch.id).tasks_done
                raise
            finally:
                self._stop_signals = self._stop_signals or 1  # lets the discover thread end
                self._stop_workers(db)
            return batch

    def _join(self, seeing: threading.Thread) -> None:
        """It looks at the stop between files; a second Ctrl-C does not wait for the hash of a large one."""
        deadline = time.monotonic() + 30
        while seeing.is_alive() and self._stop_signals < 2 and time.monotonic() < deadline:
            seeing.join(timeout=0.1)

    def _open_batch(self, db: Database, choice: EngineChoice) -> OpenBatch:
        places = sorted({absolute(path) for path in self._paths})
        versions = sorted(prompt.version for prompt in self._prompts)
        identity = json.dumps([places, versions, choice.model, self._settings.text_layer, *self._pages])
        key = (
            f"name:{self._batch_name}" if self._batch_name else "paths:" + hashlib.sha256(identity.encode()).hexdigest()
        )
        name = self._batch_name or " ".join(Path(path).name or path for path in places)[:200]
        return open_batch(
            db,
            key=key,
            name=name.encode("utf-8", "backslashreplace").decode(),
            prompts=self._prompts,
            engine=choice.engine,
            model=choice.model,
            text_layer=self._settings.text_layer,
            pages=self._pages,
        )

    def _check_prompts(self, choice: EngineChoice) -> None:
        if choice.only_prompts is None:
            return
        for prompt in self._prompts:
            if prompt.name not in choice.only_prompts:
                raise UsageError(
                    f"the engine {choice.engine} answers {', '.join(choice.only_prompts)} only, not {prompt.name!r}; "
                    "use --engine pixtral --model DIR"
                )

    def _see(self, db: Database, batch: OpenBatch) -> None:
        try:
            for seen in register(
                db,
                batch,
                self._paths,
                self._settings,
                forget_gone=self._batch_name is None,
                is_stopping=lambda: self._stop_signals > 0,
            ):
                self._seen = seen
        except BaseException as error:
            self._seeing_failed = error
        finally:
            self._done_seeing.set()

    def _loop(self, db: Database, batch: OpenBatch) -> None:
        next_sweep = next_count = 0.0
        while True:
            if self._stop_signals:
                raise Stopped
            if self._seeing_failed is not None:
                raise self._seeing_failed
            all_seen = self._done_seeing.is_set()
            now = what_is_open(db, batch.id)
            started = time.monotonic()
            if started >= next_count:
                self._hear_alarm()
                self._on_progress(progress(db, batch.id), self._seen, all_seen)
                took = time.monotonic() - started
                next_count = started + max(0.5, 20 * took)  # counting a large batch must not become the work
            if all_seen and not now and finish_batch(db, batch):
                finish_batches(db)
                return
            if now:
                self._watch(db)
                self._ring(db, batch, now)
            if time.monotonic() >= next_sweep:
                expire(db, self._limits)
                next_sweep = time.monotonic() + self._settings.sweep_seconds
            self._done_seeing.wait(_TICK_SECONDS) if not all_seen else time.sleep(_TICK_SECONDS)

    def _watch(self, db: Database) -> None:
        """Broker and workers run, or run again."""
        if self._app is None:
            self._start_broker(db)
        assert self._app is not None
        if self._broker is not None and not self._broker.is_running():
            self._say("the embedded broker died; starting it again")
            self._broker.stop()
            self._broker.start()
            self._app = make_app(self._broker.url)  # the old one's pools hold broken connections
            # A Celery worker that lost its broker with pages in hand may never consume again: the failed
            # acknowledgements stay counted against its prefetch limit. New ones lose a few pages' reading.
            for role in list(self._workers):
                self._replace(db, role, "the broker died")
            forget_bells(db)
        for role in ("read", "ingest"):
            worker = self._workers.get(role)
            if worker is not None and worker.process.poll() is None:
                continue
            if worker is not None:
                self._bury(db, worker)
            self._workers[role] = self._start_worker(role)

    def _hear_alarm(self) -> None:
        alarm = heard_alarm(self._app) if self._app is not None else None
        if alarm is not None:
            raise (DiskFull if alarm["cause"] == DiskFull.cause else Unavailable)(alarm["reason"])

    def _start_broker(self, db: Database) -> None:
        url = self._settings.broker_url
        if url is None:
            self._broker = EmbeddedBroker(self._settings.home)
            self._broker.start()
            url = self._broker.url
        self._app = make_app(url)
        while heard_alarm(self._app):
            pass  # of a run before this one
        forget_bells(db)

    def _start_worker(self, role: str) -> Worker:
        assert self._app is not None
        owner = f"{role}-{uuid.uuid4().hex}/"
        logs = self._settings.home / "logs"
        logs.mkdir(exist_ok=True)
        log = logs / f"{role}.log"
        environment = child_environment(self._settings) | {
            "PAGEPACK_BROKER_URL": self._broker.url if self._broker else str(self._settings.broker_url),
            "PAGEPACK_INTERNAL_OWNER": owner,
            "PAGEPACK_INTERNAL_GUARD": "1",
        }
        log_start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [*WORKERS, role],
                env=environment,
                stdin=subprocess.PIPE,  # held open while this process lives; its end ends the worker
                stdout=stream,
                stderr=stream,
                start_new_session=True,  # Ctrl-C is this process's to handle
            )
        return Worker(role, process, owner, log, log_start)

    def _replace(self, db: Database, role: str, reason: str) -> None:
        """Kill a worker that is not to blame; the next look starts another."""
        worker = self._workers.pop(role)
        worker.signal(signal.SIGKILL)
        worker.process.wait()
        give_back(db, worker.owner, reason=reason, crashed=False, limits=self._limits)

    def _check_stall(self, db: Database, now: Open, depth: int) -> None:
        """Bells wait, nothing is being read, for long: the worker has lost its way."""
        worker = self._workers.get("read")
        if depth == 0 or now.tasks_leased or worker is None or not worker.is_ready():
            self._idle_since = time.monotonic()
        elif time.monotonic() - self._idle_since > _STALL_SECONDS:
            self._say("the read worker takes no pages though some wait; starting it again")
            self._replace(db, "read", "the worker stalled")
            self._idle_since = time.monotonic()

    def _bury(self, db: Database, worker: Worker) -> None:
        """A worker died: its leases go back at once, and it is started again unless it cannot come up."""
        worker.signal(signal.SIGKILL)  # what it left of its process group
        returned = give_back(db, worker.owner, reason="its worker died", crashed=True, limits=self._limits)
        quick = time.monotonic() - worker.started_at < 20 and returned == 0
        self._starts[worker.role] = self._starts.get(worker.role, 0) + 1 if quick else 0
        if worker.process.returncode == 2 or self._starts[worker.role] >= _STARTS_IN_A_ROW:
            raise UsageError(
                f"the {worker.role} worker does not come up (exit code {worker.process.returncode}); "
                f"its log {worker.log} ends:\n{worker.tail()}"
            )
        self._say(f"the {worker.role} worker died (exit code {worker.process.returncode}); starting it again")

    def _ring(self, db: Database, batch: OpenBatch, now: Open) -> None:
        assert self._app is not None
        try:
            limit = self._settings.max_waiting_pages
            if now.documents and pages_waiting(db, batch.id, limit) < limit:
                ring_documents(self._app, take_due_documents(db, batch.id, limit=_DOCUMENTS_RUNG))
            if now.tasks_pending and time.monotonic() >= self._next_look:
                self._next_look = time.monotonic() + _LOOK_SECONDS
                depth = queue_depth(self._app, READ_QUEUE)
                self._check_stall(db, now, depth)
                # With bells left in the queue a silent row has most likely one of them; without, its bell was lost.
                lost_after = 5.0 if depth == 0 else None
                ring_pages(self._app, take_due_pages(db, batch.id, limit=max(0, 500 - depth), lost_after=lost_after))
            self._answered_at = time.monotonic()
        except Unavailable as error:
            if time.monotonic() - self._answered_at > _BROKER_SECONDS:
                raise
            self._say(str(error))
            time.sleep(1)

    def _stop_workers(self, db: Database) -> None:
        """Workers finish what they can within the grace period, then they end; their leases go back."""
        workers = list(self._workers.values())
        self._workers.clear()
        for worker in workers:
            worker.signal(signal.SIGTERM)
        deadline = time.monotonic() + self._settings.grace_seconds + 5
        for worker in workers:
            while worker.process.poll() is None and time.monotonic() < deadline and self._stop_signals < 2:
                time.sleep(0.05)
            worker.signal(signal.SIGKILL)
            worker.process.wait()
            if worker.process.stdin is not None:
                worker.process.stdin.close()
        if self._broker is not None:
            self._broker.stop()
        with suppress(PagepackError):
            give_back(db, "", reason="the run ended", crashed=False, limits=self._limits)


def child_environment(settings: Settings) -> dict[str, str]:
    """The settings as variables, so that a child process reads the same ones."""
    environment = {name: value for name, value in os.environ.items() if not is_setting(name)}
    for name, value in settings.model_dump(exclude_none=True).items():
        environment[f"PAGEPACK_{name}".upper()] = str(value)
    environment["PAGEPACK_HOME"] = str(settings.home.absolute())
    return environment
