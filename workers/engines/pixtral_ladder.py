"""What is tried where an answer fell into a loop, rung by rung, until one is good.

| rung | why it may help |
|---|---|
| as asked | |
| 0.3 warmer, then 0.8 | a loop is the likeliest way to go on; a draw leaves it, sooner or later |
| turned by 180°, 90°, 270° | a page on its head or its side is noise to the model, and noise makes it loop |
| in tiles of half the size | small print and crowded columns come larger, a piece at a time |

A try is good where it ended by itself, with some text, as much as half of what another had before its loop, and the
model was sure of it. Where none is, the one with most text that the model was sure of is taken; its finish_reason is
`repetition`, and people are told. Each try is kept.

A loop is rare, so the first try has all the speed, and the others a thread of their own to be prepared in: the engine's
has a device to feed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, replace

from pipeline.errors import PageFailed, Unavailable
from schemas.review_view import DOUBTED_BELOW
from schemas.tries import TryVerdict
from workers.engines import Answer, Try


@dataclass(frozen=True, slots=True)
class Rung:
    """How a try differs from what was asked."""

    warmer: float = 0.0  # in temperature
    quarter_turns: int = 0  # clockwise
    smaller_tiles: bool = False


LADDER = (
    Rung(),
    Rung(warmer=0.3),
    Rung(warmer=0.8),
    Rung(quarter_turns=2),
    Rung(quarter_turns=1),
    Rung(quarter_turns=3),
    Rung(smaller_tiles=True),
)

Ask = Callable[[int], Future[Answer] | None]
"""The try of a rung by its number in `LADDER`; None where the page gives none."""


class Climb:
    """One answer on its way: `future` is whoever asked has; `begin` asks for the first try, and raises as that does."""

    def __init__(self, ask: Ask, pool: Executor, deadline: float | None) -> None:
        self.future: Future[Answer] = Future()
        self._ask, self._pool, self._deadline = ask, pool, deadline
        self._rung = 0
        self._tries: list[Answer | PageFailed] = []
        self._under_way: Future[Answer] | None = None
        self._lock = threading.Lock()

    def begin(self) -> Future[Answer]:
        self.future.add_done_callback(self._pass_on)
        self._watch(self._ask(0))
        return self.future

    def _pass_on(self, future: Future[Answer]) -> None:
        """Whoever cancels the answer cancels the try under way."""
        with self._lock:
            under_way = self._under_way
        if future.cancelled() and under_way is not None:
            under_way.cancel()

    def _watch(self, one: Future[Answer] | None) -> None:
        if one is None:
            self._go_on()
            return
        with self._lock:
            self._under_way = one
        if self.future.cancelled():
            one.cancel()
        one.add_done_callback(self._ended)

    def _ended(self, one: Future[Answer]) -> None:
        """On the engine's thread, which logs what a callback raises and leaves the page to wait."""
        try:
            self._judge(one)
        except Exception as error:
            self._set(error)

    def _judge(self, one: Future[Answer]) -> None:
        if one.cancelled():
            self.future.cancel()
            return
        error = one.exception()
        if error is not None and not (self._tries and isinstance(error, PageFailed)):
            self._set(error)
            return
        answer = error if isinstance(error, PageFailed) else one.result()
        if not self._tries and isinstance(answer, Answer) and answer.finish_reason != "repetition":
            self._set(answer)
            return
        self._tries.append(answer)
        if verdicts(self._tries)[-1] == TryVerdict.GOOD:
            self._set(best_of(self._tries))
            return
        self._go_on()

    def _go_on(self) -> None:
        """To the next rung, if there is one and time for it."""
        self._rung += 1
        is_late = self._deadline is not None and time.monotonic() >= self._deadline
        if self._rung == len(LADDER) or is_late:
            self._set(best_of(self._tries))
            return
        try:
            self._pool.submit(self._next)
        except RuntimeError:
            self._set(Unavailable("the engine is closed; submit the page again"))

    def _next(self) -> None:
        if self.future.cancelled():
            return
        try:
            self._watch(self._ask(self._rung))
        except Exception as error:
            self._set(error)

    def _set(self, outcome: Answer | BaseException) -> None:
        with suppress(InvalidStateError):  # cancelled meanwhile
            if isinstance(outcome, Answer):
                self.future.set_result(outcome)
            else:
                self.future.set_exception(outcome)


def verdicts(tries: Sequence[Answer | PageFailed]) -> list[TryVerdict]:
    """Of each, beside the others."""
    looped = [len(one.text) for one in tries if isinstance(one, Answer) and one.finish_reason == "repetition"]
    return [_verdict(one, max(looped, default=0)) for one in tries]


_CUT = (TryVerdict.REPETITION, TryVerdict.LENGTH, TryVerdict.DEADLINE)
"""Verdicts that are the engine's own words for how an answer ended."""


def _verdict(one: Answer | PageFailed, longest: int) -> TryVerdict:
    if isinstance(one, PageFailed):
        return TryVerdict.FAILED
    if one.finish_reason != "stop":
        return TryVerdict(one.finish_reason) if one.finish_reason in _CUT else TryVerdict.FAILED
    if not one.text.strip():
        return TryVerdict.EMPTY
    if 2 * len(one.text) < longest:
        return TryVerdict.SHORT
    is_sure = one.confidence is None or one.confidence >= DOUBTED_BELOW
    return TryVerdict.GOOD if is_sure else TryVerdict.DOUBTED


def best_of(tries: Sequence[Answer | PageFailed]) -> Answer:
    """The last where it is good, else the one with most text that the model was sure of; with all tries."""
    judged = verdicts(tries)
    answers = [(number, one) for number, one in enumerate(tries) if isinstance(one, Answer)]
    is_good = judged[-1] == TryVerdict.GOOD
    chosen, best = answers[-1] if is_good else max(answers, key=lambda one: len(one[1].text) * (one[1].confidence or 0))
    return replace(
        best,
        finish_reason=best.finish_reason if is_good else "repetition",
        seconds=sum(one.seconds for _, one in answers),
        tries=tuple(
            _as_try(one, verdict, number == chosen)
            for number, (one, verdict) in enumerate(zip(tries, judged, strict=True))
        ),
    )


def _as_try(one: Answer | PageFailed, verdict: TryVerdict, is_chosen: bool) -> Try:
    if isinstance(one, PageFailed):
        return Try(verdict, error=str(one))
    return Try(
        verdict,
        error=f"it ended with {one.finish_reason!r}" if verdict == TryVerdict.FAILED else None,
        text=one.text,
        finish_reason=one.finish_reason,
        temperature=one.temperature,
        angle=one.angle,
        tiles=len(one.details["tiles"]) if "tiles" in one.details else None,
        prompt_tokens=one.prompt_tokens,
        output_tokens=one.output_tokens,
        seconds=one.seconds,
        confidence=one.confidence,
        is_chosen=is_chosen,
    )
