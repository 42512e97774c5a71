"""The members of containers that a walk meets: each is a file of its own, under a path of its own.

A container is told after its members, so one that is recorded was seen to its end; while it and the rules are as they
were, its members are told again from the database (`store/members.py`). It is `done` where some member of it
is taken in, and rejected where none is, or where not all of it can be told; its members are rows of their own
in either case. A member whose size is as recorded, in a container whose time is, is not unpacked again.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import BinaryIO, cast

from pipeline.database.engine import Database
from pipeline.documents.containers.limits import Budget, check_size
from pipeline.documents.containers.members import Container, Member, MembersLost
from pipeline.documents.containers.opening import Sandbox, open_container, read_member
from pipeline.documents.containers.places import member_location, member_path
from pipeline.documents.files import CONTAINERS, HOLDERS, Found, Kind, is_skipped, rejected
from pipeline.documents.globs import Globs
from pipeline.documents.inputs import InputCopies, location_of, open_whole
from pipeline.documents.look_inside import NEED_A_LOOK
from pipeline.documents.scratch import scratch_file, scratch_folder
from pipeline.errors import DocumentRejected
from pipeline.ingest.selection import Selection
from pipeline.settings import Settings
from pipeline.store.members import mark, members_seen
from pipeline.store.sources import UNSUPPORTED, KnownFile, SeenFile, known_files

_MEMBERS_AT_ONCE = 200
_MAY_PASS = ("memory", "unreadable", "crash", "timeout")  # another walk may get further


class Unpacker:
    """Sees members as `register` sees files."""

    def __init__(
        self,
        db: Database,
        settings: Settings,
        selection: Selection,
        copies: InputCopies | None,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._db, self._settings, self._selection = db, settings, selection
        self._copies, self._is_stopping = copies, is_stopping
        self._sandbox = Sandbox(settings)
        self._rules = _rules(settings, selection.globs)

    def unpacked(self, found: Found, seen: SeenFile) -> Iterator[SeenFile]:
        """The members of a file that was seen, then the file itself; ends early where the command is stopping.

        Raises:
            DiskFull, StorageGone: it cannot be unpacked for now.
        """
        if not self._holds(seen.kind):
            yield seen
            return
        if (again := members_seen(self._db, seen, self._rules)) is not None:
            count = 0
            for one in again:
                count += 1
                yield one
            yield replace(seen, has_pages=seen.kind not in CONTAINERS, members_mark=mark(self._rules, count))
            return
        try:
            file = open_whole(location_of(found.path), seen.path, self._settings)
        except DocumentRejected as error:
            yield _refused(seen, error)
            return
        with file:
            count, is_final = 0, True
            for one in self._holder(file, seen, found.below, Budget.of(self._settings), 1):
                if one.path != seen.path:
                    count += 1
                    is_final &= one.rejection is None or one.rejection.cause not in _MAY_PASS
                    yield one
                elif one.rejection is None and is_final:
                    yield replace(one, members_mark=mark(self._rules, count))
                else:
                    yield one

    def _holder(self, file: BinaryIO, seen: SeenFile, below: str, budget: Budget, depth: int) -> Iterator[SeenFile]:
        if depth > (most := self._settings.max_container_depth):
            over = f"lies in {most} containers, which is the limit; raise PAGEPACK_MAX_CONTAINER_DEPTH or unpack it"
            error = rejected("too-large", seen.path, over)
            if seen.kind in CONTAINERS:
                yield _refused(seen, error)
            else:  # its pages are read; of a PDF, they say what is attached
                yield seen if seen.kind == Kind.PDF else replace(seen, rejection=error)
            return
        told = Counter[str]()
        lost: MembersLost | None = None
        assert seen.kind is not None
        container = open_container(file, seen.kind, seen.path, self._settings, budget, self._sandbox.rasterizer)
        try:
            for one in self._members(container, seen, below, budget, depth, told):
                told[one.rejection.cause if one.rejection else ""] += 1
                yield one
        except MembersLost as error:
            lost = error
        finally:
            container.close()
        if self._is_stopping():
            return
        if seen.kind not in CONTAINERS:  # it has pages of its own, which are read whatever became of its members
            yield seen if lost is None else replace(seen, rejection=rejected(lost.cause, seen.path, lost.fact))
            return
        problem = _problem(seen.path, lost, told)
        yield replace(seen, has_pages=False) if problem is None else _refused(seen, problem)

    def _members(
        self, container: Container, seen: SeenFile, below: str, budget: Budget, depth: int, told: Counter[str]
    ) -> Iterator[SeenFile]:
        for chunk in _chunks(self._meant(container, below, budget, told)):
            paths = [member_path(seen.path, member.name) for member in chunk]
            known = known_files(self._db, paths)
            for member, path in zip(chunk, paths, strict=True):
                if self._is_stopping():
                    return
                with ExitStack() as stack:
                    one, file = self._member(member, path, seen, known.get(path), budget, stack)
                    if file is None:
                        yield one
                    else:
                        yield from self._holder(file, one, f"{below}/{member.name}", budget.half(), depth + 1)

    def _meant(self, container: Container, below: str, budget: Budget, told: Counter[str]) -> Iterator[Member]:
        """Those that neither rules nor patterns leave out, for which the container is a folder."""
        for member in container.members():
            budget.spend_member()
            if member.is_folder or any(is_skipped(part) for part in member.name.split("/") if part != ".."):
                continue
            if self._selection.globs.is_meant(f"{below}/{member.name}"):
                yield member
            else:
                told["left out"] += 1

    def _member(
        self,
        member: Member,
        path: str,
        around: SeenFile,
        known: KnownFile | None,
        budget: Budget,
        stack: ExitStack,
    ) -> tuple[SeenFile, BinaryIO | None]:
        """What it is; and its file, where it is a container itself."""
        location, modified_ns = member_location(around.location, member.name), around.modified_ns
        size_bytes = member.size_bytes or 0
        seen = SeenFile(path, location, size_bytes, modified_ns)
        try:
            if member.refusal is not None:
                raise rejected(member.refusal[0], path, member.refusal[1])
            check_size(path, size_bytes, self._settings)
            if self._selection.checks_content:
                known = None
            if known is not None and known.is_unchanged(size_bytes, modified_ns) and self._is_there(known):
                if self._copies is not None:
                    location = self._copies.location(known.kind, known.content_hash)
                return replace(seen, location=location, kind=known.kind, content_hash=known.content_hash), None
            files = list[BinaryIO]()

            def copy(kind: Kind) -> BinaryIO | None:
                if self._copies is not None:
                    named = tempfile.NamedTemporaryFile(dir=scratch_folder(self._settings))  # noqa: SIM115
                    files.append(cast(BinaryIO, stack.enter_context(named)))
                elif self._holds(kind) or kind in NEED_A_LOOK:
                    files.append(stack.enter_context(scratch_file(self._settings)))
                return files[0] if files else None

            read = read_member(member, path, budget, self._settings, copy)
            if self._copies is not None and read.kind not in CONTAINERS:
                location = self._copies.location(read.kind, read.content_hash)
                self._copies.put_unpacked(files[0].name, read.kind, read.content_hash, read.size_bytes)
        except DocumentRejected as error:
            return replace(seen, rejection=error), None
        size_bytes = size_bytes or read.size_bytes
        seen = SeenFile(path, location, size_bytes, modified_ns, str(read.kind), read.content_hash)
        return seen, files[0] if self._holds(read.kind) else None

    def _holds(self, kind: str | None) -> bool:
        """Whether files of this kind hold others, as far as they are wanted."""
        return kind in HOLDERS or (kind == Kind.PDF and self._settings.attachments)

    def close(self) -> None:
        """End what it started."""
        self._sandbox.close()

    def _is_there(self, known: KnownFile) -> bool:
        """Whether it need not be unpacked: for a copy, or to see what is in it."""
        if self._holds(known.kind):
            return False
        if self._copies is None:
            return True
        return known.location == self._copies.location(known.kind, known.content_hash)


def _rules(settings: Settings, globs: Globs) -> str:
    """What decides which members are told, and how: where it changes, an archive is opened again."""
    names = ("max_container_members", "max_container_bytes", "max_container_depth", "max_file_bytes", "attachments")
    said = [[str(getattr(settings, name)) for name in names], settings.inputs_url, globs.words(), list(Kind)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def _refused(seen: SeenFile, error: DocumentRejected) -> SeenFile:
    return replace(seen, kind=None, content_hash=None, rejection=error)


def _chunks(members: Iterator[Member]) -> Iterator[list[Member]]:
    """Some at a time; those before the container's end is lost, too."""
    chunk, lost = list[Member](), None
    try:
        for member in members:
            chunk.append(member)
            if len(chunk) == _MEMBERS_AT_ONCE:
                yield chunk
                chunk = []
    except MembersLost as error:
        lost = error
    if chunk:
        yield chunk
    if lost is not None:
        raise lost


def _problem(path: str, lost: MembersLost | None, told: Counter[str]) -> DocumentRejected | None:
    """Why a container is not done; `told` counts its members by cause, those without one as ""."""
    if lost is not None:
        return rejected(lost.cause, path, lost.fact)
    if told[""] or told["left out"]:
        return None
    if not told:
        return rejected("empty", path, "is an archive without a file in it")
    failures = {cause: count for cause, count in told.items() if cause != UNSUPPORTED} or told
    cause = max(failures, key=lambda cause: failures[cause])
    causes = ", ".join(f"{count:,} {cause}" for cause, count in told.most_common())
    return rejected(cause, path, f"holds nothing that can be read: {causes}")
