"""Answers against their truths: text layers and files beside images, in the views on both databases."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.evaluated import _head, shown_json
from pipeline.evaluation.answers import PageAnswer, answers_of
from pipeline.evaluation.doubt import doubt, worst_tenth_share
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.keep import keep
from pipeline.evaluation.measures import measure
from pipeline.evaluation.plots import check_plot, plot
from pipeline.evaluation.truths import PageTruths, lonely_truths
from pipeline.ingest.forget import find_known
from pipeline.query.answer_names import find_answers
from pipeline.query.word_diff import marked
from pipeline.settings import Settings
from pipeline.store.answer_sets import ChosenPages
from pipeline.store.batches import open_batch
from pipeline.store.forget import forget_documents
from pipeline.store.forget_plan import plan
from pipeline.store.pages import NewPage
from pipeline.store.promotions import promote
from schemas.prompts import OCR
from schemas.text_layers import Verdict
from tests.conftest import Archive, answer, sha
from tests.running import call

DATABASES = ("sqlite", "postgresql")

TRUE = ["The tide rose by four feet.", "Ada Lovelace wrote the first programme for it."]


def born_digital(archive: Archive, path: str = "/in/a.pdf", texts: list[str] = TRUE) -> list[int]:
    sound = {"text_layer_verdict": Verdict.SOUND, "width_px": 16, "height_px": 32}
    pages = [NewPage(n, sha(f"{path}{n}"), text_layer=text, **sound) for n, text in enumerate(texts)]
    return archive.ingest(archive.see(path) or 0, pages)


def read(archive: Archive, page: int, text: str, model: str = "m1", **given: Any) -> None:
    engine = {"m1": "rapidocr", "m2": "tesseract"}[model]
    archive.read(page, lambda _: answer(text, model, engine=engine, **given), model=model)


def test_errors_are_counted_in_characters_and_words_and_order_counts() -> None:
    found = measure("The tide rose.", "The tlde rose.")
    assert (found.characters, found.character_errors, found.words, found.word_errors) == (14, 1, 3, 1)
    assert (found.error_rate, found.word_error_rate) == (1 / 14, 1 / 3)
    swapped = measure("left column\nright column", "right column\nleft column")
    assert (swapped.recall, swapped.precision) == (1.0, 1.0) and swapped.word_errors == 2 and swapped.error_rate > 0.3
    assert measure("# Title\n\n| a | b |\n|---|---|\n| 1 | 2 |", "Title\na b\n1 2").character_errors == 0
    nothing = measure("a", "much that was invented")
    assert (nothing.character_errors, nothing.error_rate, nothing.precision) == (1, 1.0, 0.0)


def test_answers_are_doubted_as_the_view_review_scores_them(archive: Archive) -> None:
    ends = ("stop", "empty", "deadline", "repetition", "length")
    said = [answer("text", finish_reason=end, confidence=0.95) for end in ends]
    said += [answer("text", review_reason="small-print"), answer("text", review_reason="small-print", review_score=0.3)]
    archive.batch("b")
    pages = archive.ingest(archive.see("/in/a.pdf", batch="b") or 0, [f"page {number}" for number in range(len(said))])
    for page, one in zip(pages, said, strict=True):
        archive.read(page, lambda _, one=one: one)
    scores = dict(archive.rows("SELECT page_number, score FROM review"))
    doubts = [doubt(one.review_reason, one.review_score, one.finish_reason, one.confidence) for one in said]
    assert {n: found - 1 for n, found in enumerate(doubts, 1) if found > 1} == pytest.approx(scores) and len(
        scores
    ) == 6


def test_doubts_are_as_good_as_the_errors_that_they_find() -> None:
    assert doubt("empty", 1.0, "stop", 0.9) > doubt("low-confidence", 0.4, "stop", 0.6) > doubt(None, None, "stop", 0.2)
    assert doubt(None, None, "length", 0.99) > 1 > doubt(None, None, "stop", 0.5) > doubt(None, None, "stop", None)
    pages = [(0.9, 30), (0.1, 10), *[(0.05, 0)] * 18]
    assert worst_tenth_share(pages) == 1.0
    assert worst_tenth_share([(0.0, 1)] * 20) == 0.1
    assert worst_tenth_share([(0.9, 0)] * 20) is None and worst_tenth_share([(1.0, 5)] * 9) is None


def test_answers_are_held_against_sound_text_layers(archive: Archive) -> None:
    one, two = born_digital(archive)
    read(archive, one, "The tide rose by four feet.")
    read(archive, two, "Ada Lovelace wrotc the first for it.", confidence=0.7)
    (scan,) = archive.ingest(
        archive.see("/in/scan.pdf") or 0,
        [NewPage(0, sha("scan"), 16, 32, text_layer="stub", text_layer_verdict=Verdict.STUB)],
    )
    read(archive, scan, "anything")
    found = evaluate(archive.db, find_answers(archive.db, "rapidocr"), "ocr", None, PageTruths(), "in")
    assert [(page.page_number, page.truth, page.measured.word_errors) for page in found.pages] == [
        (2, "text-layer", 2),
        (1, "text-layer", 0),
    ]
    assert found.without_truth == ["/in/scan.pdf"] and found.complaints == []
    key = keep(archive.db, found)
    view = "SELECT kind, name, answers, prompt, pages, words, word_errors, items, round(character_error_rate * 1000) "
    ((*run, rate),) = archive.rows(f"{view} FROM evaluations WHERE evaluation_id = {key}")
    assert run == ["pages", "in", "engine:rapidocr", "ocr", 2, 14, 2, 0] and rate == 151
    worst = "SELECT page_number, engine, model, truth, characters, character_errors, confidence FROM evaluated_pages "
    worst += "ORDER BY character_error_rate DESC"
    assert archive.rows(worst) == [
        (2, "rapidocr", "m1", "text-layer", 46, 11, 0.7),
        (1, "rapidocr", "m1", "text-layer", 27, 0, None),
    ]
    of_documents = "SELECT source_path, pages, word_errors, recall FROM evaluated_documents"
    assert archive.rows(of_documents) == [("/in/a.pdf", 2, 2, pytest.approx((6 / 8 + 1) / 2))]


def test_equal_files_count_once_and_all_are_named(archive: Archive) -> None:
    one, two = born_digital(archive)
    for page in (one, two):
        read(archive, page, "The tide rose by four feet.")
    archive.see("/in/copy.pdf", content="/in/a.pdf")
    found = evaluate(archive.db, find_answers(archive.db, "rapidocr"), "ocr", None, PageTruths(), "in")
    assert len(found.pages) == 2 and found.equal_files == {"/in/a.pdf": ("/in/copy.pdf",)}
    assert "  equal files count once, by the first name: /in/a.pdf = /in/copy.pdf" in _head(found, 1)
    assert shown_json(found, 1, 9, False)["equal_files"] == [["/in/a.pdf", "/in/copy.pdf"]]


def test_changes_are_kept_of_the_worst_pages_alone(archive: Archive) -> None:
    for page, text in zip(
        born_digital(archive), ("# The **tide** rose.", "Ada Lovelace wrote a programme."), strict=True
    ):
        read(archive, page, text)
    found = evaluate(archive.db, find_answers(archive.db, "m1"), "ocr", None, PageTruths(), "in", num_changes=1)
    shown = [marked(page.changes) for page in found.pages]
    assert shown[0] == "The tide [-rose-]{+rose.+} [-by four feet.-]", "and not the signs of Markdown"
    assert shown[1] == ""


def test_two_sets_are_judged_by_the_same_truths(archive: Archive) -> None:
    (one,) = born_digital(archive, texts=TRUE[:1])
    read(archive, one, TRUE[0])
    archive.batch("again", model="m2")
    archive.see("/in/a.pdf", batch="again")
    read(archive, one, "The tide", model="m2")
    rates = {}
    for name in ("rapidocr", "tesseract"):
        found = evaluate(archive.db, find_answers(archive.db, name), "ocr", None, PageTruths(), "in")
        rates[name] = found.figures()["word_error_rate"]
    assert rates == {"rapidocr": 0.0, "tesseract": 4 / 6}
    documents = {archive.scalar("SELECT max(id) FROM documents") + 1}
    assert evaluate(archive.db, find_answers(archive.db, "m1"), "ocr", documents, PageTruths(), "in").pages == []


def test_an_evaluation_leaves_what_pages_show_and_fills_what_shows_nothing(archive: Archive) -> None:
    (one,) = born_digital(archive, texts=TRUE[:1])
    read(archive, one, "shown")
    asked: dict[str, Any] = {"prompts": [OCR], "engine": "tesseract", "model": "m2", "text_layer": "keep"}
    archive.batches["eval"] = open_batch(archive.db, key="eval:1", name="eval", shows_answers=False, **asked)
    archive.see("/in/a.pdf", batch="eval")
    (new,) = archive.ingest(archive.see("/in/new.pdf", batch="eval") or 0, ["new"])
    read(archive, one, "judged", model="m2")
    read(archive, new, "judged, too", model="m2")
    shown = "SELECT text FROM page_text ORDER BY source_path"
    assert archive.rows(shown) == [("shown",), ("judged, too",)]
    archive.see("/in/a.pdf", batch="eval")
    assert archive.rows(shown)[0] == ("shown",), "asked again, what is there is not shown either"
    archive.batch("run", model="m2")
    archive.see("/in/a.pdf", batch="run")
    assert archive.rows(shown)[0] == ("judged",), "a run that asks the same shows it, and reads nothing"


def test_a_blank_page_of_an_evaluation_leaves_what_it_shows(archive: Archive) -> None:
    archive.batch("run", text_layer="auto")
    blank = NewPage(0, sha("1"), 16, 16, text_layer="drawn in white", text_layer_verdict=Verdict.SOUND, is_blank=True)
    archive.ingest(archive.see("/in/a.pdf", batch="run") or 0, [blank])
    assert archive.rows("SELECT engine, text FROM page_text") == [("text-layer", "drawn in white")]
    asked: dict[str, Any] = {"prompts": [OCR], "engine": "rapidocr", "model": "m1", "text_layer": "keep"}
    archive.batches["eval"] = open_batch(archive.db, key="eval:1", name="eval", shows_answers=False, **asked)
    archive.see("/in/a.pdf", batch="eval")
    assert archive.rows("SELECT engine FROM answers WHERE NOT is_current") == [("blank",)]
    assert archive.rows("SELECT engine, text FROM page_text") == [("text-layer", "drawn in white")]
    found = evaluate(archive.db, find_answers(archive.db, "batch:eval"), "ocr", None, PageTruths(), "in")
    assert [(page.measured.error_rate, page.truth) for page in found.pages] == [(1.0, "text-layer")]


def test_what_is_forgotten_leaves_its_evaluations(archive: Archive) -> None:
    for path in ("/in/a.pdf", "/in/b.pdf"):
        (page,) = born_digital(archive, path, TRUE[:1])
        read(archive, page, path)
    archive.finish()
    keep(archive.db, evaluate(archive.db, find_answers(archive.db, "m1"), "ocr", None, PageTruths(), "in"))
    chosen = plan(archive.db, find_known(archive.db, ["/in/a.pdf"]))
    forget_documents(archive.db, chosen, chosen.documents, lambda documents, images: None)
    assert archive.rows("SELECT source_path FROM evaluated_pages") == [("/in/b.pdf",)]
    assert archive.rows("SELECT name FROM evaluations") == [("in",)]
    promote(archive.db, find_answers(archive.db, "m1"), ChosenPages(path="*/b.pdf"))
    chosen = plan(archive.db, find_known(archive.db, ["/in/b.pdf"]))
    forget_documents(archive.db, chosen, chosen.documents, lambda documents, images: None)
    assert archive.rows("SELECT name, pages FROM evaluations") == [("forgotten", 0)], "nothing of it is left"
    assert archive.rows("SELECT path, answers_held FROM promotions") == [("forgotten", 0)]


# Truths beside files


def page_of(path: Path, number: int = 1, count: int = 1) -> PageAnswer:
    return PageAnswer(
        1, 1, 1, "d", number, count, str(path), (path.as_uri(),), "read", "e", "m", "stop", None, None, None,
        "the layer", Verdict.SOUND, [],
    )  # fmt: skip


def test_a_text_beside_the_file_goes_before_the_layer(tmp_path: Path) -> None:
    (tmp_path / "a.gt.txt").write_text("typed by hand", encoding="utf-8-sig")
    (tmp_path / "b.png.gt.txt").write_text("this too")
    truths = PageTruths()
    assert truths.of(page_of(tmp_path / "a.png")) == ("truth-file", "typed by hand")
    assert truths.of(page_of(tmp_path / "b.png")) == ("truth-file", "this too")
    assert truths.of(page_of(tmp_path / "c.pdf")) == ("text-layer", "the layer")
    assert truths.of(replace(page_of(tmp_path / "c.pdf"), layer_verdict=Verdict.GARBLED)) is None
    assert truths.complaints == []


def test_form_feeds_part_the_pages_of_a_truth(tmp_path: Path) -> None:
    (tmp_path / "a.gt.txt").write_text("one\n\ftwo\n\f\f")
    truths = PageTruths()
    found = [truths.of(page_of(tmp_path / "a.pdf", number, 3)) for number in (1, 2, 3)]
    assert found == [("truth-file", "one\n"), ("truth-file", "two\n"), None]
    assert truths.of(page_of(tmp_path / "a.tiff", 1, 2)) is not None
    (tmp_path / "b.gt.txt").write_text("one\ftwo")
    assert truths.of(page_of(tmp_path / "b.pdf", 1, 3)) is None
    assert truths.complaints == [
        f"{tmp_path}/b.gt.txt has 2 pages, between form feeds, and its document 3; none is judged"
    ]


def test_a_list_of_truths_in_the_folder_serves_too(tmp_path: Path) -> None:
    entries = [{"file": "a.png", "text": "listed", "kind": "letter"}, {"file": "b.png", "text": ""}]
    (tmp_path / "truth.json").write_text(json.dumps(entries))
    (tmp_path / "c.gt.txt").write_text("beside")
    truths = PageTruths()
    assert truths.of(page_of(tmp_path / "a.png")) == ("truth-file", "listed")
    assert truths.of(page_of(tmp_path / "b.png")) == ("text-layer", "the layer")
    assert truths.of(page_of(tmp_path / "c.png")) == ("truth-file", "beside")
    assert truths.of(page_of(tmp_path / "a.png", 2, 2)) == ("text-layer", "the layer"), "the first page is meant"
    (tmp_path / "truth.json").write_text("{")
    truths = PageTruths()
    assert [truths.of(page_of(tmp_path / name)) for name in ("a.png", "b.png")] == [("text-layer", "the layer")] * 2
    assert len(truths.complaints) == 1 and "truth.json is no list of" in truths.complaints[0]


def test_an_entry_that_is_no_truth_leaves_the_others(tmp_path: Path) -> None:
    entries = [
        {"file": "a.png", "text": "listed"},
        {"file": "gone.png", "text": "x"},
        {"text": "y"},
        {"file": "b.png"},
        7,
    ]
    (tmp_path / "truth.json").write_text(json.dumps(entries))
    (tmp_path / "a.png").touch()
    truths = PageTruths()
    assert truths.of(page_of(tmp_path / "a.png")) == ("truth-file", "listed")
    assert truths.complaints == [
        f'{tmp_path}/truth.json: 3 entries have no "file" and "text" that are texts; the others count',
        f"{tmp_path}/truth.json names 1 file that is not there: gone.png",
    ]
    (tmp_path / "truth.json").write_text(json.dumps({"file": "a.png"}))
    truths = PageTruths()
    truths.of(page_of(tmp_path / "a.png"))
    assert len(truths.complaints) == 1 and "truth.json is no list of" in truths.complaints[0]


def test_a_broken_truth_beside_one_path_leaves_that_of_its_twin(tmp_path: Path) -> None:
    (tmp_path / "a.gt.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "b.gt.txt").write_text("typed by hand")
    page = page_of(tmp_path / "a.png")
    twin = replace(page, locations=(*page.locations, *page_of(tmp_path / "b.png").locations))
    truths = PageTruths()
    assert truths.of(twin) == ("truth-file", "typed by hand")
    assert len(truths.complaints) == 1 and "a.gt.txt is no UTF-8" in truths.complaints[0]


def test_a_file_that_is_no_truth_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "latin.gt.txt").write_bytes("größer".encode("latin-1"))
    (tmp_path / "empty.gt.txt").write_text(" \n")
    truths = PageTruths()
    for _ in range(2):
        assert truths.of(page_of(tmp_path / "latin.png")) is None
        assert truths.of(page_of(tmp_path / "empty.png")) is None
    assert truths.complaints == [
        f"{tmp_path}/latin.gt.txt is no UTF-8 text (byte 3); save it as UTF-8. It is not judged",
        f"{tmp_path}/empty.gt.txt is empty; its pages are not judged",
    ]


def test_a_truth_without_its_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "a.gt.txt", "b.png", "b.png.gt.txt", "c.gt.txt"):
        (tmp_path / "in" / name).write_text("text")
    assert lonely_truths([str(tmp_path)]) == [f"1 truth has no file of that name beside it: {tmp_path}/in/c.gt.txt"]
    assert lonely_truths([str(tmp_path / "in" / "a.png"), "/nowhere"]) == []


# The command


@pytest.mark.only("sqlite")
def test_stored_answers_are_judged_one_against_the_other(
    archive: Archive, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = born_digital(archive, texts=TRUE[:1])
    read(archive, one, TRUE[0])
    archive.batch("again", model="m2")
    archive.see("/in/a.pdf", batch="again")
    read(archive, one, "The tide rose by five feet.", model="m2")
    drawn = [word for suffix in ("png", "html") for word in ("--plot", str(tmp_path / f"plot.{suffix}"))]
    asked = ("eval", "--answers", "rapidocr", "--answers", "tesseract", "--home", settings.home)
    done = call(*asked, "--changes", *drawn)
    assert done.returncode == 0, done.stderr
    assert "evaluation 2: all files, engine:tesseract" in done.stdout
    assert "by [-four-]{+five+} feet." in done.stdout and "…" not in done.stdout, "of a page without a change nothing"
    differing = done.stdout.partition("engine:tesseract against engine:rapidocr, word by word:\n")[2]
    assert differing == "/in/a.pdf:1  ocr: 1 of 6 words\n    The tide rose by [-four-]{+five+} feet.\n"
    assert "engine:tesseract against engine:rapidocr: better on 0, worse on 1 of 1 pages" in done.stdout
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    assert "<del>four</del> <ins>five</ins>" in (tmp_path / "plot.html").read_text()
    done = call("eval", "/in/a.pdf", "--answers", "m2", "--json", "--home", settings.home)
    shown = json.loads(done.stdout)
    assert (shown["evaluation_id"], shown["pages"], shown["word_errors"]) == (3, 1, 1)
    assert shown["worst_pages"][0]["source_path"] == "/in/a.pdf" and shown["worst_tenth_share"] is None
    assert call("eval", "--home", settings.home).returncode == 2
    done = call("eval", "/in/never.pdf", "--answers", "m1", "--home", settings.home)
    assert done.returncode == 3 and done.stderr == (
        "pagepack: no file was ever seen at /in/never.pdf; without --answers, `pagepack eval` reads what lies there\n"
    )
    done = call("eval", "--answers", "nobody", "--home", settings.home)
    assert done.returncode == 2 and "no answers are called 'nobody'" in done.stderr


def test_a_plot_is_refused_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.errors import UsageError

    with pytest.raises(UsageError, match=r"name a .png or an .html"):
        check_plot(tmp_path / "a.svg")
    with pytest.raises(UsageError, match="there is no folder"):
        check_plot(tmp_path / "none" / "a.png")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match=r"pip install 'pagepack\[eval\]'; an .html needs nothing"):
        check_plot(tmp_path / "a.png")
    check_plot(tmp_path / "a.html")
    plot(tmp_path / "a.html", [])


def test_answers_are_found_page_by_page(archive: Archive) -> None:
    for number, page in enumerate(born_digital(archive)):
        read(archive, page, f"text {number}")
    found = list(answers_of(archive.db, find_answers(archive.db, "m1"), "ocr", None))
    assert [(page.name, page.text, page.layer) for page in found] == [
        ("/in/a.pdf page 1", "text 0", TRUE[0]),
        ("/in/a.pdf page 2", "text 1", TRUE[1]),
    ]
    archive.execute("UPDATE sources SET gone_at = :now", now="2026-01-01 00:00:00")
    assert list(answers_of(archive.db, find_answers(archive.db, "m1"), "ocr", None)) == []
