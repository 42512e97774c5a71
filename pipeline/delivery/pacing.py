"""How many wake-up messages are sent ahead: enough that no worker waits, few enough that batches share.

A message names one page, and several where a reader uses up many a second: one that reads a page in seconds shall take
the next as soon as it has room, and leave the others to whoever has; one that reads hundreds a second, as where most
answers are there already, would spend more time on messages than on pages. What is counted is pages, throughout.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from schemas.messages import MOST_PAGES

_SECONDS_AHEAD = 3.0  # messages for so long are kept in the queue
_FEWEST_MESSAGES = 8
_MOST_MESSAGES = 5_000
_SECONDS_A_MESSAGE = 0.1  # a message names the pages that one reader uses up in so long


def share_out(room: int, out: Mapping[int, int]) -> dict[int, int]:
    """Divide `room` messages among batches that have `out` of them each, so that the lowest levels rise together."""
    shares = dict.fromkeys(out, 0)
    by_level = sorted(out, key=lambda batch: out[batch])
    for count in range(1, len(by_level) + 1):
        low = by_level[:count]
        ceiling = out[by_level[count]] if count < len(by_level) else None
        level = out[low[-1]]
        gap = room if ceiling is None else min(room, (ceiling - level) * count)
        for index, batch in enumerate(low):
            shares[batch] += gap // count + (index < gap % count)
        room -= gap
        if room <= 0:
            break
    return shares


@dataclass
class Pace:
    """How many pages (or documents) the workers use up, from the queue's depth at each look."""

    per_second: float = 0.0
    depth: int = 0  # pages that wait after the last message
    looked_at: float = field(default_factory=time.monotonic)
    _sizes: deque[int] = field(default_factory=deque)  # pages of the messages that may wait, the newest last

    def look(self, messages: int) -> None:
        """So many wait. They are the last that were sent; of what others sent, a message is for one page."""
        now = time.monotonic()
        while len(self._sizes) > messages:
            self._sizes.popleft()
        depth = sum(self._sizes) + messages - len(self._sizes)
        seconds = max(now - self.looked_at, 0.01)
        used = max(0, self.depth - depth) / seconds
        share = min(1.0, seconds)  # of the last second or so
        self.per_second += (used - self.per_second) * share
        self.looked_at, self.depth = now, depth

    def sent(self, sizes: Sequence[int]) -> None:
        """Messages for so many pages each."""
        self._sizes.extend(sizes)
        self.depth += sum(sizes)

    def wanted(self, at_once: int) -> int:
        """Pages that the queue shall hold messages for, where its workers may take so many at once."""
        return int(min(_MOST_MESSAGES, max(_FEWEST_MESSAGES, at_once, _SECONDS_AHEAD * self.per_second)))

    def together(self, pages: int, readers: int) -> int:
        """How many of these pages a message shall name, so that each of the readers finds a message, too."""
        fair = min(self.per_second * _SECONDS_A_MESSAGE, pages) / max(1, readers)
        return max(1, min(MOST_PAGES, int(fair)))
