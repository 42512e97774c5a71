"""Who is read beside whom: so many pages at once, and a suspect alone.

A page that was in flight when a worker died is read alone, so that it takes no neighbour with it. Places are given
before the claim: who waits here holds no lease, and is not in flight if the suspect kills the worker.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

_POLL_SECONDS = 0.25  # how soon one who waits sees that the worker stops


class Company:
    """The places of a read worker's pages. Safe to use from many threads."""

    def __init__(self, places: int, is_stopping: Callable[[], bool]) -> None:
        self._places = places
        self._is_stopping = is_stopping
        self._turn = threading.Condition()
        self._taken = 0
        self._is_alone = False
        self._alone_waiting = 0

    def enter(self, wanted: int, *, is_alone: bool = False, waits: bool = True) -> int:
        """Places for up to so many pages, one at least; none where the worker stops, or may be without waiting.

        Who has places and asks for more must not wait: a suspect may wait for those to be left.
        """
        with self._turn:
            self._alone_waiting += is_alone
            while (given := self._given(wanted, is_alone)) == 0 and waits and not self._is_stopping():
                self._turn.wait(_POLL_SECONDS)
            self._alone_waiting -= is_alone
            if self._is_stopping():
                return 0
            self._taken += given
            self._is_alone = self._is_alone or (is_alone and given > 0)
            return given

    def _given(self, wanted: int, is_alone: bool) -> int:
        if self._is_alone or (self._taken > 0 if is_alone else self._alone_waiting > 0):
            return 0
        return 1 if is_alone else max(0, min(wanted, self._places - self._taken))

    def leave(self, places: int) -> None:
        """Of whom nothing more comes."""
        if places:
            with self._turn:
                self._taken -= places
                self._is_alone = self._is_alone and self._taken > 0
                self._turn.notify_all()
