"""Which answers are current: the latest, or those that people promoted; and how two sets of answers differ."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.database.looking import Look
from pipeline.errors import UsageError
from pipeline.export.export import export
from pipeline.ingest.forget import find_known
from pipeline.query.answer_names import find_answers
from pipeline.query.batch_status import answers_held
from pipeline.query.diff import compare
from pipeline.query.search import find
from pipeline.query.word_diff import marked
from pipeline.settings import Settings
from pipeline.store.answer_sets import ChosenPages, count_untaken
from pipeline.store.batches import open_batch
from pipeline.store.forget import forget_documents
from pipeline.store.forget_plan import plan
from pipeline.store.pages import NewPage
from pipeline.store.promotions import promote, roll_back
from schemas.prompts import DESCRIBE, OCR
from schemas.text_layers import Verdict
from tests.conftest import Archive, answer, sha
from tests.running import call

DATABASES = ("sqlite", "postgresql")
ALL = ChosenPages()
NEW_OCR = replace(OCR, text="Transcribe it better.")


def read_by(archive: Archive, model: str, engine: str, texts: dict[str, list[str]], **asked: Any) -> None:
    """A batch of that model's name over all the files; the answers' engine."""
    batch = f"by {model}"
    archive.batch(batch, model=model, **asked)
    for path, said in texts.items():
        document = archive.see(path, batch=batch)
        assert document
        is_new = archive.scalar("SELECT count(*) FROM pages WHERE document_id = :id", id=document) == 0
        pages = (
            archive.ingest(document, [f"{path}#{n}" for n in range(len(said))]) if is_new else archive.waiting(document)
        )
        for page, text in zip(pages, said, strict=True):
            archive.read(page, lambda _, text=text: answer(text, model, engine=engine), model=model)


@pytest.fixture
def two_models(archive: Archive) -> Archive:
    texts = {"/in/a.pdf": ["the old house", "same words here"], "/in/letters/b.pdf": ["dear Ada alpha"]}
    read_by(archive, "m1", "rapidocr", texts)
    texts = {"/in/a.pdf": ["the odd mouse", "same words here"], "/in/letters/b.pdf": ["dear Ida omega"]}
    read_by(archive, "m2", "tesseract", texts)
    return archive


def shown(archive: Archive) -> list[str]:
    return [text for (text,) in archive.rows("SELECT text FROM page_text ORDER BY source_path, page_number, prompt")]


OLD = ["the old house", "same words here", "dear Ada alpha"]
NEW = ["the odd mouse", "same words here", "dear Ida omega"]


def hits(archive: Archive, words: str) -> int:
    return len(find(archive.db, words).hits)


def test_promoted_answers_are_shown_found_and_exported(two_models: Archive, tmp_path: Path) -> None:
    assert shown(two_models) == NEW and hits(two_models, "old") == 0 and hits(two_models, "odd") == 1
    done = promote(two_models.db, find_answers(two_models.db, "rapidocr"), ALL)
    assert done and (done.held, done.changed) == (3, 3), "the page with equal words shows another answer, too"
    assert shown(two_models) == OLD and hits(two_models, "old") == 1 and hits(two_models, "odd") == 0
    export(two_models.db, tmp_path / "out.jsonl", "jsonl", batch=None, prompt=None)
    assert "the old house" in (tmp_path / "out.jsonl").read_text()
    assert two_models.rows("SELECT text FROM answers WHERE is_current AND engine = 'tesseract'") == []
    of = "SELECT answers, prompt, batch_id, path, answers_held, rolled_back_at FROM promotions"
    assert two_models.rows(of) == [("engine:rapidocr", None, None, None, 3, None)]
    assert two_models.rows("SELECT DISTINCT promotion_id FROM page_text") == [(done.promotion_id,)]


def test_a_later_run_does_not_undo_a_promotion(two_models: Archive) -> None:
    promote(two_models.db, find_answers(two_models.db, "m1"), ChosenPages(path="letters/"))
    read_by(two_models, "m3", "tesseract", {"/in/a.pdf": ["a", "b"], "/in/letters/b.pdf": ["c"]})
    assert shown(two_models) == ["a", "b", "dear Ada alpha"]
    assert [answers_held(two_models.db, two_models.batches[f"by {name}"].id) for name in ("m1", "m3")] == [1, 1]
    two_models.batch("by m2", model="m2")  # asked for again: its answers are there, and would be shown at once
    for path in ("/in/a.pdf", "/in/letters/b.pdf"):
        two_models.see(path, batch="by m2")
    assert shown(two_models) == [*NEW[:2], "dear Ada alpha"]
    roll_back(two_models.db, ALL)
    assert shown(two_models) == NEW, "the latest that was asked for, though it came while the page was held"
    assert two_models.scalar("SELECT count(*) FROM current_answers WHERE promotion_id IS NOT NULL") == 0


def test_promotions_are_taken_back_one_after_the_other(two_models: Archive) -> None:
    db = two_models.db
    first = promote(db, find_answers(db, "m1"), ALL)
    second = promote(db, find_answers(db, "m2"), ChosenPages(path="a.pdf"))
    third = promote(db, find_answers(db, "current"), ALL)
    assert first and second and third
    assert shown(two_models) == [*NEW[:2], OLD[2]] and (third.held, third.changed) == (3, 0)
    back = roll_back(db, ALL)
    assert back and (back.promotion_id, back.released, back.changed, back.left) == (third.promotion_id, 3, 0, 0)
    back = roll_back(db, ALL, first.promotion_id)
    assert back and (back.released, back.changed) == (3, 1), "two pages are held by the second"
    assert shown(two_models) == NEW
    back = roll_back(db, ALL)
    assert back and back.promotion_id == second.promotion_id and roll_back(db, ALL) is None
    assert shown(two_models) == NEW
    assert two_models.scalar("SELECT count(*) FROM promotions WHERE rolled_back_at IS NULL") == 0
    assert two_models.scalar("SELECT count(*) FROM promoted_answers") == 0


def test_a_part_of_a_promotion_is_taken_back(two_models: Archive) -> None:
    db = two_models.db
    promote(db, find_answers(db, "m1"), ALL)
    back = roll_back(db, ChosenPages(path="letters/"))
    assert back and (back.released, back.changed, back.left) == (1, 1, 2)
    assert shown(two_models) == [*OLD[:2], NEW[2]]
    assert two_models.scalar("SELECT count(*) FROM promotions WHERE rolled_back_at IS NULL") == 1
    assert roll_back(db, ChosenPages(path="letters/")) is None


def test_a_selection_by_batch_and_prompt_holds_no_more(two_models: Archive) -> None:
    db = two_models.db
    read_by(two_models, "m1b", "rapidocr", {"/in/c.pdf": ["one"]}, prompts=[OCR, DESCRIBE])
    read_by(two_models, "m2b", "tesseract", {"/in/c.pdf": ["two"]}, prompts=[OCR, DESCRIBE])
    done = promote(db, find_answers(db, "rapidocr"), ChosenPages("ocr", find_answers(db, "batch:by m1b")))
    assert done and (done.held, done.changed) == (1, 1)
    assert two_models.rows("SELECT prompt, text FROM page_text WHERE source_path = '/in/c.pdf' ORDER BY 1") == [
        ("describe", "two"),
        ("ocr", "one"),
    ]
    assert promote(db, find_answers(db, "m1b"), ChosenPages(path="letters/")) is None
    assert two_models.scalar("SELECT count(*) FROM promotions") == 1, "one that holds nothing is none"


@pytest.mark.only("sqlite")  # which has one writer at a time
def test_pages_are_stored_while_the_paths_of_a_promotion_are_looked_at(two_models: Archive) -> None:
    class Meanwhile(ChosenPages):
        def documents(self, look: Look) -> Sequence[int] | None:
            two_models.execute("UPDATE documents SET page_count = page_count")
            return ChosenPages.documents(self, look)

    db, chosen = two_models.db, Meanwhile(path="letters/")
    done = promote(db, find_answers(db, "m1"), chosen)
    assert done and done.held == 1
    back = roll_back(db, chosen)
    assert back and back.released == 1


def test_what_is_forgotten_is_held_by_no_promotion(two_models: Archive) -> None:
    db = two_models.db
    promote(db, find_answers(db, "m1"), ALL)
    for name in ("by m1", "by m2"):
        assert two_models.finish(name)
    chosen = plan(db, find_known(db, ["/in/letters/b.pdf"]))
    forget_documents(db, chosen, chosen.documents, lambda documents, images: None)
    assert two_models.scalar("SELECT count(*) FROM promoted_answers") == 2
    assert shown(two_models) == OLD[:2]


@pytest.mark.parametrize("seed", range(2))
def test_a_page_shows_its_latest_promotion_or_else_what_was_asked_for_last(archive: Archive, seed: int) -> None:
    """Against a model of plain lists, through random promotions, runs that ask again, and ways back."""
    rng = random.Random(seed)
    db, paths, models = archive.db, ("/in/a.pdf", "/in/b.pdf", "/in/letters/c.pdf"), ("m1", "m2", "m3")
    for model in models:
        read_by(archive, model, "rapidocr", {path: [f"{model} of {path}"] for path in paths})
    latest = dict.fromkeys(paths, "m3")
    standing: list[tuple[int, dict[str, str]]] = []  # promotions in their order: pages → model
    for _ in range(25):
        path, model = rng.choice([*paths, None]), rng.choice(models)
        some = [one for one in paths if path in (None, one)]
        chosen = ALL if path is None else ChosenPages(path=path)
        step = rng.choice(("promote", "ask", "ask", "roll back", "roll back one"))
        if step == "promote":
            done = promote(db, find_answers(db, f"model:{model}"), chosen)
            assert done
            standing.append((done.promotion_id, dict.fromkeys(some, model)))
        elif step == "ask":
            archive.batch(f"by {model}", model=model)
            for one in some:
                archive.see(one, batch=f"by {model}")
                latest[one] = model
        else:
            which = rng.choice(standing)[0] if standing and step == "roll back one" else None
            back = roll_back(db, chosen, which)
            holding = [one for one in standing if which in (None, one[0]) and set(one[1]) & set(some)]
            assert (back is None) == (not holding)
            if holding:
                number, pages = holding[-1]
                assert back and back.promotion_id == number and back.released == len(set(pages) & set(some))
                for one in some:
                    pages.pop(one, None)
        standing = [one for one in standing if one[1]]
        expected = [next((pages[one] for _, pages in reversed(standing) if one in pages), latest[one]) for one in paths]
        assert shown(archive) == [f"{model} of {one}" for model, one in zip(expected, paths, strict=True)], step


# Two sets of answers


def test_pages_that_changed_are_listed_the_most_changed_first(two_models: Archive) -> None:
    db = two_models.db
    found = compare(db, find_answers(db, "m1"), find_answers(db, "tesseract"), ALL, 20)
    assert (found.compared, found.changed) == (3, 2)
    assert [(page.source_path, page.page_number, page.words_changed, page.words) for page in found.pages] == [
        ("/in/a.pdf", 1, 2, 3),
        ("/in/letters/b.pdf", 1, 2, 3),
    ]
    assert marked(found.pages[0].pieces) == "the [-old house-]{+odd mouse+}"
    only = compare(db, find_answers(db, "m1"), find_answers(db, "current"), ChosenPages(path="letters"), 20)
    assert [page.source_path for page in only.pages] == ["/in/letters/b.pdf"] and only.compared == 1
    few = compare(db, find_answers(db, "m1"), find_answers(db, "m2"), ALL, 1)
    assert (len(few.pages), few.changed) == (1, 2)


def carrying(archive: Archive, path: str, said: str, read: str) -> None:
    """A file of one page that carries a text and was read, as `eval` and `--text-layer keep` do."""
    new = NewPage(0, sha(path), 16, 16, text_layer=said, text_layer_verdict=Verdict.SOUND)
    (page,) = archive.ingest(archive.see(path) or 0, [new])
    archive.read(page, lambda _: read)


def test_a_text_that_a_page_carries_is_compared_though_it_was_never_taken(archive: Archive) -> None:
    carrying(archive, "/in/a.pdf", "the old house", "the odd house")
    carrying(archive, "/in/letters/b.pdf", "dear Ada", "dear Ada")
    carried = archive.rows("SELECT count(*) FROM answers WHERE engine = 'text-layer'")
    db = archive.db
    found = compare(db, find_answers(db, "text-layer"), find_answers(db, "current"), ALL, 9)
    assert carried == [(2,)] and (found.compared, found.changed) == (2, 1)
    assert marked(found.pages[0].pieces) == "the [-old-]{+odd+} house"
    found = compare(db, find_answers(db, "current"), find_answers(db, "engine:text-layer"), ALL, 9)
    assert marked(found.pages[0].pieces) == "the [-odd-]{+old+} house"
    assert promote(db, find_answers(db, "text-layer"), ALL) is None
    assert count_untaken(db, ALL) == 2
    assert count_untaken(db, ChosenPages(path="letters")) == 1
    assert count_untaken(db, ChosenPages(prompt="describe")) == 0
    archive.batch("taking", text_layer="prefer")
    archive.see("/in/a.pdf", batch="taking")
    assert archive.waiting(archive.scalar("SELECT min(id) FROM documents")) == []
    found = compare(db, find_answers(db, "text-layer"), find_answers(db, "rapidocr"), ALL, 9)
    assert (found.compared, found.changed) == (2, 1), "one is taken, one is not"
    assert count_untaken(db, ALL) == 1
    done = promote(db, find_answers(db, "text-layer"), ALL)
    assert done and done.held == 1


def test_versions_of_a_prompt_and_two_prompts_are_compared(archive: Archive) -> None:
    read_by(archive, "m1", "rapidocr", {"/in/a.pdf": ["old words"]})
    archive.batch("again", prompts=[NEW_OCR, DESCRIBE])
    archive.see("/in/a.pdf", batch="again")
    (page,) = archive.waiting(archive.scalar("SELECT id FROM documents"))
    archive.read(page, lambda prompt: "new words" if prompt.name == "ocr" else "a page")
    db = archive.db
    versions = find_answers(db, OCR.version[:6]), find_answers(db, f"version:{NEW_OCR.version}")
    (changed,) = compare(db, *versions, ALL, 9).pages
    assert marked(changed.pieces) == "[-old-]{+new+} words"
    (changed,) = compare(db, find_answers(db, "ocr"), find_answers(db, "describe"), ALL, 9).pages
    assert (changed.prompt, marked(changed.pieces)) == ("describe", "[-new words-]{+a page+}")
    assert compare(db, find_answers(db, "batch:by m1"), find_answers(db, "again"), ALL, 9).compared == 1


def test_a_batch_s_answers_are_those_of_the_pages_that_it_asks_about(archive: Archive) -> None:
    read_by(archive, "m1", "rapidocr", {"/in/a.pdf": ["one", "two", "three"]})
    asked: dict[str, Any] = {"prompts": [OCR], "engine": "rapidocr", "model": "m1", "text_layer": "keep"}
    archive.batches["some"] = open_batch(archive.db, key="some", name="some", pages=[(1, 1)], **asked)
    archive.see("/in/a.pdf", batch="some")
    done = promote(archive.db, find_answers(archive.db, "some"), ALL)
    assert done and done.held == 1


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("tesserakt", r"no answers are called 'tesserakt'; did you mean tesseract\? there are engine rapidocr, tess"),
        ("nothing", r"prompt ocr; version [0-9a-f]{16}; batch by m2, .*; and current"),
        ("engine:m1", r"no answers are called 'engine:m1'; there are engine rapidocr, tesseract; and current"),
        ("by m", r"'by m' is several sets of answers; say which: batch:[0-9a-f-]{36}, batch:"),
    ],
)
def test_a_name_that_is_none_or_several_lists_what_there_is(two_models: Archive, word: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_answers(two_models.db, word)


def test_an_archive_without_answers_says_so(archive: Archive) -> None:
    with pytest.raises(UsageError, match="has no answers yet"):
        find_answers(archive.db, "ocr")


# The commands


@pytest.mark.only("sqlite")
def test_the_commands_compare_promote_and_take_back(two_models: Archive, settings: Settings) -> None:
    def said(*words: str) -> tuple[int, str, str]:
        done = call(*words, "--home", settings.home)
        return done.returncode, done.stdout, done.stderr

    code, out, told = said("diff", "rapidocr", "tesseract")
    assert code == 0 and out.splitlines()[:2] == [
        "/in/a.pdf:1  ocr: 2 of 3 words",
        "    the [-old house-]{+odd mouse+}",
    ]
    assert told == "engine:rapidocr against engine:tesseract: 2 of 3 answers differ\n"
    code, out, _ = said("diff", "rapidocr", "tesseract", "--format", "csv", "--limit", "1")
    assert out.splitlines()[0] == "source_path,page_number,prompt,words_changed,words,share,diff"
    assert code == 0 and out.splitlines()[1] == "/in/a.pdf,1,ocr,2,3,0.6667,the [-old house-]{+odd mouse+}"
    assert said("diff", "rapidocr", "current", "--json")[1] == said("diff", "rapidocr", "--json")[1]
    assert '"words_changed": 2' in said("diff", "rapidocr", "--json")[1]
    assert said("diff", "rapidocr", "engine:rapidocr")[0] == 2
    assert said("diff", "rapidocr", "tesseract", "--path", "nowhere")[0] == 3
    code, out, _ = said("promote", "rapidocr", "--path", "letters")
    expected = "promotion 1: 1 answer of engine:rapidocr current, of which 1 was not; later runs leave them; "
    assert code == 0 and out == f"{expected}`pagepack roll-back 1` takes it back\n"
    assert said("promote", "rapidocr", "--path", "nowhere")[0] == 3
    carrying(two_models, "/in/c.pdf", "typed", "read")
    code, out, told = said("promote", "text-layer")
    assert code == 3 and not out and "1 page there carries text that was never taken" in told
    assert "--text-layer prefer" in told
    code, out, told = said("roll-back", "7")
    assert code == 2 and "no promotion 7 stands; there stand 1 (engine:rapidocr)" in told
    code, out, _ = said("roll-back", "--json")
    assert (code, out) == (
        0,
        '{"promotion_id": 1, "answers": "engine:rapidocr", "released": 1, "changed": 1, "left": 0}\n',
    )
    assert said("roll-back")[0] == 3
