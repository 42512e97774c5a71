"""Tries at an answer are kept with it, shown by a view, and forgotten with it; cut answers wait to go on, and do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pipeline.ingest.forget import find_known
from pipeline.query.search import find
from pipeline.store.answers import ReadAnswer
from pipeline.store.forget import forget_documents
from pipeline.store.forget_plan import plan
from pipeline.store.retries import retry_cut
from schemas.tries import SENTENCES, TryVerdict
from tests.conftest import LIMITS, Archive, answer, claim_page, complete_page
from tests.database.test_due import plans

DATABASES = ("sqlite", "postgresql")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def one_try(verdict: str, **given: Any) -> dict[str, Any]:
    fields = {"text": "", "finish_reason": None, "temperature": None, "angle": None, "tiles": None, "prompt_tokens": 0}
    more = {"output_tokens": 0, "seconds": 0.0, "confidence": None, "is_chosen": False, "error": None}
    return {"verdict": verdict, **fields, **more, **given}


LOOPED = one_try("repetition", text="a a", finish_reason="repetition", temperature=0.0, confidence=0.99, seconds=1.5)
FAILED = one_try("failed", error="too large")
GOOD = one_try("good", text="a b c", finish_reason="stop", temperature=0.3, angle=180.0, tiles=6, is_chosen=True)


def test_every_try_is_kept_and_shown_and_a_word_has_its_sentence(archive: Archive) -> None:
    archive.file("/in/a.pdf", ["plain"])
    (page,) = archive.ingest(archive.see("/in/b.pdf") or 0, ["scan"])
    archive.read(page, lambda _: answer("a b c", tries=[LOOPED, FAILED, GOOD]))
    rows = archive.rows(
        "SELECT source_path, page_number, try_number, verdict, is_chosen, text, temperature, angle, tiles, error "
        "FROM tries ORDER BY try_number"
    )
    assert rows == [
        ("/in/b.pdf", 1, 1, "repetition", False, "a a", 0.0, None, None, None),
        ("/in/b.pdf", 1, 2, "failed", False, "", None, None, None, "too large"),
        ("/in/b.pdf", 1, 3, "good", True, "a b c", 0.3, 180.0, 6, None),
    ]
    assert list(SENTENCES) == list(TryVerdict)
    assert archive.rows("SELECT DISTINCT detail FROM tries WHERE verdict = 'good'") == [(SENTENCES[TryVerdict.GOOD],)]
    (twin,) = archive.ingest(archive.see("/in/c.pdf") or 0, ["scan"])  # the same picture: the answer is there already
    archive.read(twin, lambda _: answer("another", tries=[LOOPED]))
    assert archive.scalar("SELECT count(*) FROM answer_tries") == 3


def cut(text: str, tokens: list[int]) -> ReadAnswer:
    return answer(text, finish_reason="length", output_tokens=len(tokens), token_ids=tokens, confidence=0.75)


def found(archive: Archive, word: str) -> int:
    return len(find(archive.db, word).hits)


def test_an_answer_that_was_cut_goes_on_and_is_shown_and_found_meanwhile(archive: Archive) -> None:
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, ["scan"])
    archive.file("/in/other.pdf", ["whole"])
    archive.read(page, lambda _: cut("badger", [5, 6, 7]))
    batch = archive.batches["b"]
    at = [("/in/a.pdf", 1), ("/in/other.pdf", 1)]
    assert retry_cut(archive.db, batch.id, at, max_tokens=3) == 0, "it has as many already"
    assert retry_cut(archive.db, batch.id, at, max_tokens=8) == 1
    assert archive.rows("SELECT text, finish_reason FROM page_text WHERE source_path = '/in/a.pdf'") == [
        ("badger", "length")
    ]
    assert found(archive, "badger") == 1
    claim = claim_page(archive.db, page, "read/1", ["m1"], LIMITS.lease_seconds)
    assert claim is not None and not claim.answered
    (task,) = claim.tasks
    assert (task.max_tokens, task.written, task.written_confidence) == (8, (5, 6, 7), 0.75)
    assert task.asked.max_tokens == 8 and task.prompt.max_tokens == 4096
    longer = answer("badger fox", task.answered_by("m1"), output_tokens=5, tries=[GOOD])
    assert complete_page(archive.db, claim, "read/1", {task.task_id: longer}, LIMITS) == 1
    shown = archive.rows("SELECT text, finish_reason, output_tokens FROM page_text WHERE source_path = '/in/a.pdf'")
    assert shown == [("badger fox", "stop", 5)]
    assert found(archive, "badger") == found(archive, "fox") == 1
    assert archive.scalar("SELECT count(*) FROM answer_tries") == 1
    assert archive.rows("SELECT model FROM page_text WHERE text = 'badger fox'") == [("m1+length/8",)]
    assert retry_cut(archive.db, batch.id, at, max_tokens=100) == 0, "it is whole"


def test_cut_answers_are_found_without_reading_all_answers(archive: Archive) -> None:
    archive.read(archive.ingest(archive.see("/in/a.pdf") or 0, ["scan"])[0], lambda _: cut("badger", [5, 6, 7]))
    plan = plans(archive.db, lambda: retry_cut(archive.db, archive.batches["b"].id, [("/in/a.pdf", 1)], 8))
    reads = [line for line in plan.splitlines() if "answer_versions" in line]
    if archive.db.dialect == "sqlite":  # PostgreSQL reads a table of one row whole
        assert reads and not any("SCAN" in line for line in reads), plan


def test_what_an_evaluation_of_another_page_names_is_not_forgotten(archive: Archive) -> None:
    """Two files with one picture were judged by a cut answer, which then went on."""
    batch = archive.batch("b")
    pages = [archive.ingest(archive.see(path) or 0, ["scan"])[0] for path in ("/in/a.pdf", "/in/b.pdf")]
    for page in pages:
        archive.read(page, lambda _: cut("badger", [5, 6, 7]))
    archive.execute(
        "INSERT INTO evaluation_runs (id, kind, name, answers, created_at) VALUES (1, 'pages', 'in', 'm', :at)", at=NOW
    )
    archive.execute(
        "INSERT INTO evaluation_pages (evaluation_id, page_id, answer_id, truth, characters, character_errors, words, "
        "word_errors, recall, precision) SELECT 1, page_id, answer_id, 'truth-file', 1, 0, 1, 0, 1, 1 FROM page_tasks"
    )
    assert retry_cut(archive.db, batch.id, [("/in/a.pdf", 1), ("/in/b.pdf", 1)], 8) == 2
    for page in pages:
        archive.read(page, lambda _: answer("badger fox", "m1+length/8", tries=[LOOPED, GOOD]))
    archive.finish()
    for path, left in (("/in/a.pdf", ["badger", "badger fox"]), ("/in/b.pdf", [])):
        chosen = plan(archive.db, find_known(archive.db, [path]))
        forget_documents(archive.db, chosen, chosen.documents, lambda documents, images: None)
        assert archive.rows("SELECT text FROM answer_versions ORDER BY text") == [(text,) for text in left]
        assert archive.scalar("SELECT count(*) FROM answer_tries") == len(left)


def test_an_answer_that_cannot_go_on_keeps_its_text(archive: Archive) -> None:
    from pipeline.errors import PageFailed

    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, ["scan"])
    archive.read(page, lambda _: cut("badger", [5, 6, 7]))
    assert retry_cut(archive.db, archive.batches["b"].id, [("/in/a.pdf", 1)], max_tokens=8) == 1
    archive.read(page, lambda _: PageFailed("no room", cause="memory"))
    assert archive.rows("SELECT text FROM page_text") == [("badger",)] and found(archive, "badger") == 1
    assert archive.rows("SELECT cause FROM failures") == [("memory",)]
