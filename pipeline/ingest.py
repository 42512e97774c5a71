"""Ingest: files that were seen become documents, documents become page images and page tasks.

register   folder → sources and documents, in the submitting process
Ingester   one document → pages, in an ingest worker, several of them side by side
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pipeline import events
from pipeline.batches import OpenBatch, SeenFile, forget_unseen, known_files, record_files
from pipeline.database import Database
from pipeline.discover import Found, discover, identify
from pipeline.errors import DocumentRejected, PagepackError
from pipeline.images import ImageStore
from pipeline.leases import DocumentClaim, Limits, claim_document, renew_document, return_claim
from pipeline.metrics import set_gauge
from pipeline.progress import pages_waiting
from pipeline.rasterize import PageFailure, RasterizedPage, Rasterizer
from pipeline.settings import Settings
from pipeline.stages import rasterizing
from pipeline.store import NewPage, add_pages, finish_document, reject_document, retry_document, set_page_count
from schemas.tables import utc_now

_FILES_A_TRANSACTION = 200
_PAGES_A_TRANSACTION = 16
_SECONDS_A_TRANSACTION = 1.0  # whichever comes first: readers shall not starve behind slow pages


def register(
    db: Database,
    batch: OpenBatch,
    paths: Sequence[str | Path],
    settings: Settings,
    *,
    forget_gone: bool,
    is_stopping: Callable[[], bool],
) -> Iterator[int]:
    """See every file at the paths and store it in the batch; yields the count so far after each transaction.

    A file whose size and time are as recorded is not read again. A batch that is known by its paths, not by a name,
    forgets files that are gone from them. Raises as `discover`.
    """
    began = utc_now()
    found = discover(paths, settings)
    count = 0
    while chunk := list(islice(found, _FILES_A_TRANSACTION)):
        known = known_files(db, [file.display_path for file in chunk])
        seen = []
        for file in chunk:
            if is_stopping():
                return
            seen.append(_seen(file, known.get(file.display_path)))
        record_files(db, batch, seen)
        count += len(chunk)
        yield count
    if forget_gone:
        forget_unseen(db, batch, began)


def _seen(file: Found, known: tuple[int, int, str, str] | None) -> SeenFile:
    location = "file://" + quote_from_bytes(file.path.encode("utf-8", "surrogateescape"))
    kind = content_hash = None
    rejection = file.rejection
    if rejection is None and known is not None and known[:2] == (file.size_bytes, file.modified_ns):
        kind, content_hash = known[2:]
    elif rejection is None:
        try:
            identity = identify(file.path)
            kind, content_hash = str(identity.kind), identity.content_hash
        except DocumentRejected as error:
            rejection = error
    return SeenFile(file.display_path, location, file.size_bytes, file.modified_ns, kind, content_hash, rejection)


def path_of(location: str) -> str:
    """The path that a stored location names; bytes that are not UTF-8 come back as surrogates."""
    return unquote_to_bytes(location.removeprefix("file://")).decode("utf-8", "surrogateescape")


class Ingester:
    """What an ingest worker process holds: a rasterizer, the image store, and its leases' heartbeat."""

    def __init__(self, db: Database, settings: Settings, owner: str, is_stopping: Callable[[], bool]) -> None:
        self._db = db
        self._settings = settings
        self._owner = owner
        self._is_stopping = is_stopping
        self._images = ImageStore(settings.home / "images")
        self._rasterizer = Rasterizer(settings)
        self._claim: DocumentClaim | None = None  # in hand: the heartbeat renews it
        self._limits = Limits(settings.lease_seconds, settings.max_attempts, settings.max_crashes)
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def ingest(self, document_id: int, ring: Callable[[list[int]], None]) -> None:
        """Turn one waiting document into pages; `ring` gets the ids of pages that now wait.

        Where the document does not wait any more, this does nothing. Errors that no retry of this document mends (a
        full disk) are raised after it was given back.
        """
        claim = claim_document(self._db, document_id, self._owner, self._settings.lease_seconds)
        if claim is None:
            return
        self._claim = claim
        events.claimed(claim)
        try:
            self._rasterize(claim, ring)
        except DocumentRejected as error:
            if reject_document(self._db, claim, error):
                events.document_rejected(claim, error)
        except Exception as error:
            if isinstance(error, PagepackError) and error.cause == "disk-full":
                events.given_back(claim, str(error), return_claim(self._db, claim, str(error)))
                raise
            if retry_document(self._db, claim, error, self._limits):
                events.document_retried(claim, error, self._limits)
            if not isinstance(error, PagepackError):
                raise
        finally:
            self._claim = None

    def _rasterize(self, claim: DocumentClaim, ring: Callable[[list[int]], None]) -> None:
        path = _unchanged(claim)
        with self._rasterizer.open(path, claim.kind) as document:
            set_page_count(self._db, claim, document.page_count)
            chunk: list[NewPage] = []
            started = time.monotonic()
            for page in rasterizing(claim, document.pages(claim.first_page)):
                chunk.append(self._stored(page))
                if len(chunk) >= _PAGES_A_TRANSACTION or time.monotonic() - started > _SECONDS_A_TRANSACTION:
                    if not self._flush(claim, chunk, ring):
                        return
                    chunk, started = [], time.monotonic()
                    if not self._wait_for_room(claim):
                        return
            if self._flush(claim, chunk, ring) and finish_document(self._db, claim, document.page_count):
                events.document_rendered(claim, document.page_count)

    def _stored(self, page: RasterizedPage | PageFailure) -> NewPage:
        if isinstance(page, PageFailure):
            return NewPage(page.page_index, error=page.error)
        image_hash = self._images.put(page.image, page.image_hash)
        return NewPage(
            page.page_index, image_hash, page.width_px, page.height_px, page.text_layer, page.warnings or None
        )

    def _flush(self, claim: DocumentClaim, chunk: list[NewPage], ring: Callable[[list[int]], None]) -> bool:
        waiting = add_pages(self._db, claim, chunk)
        if waiting is None:
            return False  # another worker has the document now
        events.pages_rendered(claim, chunk)
        ring(waiting)
        return True

    def _wait_for_room(self, claim: DocumentClaim) -> bool:
        """Hold back while enough pages wait; False where the worker stops, and the document was given back."""
        while True:
            if self._is_stopping():
                returned = return_claim(self._db, claim, "the worker stopped")
                events.given_back(claim, "the worker stopped", returned)
                return False
            limit = self._settings.max_waiting_pages
            if pages_waiting(self._db, claim.batch_id, limit) < limit:
                return True
            time.sleep(0.5)

    def _beat(self) -> None:
        while True:
            time.sleep(self._settings.heartbeat_seconds)
            claim = self._claim
            set_gauge("pagepack_leases", claim is not None)
            if claim is None:
                continue
            try:
                renew_document(self._db, claim, self._settings.lease_seconds)
            except PagepackError:
                continue  # the next beat may get through; a lease that ran out is fenced off


def _unchanged(claim: DocumentClaim) -> str:
    """A path that still holds the document's content.

    Raises:
        DocumentRejected: at every path the file is gone, unreadable or another one by now.
    """
    last: DocumentRejected | None = None
    for location in claim.locations:
        path = path_of(location)
        try:
            if identify(path).content_hash == claim.content_hash:
                return path
        except DocumentRejected as error:
            last = error
    if last is not None:
        raise last
    raise DocumentRejected("the file changed after it was seen; run the same command again", cause="changed")
