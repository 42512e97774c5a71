"""Documents into page images, drawn by a child process that may hang, bomb or crash without harm.

One `Rasterizer` holds one child and hands it document after document; starting a child costs about 0.3 s, most of it
MuPDF's import. When the child dies or outlives its time, that page has failed, and a fresh child goes on at the next:

    child:   page 0 · page 1 · page 2 hangs, killed        fresh child: page 3 · page 4 …
    caller:  RasterizedPage · RasterizedPage · PageFailure(timeout) · RasterizedPage …

The caller gets every page from the first one asked for to the last, once and in order. A crash is tried a second time,
for the child may have been killed for another's sake (out of memory, a stray signal); a timeout is not. At most two
pages are in flight: the child sends pixels and draws ahead, the caller's process encodes them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from pipeline.documents.files import FLOWING, display, open_regular
from pipeline.documents.pages.raster import drawn_for
from pipeline.documents.render_process import Child, ChildGone, RasterizedPage
from pipeline.errors import DocumentRejected, PageFailed
from pipeline.settings import Settings

MAX_DEATHS_IN_A_ROW = 5  # then the rest of the document fails: 20,000 pages of 30 s would hold a worker for a week


@dataclass(frozen=True, slots=True)
class PageFailure:
    """A page that gave no image: `damaged`, `too-large`, `timeout`, `memory` or `crash`."""

    page_index: int
    error: PageFailed


class Rasterizer:
    """One sandboxed process, used by one thread at a time; that thread must outlive it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._child: Child | None = Child(settings)  # imports while the caller looks for files

    def open(
        self,
        path: str | Path,
        kind: str,
        *,
        file: BinaryIO | None = None,
        name: str | None = None,
        detail: str | None = None,
    ) -> OpenDocument:
        """Open a document; use it in a `with`, one at a time.

        `detail` is as `pages/size.py` and `pages/raster.py` say, else as the settings have it, for their model. Where
        `file` is given, it is read instead of the path, and closed in the end; `name` is for messages.

        Raises:
            DocumentRejected: `encrypted`, `damaged`, `empty`, `too-large`, `timeout`, `memory`, `crash`, or what
                `files.open_regular` raises.
            Unavailable: no child process can be started.
        """
        asked = detail or drawn_for(self._settings)
        return OpenDocument(self, kind, asked, file or open_regular(path), name or display(os.fspath(path)))

    def child(self) -> Child:
        """The child, ready to work: the one held, or a fresh one where that has died or is worn."""
        if self._child is not None and self._child.is_worn():
            self.close()
        if self._child is None:
            self._child = Child(self._settings)
        self._child.wait_ready()
        return self._child

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class OpenDocument:
    """A document open in the child. `size_bytes` and `modified_ns` are those of the file as opened."""

    def __init__(self, rasterizer: Rasterizer, kind: str, detail: str, file: BinaryIO | FileIO, name: str) -> None:
        self._rasterizer, self._kind, self._detail, self._name = rasterizer, str(kind), detail, name
        self._seconds = rasterizer._settings.rasterize_seconds
        self._file = file
        try:
            status = os.fstat(self._file.fileno())
            self.size_bytes, self.modified_ns = status.st_size, status.st_mtime_ns
            self._holder, self.page_count = self._open()
        except BaseException:
            self._file.close()
            raise

    def pages(self, first_page: int = 0, end_page: int | None = None) -> Iterator[RasterizedPage | PageFailure]:
        """Every page from `first_page` (counted from 0) on, up to `end_page` where one is given, once and in order."""
        page_index, deaths_in_a_row, tried_again = first_page, 0, -1
        end = self.page_count if end_page is None else min(end_page, self.page_count)
        try:
            while page_index < end:
                try:
                    for result in self._stream(page_index, end):
                        page_index, deaths_in_a_row = page_index + 1, 0
                        yield result
                except DocumentRejected as error:  # it opened once, and does not any more
                    yield from self._give_up(page_index, end, error.cause, str(error))
                    page_index = end
                except ChildGone as gone:
                    self._rasterizer.close()
                    if gone.cause == "crash" and tried_again != page_index:
                        tried_again = page_index
                        continue
                    yield self._failure(page_index, gone.cause, str(gone))
                    page_index, deaths_in_a_row = page_index + 1, deaths_in_a_row + 1
                    if deaths_in_a_row == MAX_DEATHS_IN_A_ROW:
                        reason = f"not tried, for the {deaths_in_a_row} pages before it ended in {gone.cause}"
                        yield from self._give_up(page_index, end, gone.cause, reason)
                        page_index = end
        finally:
            if page_index < end:  # the caller turned away: what the child still sends is for nobody
                self._rasterizer.close()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _open(self) -> tuple[Child, int]:
        """Open the file in a child; a child that crashes over it is tried a second time."""
        for is_last_try in (False, True):
            child = self._rasterizer.child()
            try:
                child.send({"op": "open", "kind": self._kind, "detail": self._detail}, self._file.fileno())
                answer = child.receive(self._seconds)
                if answer["is"] == "rejected":
                    raise DocumentRejected(f"{self._name}: {answer['text']}", cause=str(answer["cause"]))
                return child, int(answer["page_count"])
            except DocumentRejected:
                raise
            except BaseException as error:
                self._rasterizer.close()
                if not isinstance(error, ChildGone):
                    raise
                if is_last_try or error.cause != "crash":
                    raise DocumentRejected(f"{self._name} cannot be opened: {error}", cause=error.cause) from error
        raise AssertionError("the last try returns or raises")

    def _stream(self, first_page: int, end: int) -> Iterator[RasterizedPage | PageFailure]:
        """Pages as one child sends them: all up to `end`, or until it is worn."""
        if self._rasterizer.child() is not self._holder:
            self._holder, _ = self._open()
        self._holder.send({"op": "pages", "first": first_page, "end": end})
        for page_index in range(first_page, end):
            message = self._holder.receive(self._seconds)
            if message["is"] == "failed":
                yield self._failure(page_index, str(message["cause"]), str(message["text"]))
            else:
                yield self._holder.take(page_index, message, is_laid_out=self._kind in FLOWING)
            if self._holder.is_worn():
                self._rasterizer.close()
                return

    def _failure(self, page_index: int, cause: str, text: str) -> PageFailure:
        return PageFailure(page_index, PageFailed(f"page {page_index + 1} of {self._name}: {text}", cause=cause))

    def _give_up(self, first_page: int, end: int, cause: str, text: str) -> Iterator[PageFailure]:
        for page_index in range(first_page, end):
            yield self._failure(page_index, cause, text)
