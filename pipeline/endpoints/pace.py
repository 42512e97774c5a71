"""How hard a server is pressed: requests at once, and the wait between two tries. Pure, but for the random draw.

Requests at once follow additive increase, multiplicative decrease, as TCP does (Chiu and Jain 1989): a server's limit
is not known, differs by the hour, and is shared with others. While nothing was refused yet, each answer makes room for
one more, which doubles the window in a round; later a whole round of answers does. A refusal halves it, once a round:
the requests that were on their way already when it was halved say nothing new.

The wait is drawn evenly from zero to a bound that doubles ("full jitter"): those that were refused together shall not
come back together. What the server itself asks for with Retry-After is kept to.
"""

from __future__ import annotations

import email.utils
import math
import random
from dataclasses import dataclass
from datetime import UTC, datetime

FIRST_SECONDS, LONGEST_SECONDS = 1.0, 60.0
LONGEST_RETRY_AFTER_SECONDS = 3600.0  # more is a mistake, or a quota of a day: whoever waits is told, and gives up
_FIRST_WINDOW = 4.0


@dataclass(slots=True)
class Window:
    """How many requests may be on their way. Times are of one clock, in seconds."""

    most: int
    size: float = 0.0  # set at once, below
    _is_slow_start: bool = True
    _halved_at: float = -math.inf

    def __post_init__(self) -> None:
        self.size = self.size or min(_FIRST_WINDOW, self.most)

    @property
    def room(self) -> int:
        return max(1, int(self.size))

    def answered(self) -> None:
        self.size = min(float(self.most), self.size + (1.0 if self._is_slow_start else 1.0 / self.size))

    def refused(self, sent_at: float, now: float) -> None:
        """One that was sent at `sent_at` met a server that has too much to do."""
        if sent_at >= self._halved_at:
            self._is_slow_start = False
            self._halved_at = now
            self.size = max(1.0, self.size / 2)


def backoff_seconds(tries: int, draw: float | None = None) -> float:
    """Before the next try, after so many that failed; `draw` in [0, 1) in place of a random one."""
    longest = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(tries - 1, 30))
    return longest * (random.random() if draw is None else draw)


def retry_after_seconds(header: str | None, now: datetime | None = None) -> float | None:
    """What a Retry-After header asks for, in seconds or as a date; None where it says neither."""
    if header is None or not (text := header.strip()):
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(text)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
