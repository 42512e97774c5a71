"""The work of an ingest worker: one document after another is drawn, and its pages are stored."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.blobs.page_images import open_images
from pipeline.daemons import start_daemon
from pipeline.database.engine import Database
from pipeline.database.retry import R, insist
from pipeline.documents.inputs import InputCopies, Inputs
from pipeline.documents.office_suite import as_shown, find_suite
from pipeline.documents.rasterize import PageFailure, Rasterizer
from pipeline.documents.render_process import RasterizedPage
from pipeline.errors import DiskFull, DocumentRejected, PagepackError, StorageGone, UsageError
from pipeline.settings import Settings
from pipeline.store.backpressure import PAGES_STORED_AT_ONCE, Room
from pipeline.store.claims import DocumentClaim, claim_document
from pipeline.store.due import is_ingest_wanted
from pipeline.store.leases import GONE_SECONDS, Limits, holds_document, renew_document, return_claim
from pipeline.store.pages import NewPage, add_pages, finish_document, reject_document, retry_document, set_page_count
from pipeline.telemetry import events, metrics, traces
from pipeline.telemetry.metrics import set_gauge
from pipeline.telemetry.traces import TracedPage

log = logging.getLogger("pagepack.worker")

_SECONDS_HELD_BACK = 5.0  # at least, before another batch's document takes the place
_SECONDS_UNHEARD = 2.0  # a message for another batch: then no worker is free for it
_MOST_SECONDS_HELD = 1200.0  # RabbitMQ takes a message for lost that is not acknowledged within half an hour
_ROOM_SECONDS = 0.5
_SECONDS_A_TRANSACTION = 1.0  # whichever comes first: readers shall not starve behind slow pages


def check_storage(settings: Settings) -> None:
    """Whether the places of page images and of copied inputs can be used; asked once, before any work.

    Raises:
        UsageError, StorageGone, DiskFull: they cannot.
    """
    open_images(settings).check()
    if settings.inputs_url is not None:
        InputCopies(settings.inputs_url).check()


def office_program(settings: Settings) -> str | None:
    """What draws office documents here, in their own layout; None where they show what they carry."""
    return find_suite(settings)


class Ingester:
    """What an ingest worker process holds: a rasterizer, the image store, and its leases' heartbeat."""

    def __init__(self, db: Database, settings: Settings, owner: str, is_stopping: Callable[[], bool]) -> None:
        self.db = db
        self._settings = settings
        self._owner = owner
        self._is_stopping = is_stopping
        self._images = open_images(settings)
        is_far = self._images.num_puts > 1
        self._puts = ThreadPoolExecutor(self._images.num_puts, "put") if is_far else None
        self._inputs = Inputs(settings)
        self._rasterizer = Rasterizer(settings)
        self._claim: DocumentClaim | None = None  # in hand: the heartbeat renews it
        self._limits = Limits.of(settings)
        start_daemon("heartbeat", self._beat, longest_seconds=settings.heartbeat_seconds)

    def ingest(self, document_id: int) -> None:
        """Turn one waiting document into pages.

        Messages for its pages are the dispatcher's, a few at a time: a long document does not fill the queue.

        Where the document does not wait any more, this does nothing. Errors that no retry of this document mends (a
        full disk, a storage that is away) are raised after it was given back.
        """
        claim = claim_document(self.db, document_id, self._owner, self._settings.lease_seconds)
        if claim is None:
            return
        self._claim = claim
        events.claimed(claim)
        try:
            self._rasterize(claim)
        except DocumentRejected as error:
            rejection = error
            if self._insist(lambda: reject_document(self.db, claim, rejection)):
                events.document_rejected(claim, error)
        except Exception as error:
            reason = error
            if isinstance(error, DiskFull | StorageGone | UsageError):
                wait_seconds = 0.0 if isinstance(error, DiskFull) else GONE_SECONDS
                returned = self._insist(lambda: return_claim(self.db, claim, str(reason), wait_seconds))
                events.given_back(claim, str(error), returned)
                if isinstance(error, UsageError):
                    raise StorageGone(str(error)) from error
                raise
            if self._insist(lambda: retry_document(self.db, claim, reason, self._limits)):
                events.document_retried(claim, error, self._limits)
            if not isinstance(error, PagepackError):
                raise
        finally:
            self._claim = None

    def _rasterize(self, claim: DocumentClaim) -> None:
        file, name = self._inputs.open(claim.content_hash, claim.locations)
        file, kind = as_shown(file, claim.kind, name, self._settings)
        with self._rasterizer.open(name, kind, file=file, name=name, detail=claim.detail) as document:
            self._insist(lambda: set_page_count(self.db, claim, document.page_count))
            chunk: list[Future[NewPage]] = []
            started = time.monotonic()
            for page in rasterizing(claim, document.pages(claim.first_page)):
                chunk.append(self._storing(page))
                if len(chunk) >= PAGES_STORED_AT_ONCE or time.monotonic() - started > _SECONDS_A_TRANSACTION:
                    if not self._flush(claim, chunk):
                        return
                    chunk, started = [], time.monotonic()
                    if not self._wait_for_room(claim):
                        return
            count = document.page_count
            if self._flush(claim, chunk) and self._insist(lambda: finish_document(self.db, claim, count)):
                events.document_rendered(claim, count)

    def _storing(self, page: RasterizedPage | PageFailure) -> Future[NewPage]:
        """Put its image; over a network beside the drawing of the next ones."""
        if self._puts is not None:
            return self._puts.submit(self._stored, page)
        future: Future[NewPage] = Future()
        future.set_result(self._stored(page))
        return future

    def _stored(self, page: RasterizedPage | PageFailure) -> NewPage:
        if isinstance(page, PageFailure):
            return NewPage(page.page_index, error=page.error)
        image_hash = self._images.put(page.image, page.image_hash)
        return NewPage(
            page.page_index,
            image_hash,
            page.width_px,
            page.height_px,
            page.text_layer,
            page.warnings or None,
            width_pt=page.width_pt,
            height_pt=page.height_pt,
            text_layer_verdict=page.text_layer_verdict,
            dpi=page.dpi,
            print_px=page.print_px,
            text_layer_boxes=page.text_layer_found,
            is_blank=page.is_blank,
        )

    def _flush(self, claim: DocumentClaim, chunk: list[Future[NewPage]]) -> bool:
        """False where another worker has the document now."""
        pages = [page.result() for page in chunk]
        if not self._insist(lambda: add_pages(self.db, claim, pages)):
            return False
        events.pages_rendered(claim, pages)
        return True

    def _wait_for_room(self, claim: DocumentClaim) -> bool:
        """Hold back while enough pages wait; False where the document was given back, or lost.

        It stays in hand, open, while nobody else needs this worker: taken up again, it would be fetched and hashed
        again, from a bucket perhaps, for the few pages that were read meanwhile. The dispatcher enqueues one again
        that was given back.
        """
        began = time.monotonic()
        limit = self._settings.max_waiting_pages
        while not self._is_stopping():
            if self._insist(lambda: Room(self.db, limit).is_left(claim.batch_id)):
                return True
            if not self._insist(lambda: holds_document(self.db, claim)):
                return False
            held = time.monotonic() - began
            if held > _MOST_SECONDS_HELD or (
                held > _SECONDS_HELD_BACK
                and self._insist(lambda: is_ingest_wanted(self.db, claim.batch_id, _SECONDS_UNHEARD))
            ):
                break
            time.sleep(_ROOM_SECONDS)
        reason = "the worker stopped" if self._is_stopping() else "enough pages wait"
        events.given_back(claim, reason, self._insist(lambda: return_claim(self.db, claim, reason)))
        return False

    def _insist(self, call: Callable[[], R]) -> R:
        return insist(call, self._is_stopping)

    def _beat(self) -> None:
        time.sleep(self._settings.heartbeat_seconds)
        claim = self._claim
        if claim is not None:
            try:
                renew_document(self.db, claim, self._settings.lease_seconds)
            except PagepackError as error:  # the next beat may get through; a lease that ran out is fenced off
                log.warning("the lease of %s was not renewed: %s", claim.source_path or claim.public_id, error)
        set_gauge("pagepack_leases", claim is not None)


def rasterizing(
    claim: DocumentClaim, pages: Iterator[RasterizedPage | PageFailure]
) -> Iterator[RasterizedPage | PageFailure]:
    """The same pages; times how long each is waited for."""
    started, began = time.perf_counter(), time.time()
    for page in pages:
        seconds = time.perf_counter() - started
        metrics.observe("pagepack_stage_seconds", seconds, stage="rasterize")
        if traces.is_tracing():
            about = TracedPage(claim.public_id, page.page_index + 1, claim.token)
            error = getattr(page, "error", None)
            traces.record_span(traces.ROOT, about, began, began + seconds, str(error) if error else None)
        yield page
        started, began = time.perf_counter(), time.time()
