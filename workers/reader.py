"""What a read worker process holds: one engine, and the leases of the pages in it.

Read tasks run on threads, one for each page in flight. The engine packs what all of them submit; each task waits for
its own page and acknowledges its own message after the answer is stored.

Longer than most modules: a page's way from claim to answer, and all that may end it, is read from top to bottom.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace

from celery.exceptions import Reject

from pipeline.blobs.page_images import open_images
from pipeline.daemons import start_daemon
from pipeline.database.engine import Database
from pipeline.database.retry import insist
from pipeline.errors import EndpointGone, PageFailed, PagepackError, StorageGone, Unavailable
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
from workers.engines import Answer, Begun, Engine
from workers.outcome import held_to_schema
from workers.writer import Stopping, Writer

log = logging.getLogger("pagepack.worker")

_OVERDUE_SECONDS = 5.0
_POLL_SECONDS = 0.25  # how soon a task sees that its worker stops or its lease is lost


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
        self._turn = threading.Condition()
        self._reading = 0
        self._is_alone = False
        self._alone_waiting = 0
        self._writer = Writer(
            db,
            owner,
            (*ANY_MODEL, *wishes_for(engine.model)),
            engine.model,
            self._limits,
            hold=self._hold,
            held=lambda: set(self._held),
            is_stopping=lambda: self._stop_at is not None,
            is_over=self._is_over,
            supports=engine.supports,
            most_in_hand=engine.capacity + 1,
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

    def read(self, page_id: int) -> None:
        """Read what waits for an answer on this page; nothing where nothing does.

        Raises:
            Reject: the worker stops; the message goes back to the queue.
            DiskFull: there is no room for the answer; the supervisor must stop the run.
            StorageGone, EndpointGone: page images, or the server that reads, cannot be reached; likewise.
        """
        try:
            if self._read_unless_suspect(page_id, is_alone=False):
                self._read_unless_suspect(page_id, is_alone=True)
        except Stopping as error:
            raise Reject("the worker stops", requeue=True) from error

    def _read_unless_suspect(self, page_id: int, is_alone: bool) -> bool:
        """Whether the page is a suspect, and was left for a call in which it is alone."""
        with self._company(is_alone):
            if self._stop_at is not None:
                raise Stopping
            with stage("claim") as timed:
                claimed = self._writer.claim(page_id, is_alone)
                timed.claim = claimed.pages.get(page_id)
            for claim in claimed.pages.values():
                events.claimed(claim)
                self._read(claim)
            return page_id in claimed.suspects

    def _is_over(self) -> bool:
        return self._stop_at is not None and time.monotonic() > self._stop_at

    def _hold(self, claim: PageClaim) -> None:
        with self._lock:
            self._held |= {task.task_id: task.token for task in claim.tasks}

    @contextmanager
    def _company(self, is_alone: bool) -> Iterator[None]:
        """A page that was in flight when a worker died is read alone, so that it takes no neighbour with it.

        Entered before the claim: who waits here holds no lease, and is not in flight if the suspect kills the worker.
        """
        with self._turn:
            self._alone_waiting += is_alone
            while (self._is_alone or (self._reading > 0 if is_alone else self._alone_waiting > 0)) and (
                self._stop_at is None
            ):
                self._turn.wait(_POLL_SECONDS)
            self._alone_waiting -= is_alone
            self._reading += 1
            self._is_alone = self._is_alone or is_alone
        try:
            yield
        finally:
            with self._turn:
                self._reading -= 1
                self._is_alone = self._is_alone and not is_alone
                self._turn.notify_all()

    def _read(self, claim: PageClaim) -> None:
        outcomes: dict[int, Outcome] | None = None
        try:
            outcomes = self._outcomes(claim)
            if outcomes is None:
                returned = return_claim(self._db, claim, "the worker stopped")
                events.given_back(claim, "the worker stopped", returned)
            else:
                gone = [one for one in outcomes.values() if isinstance(one, EndpointGone)]
                ended = {task_id: one for task_id, one in outcomes.items() if not isinstance(one, EndpointGone)}
                if ended:
                    with stage("store", claim):
                        stored = self._writer.complete(claim, ended)
                    events.page_settled(claim, ended, stored, self._limits)
                if gone:
                    raise gone[0]
                if self._settings.keep_images == "until-read":
                    free_read_images(self._db, self._images, [claim.page_id])
        except BaseException as error:
            reason, wait_seconds = "the worker could not store it", 0.0
            if isinstance(error, StorageGone | EndpointGone):  # the next one would fare no better
                reason, wait_seconds = str(error), max(GONE_SECONDS, error.retry_after_seconds)
            with suppress(PagepackError):  # else it runs out: nobody renews it any more
                returned = insist(lambda: return_claim(self._db, claim, reason, wait_seconds), self._is_over)
                events.given_back(claim, reason, returned)
            raise
        finally:
            if self._budget is not None and (answers := self._reserved.pop(claim.page_id, 0)):
                self._budget.end(claim.batch_public_id, answers, list((outcomes or {}).values()))
            with self._lock:
                for task in claim.tasks:
                    self._held.pop(task.task_id, None)
                    self._lost.discard((task.task_id, task.token))

    def _outcomes(self, claim: PageClaim) -> dict[int, Outcome] | None:
        """What became of each task; None where the worker stopped first."""
        outcomes: dict[int, Outcome] = {}
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
            return outcomes
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
            if is_on_its_way:
                return outcomes
            again = Unavailable(f"{error}; its document is being rendered again", cause=error.cause)
            return outcomes | {task.task_id: again for task in asked}
        if self._budget is not None:
            if (refusal := self._budget.begin(claim.batch_public_id, len(asked))) is not None:
                return outcomes | {task.task_id: refusal for task in asked}
            self._reserved[claim.page_id] = len(asked)
            if self._is_over():  # it waited for the budget past the grace period
                return None
        with stage("read", claim):
            try:
                deadline = time.monotonic() + self._page_seconds
                begun = self._begun(claim, asked)
                more = (begun,) if any(begun) else ()
                prompts = [task.asked for task in asked]
                futures = self.engine.submit(claim.image_hash, pixels, prompts, deadline, *more)
                del pixels  # hundreds of pages may wait for a server
            except Exception as error:
                log.exception("page %s could not be submitted", claim.name)
                return outcomes | {task.task_id: error for task in asked}
            if not self._wait(claim, futures, deadline):
                return None
        return outcomes | {
            task.task_id: self._outcome(claim, task, future) for task, future in zip(asked, futures, strict=True)
        }

    def _begun(self, claim: PageClaim, asked: Sequence[TaskClaim]) -> list[Begun | None]:
        """What is there of each answer before it is read. A draft that cannot be had is none."""
        drafts: dict[str, str] = {}
        if self.engine.takes_drafts:
            with suppress(PagepackError):
                drafts = known_texts(self._db, claim.page_id, {task.prompt.name for task in asked})
        known = [Begun(task.written, task.written_confidence, drafts.get(task.prompt.name)) for task in asked]
        return [one if one.tokens or one.draft else None for one in known]

    def _wait(self, claim: PageClaim, futures: list[Future[Answer]], deadline: float) -> bool:
        """Until all are done; False where they were cancelled because the worker stops or the lease was lost.

        An engine that lets a deadline pass by far hangs, in a driver perhaps. What it holds comes back only with the
        end of its process; the supervisor starts another, and the pages in flight are read alone.
        """
        overdue = deadline + self._page_seconds / 2 + _OVERDUE_SECONDS
        while wait(futures, timeout=_POLL_SECONDS).not_done:
            if time.monotonic() > overdue:
                log.critical("page %s: the engine hangs; this worker ends itself", claim.name)
                os.kill(os.getpid(), signal.SIGKILL)
            with self._lock:
                is_lost = any((task.task_id, task.token) in self._lost for task in claim.tasks)
            if is_lost or self._is_over():
                for future in futures:
                    future.cancel()
                return False
        return True

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
