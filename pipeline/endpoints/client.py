"""One server, asked by many threads: a thread with an event loop sends, keeps the pace, and tries again what may pass.

    start(coroutine) ──► event loop: lane ──► one try ──► Reply
                            ▲  wait by backoff     │
                            └──────────────────────┘   429, 5xx, a lost connection, no answer in time

A try that failed for a reason that may pass is repeated until the deadline. Who is told what in the end:

    PageFailed      the server refuses this request (400, 413, 422…), or the deadline passed while it worked on it
    Unavailable     this request failed again and again, and others were answered meanwhile
    EndpointGone    nobody is served: the key or the address is refused, the quota is used up, or nothing was answered
                    for long

The key goes into one header and nowhere else: messages are cleaned of it, and hold no address beyond host and path.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx2

from pipeline.endpoints.exchange import Asked, Reply, Taker
from pipeline.endpoints.failures import Judge, Passing
from pipeline.endpoints.health import Health
from pipeline.endpoints.lane import Lane
from pipeline.endpoints.pace import Window, backoff_seconds
from pipeline.endpoints.words import shown_url
from pipeline.errors import EndpointGone, PageFailed, PagepackError, Unavailable

log = logging.getLogger("pagepack.endpoint")
for _name in ("httpx2", "httpcore2"):  # a line for each request, in INFO
    logging.getLogger(_name).setLevel(logging.WARNING)

T = TypeVar("T")

MOST_BYTES = 32 * 2**20  # of an answer: a page of text with its log-probabilities has one or two
_CONNECT_SECONDS = 15.0
_MOST_TRIES = 5  # of a request that fails while others are answered
_REFUSED_SECONDS = 5.0
_WARN_SECONDS = 60.0
SILENT_SECONDS = 10.0  # without any answer, then it is said


@dataclass(frozen=True, slots=True)
class Server:
    """Whom to ask, and how hard. `url` is the base, as https://host/v1."""

    url: str
    key: str | None = field(default=None, repr=False)
    most_at_once: int = 16
    request_seconds: float = 300.0
    gone_seconds: float = 120.0  # as `Health` says
    settings: str = "PAGEPACK_ENDPOINT"  # how the settings that name it begin, for messages


class Client:
    """Safe to call from many threads. `close` ends what is on its way: it raises Unavailable."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.name = shown_url(server.url)
        self._judge = Judge(self.name, server.key, server.settings)
        self.unknown_fields: set[str] = set()  # of requests, which this server refuses
        self._lane = Lane(Window(server.most_at_once))
        self._health = Health(server.gone_seconds, server.request_seconds)
        self._warned_at = self._silence_told_at = -_WARN_SECONDS
        self._refusal, self._refused_until = "", 0.0  # by which all that wait to be sent are told
        self._is_closed = False
        self._tries = self._answers = 0
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
        self._thread.start()
        self._http = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    async def _open(self) -> httpx2.AsyncClient:
        key = self.server.key
        headers = {"accept": "application/json"} | ({} if key is None else {"authorization": f"Bearer {key}"})
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=self.server.most_at_once)
        timeout = httpx2.Timeout(None, connect=_CONNECT_SECONDS)  # the rest is counted from end to end
        return httpx2.AsyncClient(headers=headers, limits=limits, timeout=timeout, follow_redirects=False)

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine that uses `send` on the client's thread. Cancelling the future ends its request."""
        if self._is_closed:
            work.close()
            closed: Future[T] = Future()
            closed.set_exception(Unavailable(f"the client of {self.name} is closed"))
            return closed
        return asyncio.run_coroutine_threadsafe(self._kept(work), self._loop)

    def stats(self) -> dict[str, float]:
        """tries and answers since the start; in_flight, waiting and room now."""
        return {
            "tries": float(self._tries),
            "answers": float(self._answers),
            "in_flight": float(self._lane.in_flight),
            "waiting": float(self._lane.waiting),
            "room": float(self._lane.window.room),
        }

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.aclose()

    async def _kept(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            return await work
        except asyncio.CancelledError:
            if self._is_closed:
                raise Unavailable(f"the client of {self.name} was closed before it answered") from None
            raise
        except PagepackError as error:  # a server may say the key in an answer with any status
            raise self._judge.cleaned(error) from None
        finally:
            self._tasks.discard(task)

    async def send(
        self,
        method: str,
        path: str,
        deadline: float | None = None,
        *,
        most_bytes: int = MOST_BYTES,
        request_seconds: float | None = None,
        is_repeatable: bool = True,
        may_be_missing: bool = False,
        taker: Taker | None = None,
        **content: Any,
    ) -> Reply:
        """Ask until it is answered; `content` as httpx takes it (json, files, data). On the client's thread only.

        `deadline` is a `time.monotonic()` moment. What is not repeatable is sent once, whatever comes of it. With
        `may_be_missing` a 404 is of this path alone: PageFailed. A `taker` gets the content of what succeeds; the reply
        has none.

        Raises: PageFailed, Unavailable, EndpointGone.
        """
        seconds = request_seconds or self.server.request_seconds
        asked = Asked(method, path, most_bytes, seconds, may_be_missing, taker, content)
        failed: Passing | None = None
        first_failed_at = 0.0
        tries = 0
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    await self._enter(deadline)
                    if self._loop.time() < self._refused_until:
                        self._lane.leave()
                        raise EndpointGone(self._refusal)
                    sent_at = self._loop.time()
                    try:
                        reply = await self._try(asked)
                    except Passing as failure:
                        tries += 1
                        failed, first_failed_at = failure, first_failed_at or self._loop.time()
                        self._note_failure(failure, sent_at)
                        if not is_repeatable:
                            raise Unavailable(f"{self.name}: {failure}", cause="endpoint") from None
                        self._give_up_perhaps(failure, tries, first_failed_at)
                        wait = max(backoff_seconds(tries), failure.retry_after or 0.0)
                        if deadline is not None and self._loop.time() + wait >= deadline:
                            raise TimeoutError from None
                    except EndpointGone as gone:  # with a wrong key nobody knocks a hundred times
                        self._refusal, self._refused_until = str(gone), self._loop.time() + _REFUSED_SECONDS
                        raise
                    else:
                        self._note_answer()
                        return reply._replace(tries=tries + 1)
                    finally:
                        self._lane.leave()
                    await asyncio.sleep(wait)
        except TimeoutError:
            if failed is None:
                words = f"{self.name} did not answer in the time that was left; raise PAGEPACK_PAGE_SECONDS"
                raise PageFailed(words, cause="deadline") from None
            raise self._after(failed, tries, first_failed_at) from None

    async def _enter(self, deadline: float | None) -> None:
        if deadline is not None and self._lane.paused_until > deadline:
            raise self._is_paused()
        await self._lane.enter()

    def _is_paused(self, words: str = "") -> EndpointGone:
        seconds = self._lane.paused_until - self._loop.time()
        said = f" ({words})" if words else ""
        gone = EndpointGone(
            f"{self.name} asks to be left alone for another {seconds:,.0f} s{said}; run the same command again then"
        )
        gone.retry_after_seconds = seconds
        return gone

    async def _try(self, asked: Asked) -> Reply:
        started = self._loop.time()
        silence = self._loop.call_later(SILENT_SECONDS, self._note_silence, started, asked.seconds)
        self._tries += 1
        base = httpx2.URL(self.server.url)
        url = base.copy_with(path=base.path.rstrip("/") + asked.path)
        try:
            async with (
                asyncio.timeout(asked.seconds),
                self._http.stream(asked.method, url, **asked.content) as response,
            ):
                body, size = bytearray(), 0
                taker = asked.taker if response.is_success else None
                if taker is not None:
                    taker.begin()
                async for part in response.aiter_bytes():
                    size += len(part)
                    if size <= asked.most_bytes and taker is not None:
                        taker.take(part)
                    elif size <= asked.most_bytes:
                        body += part
                    else:
                        raise Unavailable(
                            f"{self.name} answered with more than {asked.most_bytes / 2**20:,.0f} MiB; is it a model's "
                            "server?",
                            cause="bad-answer",
                        )
        except TimeoutError:
            raise Passing(f"no answer within {asked.seconds:g} s (PAGEPACK_ENDPOINT_SECONDS)", is_busy=True) from None
        except httpx2.DecodingError:
            raise Unavailable(f"{self.name} answered what cannot be decompressed", cause="bad-answer") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            raise self._judge.lost(error) from None
        finally:
            silence.cancel()
        if response.is_success:
            return Reply(bytes(body), response.headers.get("content-type", ""), self._loop.time() - started, 0)
        if response.status_code == 404 and asked.may_be_missing:
            raise PageFailed(f"{self.name} has no {asked.path}", cause="refused")
        has_answered = self._health.answered_at is not None
        raise self._judge.refused(response.status_code, response.headers, bytes(body), has_answered)

    def _note_silence(self, started: float, seconds: float) -> None:
        """Else whoever waits sees nothing until a request is given up."""
        silent = (now := self._loop.time()) - max(started, self._health.answered_at or started)
        if silent >= 0.9 * SILENT_SECONDS and now - self._silence_told_at >= _WARN_SECONDS:
            self._silence_told_at = now
            words = "%s has not answered for %.0f s; a request is given up after %g s (PAGEPACK_ENDPOINT_SECONDS)"
            log.warning(words, self.name, silent, seconds)

    def _note_answer(self) -> None:
        self._answers += 1
        self._lane.window.answered()
        if self._health.answered(self._loop.time()):
            log.warning("%s answers again", self.name)

    def _note_failure(self, failure: Passing, sent_at: float) -> None:
        now = self._loop.time()
        if failure.is_busy:
            self._lane.window.refused(sent_at, now)
        if failure.retry_after:
            self._lane.pause_until(now + failure.retry_after)
        self._health.failed(now)
        if now - self._warned_at >= _WARN_SECONDS:  # a server that is pressed to its limit refuses one now and then
            self._warned_at = now
            log.warning("%s: %s; trying again", self.name, failure)

    def _give_up_perhaps(self, failure: Passing, tries: int, first_failed_at: float) -> None:
        if failure.retry_after is not None:
            return
        is_alone = tries >= _MOST_TRIES and self._health.has_answered_since(first_failed_at)
        if is_alone or self._health.is_gone(self._loop.time()):
            raise self._after(failure, tries, first_failed_at)

    def _after(self, failure: Passing, tries: int, first_failed_at: float) -> PagepackError:
        """What a request that is given up ends with."""
        if failure.retry_after and self._lane.paused_until > self._loop.time():
            return self._is_paused(str(failure))
        if self._health.has_answered_since(first_failed_at):
            return Unavailable(f"{self.name} failed {tries} times at this page: {failure}", cause="endpoint")
        since = self._loop.time() - (self._health.failing_since or first_failed_at)
        return EndpointGone(
            f"{self.name} has not answered anything for {since:,.0f} s ({failure}); run the same command again when it "
            "is there"
        )
