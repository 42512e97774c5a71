"""What a worker does while the database is away: it keeps what it has in hand, and tries again."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.errors import DiskFull, Unavailable

R = TypeVar("R")
log = logging.getLogger("pagepack.worker")


def insist(call: Callable[[], R], is_stopping: Callable[[], bool]) -> R:
    """Call until the database answers.

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
                log.warning("%s; keeping what is in hand", error)
                has_said = True
            time.sleep(random.uniform(0.2, 1.0))
