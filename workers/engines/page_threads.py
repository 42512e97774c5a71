"""Pages that wait, and the threads that read them: what the CPU engines have in common.

A page is read on one thread from end to end, as many at once as there are cores. What a page costs is native code that
releases the GIL, so every core is busy.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.cores import num_cores
from pipeline.daemons import start_daemon
from pipeline.errors import PageFailed, PagepackError, Unavailable
from schemas.prompts import Prompt
from workers.engines import Answer, Begun, Engine

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(eq=False, slots=True)
class _Job:
    pixels: NDArray[np.uint8]
    deadline: float | None
    future: Future[Answer]

    @property
    def is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline


class Closed(Exception):
    """Ends a page between two of its steps: the engine closes."""


class PageThreads(Engine, ABC):
    """An engine that answers the prompt `ocr` alone, with a thread a page; a subclass says how one page is read.

    A page past its deadline, waiting or running, ends with finish_reason "deadline" and the text that it has. A future
    that waits can be cancelled; one that runs cannot.
    """

    name: str
    model: str

    def __init__(self, num_threads: int | None = None) -> None:
        """`num_threads`: pages read at once; by default the cores that this process may use."""
        num_threads = num_threads or num_cores()
        self.capacity = 2 * num_threads  # one page read and one waiting for each thread
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._stats = {"pages": 0.0, "lines": 0.0, "failed": 0.0, "seconds": 0.0}
        self._threads = [
            start_daemon(f"{self.name}-{i}", self._work, longest_seconds=1.0, is_over=lambda: self._closed)
            for i in range(num_threads)
        ]

    @abstractmethod
    def _read(self, pixels: NDArray[np.uint8], is_late: Callable[[], bool]) -> Answer:
        """One page's answer. Asks `is_late` between its steps, which raises `Closed` where the engine closes.

        Raises: PageFailed with the page's own reason; what else is raised becomes one.
        """

    def supports(self, prompt: Prompt) -> bool:
        return prompt.name == "ocr" and not prompt.takes_hint

    def submit(
        self,
        image_hash: str,
        pixels: NDArray[np.uint8],
        prompts: Sequence[Prompt],
        deadline: float | None = None,
        begun: Sequence[Begun | None] = (),
    ) -> list[Future[Answer]]:
        """Queue one page; `pixels` must not change until its futures are done."""
        futures: list[Future[Answer]] = []
        for prompt in prompts:
            future: Future[Answer] = Future()
            futures.append(future)
            if not self.supports(prompt):
                message = (
                    f"{self.name} transcribes only (prompt `ocr`), it cannot answer `{prompt.name}`; "
                    "use --engine pixtral"
                )
                future.set_exception(PageFailed(message, cause="unsupported-prompt"))
                continue
            with self._changed:
                if self._closed:
                    future.set_exception(Unavailable(f"the {self.name} engine is closed"))
                else:
                    self._waiting.append(_Job(pixels, deadline, future))
                    self._changed.notify()
        return futures

    def stats(self) -> dict[str, float]:
        """pages, lines and failed since the start; seconds: reading time summed over threads; waiting: pages now."""
        with self._changed:
            return {**self._stats, "waiting": float(len(self._waiting)), "threads": float(len(self._threads))}

    def close(self) -> None:
        with self._changed:
            self._closed = True
            jobs, self._waiting = self._waiting, deque()
            self._changed.notify_all()
        for job in jobs:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(Unavailable(f"the {self.name} engine was closed before this page was read"))
        # Native threads that outlive the interpreter crash it.
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _work(self) -> None:
        while (job := self._next_job()) is not None:
            started = time.monotonic()
            num_lines, failed = 0, 0
            try:
                answer = self._read(job.pixels, self._is_late(job))
                num_lines = len(answer.details.get("lines", ()))
                job.future.set_result(answer)
            except Closed:
                job.future.set_exception(Unavailable(f"the {self.name} engine was closed while it read this page"))
            except PagepackError as error:
                failed = 1
                job.future.set_exception(error)
            except Exception as exc:
                failed = 1
                job.future.set_exception(self._page_failed(job.pixels, exc))
            finally:
                if not job.future.done():  # whoever waits for it must hear of it, too
                    job.future.set_exception(Unavailable("the thread that read this page failed; its log says why"))
            with self._changed:
                self._stats["pages"] += 1 - failed
                self._stats["failed"] += failed
                self._stats["lines"] += num_lines
                self._stats["seconds"] += time.monotonic() - started
            del job  # hold no page's pixels while waiting for the next

    def _is_late(self, job: _Job) -> Callable[[], bool]:
        def is_late() -> bool:
            if self._closed:
                raise Closed
            return job.is_late

        return is_late

    def _next_job(self) -> _Job | None:
        """Waits for a page; on the way, answers every waiting page whose deadline has passed. None: closed."""
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return None
                late = [job for job in self._waiting if job.is_late]
                if late:
                    self._waiting = deque(job for job in self._waiting if job not in late)
                job = self._waiting.popleft() if self._waiting else None
            for one in late:  # outside the lock: a future's callbacks may submit
                if one.future.set_running_or_notify_cancel():
                    one.future.set_result(Answer("", "deadline", 0.0))
            if job is not None and job.future.set_running_or_notify_cancel():
                return job

    def _page_failed(self, pixels: NDArray[np.uint8], exc: Exception) -> PageFailed:
        fact = str(exc).strip().splitlines()[-1:] or [type(exc).__name__]
        return PageFailed(f"{self.name} cannot read an image of shape {getattr(pixels, 'shape', None)}: {fact[0]}")
