"""Threads that do the same again and again beside a process's work, as long as it lives: none ends by an exception.

A thread that ends takes nobody with it, and nobody hears of it: without its heartbeat a worker goes on, loses each
lease and reads every page twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger("pagepack.daemons")

_FIRST_SECONDS, _LONGEST_SECONDS = 1.0, 30.0


def start_daemon(
    name: str,
    step: Callable[[], object],
    *,
    longest_seconds: float = _LONGEST_SECONDS,
    is_over: Callable[[], bool] = lambda: False,
) -> threading.Thread:
    """Call `step`, which paces itself, until `is_over`; where it raises, say so and go on after a rest.

    The rest doubles from one second to `longest_seconds`, so that what fails always fills no log and takes no core.
    `is_over` is looked at after each step, so that one is begun in any case.
    """
    thread = threading.Thread(target=_repeat, args=(name, step, longest_seconds, is_over), name=name, daemon=True)
    thread.start()
    return thread


def _repeat(name: str, step: Callable[[], object], longest_seconds: float, is_over: Callable[[], bool]) -> None:
    rest = first = min(_FIRST_SECONDS, longest_seconds)
    while True:
        try:
            step()
            rest = first
        except BaseException:  # SystemExit, too: in a thread that is not the main one it ends the thread without a word
            log.exception("the %s thread failed; going on in %g s", name, rest)
            time.sleep(rest)
            rest = min(2 * rest, longest_seconds)
        if is_over():
            return
