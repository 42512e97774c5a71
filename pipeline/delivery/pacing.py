"""How many wake-up messages are sent ahead: enough that no worker waits, few enough that batches share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

_SECONDS_AHEAD = 3.0  # messages for so long are kept in the queue
_FEWEST_MESSAGES = 8
_MOST_MESSAGES = 5_000


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
    """How many messages the workers use up, from the queue's depth at each look."""

    per_second: float = 0.0
    depth: int = 0  # after the last message
    looked_at: float = field(default_factory=time.monotonic)

    def look(self, depth: int) -> None:
        now = time.monotonic()
        seconds = max(now - self.looked_at, 0.01)
        used = max(0, self.depth - depth) / seconds
        share = min(1.0, seconds)  # of the last second or so
        self.per_second += (used - self.per_second) * share
        self.looked_at, self.depth = now, depth

    def wanted(self, at_once: int) -> int:
        """Messages that the queue shall hold, where its workers may take so many at once."""
        return int(min(_MOST_MESSAGES, max(_FEWEST_MESSAGES, at_once, _SECONDS_AHEAD * self.per_second)))
