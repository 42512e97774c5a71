"""What a reader asks for and may take long, as a search: the page waits a moment, and asks again until it is there.

Unlike what is gathered (`gathered.py`) a result is told once and not kept: the next reader has what is true then.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from pipeline.web import gathered

T = TypeVar("T")

_AT_ONCE = 4
_MOST = 50  # that nobody has come back for


class UnderWay:
    """Threads of requests ask, a few of its own work."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_AT_ONCE, "search")
        self._left: OrderedDict[Hashable, Future[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, find: Callable[[], T], wait_seconds: float) -> T | None:
        """The result, or None where it takes longer; who asks for the same key again gets it.

        Raises what `find` does.
        """
        with self._lock:
            future: Future[T] = self._left.pop(key) if key in self._left else self._pool.submit(find)
        try:
            return future.result(wait_seconds * gathered.PATIENCE)
        except TimeoutError:
            if future.done():
                raise
        with self._lock:
            self._left[key] = future
            while len(self._left) > _MOST:
                self._left.popitem(last=False)[1].cancel()
        return None
