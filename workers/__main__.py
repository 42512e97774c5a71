"""Start-up of a worker process: `python -m workers ROLE`.

    describe   print which engine the settings choose, as one line of JSON, and end
    doctor     print what each engine finds on this machine, as one line of JSON, and end
    ingest     rasterize documents, in processes
    read       read pages, in threads around one engine

`pagepack run` and `pagepack worker` start these; settings come from PAGEPACK_* variables. A worker whose standard input
is a pipe ends when the pipe closes, so that none outlives the process that started it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from celery import signals

from pipeline.broker import gather_acknowledgements, make_app, queue_of, read_queue
from pipeline.cores import num_cores
from pipeline.database import Database, open_database
from pipeline.errors import PagepackError, Unavailable, UsageError
from pipeline.fleet import BEAT_SECONDS, enlist, still_there
from pipeline.ingest import Ingester
from pipeline.logs import leave_logs_alone, set_up_logs
from pipeline.settings import Settings, load_settings
from pipeline.traces import set_up_traces, stop_traces
from schemas.messages import INGEST_TASK
from schemas.prompts import CATALOGUE
from workers.choose import choose_engine, make_engine
from workers.tasks import Reader, add_ingest_tasks, add_read_task


def main(role: str) -> int:
    """Run a role until it is told to stop; the exit code, 2 for settings that do not fit."""
    warnings.filterwarnings("ignore", message="You're running the worker with superuser")  # in a container it may
    warnings.filterwarnings("ignore", message=r"\s*In Celery 5\.1 we introduced")  # a lost connection; we have chosen
    try:
        settings = load_settings()
        owner = os.environ.get("PAGEPACK_INTERNAL_OWNER") or f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"
        set_up_logs(settings, lambda: f"{owner}{os.getpid()}" if role == "ingest" else owner)
        set_up_traces()
        if role == "describe":
            print(json.dumps(choose_engine(settings).as_json()))
            return 0
        if role == "doctor":
            from workers.doctor import check_engines

            print(json.dumps(check_engines(settings)))
            return 0
        if settings.broker_url is None:
            raise UsageError("PAGEPACK_BROKER_URL is not set; `pagepack run` starts a broker and workers by itself")
        _die_with_parent()
        if role == "ingest":
            return _ingest(settings, settings.broker_url, owner)
        return _read(settings, settings.broker_url, owner)
    except PagepackError as error:
        print(f"pagepack: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    finally:
        stop_traces()


def _read(settings: Settings, broker_url: str, owner: str) -> int:
    """The engine is whole before anything is consumed; one more thread than it holds keeps a page ready."""
    own = os.environ.get("PAGEPACK_INTERNAL_QUEUES", "")
    gather_acknowledgements()
    app = make_app(broker_url, events=settings.celery_events, own=own)
    engine = make_engine(settings)
    db = open_database(settings, by_key=True)
    reader = Reader(db, engine, settings, owner)
    add_read_task(app, reader)
    signals.worker_shutting_down.connect(lambda **_: reader.stop(), weak=False)
    slots = engine.capacity + 1
    answered = [name for name, prompt in CATALOGUE.items() if engine.supports(prompt)]
    prompts = None if len(answered) == len(CATALOGUE) else answered
    role = os.environ.get("PAGEPACK_INTERNAL_ROLE", "read")  # or "run", of one that serves its own run alone
    _enlist(lambda: db, owner, role, slots, engine=engine.name, model=engine.model, prompts=prompts)
    _consume(app, settings, "threads", slots, read_queue(app), read_queue(app, engine.model))
    engine.close()
    return 0


def _ingest(settings: Settings, broker_url: str, owner: str) -> int:
    from billiard import Event

    app = make_app(broker_url, events=settings.celery_events, own=os.environ.get("PAGEPACK_INTERNAL_QUEUES", ""))
    stopping = Event()
    own: dict[int, Ingester] = {}  # by process id: a forked child makes its own

    def ingester() -> Ingester:
        pid = os.getpid()
        if pid not in own:
            own.clear()
            own[pid] = Ingester(open_database(settings, by_key=True), settings, f"{owner}{pid}", stopping.is_set)
        return own[pid]

    add_ingest_tasks(app, settings, ingester)
    signals.worker_shutting_down.connect(lambda **_: stopping.set(), weak=False)
    signals.worker_process_shutdown.connect(lambda **_: stop_traces(), weak=False)
    processes = settings.ingest_processes or max(1, num_cores() // 2)
    # Forked children must not find the thread's connection: this process speaks to the database through its own.
    ready = partial(_enlist, lambda: open_database(settings), owner, "ingest", processes)
    signals.worker_ready.connect(lambda **_: ready(), weak=False)
    _consume(app, settings, "prefork", processes, queue_of(app, INGEST_TASK))
    return 0


def _consume(app: Any, settings: Settings, pool: str, concurrency: int, *queues: str) -> None:
    signals.setup_logging.connect(leave_logs_alone)
    worker = app.Worker(
        pool=pool,
        concurrency=concurrency,
        queues=set(queues),
        hostname=f"{queues[0]}@{uuid.uuid4().hex[:8]}",
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=not settings.celery_events,
        send_events=settings.celery_events,
        quiet=True,
    )
    worker.start()


def _enlist(opened: Callable[[], Database], owner: str, role: str, slots: int, **engine: Any) -> None:
    """Say that this worker is there and ready, and go on saying so; later where the database is away.

    Raises:
        UsageError: the database refuses this worker's user, or is of another version.
    """
    device = os.environ.get("PAGEPACK_INTERNAL_DEVICE")
    db: Database | None = None

    def was_said() -> bool:
        nonlocal db
        try:
            db = db or opened()
            if not still_there(db, owner):
                enlist(db, owner, role, slots, device=device, **engine)
        except Unavailable:
            return False
        return True

    def go_on(said: bool) -> None:
        while True:
            time.sleep(BEAT_SECONDS if said else 1.0)
            with suppress(PagepackError):  # the next beat may get through
                said = was_said()

    threading.Thread(target=go_on, args=(was_said(),), name="presence", daemon=True).start()


def _die_with_parent() -> None:
    """Where standard input is a pipe, its end means that the parent is gone: end at once, children too."""
    if not os.environ.get("PAGEPACK_INTERNAL_GUARD"):
        return

    def watch() -> None:
        while os.read(0, 4096):  # not through sys.stdin: its lock would be held in every forked child
            pass
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
