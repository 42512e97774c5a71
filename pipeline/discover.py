"""What lies at the paths: one `Found` for each file seen, taken or not, and what each file is.

`discover` looks at names and at `stat` only; it opens no file. `identify` opens one file and reads it once, for its
kind and its content hash; a file whose size and time are as recorded needs no second `identify`.

    seen = taken + rejected       every file under the paths gives exactly one `Found`
    skipped by rule, not counted  dot files and folders, `~$*`, `Thumbs.db`, pagepack's own home and stores,
                                  links to a folder inside the submitted one (its files are seen at their own place)

The order is that of the names, folder by folder, so two runs agree. Memory holds the names of the folders on the way
down to the present one, not those of the whole tree.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from io import FileIO
from itertools import chain
from pathlib import Path

from pipeline.errors import DocumentRejected, UsageError
from pipeline.settings import Settings
from pipeline.urls import is_url, local_path

_LONGEST_PATH_BYTES = 2_600  # a row of a PostgreSQL index holds 2,704


class Kind(StrEnum):
    """File kinds that can be rasterized, told by their first bytes."""

    PDF = "pdf"
    PNG = "png"
    JPEG = "jpeg"
    TIFF = "tiff"
    WEBP = "webp"
    BMP = "bmp"
    GIF = "gif"


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


@dataclass(frozen=True, slots=True)
class Identity:
    """What a file is, and its state when it was read."""

    kind: Kind
    content_hash: str  # SHA-256 of the bytes, in hex
    size_bytes: int
    modified_ns: int


def discover(paths: Sequence[str | Path], settings: Settings) -> Iterator[Found]:
    """Every file at files, folders (with all below) and patterns that the shell left alone, each once.

    A file named outright is taken even where a rule would skip it; a link named outright is followed. A pattern
    without a match gives nothing. URLs (`s3://bucket/prefix`) come after the local paths.

    Raises:
        UsageError: a path does not exist. Raised before anything is yielded, so that a typing error costs nothing.
        StorageGone: what is behind a URL does not answer.
    """
    from pipeline.discover_urls import find_urls, uncovered  # it gives what is defined here

    places = {os.fspath(path): local_path(os.fspath(path)) for path in paths}
    starts = [start for local in places.values() if local is not None for start in _expand(local)]
    missing = [display(start) for start in starts if not os.path.lexists(start)]
    if missing:
        raise UsageError(f"no such file or folder: {', '.join(missing)}; nothing was done")
    remote = {url: find_urls(url, settings) for url, local in places.items() if local is None}
    return chain(_walk_all(without_covered(starts), settings), *(remote[url] for url in uncovered(list(remote))))


def absolute(path: str | Path) -> str:
    """A submitted path as it is known from now on: a URL as it is, else an absolute local path."""
    local = local_path(os.fspath(path))
    return os.fspath(path) if local is None else os.path.abspath(local)


def identify(path: str | Path, name: str | None = None) -> Identity:
    """Read a file once: its kind from the first 1,024 bytes, its SHA-256 from all of them; `name` is for messages.

    Raises:
        DocumentRejected: not a regular file, no permission, zero bytes, a kind we do not take, or it changed while
            it was read (someone is still writing it: the next run sees it again).
    """
    if is_url(os.fspath(path)):
        from pipeline.discover_urls import identify_url

        return identify_url(os.fspath(path))
    name = name or display(os.fspath(path))
    with open_regular(path, name) as file:
        before = os.fstat(file.fileno())
        try:
            kind = kind_of(file.read(1024))
            if kind is None:
                raise rejected("unsupported", name, "is no PDF, PNG, JPEG, TIFF, WebP, BMP or GIF")
            file.seek(0)
            content_hash = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise rejected("unreadable", name, f"cannot be read: {error.strerror}") from error
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise rejected("changed", name, "changed while it was read; run again when it is complete")
    return Identity(kind, content_hash, after.st_size, after.st_mtime_ns)


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
    return Kind.PDF if b"%PDF-" in head[:1024] else None


def display(path: str) -> str:
    """A path as the database stores it: valid UTF-8, and two different paths never look the same.

    A byte that is not UTF-8 becomes `\\xNN`; a name that itself holds the four characters `\\xNN` has its backslash
    written as `\\x5c`. Newlines, quotes and all else stay. Of a path that is longer than a server's index takes, the
    middle is replaced by a hash of the whole; it is opened by its location, which stays whole.
    """
    raw = re.sub(rb"\\(?=x[0-9a-f]{2})", rb"\\x5c", os.fsencode(path))
    text = raw.decode("utf-8", "backslashreplace")
    if len(whole := text.encode()) <= _LONGEST_PATH_BYTES:
        return text
    first, last = whole[:1800].decode(errors="ignore"), whole[-600:].decode(errors="ignore")
    return f"{first}[… {hashlib.sha256(whole).hexdigest()[:16]} …]{last}"


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


def without_covered(starts: Sequence[str]) -> list[str]:
    """Drop what another start already covers (`a` covers `a/b.pdf`), so that no file is seen twice.

    What the walk of the folder would not reach stays: a file hidden by a rule, a link that leads out.
    """
    folders = {start: _real_path(start) for start in starts if os.path.isdir(start)}

    def is_covered(start: str) -> bool:
        for folder in _ancestors(start):
            if folder in folders:
                below = os.path.relpath(start, folder).split(os.sep)
                if not any(map(is_skipped, below)) and _is_inside(_real_path(start), folders[folder]):
                    return True
        return False

    return [start for start in dict.fromkeys(starts) if not is_covered(start)]


def _expand(path: str) -> list[str]:
    if os.path.lexists(path) or not glob.has_magic(path):
        return [os.path.abspath(path)]
    try:
        return [os.path.abspath(found) for found in sorted(glob.iglob(path, recursive=True))]
    except RecursionError as error:
        raise UsageError(f"{display(path)[:80]}… has too many parts to be a pattern; nothing was done") from error


def _real_path(path: str) -> str:
    """With the links on its way resolved; a link that we may not follow (`/proc` has some) stays one."""
    try:
        return os.path.realpath(path)
    except OSError:
        return path


def _ancestors(path: str) -> Iterator[str]:
    while (parent := os.path.dirname(path)) != path:
        yield parent
        path = parent


def _is_home(path: str) -> bool:
    """A home folder of pagepack's: its page images are no documents."""
    return os.path.isfile(os.path.join(path, "pagepack.db")) and os.path.isdir(os.path.join(path, "images"))


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def rejected(cause: str, name: str, fact: str) -> DocumentRejected:
    return DocumentRejected(f"{name} {fact}", cause=cause)


def _walk_all(starts: Sequence[str], settings: Settings) -> Iterator[Found]:
    places = (str(settings.home), settings.images_url, settings.inputs_url)
    folders = [local_path(place) for place in places if place is not None]
    own = {os.path.realpath(folder) for folder in folders if folder is not None}
    for start in starts:
        target = _real_path(start)
        if os.path.isdir(target):
            yield from _walk(start, target, own, settings)
        else:
            yield _found(start, target, settings)


def _walk(start: str, root: str, own: set[str], settings: Settings) -> Iterator[Found]:
    """All files below a folder, in the order of their names; `root` is where its links must stay."""
    stack = [iter([start])]
    while stack:
        path = next(stack[-1], None)
        if path is None:
            stack.pop()
            continue
        is_link = path != start and os.path.islink(path)
        if is_link:
            target = _real_path(path)
            if not _is_inside(target, root):
                fact = f"is a link that leads out of {display(start)}; submit its target to take it"
                yield Found(path, display(path), 0, 0, rejected("symlink", display(path), fact))
            elif not os.path.isdir(target):
                yield _found(path, target, settings)
        elif not os.path.isdir(path):
            yield _found(path, path, settings)
        elif os.path.realpath(path) not in own and not _is_home(path):
            try:
                names = sorted(name for name in os.listdir(path) if not is_skipped(name))
            except OSError as error:
                reason = rejected("unreadable", display(path), f"cannot be listed: {error.strerror}")
                yield Found(path, display(path), 0, 0, reason)
                continue
            stack.append(map(partial(os.path.join, path), names))


def _found(shown: str, path: str, settings: Settings) -> Found:
    name = display(shown)
    try:
        status = os.lstat(path)  # the path is resolved already: a link here is one that goes round in a circle
    except OSError as error:
        cause = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
        return Found(path, name, 0, 0, rejected(cause, name, f"cannot be found: {error.strerror}"))
    if stat.S_ISLNK(status.st_mode):
        fact = "is a link that leads back to itself, or that nobody may follow"
        return Found(path, name, 0, 0, rejected("symlink", name, fact))
    return Found(path, name, status.st_size, status.st_mtime_ns, judge(name, status, settings.max_file_bytes))
