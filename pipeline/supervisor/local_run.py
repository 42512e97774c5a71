"""`pagepack run`: the whole job on this machine. Starts what a large installation keeps running, and watches it.

    this process   the home's lock · sees files · dispatches · sweeps · shows progress
    broker         an embedded Valkey server, unless PAGEPACK_BROKER_URL names one
    ingest worker  Celery, prefork: documents → pages
    read worker    Celery, threads around one engine: pages → answers

All state is in the database, so this may die at any moment: the same command goes on where it was.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from pipeline.database.boottime import boottime
from pipeline.database.engine import Database
from pipeline.database.home import HomeLock
from pipeline.database.open import open_database
from pipeline.errors import PagepackError
from pipeline.ingest.ingester import check_storage
from pipeline.ingest.register import register_all
from pipeline.ingest.selection import ALL_FILES, Seen, Selection
from pipeline.ingest.submission import check_paths, open_named_batch
from pipeline.settings import Settings
from pipeline.store.attendance import attend, forget_the_dead, leave
from pipeline.store.batch_end import finish_batch, finish_batches
from pipeline.store.batches import OpenBatch
from pipeline.store.drawn_otherwise import files_drawn_for_another_model
from pipeline.store.due import forget_enqueued
from pipeline.store.fleet import workers
from pipeline.store.leases import Limits, expire, give_back
from pipeline.store.progress import batch_state, pages_in_hand, what_is_open
from pipeline.store.retention import sweep_images
from pipeline.store.task_counts import Progress, progress
from pipeline.supervisor.engine_choice import EngineChoice, check_prompts, describe_engine
from pipeline.supervisor.forked import Forked
from pipeline.supervisor.process_slots import ProcessSlot, devices_of, process_slots
from pipeline.supervisor.server_warnings import ServerWarnings
from pipeline.supervisor.supervisor import Supervisor
from schemas.prompts import Prompt
from schemas.states import BatchState

_TICK_SECONDS = 0.2


class Stopped(Exception):
    """The user asked to stop; `num_stored` answers of the batch are in the database."""

    num_stored = 0


class Run:
    """One batch, from its paths to its last page. `on_progress` is called a few times a second."""

    def __init__(
        self,
        settings: Settings,
        paths: Sequence[str | Path],
        prompts: Sequence[Prompt],
        batch_name: str | None,
        say: Callable[[str], None],
        on_progress: Callable[[Progress, int, bool, bool], None],
        pages: Sequence[tuple[int, int]] = (),
        spare: list[Forked] | None = None,
        slots: list[ProcessSlot] | None = None,
        selection: Selection = ALL_FILES,
        *,
        is_question: bool = False,
        beside: bool = False,
        command: Sequence[str] | None = None,
        is_evaluation: bool = False,
        on_open: Callable[[Database, EngineChoice], None] = lambda db, choice: None,
    ) -> None:
        """`beside`: somebody else has the home. Only for what is asked there meanwhile, and soon over.

        `command`: the words that go on with it, as `Batch.command`. `on_open` is called once the database is there.
        """
        self._settings = settings
        self._paths = paths
        self._prompts = prompts
        self._batch_name = batch_name
        self._say = say
        self._on_progress = on_progress
        self._pages = pages
        self._spare = spare
        self._slots = slots or process_slots("both", None)
        self._selection = selection
        self._is_question = is_question
        self._beside = beside
        self._command = command
        self._is_evaluation = is_evaluation
        self._on_open = on_open
        self._name = f"{socket.gethostname()}:{os.getpid()}-{uuid.uuid4().hex}"
        self._limits = Limits.of(settings)
        self._logs = settings.home / "logs" / ("beside" if beside else "")
        self._warnings = ServerWarnings(self._logs, say)
        self._supervisor: Supervisor | None = None
        self._stop_signals = 0
        self.seen = Seen(0, 0)
        self._done_seeing = threading.Event()
        self._seeing_failed: BaseException | None = None

    def stop(self) -> None:
        """Ctrl-C: once, stop cleanly; twice, at once. Safe in a signal handler."""
        self._stop_signals += 1
        if self._stop_signals > 1 and self._supervisor is not None:
            self._supervisor.kill()

    def execute(self) -> OpenBatch:
        """Do the job; returns its batch when every page is done or failed.

        Raises:
            Stopped: the user stopped it. UsageError, ProgramFault: it cannot start.
            Unavailable: a part of it cannot go on.
        """
        check_paths(self._paths, self._settings, self._selection)
        with ExitStack() as stack:
            if not self._beside:
                stack.enter_context(HomeLock(self._settings.home))
            check_storage(self._settings)
            spare = self._spare.pop() if self._spare else None
            choice = describe_engine(self._settings, devices_of(self._slots), spare)
            if self._stop_signals:
                raise Stopped
            check_prompts(choice, self._prompts)
            self._say(f"engine {choice.engine} ({choice.model}): {choice.reason}")
            is_home = self._settings.database_url is None and not self._beside
            db = open_database(self._settings, create=is_home)
            stack.callback(db.dispose)
            self._say(f"answers go to {db.name}")
            self._on_open(db, choice)
            self._take_all_back(db, "the run before ended early")
            if is_home:
                forget_enqueued(db)
                forget_the_dead(db)
            asked = (self._paths, self._prompts, self._batch_name, choice.engine, choice.model, self._pages)
            batch = open_named_batch(
                db,
                self._settings,
                *asked,
                self._selection,
                is_question=self._is_question,
                command=self._command,
                is_evaluation=self._is_evaluation,
            )
            self._attend(db, batch)
            stack.callback(self._leave, db, batch)
            self._supervisor = Supervisor(
                db,
                self._settings,
                self._slots,
                self._say,
                only=batch,
                logs=self._logs,
                spare=self._spare,
                beside=self._beside,
                model=choice.model,
            )
            seeing = threading.Thread(target=self._see, args=(db, batch), name="discover", daemon=True)
            seeing.start()
            stack.callback(self._join, seeing)
            try:
                self._loop(db, batch, self._supervisor)
            except Stopped as stopped:
                self._say(self._stopping(pages_in_hand(db, batch.id)))
                self._stop_workers(db, self._supervisor)
                stopped.num_stored = progress(db, batch.id).tasks_done
                raise
            finally:
                self._stop_signals = self._stop_signals or 1  # lets the discover thread end
                self._stop_workers(db, self._supervisor)
            return batch

    def _stopping(self, in_hand: int) -> str:
        """What a person is told at the first Ctrl-C, for pages in the engine may take a while."""
        if not in_hand:
            return "stopping"
        pages, seconds = f"{in_hand} page{'' if in_hand == 1 else 's'} in hand", f"{self._settings.grace_seconds:g} s"
        return f"stopping; {pages} may take up to {seconds}; Ctrl-C again to stop now"

    def _take_all_back(self, db: Database, reason: str) -> None:
        """In a home, whose lock is ours, whoever held a lease is dead, and no page is to blame."""
        if self._settings.database_url is None and not self._beside:
            give_back(db, "", reason=reason, crashed=False, limits=self._limits)

    def _stop_workers(self, db: Database, supervisor: Supervisor) -> None:
        supervisor.stop(is_hurried=lambda: self._stop_signals > 1)
        with suppress(PagepackError):
            self._take_all_back(db, "the run ended")

    def _attend(self, db: Database, batch: OpenBatch) -> None:
        attend(db, batch.id, self._name, self._settings.lease_seconds)

    def _leave(self, db: Database, batch: OpenBatch) -> None:
        with suppress(PagepackError):
            leave(db, batch.id, self._name)

    def _join(self, seeing: threading.Thread) -> None:
        """It looks at the stop between files; a second Ctrl-C does not wait for the hash of a large one."""
        deadline = time.monotonic() + 30
        while seeing.is_alive() and self._stop_signals < 2 and time.monotonic() < deadline:
            seeing.join(timeout=0.1)

    def _see(self, db: Database, batch: OpenBatch) -> None:
        try:
            forget_gone = self._batch_name is None
            walked = (self._paths, self._settings, self._selection, forget_gone)
            for seen in register_all(db, batch, *walked, lambda: self._stop_signals > 0):
                self.seen = seen
        except BaseException as error:
            self._seeing_failed = error
        finally:
            self._done_seeing.set()

    def _say_drawn_otherwise(self, db: Database, batch: OpenBatch) -> None:
        """Before the pages are read, not after: tiles of pages that are too large cost several times the tokens."""
        if count := files_drawn_for_another_model(db, batch.id):
            keep = "file keeps its" if count == 1 else "files keep their"
            self._say(
                f"{count:,} {keep} page images, drawn for a model with images of another size; `pagepack forget` and "
                "the same command again draw them for this one (docs/models.md)"
            )

    def _loop(self, db: Database, batch: OpenBatch, supervisor: Supervisor) -> None:
        next_sweep = next_count = 0.0
        next_beat = time.monotonic() + self._settings.heartbeat_seconds
        was_paused, is_loading, has_said = False, True, False
        ticked_at = boottime()
        while True:
            slept, ticked_at = boottime() - ticked_at, boottime()
            if slept > self._settings.lease_seconds / 2:  # others on this machine did too, and renew before the sweep
                next_sweep = time.monotonic() + self._settings.lease_seconds / 2
            if self._stop_signals:
                raise Stopped
            if self._seeing_failed is not None:
                raise self._seeing_failed
            all_seen = self._done_seeing.is_set()
            now = what_is_open(db, batch.id)
            if all_seen and not has_said:
                self._say_drawn_otherwise(db, batch)
                has_said = True
            started = time.monotonic()
            if started >= next_beat:
                self._attend(db, batch)
                next_beat = started + self._settings.heartbeat_seconds
            if started >= next_count:
                supervisor.hear_alarm()
                self._warnings.look()
                is_loading = is_loading and not any(worker.is_reading() for worker in workers(db))
                self._on_progress(progress(db, batch.id), self.seen.num_files, all_seen, is_loading)
                took = time.monotonic() - started
                next_count = started + max(0.5, 20 * took)  # counting a large batch must not become the work
                if (state := batch_state(db, batch.id)) == BatchState.CANCELLED:
                    self._say("the batch was cancelled")
                    return
                if state == BatchState.PAUSED and not was_paused:
                    self._say("the batch is paused; `pagepack resume` goes on")
                was_paused = state == BatchState.PAUSED
            if all_seen and not now and finish_batch(db, batch):
                finish_batches(db)
                sweep_images(db, self._settings)
                return
            if now:
                supervisor.tick()
            elif started >= next_sweep:  # what others hold: the batch waits for pages that they read
                expire(db, self._limits, ticked_at)
                next_sweep = started + self._settings.sweep_seconds
            self._done_seeing.wait(_TICK_SECONDS) if not all_seen else time.sleep(_TICK_SECONDS)
