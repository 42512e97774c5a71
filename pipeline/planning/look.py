"""A look into files: hashed, opened in the sandbox, some pages drawn as a run draws them; nothing is stored."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import BinaryIO

from pipeline.documents.containers.limits import Budget
from pipeline.documents.containers.members import Container, Member, MembersLost
from pipeline.documents.containers.opening import open_container, read_member
from pipeline.documents.containers.places import member_path
from pipeline.documents.files import CONTAINERS, HOLDERS, Found, Kind, is_skipped, rejected
from pipeline.documents.identify import identify
from pipeline.documents.inputs import location_of, open_whole
from pipeline.documents.office_suite import as_shown
from pipeline.documents.rasterize import PageFailure, Rasterizer
from pipeline.documents.scratch import scratch_file
from pipeline.errors import DocumentRejected
from pipeline.ingest.selection import Selection
from pipeline.planning.asked import Asked
from pipeline.planning.known import Known, PageCounts
from pipeline.planning.ranges import systematic
from pipeline.settings import Settings

_MEMBERS = 20  # of an archive that are looked into; they stand for the others
_KEPT_BYTES = 64 * 2**20  # of page images, of which some may be read to see how long that takes


@dataclass(frozen=True, slots=True)
class PageFacts:
    """A page of the sample. It stands for `weight` pages of the file that it was drawn from."""

    weight: float
    width_px: int = 0
    height_px: int = 0
    text: str | None = None
    verdict: str | None = None
    is_blank: bool = False
    cause: str | None = None  # why it could not be drawn
    image_hash: str | None = None
    image_bytes: int = 0
    seconds: float = 0.0  # to draw and encode it
    image: bytes | None = None  # while there is room for it


@dataclass(slots=True)
class Sampled:
    """A file that was looked into; of an archive, its members together."""

    rejected: Counter[str] = field(default_factory=Counter)  # by cause: itself, or members of it
    size_bytes: int = 0
    documents: float = 0.0
    pages: float = 0.0  # of documents that are new to the database
    asked: float = 0.0  # of all their pages, those that are asked about
    done: float = 0.0
    failed: float = 0.0


class Look:
    """Opens files, one after another; draws some pages of each."""

    def __init__(
        self, settings: Settings, selection: Selection, asked: Asked, known: Known, num_pages: int, rng: random.Random
    ) -> None:
        self._settings, self._selection, self._asked, self._known = settings, selection, asked, known
        self._pages_left, self._rng, self._kept_bytes = num_pages, rng, 0
        self._rasterizer = Rasterizer(settings)
        self._hashes: set[str] = set()
        self.pages: list[PageFacts] = []

    def __enter__(self) -> Look:
        return self

    def __exit__(self, *_: object) -> None:
        self._rasterizer.close()

    def into(self, found: Found, files_left: int) -> Sampled:
        """`files_left`: how many still share the pages that may be drawn, this one among them."""
        file = Sampled()
        try:
            identity = identify(found.path, settings=self._settings)
            file.size_bytes = identity.size_bytes
            if identity.content_hash in self._hashes:
                return file  # the same content at another path is read once
            self._hashes.add(identity.content_hash)
            with ExitStack() as stack:
                opened = open_whole(location_of(found.path), found.display_path, self._settings)
                stack.callback(opened.close)
                one = _Content(opened, str(identity.kind), identity.content_hash, found.display_path, found.below)
                self._content(one, file, 1.0, -(-self._pages_left // files_left), Budget.of(self._settings), 1)
        except DocumentRejected as error:
            file.rejected[error.cause] += 1
        return file

    def _content(
        self, one: _Content, into: Sampled, weight: float, most_pages: int, budget: Budget, depth: int
    ) -> None:
        """What one file or member holds, and its pages; `weight`: for how many it stands."""
        if one.kind in HOLDERS:
            most_pages = self._members(one, into, weight, most_pages, budget, depth)
        if one.kind not in CONTAINERS:
            self._document(one, into, weight, most_pages)

    def _members(self, one: _Content, into: Sampled, weight: float, most_pages: int, budget: Budget, depth: int) -> int:
        """The number of pages that may still be drawn."""
        if depth > self._settings.max_container_depth:
            raise rejected("too-large", one.name, "lies in too many containers")
        container = open_container(one.file, one.kind, one.name, self._settings, budget, lambda: self._rasterizer)
        try:
            members = list(self._meant(container, one.below, budget))
            places = systematic(len(members), _MEMBERS, self._rng.random())
            for left, place in zip(range(len(places), 0, -1), places, strict=True):
                before, each = len(self.pages), weight * len(members) / len(places)
                share = -(-most_pages // (left + (one.kind not in CONTAINERS)))
                self._member(members[place], one, into, each, share, budget.half(), depth)
                most_pages -= len(self.pages) - before
        except MembersLost as error:
            into.rejected[error.cause] += 1
        finally:
            container.close()
        return max(most_pages, 1)

    def _meant(self, container: Container, below: str, budget: Budget) -> Iterator[Member]:
        for member in container.members():
            budget.spend_member()
            is_left_out = any(is_skipped(part) for part in member.name.split("/") if part != "..")
            if not (member.is_folder or is_left_out) and self._selection.globs.is_meant(f"{below}/{member.name}"):
                yield member

    def _member(
        self,
        member: Member,
        around: _Content,
        into: Sampled,
        weight: float,
        most_pages: int,
        budget: Budget,
        depth: int,
    ) -> None:
        name = member_path(around.name, member.name)
        try:
            if member.refusal is not None:
                raise rejected(member.refusal[0], name, member.refusal[1])
            with ExitStack() as stack:
                copy = stack.enter_context(scratch_file(self._settings))
                read = read_member(member, name, budget, self._settings, lambda kind: copy)
                one = _Content(copy, str(read.kind), read.content_hash, name, f"{around.below}/{member.name}")
                self._content(one, into, weight, most_pages, budget, depth + 1)
        except DocumentRejected as error:
            into.rejected[error.cause] += round(weight)

    def _document(self, one: _Content, into: Sampled, weight: float, most_pages: int) -> None:
        known = self._known.by_hash(one.content_hash)
        if known is not None and known.page_count is not None:
            counts = self._known.page_counts([known.id]).get(known.id, PageCounts())
            into.asked += weight * self._asked.count(known.page_count)
            into.done += weight * counts.done
            into.failed += weight * counts.failed
            into.documents += weight
            return
        one.file.seek(0)
        file, kind = as_shown(one.file, one.kind, one.name, self._settings)
        with self._rasterizer.open(one.name, kind, file=file, name=one.name) as document:
            into.documents += weight
            into.pages += weight * document.page_count
            wanted = [index for index in range(document.page_count) if self._asked.is_asked(index)]
            into.asked += weight * len(wanted)
            places = systematic(len(wanted), max(most_pages, 1), self._rng.random())
            for place in places:
                started = time.perf_counter()
                for page in document.pages(wanted[place], wanted[place] + 1):
                    each = weight * len(wanted) / len(places)
                    if isinstance(page, PageFailure):
                        self.pages.append(PageFacts(each, cause=page.error.cause))
                        continue
                    is_kept = self._kept_bytes + len(page.image) <= _KEPT_BYTES
                    self._kept_bytes += len(page.image) if is_kept else 0
                    self.pages.append(
                        PageFacts(
                            each,
                            page.width_px,
                            page.height_px,
                            page.text_layer,
                            page.text_layer_verdict,
                            page.is_blank,
                            None,
                            page.image_hash,
                            len(page.image),
                            time.perf_counter() - started,
                            page.image if is_kept else None,
                        )
                    )
            self._pages_left = max(self._pages_left - len(places), 0)


@dataclass(frozen=True, slots=True)
class _Content:
    """A file, or a member of an archive, open for reading."""

    file: BinaryIO
    kind: str | Kind
    content_hash: str
    name: str
    below: str  # for patterns, as `Found.below`
