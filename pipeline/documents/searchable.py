"""A document as a PDF with an invisible text over its pages, made by the child process that may hang, bomb or crash.

The child only says what comes behind the file's own bytes, which are copied here. What it cannot do ends this document
and no other.
"""

from __future__ import annotations

import base64
import binascii
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from pipeline.documents.files import Kind
from pipeline.documents.rasterize import Rasterizer
from pipeline.documents.render_process import Child, ChildGone
from pipeline.errors import DocumentRejected, PageFailed
from pipeline.layout.words import PlacedLine
from pipeline.settings import Settings

PICTURES = frozenset(
    {Kind.PNG, Kind.JPEG, Kind.TIFF, Kind.WEBP, Kind.BMP, Kind.GIF, Kind.PNM, Kind.JP2, Kind.AVIF, Kind.HEIC, Kind.JXL}
)
WITH_PAGES = PICTURES | {Kind.PDF}
"""Kinds whose pages are the file's own, and not laid out by us."""

_MOST_LINES = 20_000  # of a page: a message holds them


@dataclass(frozen=True, slots=True)
class PageText:
    """What goes over a page; `page_px` and `dpi` are of the image that was read, in whose pixels the lines stand."""

    page_index: int
    lines: Sequence[PlacedLine]
    page_px: tuple[int, int] | None
    dpi: float | None


def write_searchable(
    rasterizer: Rasterizer,
    settings: Settings,
    source: tuple[BinaryIO, str, str, str],
    pages: Iterable[PageText],
    target: BinaryIO,
) -> list[PageFailed]:
    """Write the PDF to `target`; `source` is an open file with its name for messages, its kind and its detail.

    Pages come in their order, each once at most. What is given back are those that got no text, or of an image file no
    picture.

    Raises:
        DocumentRejected: `encrypted`, `damaged`, `timeout`, `memory`, `crash`…: no PDF can be made of it.
        Unavailable: no child process can be started.
    """
    file, name, kind, detail = source
    child = rasterizer.child()
    try:
        return _Asked(child, settings, name, kind).write(file, detail, pages, target)
    except ChildGone as gone:
        raise DocumentRejected(f"{name}: no PDF can be made of it: {gone}", cause=gone.cause) from gone
    except DocumentRejected as error:
        raise DocumentRejected(f"{name}: {error}", cause=error.cause) from error
    finally:
        if child.is_busy:
            rasterizer.close()


class _Asked:
    def __init__(self, child: Child, settings: Settings, name: str, kind: str) -> None:
        self._child, self._seconds, self._name, self._kind = child, settings.rasterize_seconds, name, kind

    def write(self, file: BinaryIO, detail: str, pages: Iterable[PageText], target: BinaryIO) -> list[PageFailed]:
        size_bytes = os.fstat(file.fileno()).st_size
        asked = {"op": "searchable", "kind": self._kind, "detail": detail, "size_bytes": size_bytes}
        self._child.is_busy = True
        page_count = int(self._answer(asked, file.fileno())["page_count"])
        failed, following = [], 0
        for page in pages:
            while self._kind != Kind.PDF and following < page.page_index:  # its picture belongs there all the same
                failed += self._add(PageText(following, (), None, None))
                following += 1
            failed += self._add(page)
            following = page.page_index + 1
        while self._kind != Kind.PDF and following < page_count:
            failed += self._add(PageText(following, (), None, None))
            following += 1
        self._take(file, target)
        self._child.is_busy = False
        return failed

    def _add(self, page: PageText) -> list[PageFailed]:
        if len(page.lines) > _MOST_LINES:
            fact = f"it has {len(page.lines):,} lines, over the limit of {_MOST_LINES:,}"
            return [PageFailed(f"page {page.page_index + 1} of {self._name}: {fact}", cause="too-large")]
        lines = [(line.text, _corners(line)) for line in page.lines]
        said = self._answer(
            {"op": "text", "page_index": page.page_index, "lines": lines, "page_px": page.page_px, "dpi": page.dpi}
        )
        if said["is"] != "failed":
            return []
        return [PageFailed(f"page {page.page_index + 1} of {self._name}: {said['text']}", cause=str(said["cause"]))]

    def _take(self, file: BinaryIO, target: BinaryIO) -> None:
        """Nothing at all is sent where nothing was to be added."""
        self._child.send({"op": "write"})
        is_update: bool | None = None
        while True:
            said = self._checked(self._child.receive(self._seconds))
            if said["is"] == "end":
                if is_update is None:
                    self._copy(file, target)
                return
            if is_update is None:
                is_update = bool(said["is_update"])
                if is_update:
                    self._copy(file, target)
            try:
                target.write(base64.b64decode(str(said["data"]), validate=True))
            except binascii.Error as error:
                raise ChildGone("crash", f"the process sent nonsense: {error}") from error

    @staticmethod
    def _copy(file: BinaryIO, target: BinaryIO) -> None:
        file.seek(0)
        shutil.copyfileobj(file, target, 1 << 20)

    def _answer(self, message: dict[str, Any], descriptor: int | None = None) -> dict[str, Any]:
        self._child.send(message, descriptor)
        return self._checked(self._child.receive(self._seconds))

    @staticmethod
    def _checked(said: dict[str, Any]) -> dict[str, Any]:
        if said["is"] == "rejected":
            raise DocumentRejected(str(said["text"]), cause=str(said["cause"]))
        return said


def _corners(line: PlacedLine) -> list[float]:
    top_left, _, bottom_right, bottom_left = line.quad
    return [round(side, 2) for corner in (bottom_left, bottom_right, top_left) for side in corner]
