"""Which pages are answered by the text that they carry, and of which a model is told it: `--text-layer`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.ingest.submission import open_named_batch
from pipeline.settings import Settings
from pipeline.store.batches import OpenBatch
from pipeline.store.pages import NewPage
from pipeline.store.wished_model import wishes_for
from schemas.prompts import DESCRIBE, MOST_HINT_CHARACTERS, OCR, bounded_hint, hinted, with_hint
from schemas.text_layers import Verdict
from tests.conftest import LIMITS, Archive, answer, complete_page, sha

DATABASES = ("sqlite", "postgresql")

VERDICTS = (*Verdict, None)  # the last of an older program, which judged nothing


def carrying_text(archive: Archive, path: str = "/in/a.pdf") -> list[int]:
    """A document with a page for each verdict; the pages that wait."""
    pages = [
        NewPage(index, sha(f"{path} {index}"), 16, 16, text_layer=f"typed {index}", text_layer_verdict=verdict)
        for index, verdict in enumerate(VERDICTS)
    ]
    return archive.ingest(archive.see(path) or 0, pages)


def read(archive: Archive, page: int) -> None:
    claim = archive.claim(page, models=wishes_for("m1"))
    assert claim
    outcomes = {task.task_id: answer(f"read {claim.page_index} for {task.prompt.name}") for task in claim.tasks}
    complete_page(archive.db, claim, "w", outcomes, LIMITS)


def shown(archive: Archive) -> list[Any]:
    return archive.rows("SELECT engine, text FROM page_text WHERE prompt = 'ocr' ORDER BY page_number")


@pytest.mark.parametrize("choice", ["auto", "prefer"])
def test_sound_text_is_taken_and_the_rest_read(archive: Archive, choice: str) -> None:
    archive.batch(text_layer=choice)
    waiting = carrying_text(archive)
    assert len(waiting) == len(VERDICTS) - 1
    for page in waiting:
        read(archive, page)
    expected = [
        ("text-layer", "typed 0"),
        *(("rapidocr", f"read {index} for ocr") for index in range(1, len(VERDICTS))),
    ]
    assert shown(archive) == expected and archive.finish()
    said = archive.rows("SELECT text_layer, text_layer_verdict FROM page_images ORDER BY page_number")
    assert said == [(f"typed {index}", verdict) for index, verdict in enumerate(VERDICTS)], "kept beside it in any case"


def test_the_lines_of_a_text_layer_are_rows_too(archive: Archive) -> None:
    archive.batch(text_layer="auto")
    boxes = [[10, 20, 90, 32], [10, 40, 12, 52], [10, 60, 70, 72]]
    told = NewPage(0, sha("0"), 160, 320, text_layer="first line\n \nthird\n", text_layer_boxes=boxes)
    untold = NewPage(1, sha("1"), 160, 320, text_layer="inter-\nnational\n", text_layer_boxes=boxes)
    pages = [replace(page, text_layer_verdict=Verdict.SOUND) for page in (told, untold)]
    assert archive.ingest(archive.see("/in/a.pdf") or 0, pages) == []
    columns = "page_number, line_number, text, confidence, left_px, top_px, right_px, bottom_px"
    assert archive.rows(f"SELECT {columns} FROM page_lines ORDER BY line_number") == [
        (1, 1, "first line", None, 10, 20, 90, 32),
        (1, 2, "third", None, 10, 60, 70, 72),
    ]
    assert archive.scalar("SELECT text FROM page_text WHERE page_number = 2") == "international\n"
    kept = archive.scalar("SELECT text_layer FROM page_images WHERE page_number = 2")
    assert kept == "inter-\nnational\n", "as it lies in the file"


def test_a_table_of_a_text_layer_is_written_as_one(archive: Archive) -> None:
    archive.batch(text_layer="auto")
    cells = [[f"cell {row}{column}" for column in "abc"] for row in range(3)]
    boxes = [[left, top, left + 40, top + 12] for top in (10, 30, 50) for left in (10, 110, 210)]
    text = "".join(f"{cell}\n" for row in cells for cell in row)
    page = NewPage(0, sha("0"), 320, 320, text_layer=text, text_layer_boxes=boxes, text_layer_verdict=Verdict.SOUND)
    archive.ingest(archive.see("/in/a.pdf") or 0, [page])
    assert "| cell 0a | cell 0b | cell 0c |\n| --- | --- | --- |\n" in archive.scalar("SELECT text FROM page_text")
    assert archive.scalar("SELECT text_layer FROM page_images") == text, "as it lies in the file"
    assert archive.scalar("SELECT count(*) FROM page_lines") == 9


def test_a_layer_is_put_in_order_alike_when_its_page_is_stored_and_later(archive: Archive) -> None:
    """By the sizes and rulings that are stored with it; lines and their boxes stay those of the file."""
    columns = [[f"{side} line {row} goes on" for row in range(6)] for side in ("the left", "and the right")]
    each = [(column[row], 10 + 210 * i, 10 + 14 * row) for row in range(6) for i, column in enumerate(columns)]
    lines = [[left, top, left + 150, top + 12, 10] for _, left, top in each]
    text = "".join(f"{said}\n" for said, _, _ in each)
    boxes = {"lines": lines, "level": [], "upright": []}
    page = NewPage(0, sha("0"), 420, 320, text_layer=text, text_layer_boxes=boxes, text_layer_verdict=Verdict.SOUND)
    archive.batch(text_layer="auto")
    archive.ingest(archive.see("/in/a.pdf") or 0, [page])
    archive.batch("later", text_layer="keep")
    archive.ingest(archive.see("/in/b.pdf", batch="later") or 0, [page])
    archive.batch("again", text_layer="auto")
    archive.see("/in/b.pdf", batch="again")
    expected = " ".join(columns[0] + columns[1])
    assert [row[1] for row in shown(archive)] == [expected, expected]
    placed = archive.rows(
        "SELECT text, left_px, top_px FROM page_lines WHERE source_path = '/in/b.pdf' ORDER BY line_number"
    )
    assert placed == each
    assert archive.scalar("SELECT text_layer FROM page_images LIMIT 1") == text


def test_other_prompts_are_read_whatever_the_page_carries(archive: Archive) -> None:
    archive.batch(prompts=[OCR, DESCRIBE], text_layer="auto")
    first = carrying_text(archive)[0]
    read(archive, first)
    rows = archive.rows("SELECT prompt, engine FROM page_text WHERE page_number = 1 ORDER BY 1")
    assert rows == [("describe", "rapidocr"), ("ocr", "text-layer")]


def test_each_choice_has_its_own_answer_of_a_page(archive: Archive) -> None:
    archive.batch(text_layer="auto")
    for page in carrying_text(archive):
        read(archive, page)
    stub = list(VERDICTS).index(Verdict.STUB)
    archive.batch("all", text_layer="always")
    archive.see("/in/a.pdf", batch="all")
    assert archive.finish("all") and shown(archive)[stub] == ("text-layer", f"typed {stub}")
    archive.batch("none", text_layer="keep")
    archive.see("/in/a.pdf", batch="none")
    page = archive.scalar("SELECT id FROM pages WHERE page_index = 0")
    read(archive, page)
    assert shown(archive)[0] == ("rapidocr", "read 0 for ocr")
    archive.batch("again", text_layer="auto")
    archive.see("/in/a.pdf", batch="again")
    assert archive.finish("again") and shown(archive)[0] == ("text-layer", "typed 0")
    assert shown(archive)[stub] == ("rapidocr", f"read {stub} for ocr"), "and nothing is read again"


def test_text_that_nobody_judged_is_judged_when_its_page_is_drawn_again(archive: Archive) -> None:
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, [NewPage(0, sha("0"), 16, 16, text_layer="typed")])
    read(archive, page)
    assert archive.rows("SELECT text_layer_verdict FROM page_images") == [(None,)]
    archive.execute("UPDATE documents SET state = 'pending'")
    document_id = archive.scalar("SELECT id FROM documents")
    archive.ingest(document_id, [NewPage(0, sha("0"), 16, 16, text_layer="other", text_layer_verdict=Verdict.SOUND)])
    said = archive.rows("SELECT text_layer, text_layer_verdict FROM page_images")
    assert said == [("typed", "sound")], "the text stays, of which answers may have been made"


def test_a_model_is_told_what_the_page_carries(archive: Archive, settings: Settings) -> None:
    asked = settings.model_copy(update={"text_layer": "hint"})
    archive.batches["b"] = open_named_batch(archive.db, asked, ["/in"], [OCR], None, "pixtral", "m1")
    kinds = [(None, None), ("typed\n", Verdict.SOUND), ("typed\n", Verdict.STUB), ("\ufffd\ufffd", Verdict.GARBLED)]
    kinds.append(("word " * 20 + "\n", Verdict.INVISIBLE))
    pages = [
        NewPage(index, sha("equal pixels"), 16, 16, text_layer=text, text_layer_verdict=verdict)
        for index, (text, verdict) in enumerate(kinds)
    ]
    tasks = []
    for page in archive.ingest(archive.see("/in/a.pdf") or 0, pages):
        claim = archive.claim(page)
        assert claim
        (task,) = claim.tasks
        said = answer(task.asked.text, model=task.answered_by("m1"))
        complete_page(archive.db, claim, "w", {task.task_id: said}, LIMITS)
        tasks.append(task)
    told = [hinted(with_hint(OCR), text) for text in (None, "typed", "typed", None, ("word " * 20).strip())]
    assert [text for _, text in shown(archive)] == [prompt.text for prompt in told]
    assert told[0] == OCR and "<text>\ntyped\n</text>" in told[1].text
    assert archive.scalar("SELECT count(DISTINCT model) FROM answers WHERE engine = 'rapidocr'") == 3, (
        "equal pixels, unequal text"
    )
    assert archive.scalar("SELECT text FROM prompts") == with_hint(OCR).text, "and a version of its own"
    archive.batch("plain", model="m1")
    archive.see("/in/a.pdf", batch="plain")
    assert len(archive.waiting(archive.scalar("SELECT id FROM documents"))) == len(kinds)


def test_a_text_layer_is_an_answer_of_its_own_taken_or_not(archive: Archive) -> None:
    archive.batch(text_layer="prefer")
    for page in carrying_text(archive):
        read(archive, page)
    rows = archive.rows("SELECT page_number, engine, text, is_current FROM answers ORDER BY 1, 2")
    layers = [(index + 1, "text-layer", f"typed {index}", index == 0) for index in range(len(VERDICTS))]
    others = [(index + 1, "rapidocr", f"read {index} for ocr", True) for index in range(1, len(VERDICTS))]
    assert [(*row[:3], bool(row[3])) for row in rows] == sorted(layers + others)
    unequal = "SELECT count(*) FROM answers a JOIN answers b USING (document_id, page_number) "
    unequal += "WHERE a.engine = 'text-layer' AND b.is_current AND a.text <> b.text"
    assert archive.scalar(unequal) == len(VERDICTS) - 1


def test_a_hint_is_bounded_and_ends_with_a_line() -> None:
    hint = bounded_hint("a line of the page\n" * 4_000)
    assert len(hint) <= MOST_HINT_CHARACTERS + 4 and hint.endswith("a line of the page\n[…]")
    assert len(bounded_hint("x" * 9_000)) < MOST_HINT_CHARACTERS + 5


@pytest.mark.parametrize("engine", ["rapidocr", "tesseract"])
def test_an_engine_that_sees_the_picture_alone_takes_no_hint(archive: Archive, settings: Settings, engine: str) -> None:
    asked = settings.model_copy(update={"text_layer": "hint"})
    with pytest.raises(UsageError, match=f"the engine {engine} is told no text"):
        open_named_batch(archive.db, asked, ["/in"], [OCR], None, engine, "m1")


@pytest.mark.parametrize(
    ("engine", "given", "choice"),
    [
        ("rapidocr", None, "auto"),
        ("tesseract", None, "auto"),
        ("pixtral", None, "keep"),
        ("any", None, "keep"),
        ("rapidocr", "keep", "keep"),
        ("pixtral", "auto", "auto"),
        ("rapidocr", "prefer", "prefer"),
    ],
)
def test_the_engine_decides_where_nobody_does(
    archive: Archive, settings: Settings, engine: str, given: Any, choice: str
) -> None:
    asked = settings.model_copy(update={"text_layer": given})
    batch = open_named_batch(archive.db, asked, ["/in"], [OCR], None, engine, "m1")
    assert archive.rows("SELECT text_layer FROM batches WHERE id = :id", id=batch.id) == [(choice,)]


@pytest.mark.parametrize("name", [None, "1913"])
def test_a_batch_that_is_there_keeps_its_choice(archive: Archive, settings: Settings, name: str | None) -> None:
    def ask(given: str | None) -> OpenBatch:
        asked = settings.model_copy(update={"text_layer": given})
        return open_named_batch(archive.db, asked, ["/in"], [OCR], name, "rapidocr", "m1")

    old = ask("keep")
    assert ask(None) == old and archive.rows("SELECT text_layer FROM batches") == [("keep",)]
    wanted = ask("auto")
    assert (wanted == old) == (name is not None), "known by its name, or else by its paths and what is asked"
    assert ask(None) == wanted
    assert archive.rows("SELECT text_layer FROM batches WHERE id = :id", id=wanted.id) == [("auto",)]
