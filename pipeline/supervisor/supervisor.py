"""What one supervising process looks after: a broker of its own where none is named, its children, and dispatching.

`pagepack run` has one for its batch, `pagepack worker` one for all batches.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from celery import Celery

from pipeline.database.boottime import boottime
from pipeline.database.engine import Database
from pipeline.delivery.alarms import heard_alarm
from pipeline.delivery.broker import check_broker, delete_queues, make_app, queue_depth, read_queue
from pipeline.delivery.dispatcher import Dispatcher
from pipeline.delivery.embedded_broker import EmbeddedBroker
from pipeline.errors import DiskFull, PagepackError, Unavailable, UsageError
from pipeline.settings import Settings
from pipeline.store.batches import OpenBatch
from pipeline.store.due import forget_enqueued
from pipeline.store.fleet import workers
from pipeline.store.worked_on_by import DISPATCH
from pipeline.supervisor.forked import Forked
from pipeline.supervisor.leader import leave_leadership, take_leadership
from pipeline.supervisor.process_slots import ProcessSlot
from pipeline.supervisor.processes import Children

_SILENCE_SECONDS = 5.0  # of the broker, then it is taken for gone: meanwhile a host hears no SIGTERM
_LEADERSHIP_SECONDS = 15.0
_FORBIDDEN_SECONDS = 60.0  # a host that may not lead asks again so often: roles change
_LOOK_SECONDS = 5.0  # between two looks for readers that take nothing


class Supervisor:
    """`only` is the batch of a `pagepack run`, which alone is dispatched; else the leader dispatches all.

    Nothing is started before `connect` or the first `tick`. Not thread-safe, but for `kill`.
    """

    def __init__(
        self,
        db: Database,
        settings: Settings,
        slots: list[ProcessSlot],
        say: Callable[[str], None],
        *,
        warn: Callable[[str], None] | None = None,
        only: OpenBatch | None = None,
        logs: Path | None = None,
        spare: list[Forked] | None = None,
        beside: bool = False,
        model: str = "",
    ) -> None:
        """`warn` is told of what died, was lost or refused; without it `say` is. `model` is what the batch waits for.

        `beside`: another supervisor has the home, with its broker; this one makes a broker that goes with it.
        """
        self._db = db
        self._settings = settings
        self._say = say
        self._warn = warn = warn or say
        self._is_run = only is not None
        self._broker_home = settings.home / f"beside-{os.getpid()}" if beside else settings.home
        here = f"{socket.gethostname()} {self._broker_home.absolute()} {[slot.name for slot in slots]}"
        mark = hashlib.sha256(os.fsencode(here)).hexdigest()[:16]
        self._alarm_queue = f"pagepack.alarm.{mark}"
        # On a broker that others share, a run's workers are for its batch, and take nobody else's messages.
        self._own = f".run.{mark}" if self._is_run and settings.broker_url is not None else ""
        self._broker: EmbeddedBroker | None = None
        self._app: Celery | None = None
        self._url = ""
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._dispatcher = Dispatcher(db, settings, warn, only, lambda: self.children.owners())
        variables = {
            "PAGEPACK_INTERNAL_ALARM": self._alarm_queue,
            "PAGEPACK_INTERNAL_QUEUES": self._own,
            "PAGEPACK_INTERNAL_ROLE": "run" if self._is_run else "read",
            "PAGEPACK_INTERNAL_MODEL": model,
        }
        self.children = Children(
            db, settings, slots, warn, gives_up=self._is_run, logs=logs, variables=variables, spare=spare
        )
        self._dispatches_from = 0.0
        self._was_refused = False
        self._is_cut_off = False  # leads nobody before the broker answers
        self._next_look = 0.0
        self.is_leader = False

    @property
    def is_busy(self) -> bool:
        """Whether the last tick sent anything: the next one may come soon."""
        return self._dispatcher.is_busy

    def connect(self) -> Celery:
        """Start or find the broker. Raises as `tick`, and Unavailable where nobody answers."""
        return self._watch_broker()

    def tick(self) -> None:
        """Broker and children run, or run again; what waits is enqueued.

        Raises:
            UsageError: the broker or a child does not come up.
            Unavailable: broker or database have been away for too long.
        """
        app = self._watch_broker()
        try:
            self.children.watch(self._url)
            if self._is_cut_off:
                check_broker(app)
                self._is_cut_off = False
            self.is_leader = self._is_run or self._leads()
            if self.is_leader:
                self._dispatcher.tick(app)
            self._look_for_stalls(app)
        except Unavailable:
            self._dispatcher.hold_sweep()
            self._stop_leading()  # another may reach what this one does not
            self._is_cut_off = True
            raise

    def _leads(self) -> bool:
        """Whether this process dispatches; a host that logs in as a mere reader leaves it to the others."""
        try:
            return time.monotonic() >= self._dispatches_from and take_leadership(
                self._db, DISPATCH, self._name, _LEADERSHIP_SECONDS
            )
        except UsageError as error:
            self._dispatches_from = time.monotonic() + _FORBIDDEN_SECONDS
            if not self._was_refused:
                self._say(f"dispatching and sweeping is left to other hosts: {error}")
            self._was_refused = True
            return False

    def hear_alarm(self) -> None:
        """Raises what a child says that no retry will mend: DiskFull, or Unavailable."""
        alarm = heard_alarm(self._app, self._alarm_queue) if self._app is not None else None
        if alarm is not None:
            self.forget_alarms()
            raise (DiskFull if alarm["cause"] == DiskFull.cause else Unavailable)(alarm["reason"])

    def forget_alarms(self) -> None:
        """Each page in flight raised one; all that were said before now were of the same."""
        while self._app is not None and heard_alarm(self._app, self._alarm_queue):
            pass

    def kill(self) -> None:
        """End the children at once, from a signal handler too."""
        self.children.kill()

    def stop(self, is_hurried: Callable[[], bool] = lambda: False) -> None:
        """Let the children finish what they can, end the broker, leave the lead to another. May be called twice."""
        self.children.stop(is_hurried)
        if self._app is not None and self._own and not is_hurried():
            delete_queues(self._app)
            self._own = ""  # once: a broker that is silent takes its time
        if self._broker is not None:
            self._broker.stop()
        if self._broker_home != self._settings.home:
            shutil.rmtree(self._broker_home, ignore_errors=True)
        self._stop_leading()

    def _stop_leading(self) -> None:
        if self.is_leader and not self._is_run:
            with suppress(PagepackError):
                leave_leadership(self._db, DISPATCH, self._name)
            self.is_leader = False

    def _look_for_stalls(self, app: Celery) -> None:
        """Of this host's own readers; the leader knows nothing of them."""
        late = boottime() - self._next_look
        if late >= 0:
            self._next_look = boottime() + _LOOK_SECONDS
            depth = 0  # no reader is to blame for a broker that is away, nor for what kept this process from looking
            with suppress(Unavailable):
                if late < _LOOK_SECONDS:
                    own = [worker for worker in workers(self._db) if worker.owner in self.children.owners()]
                    queues = {read_queue(app), *(read_queue(app, worker.model or "") for worker in own)}
                    depth = sum(queue_depth(app, queue) for queue in queues)
            self.children.check_stall(depth)

    def _watch_broker(self) -> Celery:
        if self._app is None:
            self._app = self._start_broker()
        elif self._broker is not None and not self._broker.is_running():
            self._warn("the embedded broker died; starting it again")
            self._broker.stop()
            self._app = self._start_broker()  # the old one's pools hold broken connections
            # Workers that lost it would try again later and later; new ones lose a few pages' reading.
            self.children.replace_all("the broker died", "broker")
        return self._app

    def _start_broker(self) -> Celery:
        if self._settings.broker_url is not None:
            self._url = self._settings.broker_url
        else:
            self._broker = self._broker or EmbeddedBroker(self._broker_home)
            self._broker.start()
            self._url = self._broker.url
            if self._broker_home == self._settings.home:
                forget_enqueued(self._db)  # it is new and empty
        check_broker(make_app(self._url))  # with a command's time-out: on a busy machine one slow answer is no end
        app = make_app(self._url, events=self._settings.celery_events, own=self._own, silence_seconds=_SILENCE_SECONDS)
        while heard_alarm(app, self._alarm_queue):
            pass  # of a supervisor before this one
        return app
