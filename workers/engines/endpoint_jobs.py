"""Pages gathered into jobs of a batch API, and told what became of them.

    page ──► waits for company ──► in a job that is known? ──► follow it, once it is made
                                   else write it down, upload, create, write its id down, follow it

Everything here runs on the client's event loop; the book, which is a database, is asked on another thread. A page that
is cancelled leaves its job running: whoever asks for it again, in this process or the next, finds the job in the book.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from pipeline.endpoints import mistral_batch
from pipeline.endpoints.chat import Completion
from pipeline.endpoints.client import Client
from pipeline.endpoints.mistral_ocr import page_of
from pipeline.errors import PagepackError, Unavailable

log = logging.getLogger("pagepack.endpoint")

GATHER_SECONDS = 3.0  # so long after the last page came a job is made of those that wait
POLL_SECONDS = (1.0, 60.0)  # first and longest, between two looks at a job
ALIVE_SECONDS = 15.0  # so long after its maker's last word a job is still being made; a word comes thrice as often


class Known(Protocol):
    @property
    def key(self) -> str: ...
    @property
    def job_id(self) -> str | None: ...
    @property
    def heard_seconds(self) -> float: ...


class Book(Protocol):
    """Where jobs are written down: `pipeline/store/endpoint_jobs.py`."""

    def find(self, model: str, pages: Collection[str]) -> Mapping[str, Known]: ...
    def begin(self, key: str, model: str, pages: Collection[str], instead_of: str | None = None) -> set[str]: ...
    def is_being_made(self, key: str) -> None: ...
    def made(self, key: str, job_id: str) -> None: ...
    def drop(self, key: str, pages: Collection[str] | None = None) -> None: ...


@dataclass(slots=True)
class _Waiting:
    line: bytes  # of the file that is uploaded; empty once a job has it
    results: list[asyncio.Future[Completion]]  # the same image may be asked about twice


class Jobs:
    """Of one model, by its fingerprint; `asked` is its name at the server."""

    def __init__(
        self,
        client: Client,
        book: Book,
        model: str,
        asked: str,
        most_pages: int,
        cost: Callable[[int, int, int], float | None],
    ) -> None:
        self._client = client
        self._book = book
        self._model = model
        self._asked = asked
        self._most_pages = most_pages
        self._cost = cost
        self._waiting: dict[str, _Waiting] = {}
        self._tasks: dict[asyncio.Task[None], dict[str, _Waiting]] = {}  # with the pages that each is to answer
        self._flush_at: asyncio.TimerHandle | None = None

    async def read(self, page: str, line: bytes) -> Completion:
        """What a job answers to this page, whose request is a line of its file.

        Raises: PageFailed, Unavailable, EndpointGone.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Completion] = loop.create_future()
        for pages in (self._waiting, *self._tasks.values()):
            if page in pages:
                pages[page].results.append(result)
                return await result
        self._waiting[page] = _Waiting(line, [result])
        del line
        if self._flush_at is not None:
            self._flush_at.cancel()
        is_full = len(self._waiting) >= self._most_pages
        self._flush_at = loop.call_later(0.0 if is_full else GATHER_SECONDS, self._flush)
        return await result

    async def close(self) -> None:
        """Jobs go on at the server."""
        if self._flush_at is not None:
            self._flush_at.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _flush(self) -> None:
        pages, self._waiting = self._waiting, {}
        if pages:
            self._spawn(self._place(pages), pages)

    def _spawn(self, work: Any, pages: dict[str, _Waiting]) -> None:
        """Whatever happens, none of these pages waits for ever."""

        async def guarded() -> None:
            try:
                await work
            except PagepackError as error:
                _fail(pages, error)
            except Exception as error:
                log.exception("a job of %s failed", self._client.name)
                _fail(pages, Unavailable(f"its job failed: {error}", cause="endpoint"))
            finally:
                _fail(pages, Unavailable("its job was left", cause="endpoint"))
                pages.clear()  # who asks again now shall not be forgotten

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks[task] = pages
        task.add_done_callback(self._tasks.pop)

    async def _place(self, pages: dict[str, _Waiting]) -> None:
        """Each page into the job that has it, and those that no job has into new ones."""
        known = await asyncio.to_thread(self._book.find, self._model, list(pages))
        of_job: dict[Known, dict[str, _Waiting]] = {}
        new = dict(pages)
        for page, job in known.items():
            of_job.setdefault(job, {})[page] = new.pop(page)
        for job, members in of_job.items():
            self._spawn(self._await_made(job, members), members)
        for members in _parts(new, self._most_pages):
            self._spawn(self._make(members), members)
        pages.clear()  # each is another's to answer now

    async def _await_made(self, job: Known, pages: dict[str, _Waiting]) -> None:
        """Until it has an id; where its maker died before, the server may know it by its key."""
        job_id = job.job_id
        if job_id is None and (found := await mistral_batch.find(self._client, job.key)) is not None:
            job_id = found.id
            await asyncio.to_thread(self._book.made, job.key, job_id)
        if job_id is None and job.heard_seconds < ALIVE_SECONDS:  # another worker uploads it
            await asyncio.sleep(min(POLL_SECONDS[1], ALIVE_SECONDS / 3))
            await self._place(pages)
        else:
            await self._follow(job.key, job_id, pages)

    async def _make(self, pages: dict[str, _Waiting], instead_of: str | None = None) -> None:
        """A job of them. Of those that `instead_of` had, whoever takes them from it first makes the new one."""
        key = uuid.uuid4().hex
        ours = await asyncio.to_thread(self._book.begin, key, self._model, list(pages), instead_of)
        others = {page: pages.pop(page) for page in list(pages) if page not in ours}
        if others:
            self._spawn(self._place(others), others)
        if not pages:
            return
        words = asyncio.get_running_loop().create_task(self._keep_saying(key))
        try:
            file = mistral_batch.upload(self._client, [one.line for one in pages.values()], f"pagepack-{key}")
            file_id = await file
            job = await mistral_batch.create(self._client, file_id, self._asked, key)
        except Unavailable:
            raise  # written down: whoever comes next looks for it at the server
        except PagepackError:
            await asyncio.to_thread(self._book.drop, key)
            raise
        finally:
            words.cancel()
        await asyncio.to_thread(self._book.made, key, job.id)
        log.info("%s: job %s has %d pages", self._client.name, job.id, len(pages))
        await self._follow(key, job.id, pages)

    async def _keep_saying(self, key: str) -> None:
        """That the job is being made, to other workers with the same pages."""
        while True:
            await asyncio.sleep(ALIVE_SECONDS / 3)
            with suppress(PagepackError):
                await asyncio.to_thread(self._book.is_being_made, key)

    async def _follow(self, key: str, job_id: str | None, pages: dict[str, _Waiting]) -> None:
        """Until the job is over and its pages are told."""
        job = None if job_id is None else await self._end_of(job_id, pages)
        if job is None:  # it was never made, or the server has forgotten it
            if not all(waiting.line for waiting in pages.values()):
                await asyncio.to_thread(self._book.drop, key, list(pages))
                raise Unavailable(f"{self._client.name} does not know job {job_id} any more", cause="endpoint")
            await self._make(pages, instead_of=key)
            return
        await self._tell(key, job, pages)

    async def _end_of(self, job_id: str, pages: Mapping[str, _Waiting]) -> mistral_batch.Job | None:
        wait, longest = POLL_SECONDS
        while True:
            job = await mistral_batch.look_at(self._client, job_id)
            if job is None or job.is_over:
                return job
            for waiting in pages.values():
                waiting.line = b""  # it is at the server
            await asyncio.sleep(wait)
            wait = min(2 * wait, longest)

    async def _tell(self, key: str, job: mistral_batch.Job, pages: dict[str, _Waiting]) -> None:
        understood = partial(page_of, cost=self._cost)
        answers = await mistral_batch.answers(self._client, job, pages, understood)
        told = {page: answers.get(page) or _unanswered(job) for page in pages}
        unanswered = [page for page, one in told.items() if isinstance(one, PagepackError)]
        if unanswered:  # another try is another job's
            await asyncio.to_thread(self._book.drop, key, unanswered)
        for page, one in told.items():
            for result in pages.pop(page).results:
                if result.done():
                    continue
                if isinstance(one, PagepackError):
                    result.set_exception(one)
                else:
                    result.set_result(one)
        answered = len(told) - len(unanswered)
        log.info("%s: job %s is over, %d of %d pages are answered", self._client.name, job.id, answered, len(told))


def _unanswered(job: mistral_batch.Job) -> PagepackError:
    why = f"{job.status}{f': {job.errors}' if job.errors else ''}"
    return Unavailable(f"job {job.id} ended without this page ({why})", cause="endpoint")


def _fail(pages: Mapping[str, _Waiting], error: PagepackError) -> None:
    for waiting in pages.values():
        for result in waiting.results:
            if not result.done():
                result.set_exception(error)


def _parts(pages: dict[str, _Waiting], most: int) -> list[dict[str, _Waiting]]:
    """As many jobs as their number and the size of a file ask for."""
    parts: list[dict[str, _Waiting]] = []
    size = 0
    for page, waiting in pages.items():
        size += len(waiting.line)
        if not parts or len(parts[-1]) >= most or size > mistral_batch.MOST_BYTES:
            parts.append({})
            size = len(waiting.line)
        parts[-1][page] = waiting
    return parts
