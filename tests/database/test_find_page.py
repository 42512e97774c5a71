"""A page by its file and number, and the first rows of a statement: what servers are asked for, on both databases."""

from __future__ import annotations

import pytest

from pipeline.errors import PageFailed, UsageError
from pipeline.query.find_file import find_file
from pipeline.query.page_answer import page_answer, page_answers
from pipeline.query.some_rows import some_rows
from pipeline.settings import Settings
from schemas.prompts import DESCRIBE, OCR
from tests.conftest import Archive, answer

DATABASES = ("sqlite", "postgresql")


def test_a_file_is_found_by_its_path_the_end_of_it_or_its_document(archive: Archive) -> None:
    db = archive.db
    with pytest.raises(UsageError, match=r"no file is called 'a\.pdf'"):
        find_file(db, "a.pdf")
    archive.file("/in/2024/a.pdf", ["one", "two"])
    archive.file("/in/2025/a.pdf", ["other"])
    archive.file("/in/2025/100%_b.pdf", ["b"])
    archive.see("/in/notes.doc", rejection="unsupported")
    archive.see("/in/waits.pdf")
    whole = find_file(db, "/in/2024/a.pdf")
    assert (whole.source_path, whole.page_count, whole.state) == ("/in/2024/a.pdf", 2, "ready")
    assert find_file(db, whole.document_id) == find_file(db, "2024/a.pdf") == find_file(db, "./2024/a.pdf") == whole
    assert find_file(db, "100%_b.pdf").source_path == "/in/2025/100%_b.pdf"
    with pytest.raises(UsageError, match=r"several files end with 'a.pdf'; .*/in/2024/a.pdf, /in/2025/a.pdf$"):
        find_file(db, "a.pdf")
    for name in ("%", "_.pdf", "4/a.pdf", "", "/", "\x00", "\ud800", "/in/2024", "x" * 10_000):
        with pytest.raises(UsageError, match="no file is called"):
            find_file(db, name)
    with pytest.raises(UsageError, match=r"/in/notes.doc was not taken in: /in/notes.doc is unsupported"):
        find_file(db, "/in/notes.doc")
    archive.execute("UPDATE sources SET gone_at = :now WHERE path = '/in/2025/a.pdf'", now="2026-01-01 00:00:00")
    assert find_file(db, "a.pdf") == whole


def test_a_page_says_its_text_or_why_it_has_none(archive: Archive) -> None:
    db = archive.db
    archive.batch(prompts=(OCR, DESCRIBE))
    document_id = archive.see("/in/a.pdf")
    assert document_id is not None
    with pytest.raises(UsageError, match=r"/in/a\.pdf has no page 1: it is not opened yet"):
        page_answer(db, find_file(db, "a.pdf"), 1)
    first, second, _ = archive.ingest(document_id, ["one", "two", "three"])
    said = {"ocr": answer("tide", confidence=0.75, lowest_confidence=0.5), "describe": PageFailed("it loops")}
    archive.read(first, lambda prompt: said[prompt.name])
    archive.read(second, "low water")
    file = find_file(db, "a.pdf")
    page = page_answer(db, file, 1)
    assert (page.state, page.text, page.confidence, page.lowest_confidence) == ("done", "tide", 0.75, 0.5)
    assert (page.engine, page.page_count, page.cause, page.width_px) == ("rapidocr", 3, None, 16)
    assert page.created_at is not None and page.created_at.tzinfo is not None
    failed = page_answer(db, file, 1, "describe")
    assert (failed.state, failed.text, failed.cause) == ("failed", None, "engine") and "loops" in str(failed.reason)
    assert (page_answer(db, file, 3).state, page_answer(db, file, 3).text) == ("waiting", None)
    for number in (0, -1, 4, 10**30):
        with pytest.raises(UsageError, match=f"/in/a.pdf has no page {number}: it has 3 pages"):
            page_answer(db, file, number)
    with pytest.raises(UsageError, match=r"no page was asked the prompt 'orc'; did you mean ocr\?"):
        page_answer(db, file, 3, "orc")
    assert [page.text for page in page_answers(db, file)] == ["tide", "low water", None]
    assert [page.page_number for page in page_answers(db, file, first=2, most=1)] == [2]


def test_rows_are_cut_where_there_are_too_many_or_they_are_too_long(settings: Settings, archive: Archive) -> None:
    archive.file("/in/a.pdf", ["tide"])
    numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < {}) SELECT x FROM n"
    whole = some_rows(settings, numbers.format(3), max_rows=3, max_characters=1_000)
    assert (whole.columns, whole.rows, whole.cut) == (["x"], [[1], [2], [3]], None)
    some = some_rows(settings, numbers.format(10**9), max_rows=3, max_characters=1_000)
    assert some.rows == whole.rows and str(some.cut).startswith("these are the first 3 rows; narrow it")
    long = "SELECT replace('{}', '.', text || '----') AS x FROM page_text".format("." * 50)
    cut = some_rows(settings, long, max_rows=3, max_characters=1_000, max_cell=100)
    assert cut.rows == [[("tide----" * 13)[:100] + "…"]] and "1 values are cut at 100 characters" in str(cut.cut)
    wide = f"SELECT x.x FROM ({numbers.format(9)}) x"
    said = str(some_rows(settings, wide, max_rows=9, max_characters=90).cut)
    assert said.startswith("these are the first 4 rows, for more than 90 characters are not given; narrow it")
    endless = f"SELECT count(*) FROM ({numbers.format(10**9)}) c"
    with pytest.raises(UsageError, match=r"stopped after 0\.2 seconds"):
        some_rows(settings, endless, max_rows=1, max_characters=9, limit_seconds=0.2)


@pytest.mark.only("sqlite")
def test_one_giant_value_is_refused_before_it_is_made(settings: Settings, archive: Archive) -> None:
    with pytest.raises(UsageError, match="string or blob too big"):
        some_rows(settings, "SELECT hex(zeroblob(20000000))", max_rows=1, max_characters=100)
    bytes_and_odd = some_rows(
        settings, "SELECT x'00ff', 9e999, zeroblob(30)", max_rows=1, max_characters=100, max_cell=20
    )
    assert bytes_and_odd.rows == [["x'00ff'", "inf", "x'" + "00" * 20 + "'…"]]
