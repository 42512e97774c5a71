"""`pagepack worker`: reads and ingests here what anyone submits, until it is told to stop.

It outlives what breaks around it. While the database, the broker or the disk is away it says so once, tries again, and
its children keep what they hold as long as their leases last.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from pipeline.database.home import HomeLock
from pipeline.database.open import open_database
from pipeline.errors import DiskFull, PagepackError, Unavailable, UsageError
from pipeline.ingest.ingester import check_storage
from pipeline.settings import Settings
from pipeline.store.attendance import forget_the_dead
from pipeline.store.due import forget_enqueued
from pipeline.store.leases import Limits, give_back
from pipeline.supervisor.engine_choice import describe_engine
from pipeline.supervisor.forked import Forked
from pipeline.supervisor.health import Pulse, serve
from pipeline.supervisor.process_slots import ProcessSlot, devices_of
from pipeline.supervisor.queue_metrics import Backlog
from pipeline.supervisor.supervisor import Supervisor
from pipeline.telemetry.logs import set_up_logs
from pipeline.telemetry.metrics import collecting

log = logging.getLogger("pagepack.host")

_TICK_SECONDS = 0.5
_BUSY_TICK_SECONDS = 0.1
_AWAY_SECONDS = 2.0
_FULL_SECONDS = 30.0


class WorkerHost:
    """The worker of one machine, with a child process for each slot."""

    def __init__(
        self,
        settings: Settings,
        slots: list[ProcessSlot],
        say: Callable[[str], None],
        warn: Callable[[str], None] | None = None,
        spare: list[Forked] | None = None,
    ) -> None:
        """`warn` is told of what died or is away; without it `say` is. `spare` are children to begin with."""
        self._settings = settings
        self._slots = slots
        self._say = say
        self._warn = warn or say
        self._spare = spare
        self._supervisor: Supervisor | None = None
        self._stop_signals = 0
        self._said: str | None = None
        self._faults = 0  # ticks in a row that ended by what nobody foresaw
        self._was_ready = False
        self._pulse = Pulse()

    def stop(self) -> None:
        """Once: drain and end. Twice: end at once. Safe in a signal handler."""
        self._stop_signals += 1
        if self._stop_signals > 1 and self._supervisor is not None:
            self._supervisor.kill()

    def execute(self) -> None:
        """Work until `stop`.

        Raises:
            UsageError: settings, database or engine do not fit. Unavailable: no database or broker at the start.
        """
        set_up_logs(self._settings)
        settings = self._settings
        if settings.database_url is not None and settings.broker_url is None:
            raise UsageError(
                "PAGEPACK_DATABASE_URL is set, PAGEPACK_BROKER_URL is not: workers of one database hear through one "
                "broker; set it to a Redis, Valkey or RabbitMQ server that all of them reach"
            )
        check_storage(settings)
        if any(slot.role == "read" for slot in self._slots):  # all devices at once, before a child loads a model
            describe_engine(settings, devices_of(self._slots), self._spare.pop() if self._spare else None)
        with ExitStack() as stack:
            is_home = settings.database_url is None
            if is_home:
                stack.enter_context(HomeLock(settings.home, "pagepack worker"))
            db = open_database(settings, create=is_home)
            stack.callback(db.dispose)
            if is_home:  # the lock is ours, so whoever held a lease is dead; no page is to blame
                limits = Limits.of(settings)
                give_back(db, "", reason="the worker before ended early", crashed=False, limits=limits)
                forget_enqueued(db)
                forget_the_dead(db)
            self._supervisor = supervisor = Supervisor(
                db, settings, self._slots, self._say, warn=self._warn, spare=self._spare
            )
            stack.callback(supervisor.stop, lambda: self._stop_signals > 1)
            app = supervisor.connect()
            if settings.metrics_port is not None:
                stack.enter_context(self._watched(supervisor, Backlog(db, app, settings.lease_seconds)))
            while not self._stop_signals:
                self._rest(self._step(supervisor))

    @contextmanager
    def _watched(self, supervisor: Supervisor, backlog: Backlog) -> Iterator[None]:
        """Figures and health over HTTP. Entered before the first child starts, which finds there where to count."""

        def problems() -> dict[str, str]:
            loading = (
                {} if supervisor.children.are_ready() else {"engine": "not every process has loaded its engine yet"}
            )
            away = {"worker": self._said} if self._said is not None else {}
            return loading | away | backlog.problems()

        settings = self._settings
        assert settings.metrics_port is not None
        with (
            collecting() as folder,
            serve(
                settings.metrics_host,
                settings.metrics_port,
                is_alive=self._pulse.problems,
                readiness=problems,
                folder=folder,
                extra_metrics=[backlog],
            ),
        ):
            yield

    def _step(self, supervisor: Supervisor) -> float:
        """One tick; the seconds until the next."""
        self._pulse.tick()
        try:
            supervisor.tick()
            supervisor.hear_alarm()
        except DiskFull as error:
            self._warn_once(f"{error}; trying again in {_FULL_SECONDS:.0f} s")
            supervisor.children.stop()
            supervisor.forget_alarms()
            return _FULL_SECONDS
        except Unavailable as error:
            self._warn_once(str(error))
            return _AWAY_SECONDS
        except PagepackError:
            raise
        except Exception as error:  # a fault of ours ends one tick, and no worker whose pages are in hand
            wait = min(_AWAY_SECONDS * 2.0 ** min(self._faults, 4), _FULL_SECONDS)
            self._faults += 1
            log.exception("a tick of the worker's supervisor failed; the next one is in %g s", wait)
            self._said = f"a tick failed: {type(error).__name__}: {error}"
            return wait
        self._faults = 0
        if self._said is not None:
            self._say("all is back")
            self._said = None
        if not self._was_ready and supervisor.children.are_ready():
            self._was_ready = True
            self._say(f"ready: {', '.join(slot.name for slot in self._slots)}")
        return _BUSY_TICK_SECONDS if supervisor.is_busy else _TICK_SECONDS

    def _warn_once(self, what: str) -> None:
        if what != self._said:
            self._warn(what)
        self._said = what

    def _rest(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stop_signals and time.monotonic() < until:
            time.sleep(min(0.1, seconds))
            self._pulse.tick()
