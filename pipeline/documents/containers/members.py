"""What a container looks like from outside: an iterator of members, in the order in which they lie."""

from __future__ import annotations

import hashlib
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, BinaryIO, Protocol

from pipeline.documents.files import rejected
from pipeline.errors import DocumentRejected


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a container."""

    name: str  # below the container, with `/` between its parts; no other member of it has the same
    open: Callable[[], IO[bytes]]  # to be read once, from its beginning; whatever it raises, `unpacking` translates
    size_bytes: int | None = None  # as announced; None where only reading tells
    refusal: tuple[str, str] | None = None  # cause and fact, where it is not to be read
    is_folder: bool = False  # counted, for it costs time too, and otherwise nothing


class Container(Protocol):
    """An open container. Its members can be opened while they are listed and later, until it is closed."""

    def members(self) -> Iterator[Member]:
        """Raises MembersLost after the last one that can be found, where there are or may be more."""

    def close(self) -> None:
        """Let go of what it needed beside its file, which stays open."""


class MembersLost(Exception):
    """Not all of a container can be told: it is cut, broken, encrypted, or over a limit."""

    def __init__(self, cause: str, fact: str) -> None:
        super().__init__(fact)
        self.cause, self.fact = cause, fact


class Names:
    """Makes the names that archives give into paths below the archive, each another one."""

    def __init__(self) -> None:
        self._taken: dict[int, int] = {}  # → the last number that was given to a further one of the same name

    def name(self, raw: str) -> str:
        """Without a leading `/`, a drive, `.` and empty parts, as unpackers do; a name that is taken gets a number."""
        raw = raw.replace("\\", "/").replace("\0", "\ufffd")
        if raw[1:3] == ":/":
            raw = raw[3:]
        plain = "/".join(part for part in raw.split("/") if part not in ("", ".")) or "unnamed"
        plain = plain.encode("utf-8", "surrogateescape" if _is_escaped(plain) else "replace").decode(
            "utf-8", "surrogateescape"
        )
        name, key = plain, _key(plain)
        if (number := self._taken.get(key)) is not None:  # counted on from there: all members may have one name
            first = key
            while (key := _key(name)) in self._taken:
                number += 1
                name = f"{plain} ({number})"
            self._taken[first] = number
        self._taken[key] = 1
        return name


def leads_out(name: str) -> tuple[str, str] | None:
    """The refusal of a name that points above its container."""
    if ".." in name.split("/"):
        return ("special", "has a name that leads out of its container")
    return None


def unpacked(error: Exception, name: str) -> DocumentRejected:
    """What went wrong while a member was read, as one of our errors."""
    if isinstance(error, DocumentRejected):
        return error
    if isinstance(error, OSError) and error.errno:
        return rejected("unreadable", name, f"cannot be read: {error.strerror}")
    if isinstance(error, MemoryError):
        return rejected("memory", name, "needs more memory to unpack than there is")
    text = " ".join(str(error).split())[:200]
    text = text or ("it ends too early" if isinstance(error, EOFError) else type(error).__name__)
    return rejected("damaged", name, f"cannot be unpacked: {text}")


UNPACK_ERRORS = (
    DocumentRejected,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,  # RecursionError is one
    ValueError,  # UnicodeError is one
    lzma.LZMAError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What parsers raise over a broken archive."""


class Part(io.RawIOBase):
    """A stretch of a seekable file, read as a file of its own."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._at, self._left = file, start, size

    def readable(self) -> bool:
        return True

    def has_more(self) -> bool:
        return self._left > 0

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        self._file.seek(self._at)
        data = self._file.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._at, self._left = self._at + len(data), self._left - len(data)
        return len(data)


def _is_escaped(text: str) -> bool:
    """Whether its lone surrogates are bytes that were no UTF-8."""
    return all("\udc80" <= sign <= "\udcff" for sign in text if "\ud800" <= sign <= "\udfff")


def _key(name: str) -> int:
    """8 bytes of a name's hash: of 100,000 names, two are taken for one in one of 10⁹ archives, and get a number."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")
