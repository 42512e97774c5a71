"""Page images go when nothing waits for them, and come back when a later prompt does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.blobs.page_images import ImageStore, open_images
from pipeline.errors import DocumentRejected, PageFailed, Unavailable
from pipeline.settings import Settings
from pipeline.store import backpressure
from pipeline.store.backpressure import Room
from pipeline.store.batch_states import cancel_batch
from pipeline.store.claims import DocumentClaim, claim_document
from pipeline.store.due import take_due_pages
from pipeline.store.leases import give_back, return_claim
from pipeline.store.pages import NewPage, add_pages, reject_document, render_again, retry_document, set_page_count
from pipeline.store.retention import free_read_images, sweep_images
from schemas.prompts import DESCRIBE, OCR
from tests.conftest import LIMITS, NEVER, Archive, sha

DATABASES = ("sqlite", "postgresql")


@pytest.fixture
def images(settings: Settings) -> ImageStore:
    return open_images(settings)


def ingest(archive: Archive, images: ImageStore, path: str, pages: list[str]) -> list[int]:
    """A document whose page images are a few bytes under the hash of their names."""
    document_id = archive.see(path)
    assert document_id is not None
    for page in pages:
        images.put(page.encode(), sha(page))
    return archive.ingest(document_id, pages)


def kept(images: ImageStore) -> int:
    return len(list(images.root.rglob("*.png")))


def swept(archive: Archive, settings: Settings, keep: str, most: int = 10_000) -> int:
    return sweep_images(archive.db, settings.model_copy(update={"keep_images": keep}), most)


def test_an_image_goes_with_the_last_task_of_the_last_page_that_shows_it(archive: Archive, images: ImageStore) -> None:
    first, other = ingest(archive, images, "/in/a.pdf", ["blank", "x"])
    (second,) = ingest(archive, images, "/in/b.pdf", ["blank"])
    archive.read(first, "nothing")
    assert free_read_images(archive.db, images, [first]) == 0 and kept(images) == 2, "the same blank page waits"
    archive.read(second, "nothing")
    assert free_read_images(archive.db, images, [second, other]) == 1 and kept(images) == 1
    assert archive.rows("SELECT id FROM pages WHERE image_freed_at IS NOT NULL ORDER BY 1") == [(first,), (second,)]
    assert free_read_images(archive.db, images, [second]) == 0


def test_the_sweep_frees_what_readers_left_and_nothing_that_waits(
    archive: Archive, images: ImageStore, settings: Settings
) -> None:
    read, waiting = ingest(archive, images, "/in/a.pdf", ["x", "y"])
    archive.read(read, "text")
    assert swept(archive, settings, "keep") == 0
    assert swept(archive, settings, "2") == 0
    assert swept(archive, settings, "until-read") == 1 and kept(images) == 1
    archive.read(waiting, "text")
    archive.execute("UPDATE pages SET created_at = '2020-01-01 00:00:00'")
    assert swept(archive, settings, "2") == 1 and kept(images) == 0
    assert swept(archive, settings, "2") == swept(archive, settings, "until-read") == 0


def test_a_sweep_of_many_is_bounded_and_goes_on(archive: Archive, images: ImageStore, settings: Settings) -> None:
    names = [f"page {index}" for index in range(1_200)]
    ingest(archive, images, "/in/a.pdf", names)
    archive.execute("UPDATE page_tasks SET state = 'failed'")
    assert swept(archive, settings, "until-read", most=600) == 1_000
    assert swept(archive, settings, "until-read") == 200 and kept(images) == 0


@pytest.mark.only("sqlite")
def test_pages_that_look_the_same_are_found_by_an_index(archive: Archive) -> None:
    plan = "EXPLAIN QUERY PLAN SELECT id FROM pages WHERE image_hash = 'x' AND image_freed_at IS NULL"
    assert "ix_pages_image" in str(archive.rows(plan))


def test_a_page_that_waits_for_its_image_has_not_failed(archive: Archive, images: ImageStore) -> None:
    (page,) = ingest(archive, images, "/in/a.pdf", ["x"])
    archive.read(page, "text")
    free_read_images(archive.db, images, [page])
    document_id = archive.scalar("SELECT id FROM documents")
    archive.batch("c", prompts=[DESCRIBE])
    archive.see("/in/a.pdf", batch="c")
    claim = archive.claim(page)
    assert claim and render_again(archive.db, claim)
    tasks = "SELECT state, attempts, crashes, owner FROM page_tasks ORDER BY id DESC LIMIT 1"
    assert archive.rows(tasks) == [("pending", 0, 0, None)]
    assert archive.claim(page) is None, "not before its image is there"
    assert archive.ingest(document_id, [NewPage(0, sha("x"), 16, 32)]) == [page], "it is enqueued"
    assert archive.rows("SELECT image_freed_at FROM pages") == [(None,)]
    again = archive.claim(page)
    assert again and not render_again(archive.db, again), "lost without being freed, it would count"


def test_the_first_page_that_lacks_its_image_spares_the_others_a_claim(archive: Archive, images: ImageStore) -> None:
    pages = ingest(archive, images, "/in/a.pdf", ["0", "1", "2"])
    for page in pages:
        archive.read(page, "text")
    free_read_images(archive.db, images, pages)
    batch = archive.batch("c", prompts=[DESCRIBE])
    archive.see("/in/a.pdf", batch="c")
    assert take_due_pages(archive.db, batch.id, limit=2, lost_after=NEVER) == pages[:2], "messages are out"
    first = archive.claim(pages[0])
    assert first and render_again(archive.db, first)
    assert archive.claim(pages[1]) is None and archive.claim(pages[2]) is None
    assert take_due_pages(archive.db, batch.id, limit=9, lost_after=NEVER) == []
    document_id = archive.scalar("SELECT id FROM documents")
    drawn = [NewPage(index, sha(str(index)), 16, 32) for index in range(3)]
    assert archive.ingest(document_id, drawn) == pages, "they are enqueued"
    assert all(archive.claim(page) for page in pages)


def test_a_freed_page_whose_document_is_refused_comes_to_an_end(archive: Archive, images: ImageStore) -> None:
    (page,) = ingest(archive, images, "/in/a.pdf", ["x"])
    archive.read(page, "text")
    free_read_images(archive.db, images, [page])
    archive.batch("c", prompts=[DESCRIBE])
    archive.see("/in/a.pdf", batch="c")
    archive.execute("UPDATE documents SET state = 'rejected', cause = 'missing', reason = 'gone'")
    claim = archive.claim(page)
    assert claim and not render_again(archive.db, claim)


def read_and_freed(archive: Archive, images: ImageStore) -> tuple[list[int], DocumentClaim]:
    """Batch `b` has finished with a document whose images were freed; for `c` it is being drawn again."""
    pages = ingest(archive, images, "/in/a.pdf", ["0", "1", "2"])
    undrawn = archive.see("/in/b.pdf")
    archive.ingest(undrawn or 0, [NewPage(0, error=PageFailed("hangs", cause="timeout"))])
    for page in pages:
        archive.read(page, "text" if page != pages[2] else PageFailed("no"))
    free_read_images(archive.db, images, pages)
    assert archive.finish()
    archive.batch("c", prompts=[DESCRIBE])
    archive.see("/in/a.pdf", batch="c")
    waiting = archive.claim(pages[0])
    assert waiting and render_again(archive.db, waiting)
    claim = claim_document(archive.db, archive.scalar("SELECT min(id) FROM documents"), "ingest/1", 60)
    assert claim and claim.first_page == 0
    return pages, claim


def says(archive: Archive, name: str = "b") -> list[list[Any]]:
    """All that the views say of a batch."""
    batch_id = archive.batches[name].public_id
    orders = {"batch_summary": "1", "files": "source_path", "failures": "source_path, page_number"}
    query = "SELECT * FROM {} WHERE batch_id = :id ORDER BY {}"
    return [archive.rows(query.format(view, order), id=batch_id) for view, order in orders.items()]


def refuse(archive: Archive, claim: DocumentClaim) -> None:
    assert reject_document(archive.db, claim, DocumentRejected("it is gone", cause="missing"))


def try_too_often(archive: Archive, claim: DocumentClaim | None) -> None:
    for _ in range(LIMITS.max_attempts):
        assert claim and retry_document(archive.db, claim, Unavailable("the disk is away"), LIMITS)
        archive.execute("UPDATE documents SET next_attempt_at = 0")
        claim = claim_document(archive.db, claim.document_id, "ingest/1", 60)
    assert claim is None


def crash_too_often(archive: Archive, claim: DocumentClaim | None) -> None:
    for _ in range(LIMITS.max_crashes):
        assert claim and give_back(archive.db, "ingest/1", reason="it died", crashed=True, limits=LIMITS) == 1
        claim = claim_document(archive.db, claim.document_id, "ingest/1", 60)
    assert claim is None


def cancel(archive: Archive, claim: DocumentClaim) -> None:
    assert cancel_batch(archive.db, archive.batches["c"].id)


@pytest.mark.parametrize(
    ("end", "cause"),
    [(refuse, "missing"), (try_too_often, "unavailable"), (crash_too_often, "crash"), (cancel, "cancelled")],
)
def test_what_a_finished_batch_says_stays_whatever_becomes_of_drawing_its_pages_again(
    archive: Archive, images: ImageStore, end: Callable[[Archive, DocumentClaim], None], cause: str
) -> None:
    pages, claim = read_and_freed(archive, images)
    said = says(archive)
    assert said[0][0][2] == "finished" and len(said[1]) == 2 and len(said[2]) == 2
    set_page_count(archive.db, claim, 3)
    assert says(archive) == said, "while it is drawn"
    add_pages(archive.db, claim, [NewPage(0, sha("0"), 16, 32)])
    end(archive, claim)
    assert says(archive) == said
    tries = "SELECT state, attempts, crashes FROM documents ORDER BY id LIMIT 1"
    assert archive.rows(tries) == [("ready", 0, 0)], "whoever asks next has all of them"
    assert not add_pages(archive.db, claim, [NewPage(1, sha("1"), 16, 32)]), "its late writes change nothing"
    failed = [(row[2], row[4]) for row in says(archive, "c")[2]]
    also = [(1, "cancelled")] if cause == "cancelled" else []
    assert failed == [*also, (2, cause), (3, cause)], "and the new batch says why"
    if cause != "cancelled":
        archive.read(pages[0], "seen")
        assert archive.finish("c") and says(archive, "c")[0][0][4:10] == (0, 1, 0, 3, 1, 2)
    archive.batch("d", prompts=[DESCRIBE, OCR])
    assert says(archive) == said


def test_what_could_not_be_drawn_again_is_tried_again_when_its_batch_is_asked_for_again(
    archive: Archive, images: ImageStore
) -> None:
    pages, claim = read_and_freed(archive, images)
    said = says(archive)
    refuse(archive, claim)
    assert archive.finish("c")
    archive.batch("c", prompts=[DESCRIBE])
    archive.see("/in/a.pdf", batch="c")  # it is there again
    waiting = archive.claim(pages[1])
    assert waiting and render_again(archive.db, waiting)
    assert archive.ingest(claim.document_id, [NewPage(index, sha(str(index)), 16, 32) for index in range(3)]) == pages
    for page in pages:
        archive.read(page, "seen")
    assert archive.finish("c") and says(archive, "c")[0][0][4:10] == (1, 0, 0, 3, 3, 0)
    assert says(archive) == said


def test_a_page_that_failed_is_not_drawn_anew_behind_a_finished_batch(archive: Archive, images: ImageStore) -> None:
    """It would have an image, no task, and no failure: the batch's file would wait for ever."""
    undrawn = NewPage(1, error=PageFailed("hangs", cause="timeout"))
    images.put(b"0", sha("0"))
    document_id = archive.see("/in/a.pdf") or 0
    (page,) = archive.ingest(document_id, [NewPage(0, sha("0"), 16, 32), undrawn])
    archive.read(page, "text")
    free_read_images(archive.db, images, [page])
    assert archive.finish()
    said = says(archive)
    archive.batch("c", prompts=[DESCRIBE])
    archive.see("/in/a.pdf", batch="c")
    waiting = archive.claim(page)
    assert waiting and render_again(archive.db, waiting)
    assert archive.ingest(document_id, ["0", "1"]) == [page]
    assert says(archive) == said
    archive.read(page, "seen")
    assert archive.finish("c")
    assert archive.retry() == (1, 0)
    drawn = archive.ingest(document_id, ["0", "1"])
    archive.read(drawn[-1], lambda prompt: f"{prompt.name} of it")
    for name in "bc":
        assert archive.finish(name) and says(archive, name)[0][0][4:10] == (1, 0, 0, 2, 2, 0)


@pytest.mark.only("sqlite")
def test_a_rendering_that_was_given_back_goes_on_where_pages_are_missing(
    archive: Archive, images: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = ingest(archive, images, "/in/a.pdf", ["0", "1", "2"])
    for page in pages:
        archive.read(page, "text")
    free_read_images(archive.db, images, pages)
    document_id = archive.scalar("SELECT id FROM documents")
    archive.batch("c", prompts=[DESCRIBE])
    archive.see("/in/a.pdf", batch="c")
    assert Room(archive.db, 1).is_left(archive.batches["c"].id), "they wait for ingest, not for a reader"
    waiting = archive.claim(pages[0])
    assert waiting and render_again(archive.db, waiting)
    for first_page in (0, 1):  # given back after one page, as where enough pages wait
        claim = claim_document(archive.db, document_id, "ingest/1", 60)
        assert claim and claim.first_page == first_page
        set_page_count(archive.db, claim, 3)
        add_pages(archive.db, claim, [NewPage(first_page, sha(str(first_page)), 16, 32)])
        return_claim(archive.db, claim, "enough pages wait")
    archive.execute("UPDATE documents SET state = 'ready'")
    monkeypatch.setattr(backpressure, "PAGES_STORED_AT_ONCE", 1)
    assert not Room(archive.db, 2).is_left(archive.batches["c"].id)
