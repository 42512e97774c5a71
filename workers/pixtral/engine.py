"""The engine: requests in from any thread, one thread that owns the device, answers out as futures.

    submit ──► inbox ──► scheduler.plan ──► executor.launch ──► tokens ──► futures
                            ▲    │ while the device computes step n, the host plans n + 1 (on a GPU)
                            └────┘

A request that fails takes only itself. If a launch raises, the step is cut in halves and each is tried again, down to
the one request that cannot be computed; a row whose logits are not finite fails alone. Out of memory is handled
the same way, and the prefill budget is halved besides. Only a device that is gone for good ends the engine.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pipeline.errors import PageFailed, Unavailable
from workers.pixtral.device_errors import is_fatal, is_out_of_memory
from workers.pixtral.executor import Executor, Launched
from workers.pixtral.model import sampling
from workers.pixtral.plan.scheduler import Scheduler, Step
from workers.pixtral.plan.sequence import Request, Sequence, State
from workers.pixtral.text.generation import Generation, Vocabulary, Writing

logger = logging.getLogger(__name__)

COUNTS = ("steps", "images", "finished", "failed", "output_tokens", "prompt_tokens", "useful_rows", "computed_rows")
DRAFT_COUNTS = ("drafted_tokens", "accepted_tokens")


@dataclass(slots=True)
class Ticket:
    """A sequence with its future and its clock."""

    sequence: Sequence
    future: Future[Any]
    convert: Callable[[Generation], Any]
    writing: Writing
    submitted: float
    started: float | None = None
    first_token: float | None = None


class PackedEngine:
    """See the top of this file. `lookahead` plans a step before the last one's tokens are read."""

    def __init__(
        self,
        executor: Executor,
        scheduler: Scheduler,
        decode: Callable[[list[int]], str],
        eos_id: int,
        *,
        lookahead: bool,
        piece: Callable[[int], bytes] | None = None,
    ) -> None:
        self.executor, self.scheduler = executor, scheduler
        self.vocabulary = Vocabulary(decode, piece or (lambda token: decode([token]).encode()), eos_id)
        self.lookahead = lookahead
        self._wake = threading.Condition()
        self._inbox: deque[Ticket] = deque()
        self._tickets: dict[Sequence, Ticket] = {}
        self._closed = False
        self._gone: str | None = None
        self._counts = Counter(dict.fromkeys((*COUNTS, *DRAFT_COUNTS), 0))
        self._busy_seconds = 0.0
        self._recent: deque[tuple[float, int]] = deque(maxlen=64)  # (moment, tokens sampled)
        self._thread = threading.Thread(target=self._run, name="pagepack-engine", daemon=True)
        self._thread.start()

    def submit(
        self, request: Request, convert: Callable[[Generation], Any] = lambda generation: generation
    ) -> Future[Any]:
        """Queue a request; the future gives `convert(generation)`, called on the engine's thread.

        Cancelling the future gives back what it holds at the next step.

        Raises:
            Unavailable: the engine is closed or its device is gone.
        """
        sequence = Sequence.of(request)
        ticket = Ticket(sequence, Future(), convert, Writing(sequence, self.vocabulary), time.monotonic())
        if not self.scheduler.fits(ticket.sequence):
            room = self.scheduler.pool.num_blocks * self.scheduler.pool.block_size
            over = f"a prompt of {len(request.tokens):,} tokens is over the cache of {room:,}"
            ticket.future.set_exception(PageFailed(over, cause="too-large"))
            return ticket.future
        if request.sampling.max_tokens < 1:
            raise ValueError(f"max_tokens is {request.sampling.max_tokens}; at least 1")
        with self._wake:
            if self._closed or self._gone:
                raise Unavailable(f"the engine is {self._gone or 'closed'}")
            self._inbox.append(ticket)
            self._wake.notify()
        return ticket.future

    def stats(self) -> dict[str, float]:
        """Figures since the start, and of now."""
        scheduler, counts = self.scheduler, {name: float(count) for name, count in self._counts.items()}
        pool = scheduler.pool
        recent = list(self._recent)
        span = time.monotonic() - recent[0][0] if recent else 0.0
        useful, computed = counts.pop("useful_rows"), counts.pop("computed_rows")
        return counts | {
            "waiting": float(len(scheduler.waiting) + len(self._inbox)),
            "running": float(len(scheduler.running)),
            "tokens_per_second": sum(tokens for _, tokens in recent) / span if span > 0 else 0.0,
            "packing_efficiency": useful / computed if computed else 1.0,
            "cache_use": 1.0 - pool.num_free / pool.num_blocks,
            "preemptions": float(scheduler.preemptions),
            "prefix_hit_tokens": float(scheduler.prefix_hit_tokens),
            "busy_seconds": self._busy_seconds,
        }

    def close(self) -> None:
        """Stop after the step under way; unfinished futures raise `Unavailable`."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        in_flight: list[Launched] = []
        try:
            self.executor.enter()
            while self._collect(idle=not in_flight):
                started = time.monotonic()
                self._sweep(started)
                launched = self._launch(self.scheduler.plan())
                if self.lookahead:
                    in_flight, launched = launched, in_flight
                for done in launched:
                    self._commit(done)
                self._busy_seconds += time.monotonic() - started
            self._gone = "closed"
        except BaseException as error:
            logger.exception("the engine stops")
            self._gone = f"gone: {error}"
        finally:
            self._abandon()

    def _collect(self, *, idle: bool) -> bool:
        """Move the inbox to the scheduler, waiting for work if there is none; false when closed."""
        with self._wake:
            while idle and not (self._closed or self._inbox or self.scheduler.waiting or self.scheduler.running):
                self._wake.wait()
            arrived = list(self._inbox)
            self._inbox.clear()
        for ticket in arrived:
            self._tickets[ticket.sequence] = ticket
            self.scheduler.add(ticket.sequence)
        return not self._closed

    def _sweep(self, now: float) -> None:
        """End what was cancelled or is past its deadline."""
        for sequence, ticket in list(self._tickets.items()):
            deadline = sequence.request.deadline
            if ticket.future.cancelled():
                self._finish(ticket, "cancelled")
            elif deadline is not None and now >= deadline:
                self._finish(ticket, "deadline")

    def _launch(self, step: Step) -> list[Launched]:
        """Launch, cutting the step in halves where it fails, until only the guilty request is left out."""
        if step.is_empty:
            return []
        failure: Exception | None = None
        try:
            launched = self.executor.launch(step)
        except Exception as error:
            if is_fatal(error):
                raise
            failure = error
        if failure is not None:
            return self._launch_smaller(step, failure)
        rows = {"useful_rows": launched.useful_rows, "computed_rows": launched.computed_rows}
        self._counts.update(steps=1, images=launched.images, **rows)
        now = time.monotonic()
        for chunk in step.chunks:
            ticket = self._tickets.get(chunk.sequence)
            if ticket is not None and ticket.started is None:
                ticket.started = now
        return [launched]

    def _launch_smaller(self, step: Step, error: Exception) -> list[Launched]:
        out_of_memory = is_out_of_memory(error)
        if out_of_memory:
            limits = self.scheduler.limits
            budget = max(limits.chunk_tokens, limits.token_budget // 2)
            self.scheduler.limits = dataclasses.replace(limits, token_budget=budget)
            self.executor.make_room()
        sequences = step.sequences
        if len(sequences) > 1:
            logger.warning("a step of %d requests failed (%s); trying it in halves", len(sequences), error)
            first, second = step.halves()
            return self._launch(first) + self._launch(second)
        cause = "memory" if out_of_memory else "engine"
        ticket = self._tickets.get(sequences[0])
        if ticket is not None:
            logger.error("a request failed: %s", error, exc_info=None if out_of_memory else error)
            self._fail(
                ticket,
                PageFailed(f"the engine failed on this page: {type(error).__name__}: {error}", cause=cause),
            )
        return []

    def _commit(self, launched: Launched) -> None:
        """Read a step's tokens (the host waits here, and nowhere else) and end what is finished."""
        rows, taken, now = launched.tokens(), 0, time.monotonic()
        for sequence, position, draft, token, log_probability in rows:
            sequence.pending -= 1
            if sequence.state is State.FINISHED:
                continue  # ended while this token was under way
            if sequence.was_wrong(position, draft) or (token == sampling.NOT_FINITE and sequence.drop_draft(position)):
                if token == sampling.NOT_FINITE:
                    self.executor.clear(sequence, position)
                continue
            ticket = self._tickets[sequence]
            if token == sampling.NOT_FINITE:
                self._fail(ticket, PageFailed("the model's output is not a number on this page", cause="not-finite"))
                continue
            if ticket.first_token is None:
                ticket.first_token = now
            taken += 1
            sequence.take(token, log_probability, draft)
            try:
                reason = ticket.writing.ended(token)
            except Exception as error:
                self._fail(ticket, _no_text(error))
                continue
            if reason is not None:
                self._finish(ticket, reason)
        self._recent.append((now, taken))

    def _finish(self, ticket: Ticket, reason: str) -> None:
        """Give the answer; the request fails where its tokens make none: a model may know more than its tokenizer."""
        try:
            generation = self._generation(ticket, reason)
            result = ticket.convert(generation)
        except Exception as error:
            self._fail(ticket, _no_text(error))
            return
        self._release(ticket, reason)
        written = {"output_tokens": len(generation.tokens), "prompt_tokens": generation.prompt_tokens}
        drafts = {"drafted_tokens": generation.drafted, "accepted_tokens": generation.accepted}
        self._counts.update(finished=1, **written, **drafts)
        with suppress(InvalidStateError):  # cancelled meanwhile
            ticket.future.set_result(result)

    def _generation(self, ticket: Ticket, reason: str) -> Generation:
        sequence, now = ticket.sequence, time.monotonic()
        tokens, text, confidence = ticket.writing.worded(reason)
        return Generation(
            tokens=tuple(tokens),
            text=text,
            finish_reason=reason,
            prompt_tokens=sequence.prompt_length - sequence.request.written,
            seconds=now - ticket.submitted,
            queue_seconds=(ticket.started or now) - ticket.submitted,
            time_to_first_token_seconds=ticket.first_token - ticket.submitted if ticket.first_token else None,
            preemptions=sequence.preemptions,
            confidence=confidence,
            loop=ticket.writing.loop,
            drafted=sequence.drafted,
            accepted=sequence.accepted,
        )

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        ticket.sequence.error = str(error)
        self._release(ticket, "error")
        self._counts["failed"] += 1
        with suppress(InvalidStateError):  # cancelled meanwhile
            ticket.future.set_exception(error)

    def _release(self, ticket: Ticket, reason: str) -> None:
        self.scheduler.finish(ticket.sequence, reason)
        self.executor.forget(ticket.sequence)
        del self._tickets[ticket.sequence]

    def _abandon(self) -> None:
        with self._wake:
            left = [*self._tickets.values(), *self._inbox]
            self._inbox.clear()
        for ticket in left:
            with suppress(InvalidStateError):
                ticket.future.set_exception(Unavailable(f"the engine is {self._gone}; submit the page again"))


def _no_text(error: Exception) -> PageFailed:
    no_text = PageFailed(f"the model's answer is no text: {type(error).__name__}: {error}", cause="undecodable")
    return error if isinstance(error, PageFailed) else no_text
