"""What a page is known to say already, as a draft of its answer: how far the answer has come in it, and what is next.

The text may be a PDF's own, another engine's or an older answer's. It has errors, other line ends, columns in another
order. So it is not matched but aligned: for each place in the source the edit distance at which the answer may stand
there by now, in one row that each token renews (Sellers 1980):

    source   t h e _ c q t _ s a t
    answer   t h e _ c a              cheapest after q, at 1: a stands for q, and `t _ s a t` may come next

A token that is wrong or too much costs 1, one of the source that is left out SKIP: a wrong letter makes several tokens
of one. From the cheapest place any other is reached for JUMP, so that a text in another order is found again.

Under a JSON Schema what comes next mostly stands elsewhere, for it is another field: a few tokens of it must do.

The model decides what becomes of it (`PackedEngine._commit`); how much is tried says `draft_rows.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

SKIP, JUMP = 0.35, 4.0  # 0.5 to 0.2 and 3 to 4 do within a tenth as well
JUMP_TO_FIELD = 1.5  # with it answers in fields take 1.4 times fewer steps than with JUMP, others as many
MOST_TOKENS = 16_384  # of a source: a page has a few thousand, and a token costs 10 µs and 10 more for each thousand
MOST_AHEAD = 32
LEAST = (
    1 / 3
)  # of the latest tokens as expected: at that a step of drafts costs a full GPU what it gives (`draft_rows.py`)
RECENT = 16  # tokens, by which it is told how far a draft holds


class Drafter:
    """Follows one answer through one source."""

    def __init__(self, source: Sequence[int], jump: float = JUMP) -> None:
        self._source = np.asarray(source[:MOST_TOKENS], np.int64)
        self._skipped = SKIP * np.arange(len(self._source) + 1, dtype=np.float32)
        self._cost = np.minimum(self._skipped, jump)  # of standing after so many tokens of the source
        self._place, self._jump = 0, jump
        self.agreed = 1 - 1 / RECENT  # share of the latest tokens that were as expected

    def take(self, token: int) -> None:
        """The next token of the answer."""
        source, place = self._source, self._place
        is_expected = place < len(source) and source[place] == token
        self.agreed += (is_expected - self.agreed) / RECENT
        before = np.minimum(self._cost, self._jump)
        cost = before + 1
        cost[1:] = np.minimum(cost[1:], before[:-1] + (source != token))
        cost = np.minimum.accumulate(cost - self._skipped) + self._skipped
        self._cost = cost - cost.min()
        self._place = len(source) - int(self._cost[::-1].argmin())  # of equals the furthest: errors mostly replace

    def ahead(self) -> list[int]:
        """What may come next: twice as far as drafts have held of late, at least a token while the source lasts."""
        length = min(MOST_AHEAD, math.ceil(2 / max(1 - self.agreed, 0.01)) - 1)
        tokens: list[int] = self._source[self._place : self._place + length].tolist()
        return tokens
