"""A file or object read once: its kind and its content hash."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO, cast

from pipeline.blobs.storage import Storage
from pipeline.documents.containers.limits import check_size
from pipeline.documents.files import HEAD_BYTES, Identity, Kind, display, kind_of, open_regular, rejected, unsupported
from pipeline.documents.look_inside import NEED_A_LOOK, kind_inside
from pipeline.documents.scratch import room_for, scratch_file
from pipeline.errors import DocumentRejected, UsageError
from pipeline.settings import Settings
from pipeline.urls import is_url


def identify(path: str | Path, name: str | None = None, settings: Settings | None = None) -> Identity:
    """Read a file once: its kind from the first 1,024 bytes, its SHA-256 from all of them; `name` is for messages.
    The `settings` bound what is fetched of an object whose storage does not say how large it is, and say where to.

    Raises:
        DocumentRejected: not a regular file, no permission, zero bytes, a kind we do not take, or it changed while
            it was read (someone is still writing it: the next run sees it again).
    """
    if is_url(os.fspath(path)):
        return identify_url(os.fspath(path), settings)
    name = name or display(os.fspath(path))
    with open_regular(path, name) as file:
        before = os.fstat(file.fileno())
        try:
            head = file.read(HEAD_BYTES)
            kind = kind_of(head)
            if kind is not None:
                kind = kind_inside(kind, cast(BinaryIO, file), name)
            if kind is None:
                raise unsupported(name, head)
            file.seek(0)
            content_hash = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise rejected("unreadable", name, f"cannot be read: {error.strerror}") from error
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise rejected("changed", name, "changed while it was read; run again when it is complete")
    return Identity(kind, content_hash, after.st_size, after.st_mtime_ns)


def identify_url(url: str, settings: Settings | None = None) -> Identity:
    """Read an object once: its kind from the first bytes, its SHA-256 from all of them.

    Raises:
        DocumentRejected: it is gone, refused, empty, of a kind we do not take, or it changed while it was read.
        StorageGone: the storage does not answer.
    """
    name, digest, size = display(url), hashlib.sha256(), 0
    kind: Kind | None = None
    with tempfile.TemporaryFile() if settings is None else scratch_file(settings) as copy:
        try:
            storage = Storage(url)
            before = storage.stat()
            if before is None:
                raise FileNotFoundError(url)
            for chunk in storage.chunks():
                kind = kind if size else kind_of(chunk[:HEAD_BYTES])
                if kind is None:
                    raise unsupported(name, chunk[:HEAD_BYTES])
                size += len(chunk)
                if settings is not None:
                    check_size(name, size, settings)
                if kind in NEED_A_LOOK:
                    with room_for(name, settings) if settings is not None else nullcontext():
                        copy.write(chunk)
                digest.update(chunk)
            after = storage.stat()
        except FileNotFoundError as error:
            raise rejected("missing", name, "is gone") from error
        except UsageError as error:
            raise DocumentRejected(str(error), cause="unreadable") from error
        if kind is not None:
            kind = kind_inside(kind, copy, name)
    if size == 0:
        raise rejected("empty", name, "has zero bytes")
    if after is None or before.version != after.version or after.size_bytes not in (None, size):
        raise rejected("changed", name, "changed while it was read; run again when it is complete")
    if kind is None:
        raise unsupported(name, b"")
    return Identity(kind, digest.hexdigest(), size, after.version or time.time_ns())
