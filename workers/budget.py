"""Pages are read until their batch has cost what its command allows.

What was stored is known from the database, of all workers; what this worker has in hand is reckoned with the dearest
answer so far. Until a first cost is known, one page is read at a time, for nothing else bounds a budget of three pages.
What other workers have in hand is not known, nor what they stored since the last look. So a batch costs more than it
may by what the other workers read within `_LOOK_SECONDS`, and while a look takes, at most.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.database.engine import Database
from pipeline.errors import PageFailed, Unavailable
from pipeline.store.answers import ReadAnswer, UnfitAnswer
from pipeline.store.costs import Spent, spent
from pipeline.store.results import Outcome, cost_of

_LOOK_SECONDS = 10.0
_WAIT_SECONDS = 0.25
_WAY_OUT = "then `pagepack retry --cause budget`, and the same command again"


@dataclass(slots=True)
class _Batch:
    known: Spent
    looked_at: float
    since: float = 0.0  # cost of what this worker stored after the last look began
    in_hand: int = 0  # answers that are asked for
    dearest: float | None = None
    is_uncounted: bool = False  # an answer came whose cost nobody knows


class Budget:
    """`begin` before a page's answers are asked for, `end` after they are stored. Safe to call from many threads."""

    def __init__(self, db: Database, least_cost: float | None = None) -> None:
        """`least_cost` is what an answer costs, where that is known before."""
        self._db = db
        self._least_cost = least_cost
        self._batches: dict[str, _Batch] = {}
        self._looking: set[str] = set()  # batches that a thread asks the database about
        self._changed = threading.Condition()

    def begin(self, batch: str, answers: int) -> PageFailed | None:
        """Reserve what these may cost; where that is more than is left, nothing, and the reason.

        Waits while answers are in hand that may leave enough.
        """
        while True:
            self._look_if_due(batch)
            with self._changed:
                one = self._batches[batch]
                if (reason := _why_not(one, answers)) is None:
                    one.in_hand += answers
                    return None
                if not one.in_hand:
                    return PageFailed(f"{reason}, {_WAY_OUT}", cause="budget")
                self._changed.wait(_WAIT_SECONDS)  # what is in hand may turn out cheaper, or fail

    def end(self, batch: str, answers: int, outcomes: Sequence[Outcome]) -> None:
        """They are stored, or given back without an outcome."""
        costs = [cost for cost in map(cost_of, outcomes) if cost is not None]
        with self._changed:
            one = self._batches[batch]
            one.in_hand -= answers
            one.since += sum(costs)
            if costs:
                one.dearest = max(one.dearest or 0.0, *costs)
            answers_read = [outcome for outcome in outcomes if isinstance(outcome, ReadAnswer | UnfitAnswer)]
            one.is_uncounted |= any(outcome.cost is None for outcome in answers_read)
            self._changed.notify_all()

    def _look_if_due(self, batch: str) -> None:
        """Ask anew now and then what is known of the batch; where the database is away, it stays as it was.

        One thread asks, without the lock, for the sum over a large batch takes a while. The others go on with what was
        known; only who knows nothing of the batch waits. What is stored meanwhile may count twice until the next look.
        """
        with self._changed:
            while batch in self._looking and batch not in self._batches:
                self._changed.wait()
            one, now = self._batches.get(batch), time.monotonic()
            if batch in self._looking or (one is not None and now - one.looked_at < _LOOK_SECONDS):
                return
            self._looking.add(batch)
            counted = 0.0 if one is None else one.since
        known: Spent | None = None
        try:
            known = spent(self._db, batch)
        except Unavailable:
            if one is None:
                raise
        finally:
            with self._changed:
                if one is not None:
                    one.looked_at = now
                    if known is not None:
                        one.known, one.since = known, one.since - counted
                elif known is not None:
                    self._batches[batch] = _Batch(known, now, dearest=self._least_cost)
                self._looking.discard(batch)
                self._changed.notify_all()


def _why_not(one: _Batch, answers: int) -> str | None:
    cost, most = one.known.cost + one.since, one.known.most
    if most is None:
        return None
    if one.is_uncounted:
        return (
            "what an answer costs is not known, so that --max-cost cannot be kept: set PAGEPACK_ENDPOINT_INPUT_PRICE "
            "and PAGEPACK_ENDPOINT_OUTPUT_PRICE, or leave --max-cost out if the server counts no tokens"
        )
    waits_for_a_first_cost = one.dearest is None and one.in_hand > 0
    if cost >= most or waits_for_a_first_cost or cost + (one.in_hand + answers) * (one.dearest or 0.0) > most:
        return f"the batch has cost {cost:.4g} of the {most:g} that --max-cost allows; raise it"
    return None
