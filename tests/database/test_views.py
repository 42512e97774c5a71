"""The public views: their columns, and what they show for archives built by the store's own calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pymupdf
import pytest
import sqlalchemy as sa

from pipeline.documents.pages.drawn import Limits
from pipeline.documents.render import open_document
from pipeline.errors import PageFailed, Unavailable
from pipeline.query.batch_status import find_batch
from pipeline.query.batch_status import status as query_status
from pipeline.store.claims import claim_document
from pipeline.store.pages import NewPage, reject_document
from schemas.column_types import VIEWS, column_type
from schemas.prompts import DESCRIBE, OCR
from schemas.review import LOST_PARTS, NOTHING_LOST, SENTENCES, ReviewReason
from schemas.view_columns import COLUMNS
from tests import odd_images, odd_pdfs
from tests.conftest import LIMITS, Archive, answer, complete_page, sha
from tests.odd_images import lines_of_text
from tests.view_contract import FILE, contract, promised

DATABASES = ("sqlite", "postgresql")

CONTRACT = promised()
POSTGRESQL_TYPES = {
    "text": {"text", "character varying"},
    "integer": {"integer", "bigint"},
    "real": {"double precision"},
    "boolean": {"boolean"},
    "timestamp": {"timestamp with time zone"},
    "json": {"jsonb"},
    "terms": {"tsvector"},
}


def columns_of(archive: Archive, view: str) -> list[str]:
    return [column["name"] for column in sa.inspect(archive.db.engine).get_columns(view)]


def test_the_views_are_those_that_were_promised(archive: Archive) -> None:
    assert contract() == FILE.read_text(encoding="utf-8"), "a change of the views is a decision: see docs/views.txt"
    for view, columns in CONTRACT.items():
        assert columns_of(archive, view) == [name for name, _ in columns], view
        if archive.db.dialect == "postgresql":
            kinds = archive.rows(
                "SELECT data_type FROM information_schema.columns WHERE table_name = :view ORDER BY ordinal_position",
                view=view,
            )
            assert all(kind in POSTGRESQL_TYPES[said] for (kind,), (_, said) in zip(kinds, columns, strict=True)), view


def test_the_database_says_what_each_view_and_column_is(archive: Archive) -> None:
    documented = archive.rows(
        "SELECT view_name, column_name, meaning, column_type, view_meaning, column_number FROM schema_doc"
    )
    assert sorted(documented) == sorted(
        (view, column, meaning, column_type(column), VIEWS[view], number)
        for view, columns in COLUMNS.items()
        for number, (column, meaning) in enumerate(columns.items(), 1)
    )
    if archive.db.dialect == "postgresql":
        described = """
            SELECT c.relname, a.attname, obj_description(c.oid, 'pg_class'), col_description(c.oid, a.attnum)
            FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
            WHERE c.relkind = 'v' AND c.relnamespace = 'public'::regnamespace"""
        assert sorted((v, c, m, w) for v, c, m, _, w, _ in documented) == sorted(
            (view, column, meaning, of_view) for view, column, of_view, meaning in archive.rows(described)
        )


def summary(archive: Archive, name: str = "b") -> dict[str, Any]:
    row = archive.rows("SELECT * FROM batch_summary WHERE name = :name", name=name)[0]
    return dict(zip(COLUMNS["batch_summary"], row, strict=True))


def test_files_seen_are_done_failed_or_rejected_in_every_mix(archive: Archive) -> None:
    archive.file("/in/done.pdf", ["one", "two"])
    archive.see("/in/notes.txt", rejection="unsupported")
    encrypted = archive.see("/in/encrypted.pdf")
    half = archive.see("/in/half.pdf")
    unrendered = archive.see("/in/unrendered.pdf")
    refused = archive.see("/in/refused.pdf")
    assert encrypted and half and unrendered and refused
    claim = claim_document(archive.db, encrypted, "ingest/1", 60)
    assert claim and reject_document(archive.db, claim, PageFailed("encrypted.pdf asks a password", cause="encrypted"))
    archive.ingest(unrendered, [NewPage(0, error=PageFailed("page 1 hangs", cause="timeout")), "image"])
    good, bad = archive.ingest(half, ["good", "bad"])
    archive.read(good, "text")
    archive.read(bad, PageFailed("the engine gave up"))
    assert summary(archive)["files_done"] == 1 and not archive.finish()  # unrendered's second page and refused wait
    archive.read(archive.scalar("SELECT id FROM pages WHERE image_hash = :h", h=sha("image")), "seen")
    claim = claim_document(archive.db, refused, "ingest/1", 60)
    assert claim and reject_document(archive.db, claim, PageFailed("no page", cause="empty"))
    assert archive.finish()
    counts = summary(archive)
    assert counts["files_seen"] == 6
    assert (counts["files_done"], counts["files_failed"], counts["files_rejected"]) == (1, 2, 3)
    assert (counts["pages_total"], counts["pages_done"], counts["pages_failed"]) == (6, 4, 2)
    assert counts["state"] == "finished" and counts["finished_at"] is not None
    failures = archive.rows("SELECT source_path, page_number, kind, cause FROM failures ORDER BY 1, 2")
    assert failures == [
        ("/in/encrypted.pdf", None, "rejected", "encrypted"),
        ("/in/half.pdf", 2, "failed", "engine"),
        ("/in/notes.txt", None, "rejected", "unsupported"),
        ("/in/refused.pdf", None, "rejected", "empty"),
        ("/in/unrendered.pdf", 1, "failed", "timeout"),
    ]


def test_a_document_without_pages_counts_as_done(archive: Archive) -> None:
    document_id = archive.see("/in/nothing.pdf")
    assert document_id and archive.ingest(document_id, []) == [] and archive.finish()
    assert summary(archive)["files_done"] == 1


def test_one_content_under_two_paths_is_read_once_and_shown_twice(archive: Archive) -> None:
    first = archive.see("/in/a.pdf", "same")
    assert first == archive.see("/in/copy of a.pdf", "same")
    (page,) = archive.ingest(first or 0, ["only"])
    archive.read(page, "text")
    rows = archive.rows("SELECT source_path, document_id, text FROM page_text ORDER BY 1")
    assert [row[0] for row in rows] == ["/in/a.pdf", "/in/copy of a.pdf"]
    assert rows[0][1:] == rows[1][1:]
    assert archive.scalar("SELECT count(*) FROM attempts") == 1
    assert (summary(archive)["files_seen"], summary(archive)["files_done"], summary(archive)["pages_total"]) == (
        2,
        2,
        1,
    )


def test_document_text_is_in_page_order_whatever_order_pages_were_read_in(archive: Archive) -> None:
    document_id = archive.see("/in/a.pdf")
    pages = archive.ingest(document_id or 0, [f"page {index}" for index in range(12)])
    for page in reversed(pages):
        archive.read(page, f"text of {pages.index(page)}")
    text = archive.scalar("SELECT text FROM document_text")
    assert text == "\n\n".join(f"text of {index}" for index in range(12))
    assert archive.scalar("SELECT page_count FROM document_text") == 12


def test_a_second_model_stands_beside_the_first_and_the_latest_asked_is_current(archive: Archive) -> None:
    archive.file("/in/a.pdf", ["by m1"])
    assert archive.finish()
    archive.batch("second", model="m2")
    archive.see("/in/a.pdf", batch="second")
    (page,) = {row[0] for row in archive.rows("SELECT id FROM pages")}
    assert archive.scalar("SELECT text FROM page_text") == "by m1"
    archive.read(page, "by m2", model="m2")
    assert archive.rows("SELECT text, model FROM page_text") == [("by m2", "m2")]
    assert archive.scalar("SELECT count(*) FROM answer_versions") == 2
    archive.batch("third", model="m1")  # asked for again: the old answer is shown, nothing is read
    archive.see("/in/a.pdf", batch="third")
    assert archive.rows("SELECT text, model FROM page_text") == [("by m1", "m1")]
    assert all(archive.finish(name) for name in ("second", "third"))
    assert [row[0] for row in archive.rows("SELECT files_done FROM batch_summary")] == [1, 1, 1]


def test_two_prompts_make_two_rows_and_a_page_is_done_when_both_are(archive: Archive) -> None:
    archive.batch(prompts=[OCR, DESCRIBE])
    document_id = archive.see("/in/a.pdf")
    (page,) = archive.ingest(document_id or 0, ["x"])
    claim = archive.claim(page)
    assert claim and len(claim.tasks) == 2
    ocr, describe = sorted(claim.tasks, key=lambda task: task.prompt.name, reverse=True)
    complete_page(archive.db, claim, "w", {ocr.task_id: answer("words"), describe.task_id: Unavailable("away")}, LIMITS)
    assert summary(archive)["pages_done"] == 0 and not archive.finish()
    archive.execute("UPDATE page_tasks SET next_attempt_at = 0")
    archive.read(page, "a picture")
    assert archive.rows("SELECT prompt, text FROM page_text ORDER BY 1") == [
        ("describe", "a picture"),
        ("ocr", "words"),
    ]
    assert archive.finish() and summary(archive)["files_done"] == 1


def test_any_text_layer_answers_ocr_and_an_empty_one_is_read(archive: Archive) -> None:
    archive.batch(text_layer="always")
    document_id = archive.see("/in/a.pdf")
    pages = [NewPage(0, sha("0"), 16, 16, text_layer="typed text"), NewPage(1, sha("1"), 16, 16, text_layer=" \n")]
    (waiting,) = archive.ingest(document_id or 0, pages)
    claim = archive.claim(waiting, models=["m1+text-layer"])
    assert claim and claim.page_index == 1
    complete_page(archive.db, claim, "w", {claim.tasks[0].task_id: answer("read text")}, LIMITS)
    rows = archive.rows("SELECT page_number, engine, text FROM page_text ORDER BY 1")
    assert rows == [(1, "text-layer", "typed text"), (2, "rapidocr", "read text")]
    assert archive.finish() and summary(archive)["pages_done"] == 2
    assert archive.scalar("SELECT text_layer FROM page_images WHERE page_number = 1") == "typed text"


def test_the_lines_of_a_page_are_rows_with_their_boxes(archive: Archive) -> None:
    lines = [[10, 20, 110, 40, 0.987, "first\0 line"], [-2, 60.4, 130, 80, 0.5, "second"]]
    archive.file("/in/other.pdf", ["no boxes"])
    document_id = archive.see("/in/a.pdf") or 0
    sizes = [NewPage(0, sha("0"), 128, 160), NewPage(1, sha("1"), 128, 160, width_pt=60.0, height_pt=75.0)]
    pages = archive.ingest(document_id, sizes)
    archive.execute(
        "UPDATE pages SET dpi = 144 WHERE width_pt IS NOT NULL"
    )  # so 120 of 128 px are the page, 150 of 160
    for page in pages:
        claim = archive.claim(page)
        assert claim
        said = answer("text", details={"lines": lines}, angle=270.0)
        complete_page(archive.db, claim, "w", {claim.tasks[0].task_id: said}, LIMITS)
    columns = "page_number, line_number, text, confidence, left_px, top_px, right_px, bottom_px"
    rows = archive.rows(f"SELECT {columns} FROM page_lines ORDER BY page_number, line_number")
    assert rows[:2] == [
        (1, 1, "first\ufffd line", 0.987, 10, 20, 110, 40),
        (1, 2, "second", 0.5, -2, 60, 130, 80),
    ]
    assert [row[:2] for row in rows[2:]] == [(2, 1), (2, 2)]
    shares = "SELECT left_fraction, top_fraction, right_fraction, bottom_fraction FROM page_lines"
    of_image, of_page = (archive.rows(f"{shares} WHERE page_number = {n} ORDER BY line_number") for n in (1, 2))
    assert of_image == [pytest.approx((10 / 128, 20 / 160, 110 / 128, 40 / 160)), (0, 60.4 / 160, 1, 0.5)]
    assert of_page == [
        pytest.approx((10 / 120, 20 / 150, 110 / 120, 40 / 150)),
        (0, pytest.approx(60.4 / 150), 1, 80 / 150),
    ]
    assert {row[0] for row in archive.rows("SELECT source_path FROM page_lines")} == {"/in/a.pdf"}
    assert archive.rows(
        "SELECT DISTINCT angle FROM page_text WHERE document_id IN (SELECT document_id FROM page_lines)"
    ) == [(270.0,)]


def test_pages_worth_a_look_are_listed_with_the_gravest_reason(archive: Archive) -> None:
    doubts: list[tuple[dict[str, Any], dict[str, Any], str | None]] = [  # what is said, of which page, why it is listed
        ({}, {}, None),
        ({"confidence": 0.81}, {}, None),
        ({"confidence": 0.7}, {}, "low-confidence"),
        ({"confidence": 0.97, "review_reason": "low-confidence", "review_score": 0.06}, {}, "low-confidence"),
        ({"review_reason": "unread-script", "review_score": 0.9}, {"warnings": "x"}, "unread-script"),
        ({"finish_reason": "length", "confidence": 0.1}, {}, "length"),
        ({"finish_reason": "deadline"}, {}, "deadline"),
        ({"finish_reason": "repetition", "confidence": 0.99}, {}, "repetition"),
        ({"text": ""}, {"text_layer": "words", "text_layer_verdict": "invisible"}, "empty"),
        ({"text": ""}, {}, None),
        ({"engine": "text-layer"}, {"text_layer": "words", "text_layer_verdict": "stub"}, "text-layer"),
        ({"engine": "text-layer"}, {"text_layer": "words", "text_layer_verdict": "sound"}, None),
        ({"engine": "text-layer", "text": "a \ufffd b"}, {"text_layer": "words"}, "unknown-characters"),
        ({}, {"warnings": "mended a thing"}, "warning"),
        ({}, {"width_pt": 6.0}, "small-print"),
        ({}, {"width_pt": 9.0}, None),
    ]
    pages = [NewPage(index, sha(str(index)), 16, 16, **page) for index, (_, page, _) in enumerate(doubts)]
    waiting = archive.ingest(archive.see("/in/a.pdf") or 0, pages)
    archive.execute("UPDATE pages SET print_px = width_pt")
    for page, (said, _, _) in zip(waiting, doubts, strict=True):
        archive.read(page, lambda _, said=said: answer(**{"text": "words"} | said))  # type: ignore[misc]
    rows = archive.rows("SELECT page_number, reason, score, detail, batch_id FROM review ORDER BY page_number")
    listed = {number: reason for number, reason, *_ in rows}
    assert listed == {number: reason for number, (_, _, reason) in enumerate(doubts, 1) if reason is not None}
    assert all(0 < score <= 1 and isinstance(detail, str) and detail for _, _, score, detail, _ in rows)
    scores = {number: score for number, _, score, *_ in rows}
    assert (scores[3], scores[4], scores[15]) == (pytest.approx(0.3), pytest.approx(0.06), pytest.approx(0.25))
    assert scores[14] == min(scores.values()), "what was mended comes after every text in doubt"
    details = {reason: detail for _, reason, _, detail, _ in rows}
    assert details["warning"] == "mended a thing" and "more is printed on the page" in details["text-layer"]
    assert {batch_id for *_, batch_id in rows} == {archive.batches["b"].public_id}
    assert list(query_status(archive.db, find_batch(archive.db)).pages_worth_a_look.items())[:2] == [
        ("empty", 1),
        ("unread-script", 1),
    ]


def drawn_warnings(path: Path) -> str:
    document = open_document(str(path), path.suffix[1:], Limits(1024, 100, 7200, 10**7))
    return document.draw(0).warnings


def test_what_was_lost_of_a_page_comes_before_what_was_mended_or_lies_beside(archive: Archive, tmp_path: Path) -> None:
    image = lines_of_text(320, 640)
    with_file = pymupdf.open()
    with_file.new_page().insert_text((20, 40), "a cover with more")
    with_file.embfile_add("contract.pdf", b"%PDF-1.4")
    with_file.save(tmp_path / "file.pdf")
    scanned = odd_images.encoded(image, "JPEG", quality=90)
    entries = b"/Width 320 /Height 640 /ColorSpace /DeviceGray /BitsPerComponent 8 /Filter /DCTDecode"
    warnings = [
        drawn_warnings(odd_images.cut(tmp_path / "cut.jpeg", scanned, 0.8)),
        drawn_warnings(odd_pdfs.image_page(tmp_path / "cut.pdf", scanned[: len(scanned) * 8 // 10], entries)),
        drawn_warnings(odd_images.png_with(tmp_path / "a.png", image, odd_images.png_chunk(b"tEXt", b"x", crc=1))),
        drawn_warnings(tmp_path / "file.pdf"),
    ]
    assert all(warnings), warnings
    pages = [NewPage(n, sha(str(n)), 16, 16, warnings=text) for n, text in enumerate([*warnings, warnings[0]])]
    *others, last = archive.ingest(archive.see("/in/a.pdf") or 0, pages)
    for page in others:
        archive.read(page, lambda _: answer("words"))
    archive.read(last, lambda _: answer("words", review_reason="low-confidence", review_score=0.06))
    rows = archive.rows("SELECT reason, score, detail FROM review ORDER BY page_number")
    assert [score for _, score, _ in rows] == [LOST_PARTS, LOST_PARTS, NOTHING_LOST, NOTHING_LOST, LOST_PARTS], warnings
    sentence = SENTENCES[ReviewReason.LOW_CONFIDENCE]
    assert rows[-1][0] == "low-confidence" and rows[-1][2] == f"{sentence}; {warnings[0]}"


def test_every_reason_of_an_engine_has_its_words(archive: Archive) -> None:
    pages = archive.ingest(archive.see("/in/a.pdf") or 0, [str(reason) for reason in ReviewReason])
    for page, reason in zip(pages, ReviewReason, strict=True):
        archive.read(page, lambda _, reason=reason: answer("x", review_reason=reason))  # type: ignore[misc]
    assert dict(archive.rows("SELECT reason, detail FROM review")) == SENTENCES


def test_retry_takes_failed_files_out_of_the_count_until_they_end_again(archive: Archive) -> None:
    document_id = archive.see("/in/a.pdf")
    (page,) = archive.ingest(document_id or 0, ["x"])
    archive.read(page, PageFailed("bad"))
    assert archive.finish() and summary(archive)["files_failed"] == 1
    assert archive.retry() == (0, 1)
    assert (summary(archive)["state"], summary(archive)["files_failed"]) == ("running", 0)
    archive.read(page, "text")
    assert archive.finish() and summary(archive)["files_done"] == 1
    assert archive.rows("SELECT attempt, error FROM attempts ORDER BY 1") == [(1, "bad"), (2, None)]


def test_one_batch_retried_leaves_no_finished_batch_with_open_files(archive: Archive) -> None:
    document_id = archive.see("/in/a.pdf")
    archive.see("/in/a.pdf", batch="other")
    (page,) = archive.ingest(document_id or 0, ["x"])
    archive.read(page, PageFailed("bad"))
    assert archive.finish() and archive.finish("other")
    archive.retry()
    for name in ("b", "other"):
        counts = summary(archive, name)
        ended = counts["files_done"] + counts["files_failed"] + counts["files_rejected"]
        assert counts["state"] == "running" or counts["files_seen"] == ended


def test_every_batch_that_asks_for_an_answer_is_beside_it(archive: Archive) -> None:
    archive.file("/in/a.pdf", ["one"])
    archive.batch("again")
    archive.see("/in/a.pdf", batch="again")  # finds the answer
    archive.batch("other", model="m2")
    archive.see("/in/a.pdf", batch="other")  # waits for another
    ids = {name: batch.public_id for name, batch in archive.batches.items()}
    columns = "page_number, prompt, batch_id, batch_name, state, is_current"
    found = sorted(archive.rows(f"SELECT {columns} FROM page_batches"), key=lambda row: row[3])
    assert found == [
        (1, "ocr", ids["again"], "again", "done", True),
        (1, "ocr", ids["b"], "b", "done", True),
        (1, "ocr", ids["other"], "other", "waiting", False),
    ]
    assert archive.rows("SELECT batch_id, width_px, height_px FROM page_text") == [(ids["b"], 16, 32)]
    archive.execute("UPDATE sources SET gone_at = seen_at")
    assert archive.rows("SELECT * FROM page_batches") == archive.rows("SELECT * FROM page_words") == []


def test_plain_sql_searches_the_index_of_words(archive: Archive) -> None:
    archive.file("/in/a.pdf", ["The Café at the tide mill", "nothing of it"])
    archive.file("/in/b.pdf", ["年度报告 of the tides"])
    matches = {"sqlite": "terms MATCH '{0}'", "postgresql": "terms @@ to_tsquery('simple', '{1}')"}[archive.db.dialect]

    def found(*queries: str) -> list[Any]:
        where = matches.format(*queries)
        return archive.rows(f"SELECT source_path, page_number, text FROM page_words WHERE {where} ORDER BY 1")

    assert [row[:2] for row in found("tide*", "tide:*")] == [("/in/a.pdf", 1), ("/in/b.pdf", 1)]
    assert found("cafe mill", "cafe & mill") == [("/in/a.pdf", 1, "The Café at the tide mill")]
    assert [row[0] for row in found('"年度 度报 报告"', "年度 <-> 度报 <-> 报告")] == ["/in/b.pdf"]


@pytest.mark.only("sqlite")
@pytest.mark.parametrize("view", ["page_text", "answers", "page_batches", "page_lines", "page_data", "review"])
def test_one_file_or_a_few_rows_cost_no_walk_through_all(archive: Archive, view: str) -> None:
    for rest, scans in (("WHERE source_path = '/in/a.pdf'", 0), ("LIMIT 10", 1)):
        plan = [step for *_, step in archive.rows(f"EXPLAIN QUERY PLAN SELECT * FROM {view} {rest}")]
        branches = max(1, len([step for step in plan if step == "LEFT-MOST SUBQUERY" or step.startswith("UNION")]))
        small = (view, "VIRTUAL TABLE", "any_one")  # an archive has a handful of prompts
        read = [step for step in plan if step.startswith("SCAN") and not any(one in step for one in small)]
        assert len(read) <= scans * branches, plan
