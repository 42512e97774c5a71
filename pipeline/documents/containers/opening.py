"""Containers and their members, opened: by kind, and again by location."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.documents.containers.attachments import AttachedMembers
from pipeline.documents.containers.compressed import CompressedMembers
from pipeline.documents.containers.limits import Budget, check_size
from pipeline.documents.containers.mail_files import MailMembers
from pipeline.documents.containers.members import UNPACK_ERRORS, Container, Member, MembersLost, unpacked
from pipeline.documents.containers.places import split
from pipeline.documents.containers.seven_zip import SevenZipMembers
from pipeline.documents.containers.tar_files import TarMembers
from pipeline.documents.containers.zip_files import ZipMembers
from pipeline.documents.files import HEAD_BYTES, HOLDERS, Kind, kind_of, rejected, unsupported
from pipeline.documents.look_inside import kind_inside
from pipeline.documents.rasterize import Rasterizer
from pipeline.documents.scratch import free_bytes, room_for, scratch_file
from pipeline.settings import Settings

_CHUNK_BYTES = 1 << 20


def open_container(
    file: BinaryIO, kind: str, name: str, settings: Settings, budget: Budget, rasterizer: Callable[[], Rasterizer]
) -> Container:
    """A container of this kind; `name` is its path. `rasterizer` gives the sandbox for what is not parsed here.

    Raises:
        DiskFull: what must be unpacked at once finds no room.
    """
    if kind == Kind.ZIP:
        return ZipMembers(file)
    if kind == Kind.TAR:
        return TarMembers(file)
    if kind == Kind.PDF:
        return AttachedMembers(file, name, rasterizer, settings, budget)
    if kind in (Kind.EML, Kind.MSG):
        return MailMembers(file, kind)
    assert kind in (Kind.GZIP, Kind.BZIP2, Kind.XZ, Kind.SEVEN_ZIP), kind
    limit_bytes, over = budget.num_bytes, budget.too_many_bytes()
    if (room := free_bytes(settings) // 2) < limit_bytes:  # a bomb shall not stop all that needs the disk
        over = MembersLost("too-large", f"unpacks to more than {room:,} bytes, half of the room on the disk; free some")
        limit_bytes = room
    with room_for(name, settings):
        if kind == Kind.SEVEN_ZIP:
            return SevenZipMembers(file, scratch_file(settings), limit_bytes, over, budget)
        return CompressedMembers(file, kind, name, scratch_file(settings), limit_bytes, over)


@dataclass(frozen=True, slots=True)
class Read:
    """A member that was read to its end."""

    kind: Kind
    content_hash: str
    size_bytes: int


def read_member(
    member: Member, name: str, budget: Budget, settings: Settings, copy: Callable[[Kind], BinaryIO | None]
) -> Read:
    """A member's kind and hash; where `copy` gives a file for its kind, its bytes go there and are looked into.

    Raises:
        DocumentRejected: it cannot be unpacked, is empty, of a kind that is not read, or over the limit of bytes.
        MembersLost: with it, its container unpacks to more than it may.
        DiskFull: there is no room for its copy.
    """
    try:
        with member.open() as stream:
            head = b""
            while len(head) < HEAD_BYTES and (more := stream.read(HEAD_BYTES - len(head))):
                head += more
            if not head:
                raise rejected("empty", name, "has zero bytes")
            kind = kind_of(head)
            if kind is None:
                raise unsupported(name, head)
            digest, size, into, data = hashlib.sha256(), 0, copy(kind), head
            while data:
                size += len(data)
                check_size(name, size, settings)
                budget.spend_bytes(len(data))
                digest.update(data)
                if into is not None:
                    with room_for(name, settings):
                        into.write(data)
                data = stream.read(_CHUNK_BYTES)
        if into is not None:
            with room_for(name, settings):
                into.flush()
            inside = kind_inside(kind, into, name)
            if inside is None:
                raise unsupported(name, b"")
            kind = inside
    except UNPACK_ERRORS as error:
        raise unpacked(error, name) from error
    return Read(kind, digest.hexdigest(), size)


@dataclass(frozen=True, slots=True)
class Outermost:
    """A container's file as it lies on a disk or behind a URL."""

    file: BinaryIO
    kind: str


class Sandbox:
    """A rasterizer that is started when one is needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._started: Rasterizer | None = None

    def rasterizer(self) -> Rasterizer:
        self._started = self._started or Rasterizer(self._settings)
        return self._started

    def close(self) -> None:
        if self._started is not None:
            self._started.close()


class OpenContainers:
    """The containers around the member that was asked for last, for the next one lies there too, most likely.

    Else each member of a `.tar.gz` would unpack all of it again, and each of one behind a URL fetch it again.
    """

    def __init__(
        self, settings: Settings, version: Callable[[str], object], open_outermost: Callable[[str, str], Outermost]
    ) -> None:
        """`version(location)` gives what changes when the file there does."""
        self._settings = settings
        self._version, self._open_outermost = version, open_outermost
        self._held: list[_Held] = []
        self._sandbox = Sandbox(settings)
        self._way: list[object] = []  # to the container that is held last

    def open(self, location: str, name: str) -> tuple[BinaryIO, str]:
        """A member as a file of its own, and its hash; `name` is its path.

        Raises:
            DocumentRejected: it is not there, or cannot be unpacked.
            DiskFull, StorageGone: not for now.
        """
        outermost, names = split(location)
        try:
            held = self._hold(outermost, names[:-1], name)
            file, read = held.copy(names[-1], name)
        except MembersLost as lost:
            raise rejected(lost.cause, name, lost.fact) from lost
        return file, read.content_hash

    def close(self) -> None:
        """Let go of all."""
        while self._held:
            self._held.pop().close()
        self._way = []
        self._sandbox.close()

    def _hold(self, outermost: str, names: list[str], name: str) -> _Held:
        way = [outermost, self._version(outermost), *names]
        shared = next((i for i, (a, b) in enumerate(zip(way, self._way, strict=False)) if a != b), None)
        num_kept = max(0, (min(len(way), len(self._way)) if shared is None else shared) - 1)
        while len(self._held) > num_kept:
            self._held.pop().close()
        self._way = []
        try:
            if not self._held:
                found = self._open_outermost(outermost, name)
                self._held.append(_Held(found.file, found.kind, name, self._settings, self._sandbox))
            for inner in names[len(self._held) - 1 :]:
                file, read = self._held[-1].copy(inner, name)
                self._held.append(_Held(file, read.kind, name, self._settings, self._sandbox))
        except BaseException:
            self.close()
            raise
        self._way = way
        return self._held[-1]


class _Held:
    """An open container with its file, which finds members by name."""

    def __init__(self, file: BinaryIO, kind: str, name: str, settings: Settings, sandbox: Sandbox) -> None:
        self._file, self._settings = file, settings
        self._members = dict[str, Member]()
        try:
            if kind not in HOLDERS and kind != Kind.PDF:
                raise rejected("changed", name, "lies in a file that is no container any more; run again")
            self._container = open_container(file, kind, name, settings, Budget.of(settings), sandbox.rasterizer)
        except BaseException:
            file.close()
            raise
        self._listing = self._container.members()

    def copy(self, member_name: str, name: str) -> tuple[BinaryIO, Read]:
        member, file = self._find(member_name, name), scratch_file(self._settings)
        try:
            read = read_member(member, name, Budget.of(self._settings), self._settings, lambda kind: file)
        except BaseException:
            file.close()
            raise
        return file, read

    def close(self) -> None:
        self._container.close()
        self._file.close()

    def _find(self, member_name: str, name: str) -> Member:
        if (known := self._members.get(member_name)) is not None:
            return known
        with suppress(MembersLost):
            for member in self._listing:
                if not member.is_folder and member.refusal is None:
                    self._members[member.name] = member
                    if member.name == member_name:
                        return member
        raise rejected("changed", name, "is not in its container any more; run the same command again")
