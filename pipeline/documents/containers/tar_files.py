"""Members of a TAR. Python's `tarfile` reads the headers; what it keeps of them is thrown away as it goes."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO, BinaryIO, cast

from pipeline.documents.containers.members import Member, MembersLost, Names, Part, leads_out

_BLOCK_BYTES = 512
_LONGEST_HEADER_BYTES = 1 << 20  # names, attributes and gaps of one member; tarfile would hold whatever one announces


class TarMembers:
    """A file that is no TAR shows when its members are asked for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def members(self) -> Iterator[Member]:
        names, count = Names(), 0
        archive = None
        try:
            self._file.seek(0)
            guarded = _Guarded(self._file)
            with guarded.header():  # it reads the first one at once
                archive = tarfile.TarFile(fileobj=cast(BinaryIO, guarded), errorlevel=0)
            for entry in _entries(archive, guarded):
                is_sparse = entry.sparse is not None
                opener = partial(_open_sparse, archive, entry) if is_sparse else partial(self._open, entry)
                if entry.isdir():
                    yield Member(entry.name, opener, is_folder=True)
                    continue
                name = names.name(entry.name)
                yield Member(name, opener, entry.size, _refusal(name, entry))
                count += 1
        except (tarfile.TarError, ValueError, OSError) as error:
            raise self._lost(count, str(error)) from error
        assert archive is not None
        self._file.seek(archive.offset if count else 0)
        end = self._file.read(_BLOCK_BYTES)
        if not end:
            raise self._lost(count, "it has no mark at its end")
        if end.strip(b"\0"):
            raise self._lost(count, f"no header lies at byte {archive.offset:,}")

    def close(self) -> None:
        pass

    def _open(self, entry: tarfile.TarInfo) -> IO[bytes]:
        return cast(IO[bytes], Part(self._file, entry.offset_data, entry.size))

    def _lost(self, count: int, text: str) -> MembersLost:
        return MembersLost("damaged", f"is cut short or broken after {count:,} members: {text[:200]}")


class _Guarded:
    """The archive's file, of which no member's header takes more than one may, in however many blocks it comes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell
        self._left: int | None = None

    @contextmanager
    def header(self) -> Iterator[None]:
        """What is read meanwhile is a member's header."""
        self._left = _LONGEST_HEADER_BYTES
        try:
            yield
        finally:
            self._left = None

    def read(self, size: int) -> bytes:
        if self._left is not None:
            self._left -= size
            if self._left < 0:
                raise tarfile.ReadError(f"a header has more than {_LONGEST_HEADER_BYTES:,} bytes")
        return self._file.read(size)


def _entries(archive: tarfile.TarFile, guarded: _Guarded) -> Iterator[tarfile.TarInfo]:
    while True:
        archive.members = []  # type: ignore[attr-defined]  # they would be kept, all of them
        archive.pax_headers = {}  # likewise, those that speak of all members to come; nobody names or measures so
        with guarded.header():
            entry = archive.next()
        if entry is None:
            return
        yield entry


def _open_sparse(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    opened = archive.extractfile(entry)
    assert opened is not None, entry.name
    return opened


def _refusal(name: str, entry: tarfile.TarInfo) -> tuple[str, str] | None:
    if refusal := leads_out(name):
        return refusal
    if entry.issym() or entry.islnk():
        return ("symlink", "is a link in its archive; what it leads to is read where it lies")
    if not entry.isfile():
        return ("special", "is no file but a device or a fifo")
    return None
