"""Uploaded files on their way to the disk: in pieces, bounded, hashed as they come, and all of a request or none.

    home/uploads/.parts/…                        under way; removed when the sender goes or something fails
    home/uploads/0123456789abcdef/letters/a.pdf  the content's hash, and the name as it was sent

So the same file sent again is the same path, and another content of the same name takes nothing away. A file that lies
there under another name already is linked, not stored twice. Requests put their files into place one after the other:
none finds a file known that another may yet take back.

Starlette's own parser would spool files of any size into the system's folder for temporary files first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from pipeline.errors import DiskFull, PagepackError, Unavailable, UsageError
from pipeline.web.v1.upload_names import upload_name

_MOST_FILES = 1_000
_MOST_FIELDS = 100
_MOST_FIELD_BYTES = 10_000
_PART_SECONDS = 24 * 3600.0  # an upload that is older was left by a server that was killed


class TooLarge(PagepackError):
    """More than a request may bring."""

    cause = "too-large"


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A file that lies in the uploads now."""

    name: str
    path: Path
    size_bytes: int
    content_hash: str
    was_known: bool


@dataclass(slots=True)
class _Part:
    """A file under way."""

    name: str
    path: Path
    file: BinaryIO
    digest: hashlib._Hash
    size_bytes: int = 0


class Receiver:
    """One request's body, fed piece by piece; `finish` puts its files into place, `close` removes what is not."""

    def __init__(self, uploads: Path, content_type: str, max_bytes: int) -> None:
        """Raises UsageError: it is no multipart/form-data."""
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise UsageError("send files as multipart/form-data, in fields called file: curl -F file=@letter.pdf")
        self.fields: dict[str, list[str]] = {}
        self._uploads, self._max_bytes, self._seen_bytes = uploads, max_bytes, 0
        self._parts: list[_Part] = []
        self._open: _Part | None = None
        self._field: tuple[str, bytearray] | None = None
        self._header, self._value, self._disposition = bytearray(), bytearray(), b""
        self._is_whole = False
        callbacks = {
            "on_part_begin": self._part_begins,
            "on_header_field": self._header_goes_on,
            "on_header_value": self._value_goes_on,
            "on_header_end": self._header_ends,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._data,
            "on_part_end": self._part_ends,
            "on_end": self._ends,
        }
        try:
            self._parser = MultipartParser(options[b"boundary"], callbacks)  # type: ignore[arg-type]
        except Exception as error:
            raise UsageError(f"the boundary of the multipart/form-data cannot be used: {error}") from error

    def feed(self, data: bytes) -> None:
        """Raises UsageError: no such form. TooLarge. DiskFull, Unavailable: the disk does not take it."""
        self._seen_bytes += len(data)
        if self._seen_bytes > self._max_bytes:
            raise too_large(self._max_bytes)
        try:
            self._parser.write(data)
        except MultipartParseError as error:
            raise UsageError(f"the multipart/form-data is broken: {error}") from error
        except OSError as error:
            raise _unwritable(self._uploads, error) from error

    def finish(self) -> list[Uploaded]:
        """Raises UsageError: the form ends too early, or has no file. DiskFull, Unavailable: as `feed`."""
        if not self._is_whole:
            raise UsageError("the multipart/form-data ends in the middle; send it again")
        if not self._parts:
            raise UsageError("no file was sent; send some in fields called file: curl -F file=@letter.pdf")
        placed: dict[Path, bool] = {}
        try:
            with _alone(self._uploads):
                try:
                    return [self._put(part, placed) for part in self._parts]
                except OSError:
                    self._take_back(placed)
                    raise
        except OSError as error:
            raise _unwritable(self._uploads, error) from error

    def close(self) -> None:
        for part in self._parts:
            with contextlib.suppress(OSError):
                part.file.close()
            with contextlib.suppress(OSError):
                part.path.unlink()

    def _put(self, part: _Part, placed: dict[Path, bool]) -> Uploaded:
        content_hash = part.digest.hexdigest()
        folder = self._uploads / content_hash[:16]
        target = folder / part.name
        was_known = target.is_file() and target.stat().st_size == part.size_bytes
        if not was_known:
            same = next((file for file in _files(folder) if file.stat().st_size == part.size_bytes), None)
            placed[target] = False  # its folder may be all that there is to take back
            target.parent.mkdir(parents=True, exist_ok=True)
            if same is not None:
                part.path.unlink()
                os.link(same, part.path)
            os.replace(part.path, target)
            placed[target] = True
            _keep(target.parent)
        return Uploaded(part.name, target, part.size_bytes, content_hash, was_known)

    def _take_back(self, placed: dict[Path, bool]) -> None:
        """With the folders that nothing else lies in."""
        for target, is_there in placed.items():
            with contextlib.suppress(OSError):
                if is_there:
                    target.unlink()
            with contextlib.suppress(OSError):
                for folder in target.parents:
                    if folder == self._uploads:
                        break
                    folder.rmdir()

    def _part_begins(self) -> None:
        self._disposition = b""
        self._open = self._field = None

    def _header_goes_on(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _value_goes_on(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" not in options:
            if sum(map(len, self.fields.values())) >= _MOST_FIELDS:
                raise UsageError(f"the form has more than {_MOST_FIELDS} fields beside its files")
            self._field = (name, bytearray())
            return
        if name != "file":
            raise UsageError(f"a file was sent in the field {name[:80]!r}; send files in fields called file")
        if len(self._parts) >= _MOST_FILES:
            raise UsageError(f"more than {_MOST_FILES:,} files in one request; send the others in another")
        wished = upload_name(options[b"filename"].decode("utf-8", "replace"))
        parts = self._uploads / ".parts"
        parts.mkdir(parents=True, exist_ok=True)
        descriptor, path = tempfile.mkstemp(dir=parts)
        file = os.fdopen(descriptor, "wb")
        self._open = _Part(wished, Path(path), file, hashlib.sha256())
        self._parts.append(self._open)

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._open is not None:
            piece = data[start:end]
            self._open.file.write(piece)
            self._open.digest.update(piece)
            self._open.size_bytes += len(piece)
        elif self._field is not None:
            self._field[1].extend(data[start:end])
            if len(self._field[1]) > _MOST_FIELD_BYTES:
                raise UsageError(f"the field {self._field[0][:80]!r} has more than {_MOST_FIELD_BYTES:,} bytes")

    def _part_ends(self) -> None:
        if self._open is not None:
            self._open.file.flush()
            os.fsync(self._open.file.fileno())  # whoever is told that it was taken may delete it
            self._open.file.close()
        elif self._field is not None:
            self.fields.setdefault(self._field[0], []).append(self._field[1].decode("utf-8", "replace"))

    def _ends(self) -> None:
        self._is_whole = True


def too_large(max_bytes: int) -> TooLarge:
    return TooLarge(
        f"the upload has more than {max_bytes:,} bytes; send it in parts, or start the server with a higher "
        "PAGEPACK_MAX_UPLOAD_BYTES"
    )


def clear_parts(uploads: Path) -> None:
    """Remove what servers that were killed have left."""
    with contextlib.suppress(OSError):
        for part in os.scandir(uploads / ".parts"):
            if part.stat().st_mtime < time.time() - _PART_SECONDS:
                os.unlink(part)


@contextlib.contextmanager
def _alone(uploads: Path) -> Iterator[None]:
    """Other servers of the home wait, too."""
    descriptor = os.open(uploads, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _files(folder: Path) -> list[Path]:
    """At most some: a content has few names."""
    found: list[Path] = []
    for where, _, names in os.walk(folder):
        found += [Path(where, name) for name in names]
        if found:
            break
    return found


def _keep(folder: Path) -> None:
    """A name is on the disk once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(uploads: Path, error: OSError) -> PagepackError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no room left for uploads in {uploads}: free some and send it again")
    if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
        return UsageError("a name clashes with one that was sent before: one is a folder of the other; choose another")
    return Unavailable(f"cannot write uploads to {uploads}: {error.strerror}")
