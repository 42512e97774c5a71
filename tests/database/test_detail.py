"""A document is drawn at the detail of the batch that drew it first, and again at the same."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.blobs.page_images import ImageStore
from pipeline.ingest.submission import open_named_batch
from pipeline.settings import Settings
from pipeline.store.claims import claim_document
from pipeline.store.drawn_otherwise import files_drawn_for_another_model, files_drawn_otherwise
from pipeline.store.pages import NewPage, render_again
from pipeline.store.retention import free_read_images
from pipeline.supervisor.local_run import Run
from schemas.prompts import DESCRIBE
from tests.conftest import LIMITS, Archive, sha


def detail_of_claim(archive: Archive, document_id: int) -> str | None:
    claim = claim_document(archive.db, document_id, "ingest/2", LIMITS.lease_seconds)
    return claim and claim.detail


def test_a_document_is_drawn_as_the_last_batch_wants_that_saw_it_undrawn(archive: Archive) -> None:
    archive.batch("a", detail="page")
    first = archive.see("/in/a.pdf", batch="a") or 0
    archive.batch("b", detail="2048")
    second = archive.see("/in/b.pdf", batch="b") or 0
    archive.see("/in/a.pdf", batch="b")
    assert (detail_of_claim(archive, first), detail_of_claim(archive, second)) == ("2048", "2048")


def test_what_is_drawn_keeps_its_images_and_the_batch_is_told(archive: Archive) -> None:
    archive.batch("a", detail="page")
    document_id = archive.see("/in/a.pdf", batch="a") or 0
    (page,) = archive.ingest(document_id, [NewPage(0, sha("x"), 16, 32, dpi=87.5, print_px=12.2)])
    archive.read(page, "text")
    assert files_drawn_otherwise(archive.db, archive.batches["a"].id) == 0
    other = archive.batch("b", detail="auto", prompts=[DESCRIBE])
    archive.see("/in/a.pdf", batch="b")
    archive.see("/in/new.pdf", batch="b")
    assert archive.scalar("SELECT detail FROM documents WHERE id = :id", id=document_id) == "page"
    assert files_drawn_otherwise(archive.db, other.id) == 1
    assert archive.rows("SELECT dpi, print_px FROM page_images WHERE document_id IS NOT NULL") == [(87.5, 12.2)]


def test_what_was_drawn_for_another_model_is_counted_apart(archive: Archive) -> None:
    archive.batch("a", detail="auto")
    document_id = archive.see("/in/a.pdf", batch="a") or 0
    archive.read(*archive.ingest(document_id, [NewPage(0, sha("x"), 16, 32)]), "text")
    for name, detail, for_another in (("b", "auto 1540/28", 1), ("c", "page", 0)):
        other = archive.batch(name, detail=detail, prompts=[DESCRIBE])
        archive.see("/in/a.pdf", batch=name)
        assert files_drawn_otherwise(archive.db, other.id) == 1
        assert files_drawn_for_another_model(archive.db, other.id) == for_another
        said: list[str] = []
        run = Run(Settings(), [], [DESCRIBE], name, said.append, lambda *_: None)
        run._say_drawn_otherwise(archive.db, other)  # before the first page is read
        assert [line.startswith("1 file keeps its page images, drawn for a model") for line in said] == [
            True
        ] * for_another


def test_a_batch_keeps_for_which_model_its_pages_are_drawn(archive: Archive, tmp_path: Path) -> None:
    vision = {"patch_size": 14, "spatial_merge_size": 2, "image_size": 1540}
    (tmp_path / "params.json").write_text(json.dumps({"vision_encoder": vision}))
    asked = ["/in"], [DESCRIBE], "named", "pixtral", "pixtral-0123456789abcdef", ()
    for model, detail in ((tmp_path, "auto 1540/28"), (None, "auto")):
        batch = open_named_batch(archive.db, Settings(model=model), *asked)
        assert archive.scalar("SELECT detail FROM batches WHERE id = :id", id=batch.id) == detail


def test_a_freed_page_is_drawn_again_as_it_was(archive: Archive, tmp_path: Path) -> None:
    images = ImageStore(str(tmp_path))
    archive.batch("a", detail="page")
    document_id = archive.see("/in/a.pdf", batch="a") or 0
    (page,) = archive.ingest(document_id, [NewPage(0, sha("x"), 16, 32)])
    archive.read(page, "text")
    free_read_images(archive.db, images, [page])
    archive.batch("b", detail="4096", prompts=[DESCRIBE])
    archive.see("/in/a.pdf", batch="b")
    claim = archive.claim(page)
    assert claim is not None
    render_again(archive.db, claim)
    archive.see("/in/a.pdf", batch="b")
    assert detail_of_claim(archive, document_id) == "page"
