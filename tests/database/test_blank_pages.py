"""Pages that are blank by their picture: answered with nothing by nobody, whatever is asked and whoever asks."""

from __future__ import annotations

from typing import Any

from pipeline.ingest.submission import open_named_batch
from pipeline.settings import Settings
from pipeline.store.batches import open_batch
from pipeline.store.pages import NewPage
from pipeline.store.wished_model import wishes_for
from schemas.prompts import DESCRIBE, OCR
from schemas.text_layers import Verdict
from tests.conftest import LIMITS, Archive, answer, complete_page, sha

DATABASES = ("sqlite", "postgresql")

SHOWN = "SELECT page_number, prompt, text, engine, finish_reason FROM page_text ORDER BY 1, 2"
BLANK = NewPage(0, sha("white"), 16, 16, is_blank=True)
PRINTED = NewPage(1, sha("print"), 16, 16, is_blank=False)


def test_a_blank_page_is_done_and_no_engine_sees_it(archive: Archive) -> None:
    archive.batch(prompts=[OCR, DESCRIBE])
    (waiting,) = archive.ingest(archive.see("/in/a.pdf") or 0, [BLANK, PRINTED])
    archive.read(waiting, "read")
    assert archive.finish() and archive.rows(SHOWN) == [
        (1, "describe", "", "blank", "blank"),
        (1, "ocr", "", "blank", "blank"),
        (2, "describe", "read", "rapidocr", "stop"),
        (2, "ocr", "read", "rapidocr", "stop"),
    ]
    assert archive.scalar("SELECT pages_done FROM batch_summary") == 2
    assert archive.scalar("SELECT count(*) FROM attempts") == 2, "of the printed page alone"
    assert archive.rows("SELECT page_number FROM page_images WHERE is_blank") == [(1,)]
    assert archive.rows("SELECT page_number FROM review") == []


def test_a_prompt_that_comes_later_is_answered_the_same_way(archive: Archive) -> None:
    archive.batch()
    assert archive.ingest(archive.see("/in/a.pdf") or 0, [BLANK]) == []
    archive.batch("later", prompts=[DESCRIBE])
    archive.see("/in/a.pdf", batch="later")
    assert archive.finish("later")
    assert archive.rows(SHOWN) == [(1, "describe", "", "blank", "blank"), (1, "ocr", "", "blank", "blank")]


def test_equal_pages_share_the_answer_and_both_are_done(archive: Archive) -> None:
    for path in ("/in/a.pdf", "/in/b.pdf"):
        assert archive.ingest(archive.see(path) or 0, [BLANK]) == []
    assert archive.finish() and len(archive.rows(SHOWN)) == 2
    assert archive.scalar("SELECT count(*) FROM answer_versions") == 1


def test_whoever_wants_them_read_gets_them_read(archive: Archive, settings: Settings) -> None:
    archive.ingest(archive.see("/in/a.pdf") or 0, [BLANK])
    asked = settings.model_copy(update={"blank_pages": "read"})
    skipping = open_named_batch(archive.db, settings, ["/in"], [OCR], None, "rapidocr", "m1")
    reading = open_named_batch(archive.db, asked, ["/in"], [OCR], None, "rapidocr", "m1")
    assert reading.id != skipping.id
    archive.batches["reads"] = reading
    archive.see("/in/a.pdf", batch="reads")
    (page,) = archive.waiting(archive.scalar("SELECT id FROM documents"))
    claim = archive.claim(page, models=wishes_for("m1"))
    assert claim
    complete_page(archive.db, claim, "w", {claim.tasks[0].task_id: answer("", finish_reason="empty")}, LIMITS)
    assert archive.rows(SHOWN) == [(1, "ocr", "", "rapidocr", "empty")]
    assert archive.rows("SELECT page_number, reason FROM review") == [(1, "empty")]


def test_text_that_the_page_carries_goes_before(archive: Archive) -> None:
    archive.batch(text_layer="auto")
    page = NewPage(0, sha("w"), 16, 16, text_layer="typed", text_layer_verdict=Verdict.SOUND, is_blank=True)
    archive.ingest(archive.see("/in/a.pdf") or 0, [page])
    assert archive.rows(SHOWN) == [(1, "ocr", "typed", "text-layer", "stop")]


def test_what_was_cancelled_or_superseded_is_answered_when_it_is_asked_for_again(archive: Archive) -> None:
    def ask(prompt: Any, model: str) -> None:
        archive.batches["b"] = open_batch(
            archive.db, key="b", name="b", prompts=[prompt], engine="any", model=model, text_layer="keep"
        )

    ask(OCR, "m1")
    document = archive.see("/in/a.pdf") or 0
    archive.ingest(document, [NewPage(0, sha("old"), 16, 16)])  # an older program looked for nothing
    ask(OCR, "m2")
    archive.execute("UPDATE pages SET is_blank = :yes", yes=True)
    ask(OCR, "m1")
    archive.see("/in/a.pdf")
    assert archive.waiting(document) == [] and archive.rows(SHOWN) == [(1, "ocr", "", "blank", "blank")]
