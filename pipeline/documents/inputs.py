"""A document's bytes, from where they lie to a process that shares no path with whoever submitted them.

A source has the *path* that its user knows and the *location* that a worker opens:

    submitted               location                              a worker
    /in/a.pdf               file:///in/a.pdf                      opens the file itself
    /in/a.pdf, copied       PAGEPACK_INPUTS_URL/ab/abcdef….pdf    opens or fetches the copy
    s3://bucket/a.pdf       s3://bucket/a.pdf                     fetches the object
    a.zip!/b.pdf            that of a.zip, then #!/b.pdf          unpacks it, or opens or fetches its copy

What is fetched or unpacked goes to a file without a name (`scratch.py`).
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import BinaryIO, cast
from urllib.parse import quote_from_bytes

from pipeline.blobs.storage import Storage
from pipeline.documents.containers.limits import check_size
from pipeline.documents.containers.opening import OpenContainers, Outermost
from pipeline.documents.containers.places import is_member
from pipeline.documents.files import HEAD_BYTES, display, kind_of, open_regular, rejected
from pipeline.documents.identify import identify
from pipeline.documents.look_inside import kind_inside
from pipeline.documents.scratch import room_for, scratch_file
from pipeline.errors import DocumentRejected, UsageError
from pipeline.settings import Settings
from pipeline.urls import is_url, local_path


def location_of(path: str) -> str:
    """Where a found file lies: a URL, in which the bytes of a local path are percent-encoded."""
    if is_url(path):
        return path
    return "file://" + quote_from_bytes(path.encode("utf-8", "surrogateescape"))


class InputCopies:
    """Copies of local files at PAGEPACK_INPUTS_URL, each content once under its hash."""

    def __init__(self, url: str) -> None:
        folder = local_path(url)
        self._url = url.rstrip("/") if folder is None else location_of(os.path.abspath(folder))
        self._storage = Storage(url if folder is None else f"file://{os.path.abspath(folder)}", "PAGEPACK_INPUTS_URL")

    def check(self) -> None:
        """As `Storage.check`."""
        self._storage.check()

    def location(self, kind: str, content_hash: str) -> str:
        """Where the copy of this content lies, or will."""
        return f"{self._url}/{_key(kind, content_hash)}"

    def put(self, path: str, kind: str, content_hash: str, size_bytes: int, modified_ns: int) -> None:
        """Copy a file that was identified so, to its `location`, unless its content is there.

        Raises:
            DocumentRejected: the file is gone, or has changed since.
            UsageError, StorageGone, DiskFull: the copy cannot be written.
        """
        key = _key(kind, content_hash)
        there = self._storage.stat(key)
        if there is None or there.size_bytes != size_bytes:
            open_regular(path).close()
            self._storage.upload(key, path)
            status = os.stat(path)
            if (status.st_size, status.st_mtime_ns) != (size_bytes, modified_ns):
                self._storage.delete(key)  # what was copied may not be what was hashed
                raise rejected("changed", display(path), "changed while it was read; run again when it is complete")

    def put_unpacked(self, file: str, kind: str, content_hash: str, size_bytes: int) -> None:
        """As `put`, from a file of ours."""
        key = _key(kind, content_hash)
        there = self._storage.stat(key)
        if there is None or there.size_bytes != size_bytes:
            self._storage.upload(key, file)

    def delete(self, kind: str, content_hash: str) -> None:
        """Remove the copy of this content; one that is not there is no error."""
        self._storage.delete(_key(kind, content_hash))


class Inputs:
    """Opens documents' contents, one after another, in one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._containers = OpenContainers(settings, _version, self._open_container)

    def open(self, content_hash: str, locations: Mapping[str, str]) -> tuple[BinaryIO, str]:
        """The content of this hash as an open local file, verified, and the path by which its user knows it.

        `locations` maps where it may lie to those paths.

        Raises:
            DocumentRejected: at every location the file is gone, unreadable or another one by now.
            StorageGone, DiskFull: it cannot be fetched for now.
        """
        last: DocumentRejected | None = None
        for location, name in locations.items():
            try:
                file, found = self._open(location, name)
            except DocumentRejected as error:
                last = _explained(error, location, name, content_hash)
                continue
            if found == content_hash:
                return file, name
            file.close()
        if last is not None:
            raise last
        raise DocumentRejected("the file changed after it was seen; run the same command again", cause="changed")

    def _open(self, location: str, name: str) -> tuple[BinaryIO, str]:
        if is_member(location):
            return self._containers.open(location, name)
        path = local_path(location)
        if path is None:
            return fetch(location, name, self._settings)
        content_hash = identify(path, name).content_hash
        return cast(BinaryIO, open_regular(path, name)), content_hash

    def _open_container(self, location: str, name: str) -> Outermost:
        file = open_whole(location, name, self._settings)
        file.seek(0)
        kind = kind_of(file.read(HEAD_BYTES))
        return Outermost(file, str(kind and kind_inside(kind, file, name)))


def open_whole(location: str, name: str, settings: Settings) -> BinaryIO:
    """A file at a path or URL, to be read in any order. Raises as `open_regular` and `fetch`."""
    path = local_path(location)
    if path is None:
        return fetch(location, name, settings)[0]
    return cast(BinaryIO, open_regular(path, name))


def _version(location: str) -> object:
    """What changes when the file there does."""
    path = local_path(location)
    if path is None:
        stored = Storage(location).stat()
        return None if stored is None else (stored.size_bytes, stored.version)
    with suppress(OSError):
        status = os.stat(path)
        return (status.st_ino, status.st_size, status.st_mtime_ns)
    return None


def fetch(location: str, name: str, settings: Settings) -> tuple[BinaryIO, str]:
    """A copy on this machine, of at most `max_file_bytes`, and its hash.

    Raises:
        DocumentRejected: it is gone, refused or too large.
        StorageGone, DiskFull: not for now.
    """
    digest, size = hashlib.sha256(), 0
    file = scratch_file(settings)
    try:
        with room_for(name, settings):
            for chunk in Storage(location).chunks():
                digest.update(chunk)
                size += len(chunk)
                check_size(name, size, settings)
                file.write(chunk)
            file.flush()
    except BaseException as error:
        file.close()
        if isinstance(error, FileNotFoundError):
            raise rejected("missing", name, "is gone") from error
        if isinstance(error, UsageError):
            raise rejected("unreadable", name, f"cannot be fetched: {error}") from error
        raise
    return file, digest.hexdigest()


def _explained(error: DocumentRejected, location: str, name: str, content_hash: str) -> DocumentRejected:
    """A file that is not there may lie on another machine."""
    if error.cause != "missing" or local_path(location) is None:
        return error
    if content_hash in location:
        return rejected("missing", name, f"has lost its copy {location}; run the same command again")
    way = "if it lies on another, share its folder, or set PAGEPACK_INPUTS_URL where it is submitted"
    return rejected("missing", name, f"is not on this machine ({socket.gethostname()}), or gone; {way}")


def _key(kind: str, content_hash: str) -> str:
    return f"{content_hash[:2]}/{content_hash}.{kind}"
