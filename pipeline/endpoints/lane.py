"""Who may send now: as many at once as the window has room for, and nobody during a pause that the server asked for."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from pipeline.endpoints.pace import Window


class Lane:
    """Used on one event loop only. Whoever waits goes in the order of its coming."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.in_flight = 0
        self.paused_until = 0.0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def enter(self) -> None:
        """Until there is room; whoever was let in calls `leave`."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._queue.append(turn)
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was let in at the moment in which it left
                self.leave()
            else:
                with suppress(ValueError):
                    self._queue.remove(turn)
            raise

    def leave(self) -> None:
        self.in_flight -= 1
        self._let_in()

    def pause_until(self, moment: float) -> None:
        """By the loop's clock."""
        self.paused_until = max(self.paused_until, moment)

    def _let_in(self) -> None:
        loop = asyncio.get_running_loop()
        pause = self.paused_until - loop.time()
        if pause > 0:
            if self._queue and self._timer is None:
                self._timer = loop.call_later(pause, self._after_pause)
            return
        while self._queue and self.in_flight < self.window.room:
            turn = self._queue.popleft()
            if not turn.done():  # it was cancelled, and has not heard of it yet
                self.in_flight += 1
                turn.set_result(None)

    def _after_pause(self) -> None:
        self._timer = None
        self._let_in()
