"""What takes long in a large archive is gathered beside the pages: they show the last result, and how old it is.

Counts over a million pages take seconds, and a page has 200 ms. One thread gathers, so that readers never load a
database more than one more reader would. What took long is gathered anew as much more rarely.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")

PATIENCE = 1.0
"""Pages wait so many times as long as they say; more where nobody does, as in tests."""

_MOST_KEPT = 500
_REST = 20  # times what it took, until it is done again: the thread works a twentieth of its time


@dataclass(frozen=True, slots=True)
class Result(Generic[T]):
    """`value` is None while the first is being gathered; `age_seconds` is since it began to be."""

    value: T | None
    age_seconds: float


@dataclass(slots=True)
class _Entry:
    value: Any = None
    error: BaseException | None = None
    began: float = 0.0
    took: float = 0.0
    is_underway: bool = False
    is_outdated: bool = False
    changed: threading.Event = field(default_factory=threading.Event)


class Wait:
    """How long a page waits for all that it asks for together."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds * PATIENCE

    @property
    def left_seconds(self) -> float:
        return max(self._until - time.monotonic(), 0.0) / PATIENCE


class Gathered:
    """Results by key; threads of requests ask, one thread of its own works."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[tuple[_Entry, Callable[[], Any]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def get(
        self, key: Hashable, gather: Callable[[], T], *, fresh_seconds: float = 2.0, wait_seconds: float = 0.1
    ) -> Result[T]:
        """The last result, at most `fresh_seconds` old where that costs little.

        Waits so long for the first one, and for a newer one that should be quick. What `gather` raises is raised here,
        and has no `fresh_seconds`: a database that was busy once is not told of for an hour.
        """
        now = time.monotonic()
        wait_seconds *= PATIENCE
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > _MOST_KEPT:
                self._entries.popitem(last=False)
            fresh = fresh_seconds if entry.error is None else 0.0
            is_old = not entry.began or now - entry.began > max(fresh, _REST * entry.took) or entry.is_outdated
            if is_old and not entry.is_underway:
                entry.is_underway, entry.is_outdated = True, False
                entry.changed.clear()
                self._work.put((entry, gather))
                self._start()
        if is_old and entry.took < wait_seconds:
            entry.changed.wait(wait_seconds)
        if entry.error is not None:
            raise entry.error
        return Result(entry.value, time.monotonic() - entry.began if entry.began else 0.0)

    def outdate(self, key: Hashable) -> None:
        """What it told has changed: the next who asks has it gathered anew, whatever that takes."""
        with self._lock:
            if key in self._entries:
                self._entries[key].is_outdated = True

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._gather, name="gather", daemon=True)
            self._thread.start()

    def _gather(self) -> None:
        while True:
            entry, gather = self._work.get()
            began = time.monotonic()
            try:
                entry.value, entry.error = gather(), None
            except Exception as error:
                entry.error = error
            entry.began, entry.took = began, time.monotonic() - began
            entry.is_underway = False
            entry.changed.set()
