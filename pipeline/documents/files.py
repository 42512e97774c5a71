"""Files as they come from outside: which are opened, what kind their first bytes announce, how a path is shown."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from enum import StrEnum
from io import FileIO
from pathlib import Path

from pipeline.errors import DocumentRejected

_LONGEST_PATH_BYTES = 2_600  # a row of a PostgreSQL index holds 2,704


class Kind(StrEnum):
    """File kinds that are taken in, told by their content."""

    PDF = "pdf"
    PNG = "png"
    JPEG = "jpeg"
    TIFF = "tiff"
    WEBP = "webp"
    BMP = "bmp"
    GIF = "gif"
    ZIP = "zip"
    TAR = "tar"
    GZIP = "gzip"
    BZIP2 = "bzip2"
    XZ = "xz"


CONTAINERS = frozenset({Kind.ZIP, Kind.TAR, Kind.GZIP, Kind.BZIP2, Kind.XZ})
"""Kinds without pages of their own: their members are documents."""

UNSUPPORTED_FACT = "is of no kind that is read (PDF, image, office document, mail, archive)"


@dataclass(frozen=True, slots=True)
class Found:
    """A file at the submitted paths."""

    # For opening: a URL, or an absolute path with undecodable bytes as surrogates (os.fsdecode) and links inside the
    # folder resolved.
    path: str
    display_path: str  # absolute, where it was found; valid UTF-8, other bytes as `\xNN`
    size_bytes: int  # 0 where it could not be asked
    modified_ns: int  # behind a URL: a number made from the ETag or time, another one when the file is
    rejection: DocumentRejected | None = None  # why it is not taken
    below: str = ""  # its path below the folder that was given, or its name where it was given itself; for patterns


@dataclass(frozen=True, slots=True)
class Identity:
    """What a file is, and its state when it was read."""

    kind: Kind
    content_hash: str  # SHA-256 of the bytes, in hex
    size_bytes: int
    modified_ns: int


def open_regular(path: str | Path, name: str | None = None) -> FileIO:
    """Open a regular, non-empty file for reading, never waiting on a fifo and never following a link.

    Raises:
        DocumentRejected: it is something else, or away, or not ours to read.
    """
    name = name or display(os.fspath(path))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise rejected("missing", name, "is gone") from error
    except OSError as error:
        raise rejected("unreadable", name, f"cannot be opened: {error.strerror}") from error
    rejection = judge(name, os.fstat(descriptor), max_file_bytes=None)
    if rejection is not None:
        os.close(descriptor)
        raise rejection
    return os.fdopen(descriptor, "rb", buffering=0)


def kind_of(head: bytes) -> Kind | None:
    """The kind that a file's first 1,024 bytes announce.

    PDF readers accept the header anywhere in the first 1,024 bytes (ISO 32000-1, Annex H.3, note 13), so it is
    looked for last. `BM` alone also begins words: the size of the second header must be one that BMP has.
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return Kind.PNG
    if head.startswith(b"\xff\xd8\xff"):
        return Kind.JPEG
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):  # the second pair is BigTIFF
        return Kind.TIFF
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return Kind.WEBP
    if head.startswith((b"GIF87a", b"GIF89a")):
        return Kind.GIF
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in {12, 16, 40, 52, 56, 64, 108, 124}:
        return Kind.BMP
    for magic, kind in _ARCHIVES.items():
        if head.startswith(magic):
            return kind
    if head.startswith(b"BZh") and head[4:10] == b"1AY&SY":
        return Kind.BZIP2
    if _is_tar(head):
        return Kind.TAR
    return Kind.PDF if b"%PDF-" in head[:1024] else None


_ARCHIVES = {
    b"PK\3\4": Kind.ZIP,
    b"PK\5\6": Kind.ZIP,  # without a member
    b"\x1f\x8b\x08": Kind.GZIP,
    b"\xfd7zXZ\0": Kind.XZ,
}


def _is_tar(head: bytes) -> bool:
    """Old ones have no mark, but each header of 512 bytes has its own sum."""
    if len(head) < 512 or not head[0]:
        return False
    try:
        wanted = int(head[148:156].strip(b"\0 "), 8)
    except ValueError:
        return False
    return wanted == sum(head[:148]) + 8 * 0x20 + sum(head[156:512])


def display(path: str) -> str:
    """A path as the database stores it: valid UTF-8, and two different paths never look the same.

    A byte that is not UTF-8 becomes `\\xNN`; a name that itself holds the four characters `\\xNN` has its backslash
    written as `\\x5c`. Newlines, quotes and all else stay. Of a path that is longer than a server's index takes, the
    middle is replaced by a hash of the whole; it is opened by its location, which stays whole.
    """
    raw = re.sub(rb"\\(?=x[0-9a-f]{2})", rb"\\x5c", os.fsencode(path))
    return shortened(raw.decode("utf-8", "backslashreplace"))


def shortened(text: str) -> str:
    """A path that `display` made, no longer than the database takes."""
    if len(whole := text.encode()) <= _LONGEST_PATH_BYTES:
        return text
    first, last = whole[:1800].decode(errors="ignore"), whole[-600:].decode(errors="ignore")
    return f"{first}[… {hashlib.sha256(whole).hexdigest()[:16]} …]{last}"


def on_disk(path: str) -> str:
    """The path that `display` shows so, as the system takes it; not of one whose middle it left out."""
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), path.encode())
    return os.fsdecode(raw)


def is_skipped(name: str) -> bool:
    """Names that are never documents: hidden ones, Office's lock files, Windows' thumbnail cache."""
    return name.startswith((".", "~$")) or name.casefold() == "thumbs.db"


def judge(name: str, status: os.stat_result, max_file_bytes: int | None) -> DocumentRejected | None:
    """Why a file with this status is not taken, or None."""
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFIFO: "a fifo", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
        return rejected("special", name, f"is {kinds.get(stat.S_IFMT(status.st_mode), 'a device')}, not a file")
    if status.st_size == 0:
        return rejected("empty", name, "has zero bytes")
    if max_file_bytes is not None and status.st_size > max_file_bytes:
        limit = f"over the limit of {max_file_bytes:,}; raise PAGEPACK_MAX_FILE_BYTES or split it"
        return rejected("too-large", name, f"has {status.st_size:,} bytes, {limit}")
    return None


def rejected(cause: str, name: str, fact: str) -> DocumentRejected:
    return DocumentRejected(f"{name} {fact}", cause=cause)
