"""Transactions that a server lost are run again; while a database is away, a worker keeps what it has in hand.

`retried` is for a call that someone waits for: four tries within a second. `insist` is for a worker: until the database
answers, or the worker is told to stop; and for who follows a batch.
"""

from __future__ import annotations

import functools
import logging
import random
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from pipeline.database.engine import Database
from pipeline.errors import DiskFull, Unavailable

R = TypeVar("R")
log = logging.getLogger("pagepack.worker")


def _keep(error: Unavailable) -> None:
    log.warning("%s; keeping what is in hand", error)


def insist(call: Callable[[], R], is_stopping: Callable[[], bool], on_away: Callable[[Unavailable], None] = _keep) -> R:
    """Call until the database answers; `on_away` is told once that it does not.

    For transactions that may run twice, such as all that a claim's token guards: a connection that broke in COMMIT says
    nothing of whether it was done. Who waits here keeps its lease, for the heartbeat gets through as soon as this does.

    Raises:
        Unavailable: the worker stops meanwhile. DiskFull: at once, for its supervisor must hear of it.
    """
    has_said = False
    while True:
        try:
            return call()
        except DiskFull:
            raise
        except Unavailable as error:
            if is_stopping():
                raise
            if not has_said:
                on_away(error)
                has_said = True
            time.sleep(random.uniform(0.2, 1.0))


_WAITS_SECONDS = (0.05, 0.2, 0.8)  # before the second, third and fourth try of a transaction that may be repeated

P = ParamSpec("P")


def retried(function: Callable[Concatenate[Database, P], R]) -> Callable[Concatenate[Database, P], R]:
    """For a transaction that may run twice: run it again where a server lost it.

    That is a deadlock, a conflict, or a connection that broke, in COMMIT perhaps: then nobody knows whether it was
    done, and tokens and states see to it that once more changes nothing. SQLite has waited long enough by itself.
    """

    @functools.wraps(function)
    def run(db: Database, /, *args: P.args, **kwargs: P.kwargs) -> R:
        for wait in _WAITS_SECONDS:
            try:
                return function(db, *args, **kwargs)
            except Unavailable as error:
                if isinstance(error, DiskFull) or db.dialect == "sqlite":
                    raise
                time.sleep(wait * random.uniform(0.5, 1.5))  # two that met shall not meet again
        return function(db, *args, **kwargs)

    return run
