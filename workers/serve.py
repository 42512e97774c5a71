"""What the roles of a worker do until they are told to stop: Celery around an engine, or around ingesters."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from billiard import Event
from celery import signals

from pipeline.cores import num_cores
from pipeline.daemons import start_daemon
from pipeline.database.engine import Database
from pipeline.database.open import open_database
from pipeline.delivery.broker import make_app, queue_of, read_queue
from pipeline.delivery.redis_acks import gather_acknowledgements
from pipeline.errors import PagepackError, Unavailable
from pipeline.ingest.ingester import Ingester
from pipeline.settings import Settings
from pipeline.store.endpoint_jobs import JobBook
from pipeline.store.worker_registry import BEAT_SECONDS, enlist, still_there
from pipeline.telemetry.logs import leave_logs_alone
from pipeline.telemetry.traces import stop_traces
from schemas.messages import INGEST_TASK
from schemas.prompts import CATALOGUE
from workers.choose import make_engine
from workers.pixtral.model.fingerprint import check_unchanged
from workers.reader import Reader
from workers.tasks import add_ingest_tasks, add_read_task


def read(settings: Settings, broker_url: str, owner: str) -> None:
    """The engine is whole before anything is consumed; one more thread than it holds keeps a page ready."""
    own = os.environ.get("PAGEPACK_INTERNAL_QUEUES", "")
    app = make_app(broker_url, events=settings.celery_events, own=own)
    engine = make_engine(settings)
    if engine.name == "pixtral" and settings.model and (wanted := os.environ.get("PAGEPACK_INTERNAL_MODEL")):
        check_unchanged(settings.model, engine.model, wanted)
    db = open_database(settings, by_key=True)
    role = os.environ.get("PAGEPACK_INTERNAL_ROLE", "read")  # or "run", of one that serves its own run alone
    if engine.name == "endpoint":
        engine.keep_jobs_in(JobBook(db))
    reader = Reader(db, engine, settings, owner, is_of_many=role == "read" and settings.database_url is not None)
    gather_acknowledgements(reader.has_room)
    add_read_task(app, reader)
    signals.worker_shutting_down.connect(lambda **_: reader.stop(), weak=False)
    slots = engine.capacity + 1
    answered = [name for name, prompt in CATALOGUE.items() if engine.supports(prompt)]
    prompts = None if len(answered) == len(CATALOGUE) else answered
    _enlist(lambda: db, owner, role, slots, engine=engine.name, model=engine.model, prompts=prompts)
    name = node_name("read", owner)
    _consume(app, settings, name, "threads", slots, read_queue(app), read_queue(app, engine.model))
    engine.close()


def ingest(settings: Settings, broker_url: str, owner: str) -> None:
    """Each forked process has a renderer and a connection of its own."""
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
    signals.worker_process_shutdown.connect(partial(_leave_pool, stopping), weak=False)
    processes = settings.ingest_processes or max(1, num_cores() // 2)
    # Forked children must not find the thread's connection: this process speaks to the database through its own.
    ready = partial(_enlist, lambda: open_database(settings), owner, "ingest", processes)
    signals.worker_ready.connect(lambda **_: ready(), weak=False)
    _consume(app, settings, node_name("ingest", owner), "prefork", processes, queue_of(app, INGEST_TASK))


def _leave_pool(stopping: Any, exitcode: int = 0, **_: Any) -> None:
    """In a forked process that ends. billiard's own end sleeps for a second, in which the pool may hear of it; who
    stops the whole pool waits for its processes, and for that second."""
    stop_traces()
    if stopping.is_set():
        os._exit(exitcode)


def node_name(role: str, owner: str) -> str:
    """`pagepack.read-gpu0-5f3a2b1c@host`, as Flower shows a worker.

    Its number ends the name by which log lines and the view `attempts` know this incarnation: two workers of one name
    would share an inbox, and be one in Flower. A broker's user for workers may touch keys that begin with `pagepack`,
    and the inbox is one.
    """
    device = os.environ.get("PAGEPACK_INTERNAL_DEVICE")
    gpu = "" if device is None else f"-gpu{device}" if device.replace("+", "").isdigit() else f"-{device}"
    return f"pagepack.{role}{gpu}-{owner.rstrip('/')[-8:]}@{socket.gethostname()}"


def _consume(app: Any, settings: Settings, name: str, pool: str, concurrency: int, *queues: str) -> None:
    signals.setup_logging.connect(leave_logs_alone)
    worker = app.Worker(
        pool=pool,
        concurrency=concurrency,
        queues=set(queues),
        hostname=name,
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
    said = False

    def was_said() -> bool:
        nonlocal db
        try:
            db = db or opened()
            if not still_there(db, owner):
                enlist(db, owner, role, slots, device=device, **engine)
        except Unavailable:
            return False
        return True

    def say_again() -> None:
        nonlocal said
        time.sleep(BEAT_SECONDS if said else 1.0)
        with suppress(PagepackError):  # the next beat may get through
            said = was_said()

    said = was_said()
    start_daemon("presence", say_again)
