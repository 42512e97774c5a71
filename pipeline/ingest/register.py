"""Paths become rows of a batch: every file at them is seen, identified where it is new, and stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path

from pipeline.database.engine import Database
from pipeline.documents.discover import discover
from pipeline.documents.files import CONTAINERS, Found
from pipeline.documents.identify import identify
from pipeline.documents.inputs import InputCopies, location_of
from pipeline.errors import DocumentRejected
from pipeline.ingest.gone import mark_missed
from pipeline.ingest.selection import ALL_FILES, Seen, Selection
from pipeline.ingest.unpack import Unpacker
from pipeline.settings import Settings
from pipeline.store.batches import OpenBatch, mark_all_seen
from pipeline.store.sources import (
    KnownFile,
    SeenFile,
    begin_walk,
    forget_files,
    forget_unseen,
    known_files,
    record_files,
)
from pipeline.urls import is_url

_FILES_A_TRANSACTION = 200
_FILES_AT_ONCE = 16  # where looking at a file means waiting for a network


def register(
    db: Database,
    batch: OpenBatch,
    paths: Sequence[str | Path],
    settings: Settings,
    selection: Selection = ALL_FILES,
    *,
    forget_gone: bool,
    is_stopping: Callable[[], bool],
) -> Iterator[Seen]:
    """See every file at the paths and store it in the batch; yields the counts so far after each transaction.

    A file whose size and time are as recorded is not read again, unless the selection says so. Files that are gone
    from the folders among the paths are marked. A batch that is known by its paths, not by a name, forgets those of
    them that it had not taken in, and what is not meant any more. Raises as `discover`.
    """
    began = begin_walk(db, batch)
    files = _files(db, paths, settings, selection, is_stopping)
    count = num_ignored = 0
    while chunk := list(islice(files, _FILES_A_TRANSACTION)):
        if is_stopping():
            return
        if selection.ignores_unsupported and (ignored := [file.path for file in chunk if file.is_unsupported()]):
            forget_files(db, batch, ignored)  # that were told of before
            chunk = [file for file in chunk if not file.is_unsupported()]
            num_ignored += len(ignored)
        if chunk:
            record_files(db, batch, chunk, began)
        count += len(chunk)
        yield Seen(count, num_ignored)
    if is_stopping():
        return
    mark_missed(db, batch, paths, selection, began)
    if forget_gone:
        forget_unseen(db, batch, began)


def _files(
    db: Database,
    paths: Sequence[str | Path],
    settings: Settings,
    selection: Selection,
    is_stopping: Callable[[], bool],
) -> Iterator[SeenFile]:
    """Every file at the paths and, before it, its members where it is a container; ends early when stopping."""
    found = discover(paths, settings, selection.globs)
    copies = None if settings.inputs_url is None else InputCopies(settings.inputs_url)
    with closing(Unpacker(db, settings, selection, copies, is_stopping)) as unpacker:
        yield from _unpacked(db, found, copies, unpacker, selection, settings, is_stopping)


def _unpacked(
    db: Database,
    found: Iterator[Found],
    copies: InputCopies | None,
    unpacker: Unpacker,
    selection: Selection,
    settings: Settings,
    is_stopping: Callable[[], bool],
) -> Iterator[SeenFile]:
    while chunk := list(islice(found, _FILES_A_TRANSACTION)):
        known = known_files(db, [file.display_path for file in chunk])

        def look(file: Found, known: dict[str, KnownFile] = known) -> SeenFile | None:
            return None if is_stopping() else _seen(file, known.get(file.display_path), copies, selection, settings)

        if copies is not None or any(is_url(file.path) for file in chunk):
            with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
                seen = list(pool.map(look, chunk))
        else:
            seen = list(map(look, chunk))
        for file, one in zip(chunk, seen, strict=True):
            if one is None or is_stopping():
                return
            yield from unpacker.unpacked(file, one)


def _seen(
    file: Found, known: KnownFile | None, copies: InputCopies | None, selection: Selection, settings: Settings
) -> SeenFile:
    location = location_of(file.path)
    kind = content_hash = None
    rejection = file.rejection
    size_bytes, modified_ns = file.size_bytes, file.modified_ns
    if rejection is None:
        try:
            if known is not None and not selection.checks_content and known.is_unchanged(size_bytes, modified_ns):
                kind, content_hash = known.kind, known.content_hash
            else:
                identity = identify(file.path, settings=settings)
                kind, content_hash = str(identity.kind), identity.content_hash
                size_bytes, modified_ns = identity.size_bytes, identity.modified_ns
            if copies is not None and not is_url(file.path) and kind not in CONTAINERS:
                location = copies.location(kind, content_hash)
                if known is None or known.location != location:
                    copies.put(file.path, kind, content_hash, size_bytes, modified_ns)
        except DocumentRejected as error:
            kind, content_hash, rejection = None, None, error
    return SeenFile(file.display_path, location, size_bytes, modified_ns, kind, content_hash, rejection)


def register_all(
    db: Database,
    batch: OpenBatch,
    paths: Sequence[str | Path],
    settings: Settings,
    selection: Selection,
    forget_gone: bool,
    is_stopping: Callable[[], bool],
) -> Iterator[Seen]:
    """Register the files at the paths; yields the counts so far. At the end the batch may finish."""
    yield from register(db, batch, paths, settings, selection, forget_gone=forget_gone, is_stopping=is_stopping)
    if not is_stopping():
        mark_all_seen(db, batch)
