"""A batch followed until it ends or the user leaves; a database that is away meanwhile is waited for."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pipeline.cli.where import looking_words
from pipeline.database.engine import Database
from pipeline.database.open import open_database
from pipeline.database.retry import R, insist
from pipeline.errors import Unavailable
from pipeline.query.batch_status import asked_prompts, find_batch
from pipeline.query.go_on import shell_quoted
from pipeline.settings import Settings
from pipeline.store.batches import OpenBatch
from pipeline.store.fleet import WorkerRow, why_nobody_reads, workers
from pipeline.store.progress import batch_state
from pipeline.store.task_counts import Progress, progress
from schemas.states import BatchState

if TYPE_CHECKING:
    from pipeline.cli.progress_bar import ProgressBar


class Follower:
    """Looks at a batch again and again, while its database may go away and its user may leave.

    A database that was there is asked until it answers again; it is said once that it is gone, and once that it is
    back. Without an end, as workers do: a batch that is paused is followed for ever, too. Whoever wants a bound has
    `timeout`, and Ctrl-C.

    Ctrl-C and SIGTERM raise KeyboardInterrupt in `look` and `rest`, at once: a look is a thread's, which is left alone
    with a silent server. Raised within the driver, it would wait for that server for twelve seconds, and print.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._leaves = False
        self.answers_since = 0.0  # the end of the last outage

    def __enter__(self) -> Self:
        for number in _LEAVING:
            signal.signal(number, self._leave)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number in _LEAVING:
            signal.signal(number, signal.default_int_handler)

    def _leave(self, *_: object) -> None:
        self._leaves = True

    def look(self, call: Callable[[], R]) -> R:
        """Raises what no waiting mends, such as a password that is refused."""
        answer: Future[R] = Future()
        has_begun = False

        def begin(error: Unavailable) -> None:
            nonlocal has_begun
            has_begun = True
            self._say(f"{error}; waiting until it answers, Ctrl-C leaves. Nothing is lost meanwhile")

        def ask() -> None:
            try:
                answer.set_result(insist(call, lambda: self._leaves, begin))
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=ask, name="look", daemon=True).start()
        while not wait([answer], timeout=_STEP_SECONDS).done:
            self.rest(0)
        self.rest(0)
        found = answer.result()
        if has_begun:
            self.answers_since = time.monotonic()
            self._say("the database answers again")
        return found

    def rest(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._leaves and (left := until - time.monotonic()) > 0:
            time.sleep(min(_STEP_SECONDS, left))
        if self._leaves:
            raise KeyboardInterrupt


def how_to_follow(settings: Settings, batch_id: str) -> str:
    """What is said to a person who leaves."""
    command = ["pagepack", "status", batch_id, "--watch", *looking_words(settings)]
    return f"the batch goes on without you; follow it again: {' '.join(map(shell_quoted, command))}"


def follow_batch(settings: Settings, batch: OpenBatch, bar: ProgressBar, is_stopping: Callable[[], bool]) -> bool:
    """Show a batch's progress until it ends; False where the user left first."""
    try:
        with Follower(bar.say) as follower:
            if is_stopping():  # by the signal's handler before this
                return False
            db = follower.look(lambda: open_database(settings, readonly=True))
            try:
                _follow(db, batch, bar, follower)
            finally:
                db.dispose()
    except KeyboardInterrupt:
        return False
    return True


_LEAVING = (signal.SIGINT, signal.SIGTERM)
_STEP_SECONDS = 0.1
_LOOK_SECONDS = 1.0
_ALONE_SECONDS = 15.0


def _follow(db: Database, batch: OpenBatch, bar: ProgressBar, follower: Follower) -> None:
    """Show a batch's progress until it ends, and say so if nobody reads."""
    asked, prompts = follower.look(lambda: (find_batch(db, batch.public_id), asked_prompts(db, batch.id)))
    alone_since = time.monotonic()
    next_count = 0.0

    def look() -> tuple[bool, Progress | None, float, list[WorkerRow]]:
        started = time.monotonic()
        is_over = batch_state(db, batch.id) in (BatchState.FINISHED, BatchState.CANCELLED)
        counted = progress(db, batch.id) if is_over or started >= next_count else None
        return is_over, counted, time.monotonic() - started, workers(db)

    while True:
        is_over, counted, took, there = follower.look(look)
        if counted is not None:
            bar.show(counted, None, True)
            next_count = time.monotonic() + 20 * took  # counting a large batch must not become the work
        if is_over:
            return
        there = [row for row in there if row.role != "run"]
        why = why_nobody_reads(there, asked.engine, asked.model, prompts, is_hinted=asked.text_layer == "hint")
        alone_since = max(alone_since, follower.answers_since)  # workers, too, must find it again
        if why is None:
            alone_since = time.monotonic()
        elif time.monotonic() - alone_since > _ALONE_SECONDS:
            bar.say(why)
            alone_since = time.monotonic() + 300 - _ALONE_SECONDS
        follower.rest(_LOOK_SECONDS)
