"""The one thread of a read worker that claims and stores, for all the threads that wait for pages.

A transaction costs about as much for one page as for ten (benchmarks/RESULTS.md, "Pipeline"). So the threads hand their
wishes over, one a page, and wait; the writer takes whatever waits, in one transaction for all claims and one for all
that is read. A page that comes alone is served at once; where one group follows another, it waits a moment for more.

A database that is away is asked again until it is back or the worker stops: text that was read is not given up while
its lease may still hold, and a late write is fenced off by its token anyway.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipeline.daemons import start_daemon
from pipeline.database.engine import Database
from pipeline.errors import DiskFull, PageFailed, PagepackError, Unavailable
from pipeline.store.claims import Claimed, PageClaim, claim_pages
from pipeline.store.leases import Limits, give_back_unheld
from pipeline.store.results import Outcome, complete_pages
from schemas.prompts import Prompt

log = logging.getLogger("pagepack.worker")

_MOST_AT_ONCE = 64
_ENOUGH = 48  # wishes that a group is begun for at once; less where three quarters of what is in hand at most are less
_GATHER_SECONDS = 0.1  # and else so long after the last one began: nothing beside the time to read a page
_WAIT_SECONDS = (0.1, 5.0)  # first and longest, between two tries at a database that is away
_REFUSED_SECONDS = 1.0  # after an error that no try mends: whoever asks next shall not make a busy loop of it


class Stopping(Exception):
    """The worker stops before the database came back."""


@dataclass(frozen=True, slots=True)
class _Claim:
    page_id: int
    alone: bool
    result: Future[Claimed] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class _Complete:
    claim: PageClaim
    outcomes: Mapping[int, Outcome]
    result: Future[int] = field(default_factory=Future)


W = TypeVar("W", _Claim, _Complete)


class Writer:
    """`is_stopping` says that nothing more is claimed, `is_over` that nothing is waited for any more.

    `hold` is told of each page before the thread that asked for it; `held` gives the ids of all page tasks in hand;
    `supports` says whether the engine answers a prompt at all; `most_in_hand` is how many pages there may be at once.
    """

    def __init__(
        self,
        db: Database,
        owner: str,
        models: Sequence[str],
        answers_of: str,
        limits: Limits,
        *,
        hold: Callable[[PageClaim], None],
        held: Callable[[], set[int]],
        is_stopping: Callable[[], bool],
        is_over: Callable[[], bool],
        supports: Callable[[Prompt], bool] = lambda prompt: True,
        most_in_hand: int = 2 * _ENOUGH,
    ) -> None:
        self._db = db
        self._supports = supports
        self._owner = owner
        self._models = models
        self._answers_of = answers_of
        self._limits = limits
        self._hold = hold
        self._held = held
        self._is_stopping = is_stopping
        self._is_over = is_over
        self._enough = max(1, min(_ENOUGH, 3 * most_in_hand // 4))
        self._wishes: list[_Claim | _Complete] = []
        self._wake = threading.Condition()
        self._begun = 0.0
        start_daemon("writer", self._serve)

    def claim(self, page_id: int, alone: bool) -> Claimed:
        """Lease what waits on a page. Raises Stopping."""
        (claimed,) = self.claim_all([page_id], alone)
        if isinstance(claimed, BaseException):
            raise claimed
        return claimed

    def claim_all(self, page_ids: Iterable[int], alone: bool = False) -> list[Claimed | BaseException]:
        """The same for several pages; for each what it came to, or what `claim` would raise."""
        wishes = [_Claim(page_id, alone) for page_id in page_ids]
        self._put(wishes)
        return [wish.result.exception() or wish.result.result() for wish in wishes]

    def complete(self, claim: PageClaim, outcomes: Mapping[int, Outcome]) -> int:
        """Store what became of a claimed page; when it is committed, how many tasks were still ours.

        Raises: Stopping, DiskFull.
        """
        (stored,) = self.complete_all([(claim, outcomes)])
        if isinstance(stored, BaseException):
            raise stored
        return stored

    def complete_all(self, pages: Iterable[tuple[PageClaim, Mapping[int, Outcome]]]) -> list[int | BaseException]:
        """The same for several pages; for each what it came to, or what `complete` would raise."""
        wishes = [_Complete(*page) for page in pages]
        self._put(wishes)
        return [wish.result.exception() or wish.result.result() for wish in wishes]

    def _put(self, wishes: Sequence[_Claim | _Complete]) -> None:
        with self._wake:
            before = len(self._wishes)
            self._wishes += wishes
            if before == 0 or before < self._enough <= len(self._wishes):
                self._wake.notify()

    def _serve(self) -> None:
        """One group. Whatever happens, none of the threads that wait for it waits for ever."""
        with self._wake:
            self._wake.wait_for(lambda: self._wishes)
            gather = self._begun + _GATHER_SECONDS - time.monotonic()
            self._wake.wait_for(lambda: len(self._wishes) >= self._enough, timeout=max(0.0, gather))
            wishes, self._wishes = self._wishes[:_MOST_AT_ONCE], self._wishes[_MOST_AT_ONCE:]
        self._begun = time.monotonic()
        try:
            self._complete([wish for wish in wishes if isinstance(wish, _Complete)])
            self._claim([wish for wish in wishes if isinstance(wish, _Claim)])
        except BaseException as error:
            for wish in wishes:
                if not wish.result.done():
                    wish.result.set_exception(error)
            raise

    def _complete(self, wishes: list[_Complete]) -> None:
        def store(some: list[_Complete]) -> None:
            pages = [(wish.claim, wish.outcomes) for wish in some]

            def work() -> set[int]:
                return complete_pages(self._db, self._owner, pages, self._limits)

            ours: set[int] = self._until_it_answers(work, self._is_over)
            for wish in some:
                wish.result.set_result(sum(task.task_id in ours for task in wish.claim.tasks))

        def alone(wish: _Complete) -> None:
            try:
                store([wish])
            except PagepackError:
                raise
            except Exception as error:  # what it holds cannot be stored; that it cannot, can
                log.exception("page %s could not be stored", wish.claim.name)
                failure = PageFailed(f"its answer could not be stored: {error}")
                store([_Complete(wish.claim, dict.fromkeys(wish.outcomes, failure), wish.result)])

        _all_or_each(wishes, store, alone)

    def _claim(self, wishes: list[_Claim]) -> None:
        def lease(some: list[_Claim]) -> None:
            ids, alone = {wish.page_id for wish in some}, {wish.page_id for wish in some if wish.alone}
            claimed = self._until_it_answers(lambda: self._claim_pages(ids, alone), self._is_stopping)
            for wish in some:  # of two threads with one page, the first has it
                page = claimed.pages.pop(wish.page_id, None)
                pages = {wish.page_id: page} if page else {}
                if page is not None:
                    self._hold(page)
                wish.result.set_result(Claimed(pages, claimed.suspects & {wish.page_id}))

        _all_or_each(wishes, lease, lambda wish: lease([wish]))

    def _claim_pages(self, ids: set[int], alone: set[int]) -> Claimed:
        try:
            return claim_pages(
                self._db,
                ids,
                self._owner,
                self._models,
                self._limits.lease_seconds,
                alone=alone,
                answers_of=self._answers_of,
                supports=self._supports,
            )
        except Unavailable:
            # Lost in COMMIT, perhaps, and then we hold pages that no thread knows of: there is one claim at a time.
            give_back_unheld(self._db, self._owner, self._held())
            raise

    def _until_it_answers(self, work: Callable[[], Any], is_over: Callable[[], bool]) -> Any:
        wait, longest = _WAIT_SECONDS
        while True:
            try:
                return work()
            except DiskFull:
                raise
            except Unavailable as error:
                log.warning("the database is away, trying again in %.1f s: %s", wait, error)
                until = time.monotonic() + wait
                while time.monotonic() < until:
                    if is_over():
                        raise Stopping from error
                    time.sleep(0.05)
                wait = min(2 * wait, longest)


def _all_or_each(wishes: list[W], together: Callable[[list[W]], None], single: Callable[[W], None]) -> None:
    """All in one transaction; where that fails, one by one, so that an error is that page's own."""
    if not wishes:
        return
    try:
        if len(wishes) > 1:
            together(wishes)
            return
    except (Stopping, DiskFull) as error:
        for wish in wishes:
            wish.result.set_exception(error)
        return
    except Exception as error:
        log.warning("%d pages at once failed, so one by one: %s", len(wishes), error)
    was_refused = False
    for wish in wishes:
        if wish.result.done():  # together it came so far
            continue
        try:
            single(wish)
        except BaseException as error:
            if wish.result.done():
                raise
            if isinstance(error, PagepackError) and not error.retryable and not was_refused:
                was_refused = True
                time.sleep(_REFUSED_SECONDS)
            wish.result.set_exception(error)
