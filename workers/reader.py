"""What a read worker process holds: one engine, and the leases of the pages in it.

Read tasks run on threads, one for each message. The engine packs what all of them submit; each task waits for its own
page, or pages, and acknowledges its own message after their answers are stored. A message for many pages is read like
many messages: each page has a place while it is in flight, and leaves it to the next when its answer is stored.

Over 300 lines: a page's way from claim to answer, and all that may end it, is read from top to bottom.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import suppress
from dataclasses import asdict, replace

from celery.exceptions import Reject

from pipeline.blobs.page_images import open_images
from pipeline.daemons import start_daemon
from pipeline.database.engine import Database
from pipeline.database.retry import insist
from pipeline.errors import DiskFull, EndpointGone, PageFailed, PagepackError, StorageGone, Unavailable
from pipeline.settings import Settings
from pipeline.store.answers import ReadAnswer, ReusedAnswer
from pipeline.store.claims import ANY_MODEL, PageClaim, TaskClaim
from pipeline.store.known_texts import known_texts
from pipeline.store.leases import GONE_SECONDS, Limits, renew_tasks, return_claim
from pipeline.store.pages import render_again
from pipeline.store.results import Outcome
from pipeline.store.retention import free_read_images
from pipeline.store.wished_model import wishes_for
from pipeline.telemetry import events
from pipeline.telemetry.metrics import EngineFigures, set_gauge
from pipeline.telemetry.stage_timing import stage
from workers.budget import Budget
from workers.company import Company
from workers.engines import Answer, Begun, Engine
from workers.in_hand import PageInHand
from workers.outcome import held_to_schema
from workers.writer import Stopping, Writer

log = logging.getLogger("pagepack.worker")

_OVERDUE_SECONDS = 5.0
_POLL_SECONDS = 0.25  # how soon a task sees that its worker stops or its lease is lost
_ENDS_ALL = (Stopping, DiskFull, StorageGone, EndpointGone)  # the other pages of a message would fare no better


class Reader:
    """Reads claimed pages; `read` is called on many threads at once."""

    def __init__(
        self, db: Database, engine: Engine, settings: Settings, owner: str, *, is_of_many: bool = False
    ) -> None:
        """With `is_of_many`, ingest workers are on other hosts perhaps, and may keep page images elsewhere."""
        self.engine = engine
        self._db = db
        self._settings = settings
        self._owner = owner
        self._images = open_images(settings)
        self._is_of_many = is_of_many
        self._limits = Limits.of(settings)
        self._stop_at: float | None = None
        self._held: dict[int, int] = {}  # task id → token, of pages in the engine
        self._lost: set[tuple[int, int]] = set()
        self._lock = threading.Lock()
        self._places = engine.capacity + 1  # one more than the engine holds keeps a page ready
        self._company = Company(self._places, self._is_stopping)
        self._messages_for = 0  # pages whose messages are in hand
        self._writer = Writer(
            db,
            owner,
            (*ANY_MODEL, *wishes_for(engine.model)),
            engine.model,
            self._limits,
            hold=self._hold,
            held=lambda: set(self._held),
            is_stopping=self._is_stopping,
            is_over=self._is_over,
            supports=engine.supports,
            most_in_hand=self._places,
        )
        self._budget, self._page_seconds = None, settings.page_seconds
        if engine.name == "endpoint":  # what runs here charges nothing, and waits for nobody
            self._budget = Budget(db, engine.least_cost)
            self._page_seconds = max(settings.page_seconds, engine.least_page_seconds)
        self._reserved: dict[int, int] = {}  # page id → answers of it that are within the budget
        self._figures = EngineFigures()
        start_daemon("heartbeat", self._beat, longest_seconds=settings.heartbeat_seconds)

    def stop(self) -> None:
        """Claim nothing more; what is in the engine may finish within the grace period, then it is given back."""
        if self._stop_at is None:
            self._stop_at = time.monotonic() + self._settings.grace_seconds

    def has_room(self) -> bool:
        """For another message: so many are in hand that each page which is stored finds the next, and no more."""
        return self._messages_for < 2 * self._places

    def read(self, *page_ids: int) -> None:
        """Read what waits for an answer on these pages; nothing where nothing does.

        Raises:
            Reject: the worker stops; the message goes back to the queue.
            DiskFull: there is no room for an answer; the supervisor must stop the run.
            StorageGone, EndpointGone: page images, or the server that reads, cannot be reached; likewise.
        """
        with self._lock:
            self._messages_for += len(page_ids)
        try:
            errors: list[BaseException] = []
            for suspect in self._read_some(page_ids, errors):
                if not any(isinstance(error, _ENDS_ALL) for error in errors):
                    self._read_some([suspect], errors, is_alone=True)
            if errors:
                raise errors[0]
        except Stopping as error:
            raise Reject("the worker stops", requeue=True) from error
        finally:
            with self._lock:
                self._messages_for -= len(page_ids)

    def _read_some(self, page_ids: Sequence[int], errors: list[BaseException], is_alone: bool = False) -> list[int]:
        """Each as soon as there is a place. Returns suspects, which are left for a call in which each is alone.

        What befell those that could not be read is added to `errors`: it holds up no other page.
        """
        waiting, suspects = deque(page_ids), list[int]()
        in_hand, places = list[PageInHand](), 0
        try:
            while waiting or in_hand:
                if waiting and (given := self._enter(len(waiting), is_alone, in_hand)):
                    places += given
                    begun = self._begin([waiting.popleft() for _ in range(given)], is_alone, suspects, errors)
                    in_hand += begun
                    self._company.leave(given - len(begun))
                    places -= given - len(begun)
                ended = self._ended(in_hand)
                self._end(ended, errors)
                in_hand = [page for page in in_hand if not page.has_ended]
                self._company.leave(len(ended))
                places -= len(ended)
                if any(isinstance(error, _ENDS_ALL) for error in errors):
                    waiting.clear()
        finally:
            for page in in_hand:  # a fault of ours
                self._give_back(page.claim, None)
                self._forget(page)
            self._company.leave(places)
        return suspects

    def _enter(self, wanted: int, is_alone: bool, in_hand: Sequence[PageInHand]) -> int:
        """Places for the next pages of a message. Raises Stopping."""
        if self._budget is not None:  # a page may wait until others have an answer, and so must not wait for its own
            wanted = 0 if in_hand else 1
        given = self._company.enter(wanted, is_alone=is_alone, waits=not in_hand) if wanted else 0
        if given == 0 and not in_hand:
            raise Stopping
        return given

    def _is_stopping(self) -> bool:
        return self._stop_at is not None

    def _is_over(self) -> bool:
        return self._stop_at is not None and time.monotonic() > self._stop_at

    def _hold(self, claim: PageClaim) -> None:
        with self._lock:
            self._held |= {task.task_id: task.token for task in claim.tasks}

    def _begin(
        self, page_ids: Sequence[int], is_alone: bool, suspects: list[int], errors: list[BaseException]
    ) -> list[PageInHand]:
        """Claim what waits on these pages, and give it to the engine."""
        timed = stage("claim")
        claims: list[PageClaim] = []
        for claimed in self._writer.claim_all(page_ids, is_alone):
            if isinstance(claimed, BaseException):
                errors.append(claimed)
            else:
                suspects += claimed.suspects
                claims += claimed.pages.values()
        timed.claims = claims
        timed.end()
        begun: list[PageInHand] = []
        gone: BaseException | None = None
        for claim in claims:
            page = PageInHand(claim)
            try:
                if gone is not None:  # the next one would fare no better
                    raise gone
                events.claimed(claim)
                self._submit(page)
            except BaseException as error:
                gone = error if isinstance(error, _ENDS_ALL) else None
                errors.append(error)
                self._give_back(claim, error)
                self._forget(page)
            else:
                begun.append(page)
        return begun

    def _end(self, pages: Sequence[PageInHand], errors: list[BaseException]) -> None:
        """Store what they came to, together; or give back what came to nothing."""
        ends: list[tuple[PageInHand, dict[int, Outcome]]] = []
        try:
            for page in pages:
                if page.timed is not None:
                    page.timed.end()
                if page.outcomes is None:
                    self._give_back(page.claim, None, "the worker stopped")
                    continue
                for task, future in zip(page.asked, page.futures, strict=True):
                    page.outcomes[task.task_id] = self._outcome(page.claim, task, future)
                outcomes = {task: one for task, one in page.outcomes.items() if not isinstance(one, EndpointGone)}
                ends.append((page, outcomes))
            if to_store := [(page.claim, outcomes) for page, outcomes in ends if outcomes]:
                with stage("store", *(claim for claim, _ in to_store)):
                    stored = iter(self._writer.complete_all(to_store))
            for page, outcomes in ends:
                count = next(stored) if outcomes else 0
                error = count if isinstance(count, BaseException) else page.gone()
                if isinstance(count, int) and outcomes:
                    events.page_settled(page.claim, outcomes, count, self._limits)
                if error is not None:
                    errors.append(error)
                    self._give_back(page.claim, error)
                elif self._settings.keep_images == "until-read":
                    free_read_images(self._db, self._images, [page.claim.page_id])
        finally:
            for page in pages:
                self._forget(page)

    def _give_back(self, claim: PageClaim, error: BaseException | None, reason: str = "") -> None:
        """What is in hand of a page waits again."""
        wait_seconds = 0.0
        if isinstance(error, StorageGone | EndpointGone):
            reason, wait_seconds = str(error), max(GONE_SECONDS, error.retry_after_seconds)
        reason = reason or "the worker could not store it"
        with suppress(PagepackError):  # else it runs out: nobody renews it any more
            returned = insist(lambda: return_claim(self._db, claim, reason, wait_seconds), self._is_over)
            events.given_back(claim, reason, returned)

    def _forget(self, page: PageInHand) -> None:
        """It is stored or given back: its leases are renewed no more."""
        claim = page.claim
        page.has_ended = True
        if self._budget is not None and (answers := self._reserved.pop(claim.page_id, 0)):
            self._budget.end(claim.batch_public_id, answers, list((page.outcomes or {}).values()))
        with self._lock:
            for task in claim.tasks:
                self._held.pop(task.task_id, None)
                self._lost.discard((task.task_id, task.token))

    def _submit(self, page: PageInHand) -> None:
        """To the engine, but for what needs no reading; no outcomes at all where the worker stopped first."""
        claim, outcomes = page.claim, dict[int, Outcome]()
        page.outcomes = outcomes
        asked: list[TaskClaim] = []
        for task in claim.tasks:
            if task.task_id in claim.answered:
                outcomes[task.task_id] = ReusedAnswer(claim.answered[task.task_id])
            elif self.engine.supports(task.prompt):
                asked.append(task)
            else:
                outcomes[task.task_id] = PageFailed(
                    f"the engine {self.engine.name} does not answer the prompt {task.prompt.name!r}; "
                    "use --engine pixtral --model DIR",
                    cause="unsupported-prompt",
                )
        if not asked:
            return
        try:
            with stage("load", claim):
                pixels = self._images.pixels(claim.image_hash)
        except PageFailed as error:
            if error.cause == "image-damaged":
                self._images.delete(claim.image_hash)
            is_on_its_way = render_again(self._db, claim, asked)
            if error.cause == "image-missing" and self._is_of_many and self._images.is_untouched():
                raise StorageGone(  # a page's tries would be over in a second
                    f"no page image was ever stored in {self._images.place}, and pages that wait have theirs: "
                    "set PAGEPACK_IMAGES_URL as on the hosts that ingest, or mount the folder that they use"
                ) from error
            if not is_on_its_way:
                again = Unavailable(f"{error}; its document is being rendered again", cause=error.cause)
                outcomes |= {task.task_id: again for task in asked}
            return
        if self._budget is not None:
            if (refusal := self._budget.begin(claim.batch_public_id, len(asked))) is not None:
                outcomes |= {task.task_id: refusal for task in asked}
                return
            self._reserved[claim.page_id] = len(asked)
            if self._is_over():  # it waited for the budget past the grace period
                page.outcomes = None
                return
        page.timed = stage("read", claim)
        deadline = time.monotonic() + self._page_seconds
        try:
            begun = self._begun(claim, asked)
            more = (begun,) if any(begun) else ()
            prompts = [task.asked for task in asked]
            page.futures = self.engine.submit(claim.image_hash, pixels, prompts, deadline, *more)
            page.asked, page.overdue_at = asked, deadline + self._page_seconds / 2 + _OVERDUE_SECONDS
        except Exception as error:
            log.exception("page %s could not be submitted", claim.name)
            outcomes |= {task.task_id: error for task in asked}

    def _begun(self, claim: PageClaim, asked: Sequence[TaskClaim]) -> list[Begun | None]:
        """What is there of each answer before it is read. A draft that cannot be had is none."""
        drafts: dict[str, str] = {}
        if self.engine.takes_drafts:
            with suppress(PagepackError):
                drafts = known_texts(self._db, claim.page_id, [task.prompt for task in asked])
        known = [Begun(task.written, task.written_confidence, drafts.get(task.prompt.name)) for task in asked]
        return [one if one.tokens or one.draft else None for one in known]

    def _ended(self, in_hand: Sequence[PageInHand]) -> list[PageInHand]:
        """Those of which nothing more will come, after a moment in which the first may come to an end.

        Some were cancelled because the worker stops or the lease was lost, and have no outcomes then. An engine that
        lets a deadline pass by far hangs, in a driver perhaps. What it holds comes back only with the end of its
        process; the supervisor starts another, and the pages in flight are read alone.
        """
        if in_hand and all(page.is_open() for page in in_hand):
            unread = [future for page in in_hand for future in page.futures if not future.done()]
            wait(unread, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
        ended: list[PageInHand] = []
        for page in in_hand:
            if page.is_open():
                if time.monotonic() > page.overdue_at:
                    log.critical("page %s: the engine hangs; this worker ends itself", page.claim.name)
                    os.kill(os.getpid(), signal.SIGKILL)
                with self._lock:
                    is_lost = any((task.task_id, task.token) in self._lost for task in page.claim.tasks)
                if not is_lost and not self._is_over():
                    continue
                for future in page.futures:
                    future.cancel()
                page.outcomes = None
            ended.append(page)
        return ended

    def _outcome(self, claim: PageClaim, task: TaskClaim, future: Future[Answer]) -> ReadAnswer | Exception:
        try:
            answer = future.result()
        except CancelledError:
            return Unavailable("the engine dropped the page", cause="cancelled")
        except PagepackError as error:
            return error
        except Exception as error:
            log.error("page %s: the engine failed", claim.name, exc_info=error)
            return error
        if answer.finish_reason in ("cancelled", "error"):
            return Unavailable(f"the engine ended the page: {answer.finish_reason}", cause="engine")
        if answer.finish_reason == "deadline" and not answer.text:
            limit = f"{self._page_seconds:g} s"
            return PageFailed(f"nothing was read within {limit}; raise PAGEPACK_PAGE_SECONDS", cause="deadline")
        if answer.finish_reason == "stop" and not answer.text.strip():
            answer = replace(answer, finish_reason="empty")
        model = task.answered_by(answer.model or self.engine.model)
        return held_to_schema(ReadAnswer(engine=self.engine.name, **asdict(answer) | {"model": model}), task.prompt)

    def _beat(self) -> None:
        """One statement for all leases; pages whose lease is gone are dropped from the engine by their tasks."""
        self._show_figures()
        time.sleep(self._settings.heartbeat_seconds)
        with self._lock:
            before = dict(self._held)
        try:
            held = renew_tasks(self._db, self._owner, before, self._settings.lease_seconds) if before else {}
        except PagepackError as error:
            log.warning("leases were not renewed: %s", error)
            return
        with self._lock:
            self._lost |= {
                (task_id, token)
                for task_id, token in before.items()
                if held.get(task_id) != token and self._held.get(task_id) == token
            }

    def _show_figures(self) -> None:
        """For people who watch; no lease shall run out for the sake of a figure that cannot be had."""
        try:
            set_gauge("pagepack_leases", len(self._held))
            self._figures.take(self.engine.stats())
        except Exception:
            log.exception("the engine's figures are not shown")
