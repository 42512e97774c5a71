"""Inside a worker of the harness: kill -9 at named points, and a clock that is wrong.

`PAGEPACK_INTERNAL_KILL` names a folder with a file for each point to die at, which holds how many deaths are left. The
first process that comes to the first point dies there, others after they passed their point once or twice.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

POINTS = {
    "read": {
        "delivered": ("workers.reader", "Reader.read", "before"),
        "claimed": ("workers.writer", "claim_pages", "after"),
        "reading": ("workers.reader", "Reader._ended", "before"),
        "answered": ("workers.writer", "complete_pages", "before"),
        "committed": ("workers.writer", "complete_pages", "after"),  # and not acknowledged
    },
    "ingest": {
        "document-claimed": ("pipeline.ingest.ingester", "claim_document", "after"),
        "image-stored": ("pipeline.ingest.ingester", "Ingester._stored", "after"),
        "pages-committed": ("pipeline.ingest.ingester", "add_pages", "after"),  # and not enqueued
        "pages-stored": ("pipeline.ingest.ingester", "finish_document", "before"),
    },
    "host": {
        "messages-committed": ("pipeline.delivery.dispatcher", "take_due_pages", "after"),  # and not enqueued
        "notices-sent": ("pipeline.delivery.outbox_relay", "mark_notices_sent", "before"),
        "loss-noted": ("pipeline.delivery.outbox_relay", "put_mark", "before"),
    },
}


def prepare(folder: Path, points: Iterable[str], deaths: int) -> None:
    """Called by the harness: so many deaths at each point."""
    folder.mkdir()
    for point in points:
        (folder / point).write_text(str(deaths))


def arm(folder: str, role: str) -> None:
    """Prepare this process to die at the points of its role."""
    for order, (point, (module, name, moment)) in enumerate(POINTS.get(role, {}).items()):
        file = Path(folder, point)
        if not file.exists():
            continue
        holder: Any = importlib.import_module(module)
        *outer, name = name.split(".")
        for part in outer:
            holder = getattr(holder, part)
        setattr(holder, name, _deadly(getattr(holder, name), moment, partial(_die, file, [order % 3])))


def fork_nothing() -> None:
    """Each worker of this host is a fresh process, which is armed for its own role."""
    from pipeline.supervisor import forked

    forked.fork_ahead = lambda count: nullcontext([])


def _deadly(function: Callable[..., Any], moment: str, die: Callable[[], None]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if moment == "before":
            die()
        result = function(*args, **kwargs)
        if moment == "after" and result:
            die()
        return result

    return run


def _die(file: Path, passes: list[int]) -> None:
    """If deaths are left, and this process has passed the point often enough."""
    if passes[0] > 0:
        passes[0] -= 1
        return
    with file.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        left = int(held.read())
        if left == 0:
            return
        held.seek(0)
        held.write(str(left - 1))
        held.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def shift_clock(file: str) -> None:
    """From now on `time.time()` is wrong by the seconds in the file, which may change at any moment."""
    true_time = time.time

    def wrong_time() -> float:
        try:
            return true_time() + float(Path(file).read_text() or 0)
        except (OSError, ValueError):
            return true_time()

    time.time = wrong_time
