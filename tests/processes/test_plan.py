"""`pagepack plan` says what a run then does, stores nothing, and refuses what makes no sense."""

from __future__ import annotations

import json
import shutil
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pymupdf
import pytest

from pipeline.cli.plan import brief_line
from pipeline.database.engine import Database
from pipeline.ingest.selection import ALL_FILES
from pipeline.planning.asked import Asked, asked_of
from pipeline.planning.brief import brief
from pipeline.planning.known import Known
from pipeline.planning.look import PageFacts
from pipeline.planning.page_tokens import answer_lengths, answer_tokens
from pipeline.planning.shapes import Shape
from pipeline.settings import Settings
from pipeline.store.pages import NewPage
from pipeline.store.sources import SeenFile, record_files
from schemas.prompts import DESCRIBE, OCR
from tests.conftest import Archive, answer, reuse_answers, sha
from tests.running import call, pagepack, rows, write_pdf

DATABASES = ("sqlite", "postgresql")
SAMPLES = Path(__file__).parents[2] / "samples"
AT, HOUR = datetime(2026, 11, 30, tzinfo=UTC), timedelta(hours=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three documents of 6 pages, one of them twice and one in an archive; what is no document, in three ways."""
    root = tmp_path_factory.mktemp("plan") / "in"
    write_pdf(root / "a.pdf", 3, height_pt=200)
    shutil.copy(root / "a.pdf", root / "the same.pdf")
    with pymupdf.open() as document:
        document.new_page(width=200, height=200)  # blank
        document.save(root / "blank.pdf")
    inside = write_pdf(root / "inside.pdf", 2, height_pt=200)
    with zipfile.ZipFile(root / "b.zip", "w") as archive:
        archive.write(inside, "c/inside.pdf")
        archive.writestr("c/notes.xyz", b"\0\1\2\3")
    inside.unlink()
    (root / "words.xyz").write_bytes(b"\0\1\2")
    (root / "empty.pdf").touch()
    shutil.copy(SAMPLES / "minutes-encrypted.pdf", root)
    return root


def planned(*arguments: str | Path, **variables: str) -> dict[str, Any]:
    done = call("plan", *arguments, "--json", **variables)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def exactly(count: int) -> dict[str, int]:
    return {"expected": count, "low": count, "high": count}


def test_a_run_does_what_was_planned_and_then_nothing_is_left(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    before = planned(folder, "--home", home, "--device", "h100", "--price-per-hour", "3.2")
    assert not home.exists(), "a plan makes nothing"
    assert before["files"] == 7 and before["pages"] == exactly(6) and before["pages_to_read"] == exactly(5)
    assert before["pages_blank"] == exactly(1) and before["pages_already_read"] == exactly(0)
    assert before["files_rejected"] == {
        cause: exactly(count) for cause, count in (("unsupported", 2), ("empty", 1), ("encrypted", 1))
    }
    tokens = 5 * (64 * 65 + 89 + 10)
    assert before["prompt_tokens"]["expected"] == pytest.approx(tokens, rel=0.01)
    assert before["prompt_tokens"] == exactly(before["prompt_tokens"]["expected"]), "all pages were drawn"
    assert before["speed_basis"] == "computed" and before["speed_by"].startswith("computed, not measured: Pixtral 12B")
    assert before["kv_cache"] == "bfloat16" and before["pages_at_once"] == 80
    narrow = planned(folder, "--home", home, "--device", "h100", PAGEPACK_KV_CACHE="fp8")
    assert narrow["kv_cache"] == "fp8" and "168 pages at once, their cache in fp8" in narrow["speed_by"]
    assert before["seconds"]["low"] < before["seconds"]["expected"] < before["seconds"]["high"]
    assert before["cost"]["expected"] == pytest.approx(before["gpu_hours"]["expected"] * 3.2, abs=1e-3)

    run = pagepack("run", folder, "--home", home, "--text-layer", "keep")
    assert run.returncode == 1, run.stderr
    assert "7 files; `pagepack plan` with the same paths says how many pages, and how long" in run.stderr.splitlines()
    ((pages, done),) = rows(home, "SELECT pages_total, pages_done FROM batch_summary")
    assert (pages, done) == (6, 6)
    assert dict(rows(home, "SELECT cause, count(*) FROM failures GROUP BY cause")) == {
        cause: figure["expected"] for cause, figure in before["files_rejected"].items()
    }
    ((stored,),) = rows(home, "SELECT sum(width_px * height_px) FROM page_images")
    assert stored
    size = sum(file.stat().st_size for file in (home / "images").rglob("*.png"))
    assert size == pytest.approx(before["image_bytes"]["expected"], rel=0.2)

    after = planned(folder, "--home", home, "--text-layer", "keep")
    assert after["pages"] == after["pages_already_read"] == exactly(6) and after["pages_to_read"] == exactly(0)


@pytest.fixture(scope="module")
def very_many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many")
    for number in range(2_000):
        (root / f"{number}.jpg").open("x").close()
    return root


def test_a_glance_tells_what_the_home_knows(db: Database, very_many: Path, tmp_path: Path) -> None:
    """Pages of known files exactly, those of new ones by their kind; it does not look at all of very many."""
    archive, root = Archive(db), tmp_path / "in"
    batch = archive.batch()
    known = write_pdf(root / "known.pdf", 1)
    status = known.stat()
    seen = SeenFile(str(known), "file:///k", status.st_size, status.st_mtime_ns, kind="pdf", content_hash=sha("k"))
    record_files(db, batch, [seen])
    archive.ingest(archive.scalar("SELECT id FROM documents"), ["one", "two", "three"])
    settings = Settings(home=tmp_path / "home")
    asked = asked_of(settings.model_copy(update={"text_layer": "keep"}), [OCR], "rapidocr", "m1", [])

    def glance(*others: Path) -> str:
        found = brief(db, settings, [root, *others], ALL_FILES, asked, 1)
        assert found is not None
        return brief_line(found)

    assert glance() == "1 file, 3 pages"
    (root / "a.jpg").write_bytes(b"1")
    write_pdf(root / "new.pdf", 9)
    (root / "notes.xyz").write_bytes(b"1")
    assert glance() == "4 files, about 7 pages"
    (root / "letter.docx").write_bytes(b"1")
    assert glance().startswith("5 files; `pagepack plan` with the same paths says")
    assert glance(very_many).startswith("more than ")
    assert brief(db, settings, [tmp_path / "none"], ALL_FILES, asked, 1) is None, "the run says it"
    assert brief(db, settings, ["s3://bucket/in"], ALL_FILES, asked, 1) is None


def test_answers_are_as_long_as_those_to_pages_of_the_same_size(db: Database) -> None:
    """Print is longer on larger pages, as far as no page of their size was read; a description is not."""
    archive = Archive(db)
    archive.batch(prompts=(OCR, DESCRIBE))
    known = Known(db, Asked([OCR, DESCRIBE], "pixtral", None, "keep", "read"))
    works = [(PageFacts(1.0, 192, 64), 1.0), (PageFacts(1.0, 256, 128), 3.0)]  # 52 and 136 tokens

    def read(name: str, width_px: int, height_px: int, tokens: dict[str, int]) -> None:
        document = archive.see(name)
        assert document is not None
        pages = [NewPage(index, sha(f"{name}{index}"), width_px, height_px) for index in range(20)]
        for page in archive.ingest(document, pages):
            archive.read(page, lambda prompt: answer("so", output_tokens=tokens[prompt.name]))

    assert answer_lengths(OCR, works, known, Shape()) is None
    read("small", 192, 64, {"ocr": 39, "describe": 10})
    print_, described = (answer_lengths(one, works, known, Shape()) for one in (OCR, DESCRIBE))
    assert print_ is not None and list(print_.expected) == [39, 102] and not print_.are_alike
    assert described is not None and list(described.expected) == [10, 10] and described.are_alike
    told, by = answer_tokens(OCR, works, known, Shape())
    assert told.expected == pytest.approx((39 + 3 * 102) / 4) and told.low < 60 < 125 < told.high
    assert by == "by 20 answers of this home to pages of other sizes"
    again = archive.see("small, copied")
    assert again is not None
    pages = [NewPage(index, sha("small0"), 192, 64) for index in range(7)]  # of one image
    known_answers = "SELECT prompt_version, id FROM answer_versions WHERE image_hash = :h"
    answers = dict(map(tuple, archive.rows(known_answers, h=sha("small0"))))
    for page in archive.ingest(again, pages):
        claim = archive.claim(page)
        assert claim is not None
        reuse_answers(db, claim, {task.task_id: answers[task.prompt.version] for task in claim.tasks})
    assert len(known.answers(OCR)) == 20
    read("large", 256, 128, {"ocr": 80, "describe": 10})
    print_ = answer_lengths(OCR, works, known, Shape())
    assert print_ is not None and list(print_.expected) == [39, 80] and print_.are_alike
    undrawn = "image_hash = NULL, width_px = NULL, height_px = NULL, cause = 'unreadable'"
    archive.execute(f"UPDATE pages SET {undrawn} WHERE id = (SELECT min(id) FROM pages)")
    print_ = answer_lengths(OCR, works, known, Shape())
    assert print_ is not None and print_.expected[1] == 80, "a freed image that cannot be drawn again has no size"


def test_a_glance_tells_what_an_endpoint_will_cost_and_how_long_a_machine_is_busy(db: Database, tmp_path: Path) -> None:
    archive, root = Archive(db), tmp_path / "in"
    archive.batch(prompts=(OCR, DESCRIBE))
    document = archive.see("read before")
    assert document is not None
    for page in archive.ingest(document, list("abcdefghijkl")):
        read = {"engine": "endpoint", "prompt_tokens": 1_000, "output_tokens": 500, "seconds": 1.0}
        archive.read(page, lambda _, read=read: answer("so", **read))
    archive.execute("UPDATE task_attempts SET started_at = :start, ended_at = :end", start=AT, end=AT + HOUR)
    for number in range(300):
        (root / f"{number}.png").parent.mkdir(exist_ok=True)
        (root / f"{number}.png").write_bytes(b"1")
    prices = {"endpoint_input_price": 2.0, "endpoint_output_price": 4.0}
    settings = Settings(home=tmp_path / "home", engine="endpoint", endpoint_url="http://127.0.0.1:9/v1", **prices)

    def glance(settings: Settings, engine: str) -> str:
        asked = asked_of(settings, [OCR, DESCRIBE], engine, None, [])
        found = brief(db, settings, [root], ALL_FILES, asked, 2)
        assert found is not None
        return brief_line(found)

    # 24 answers took an hour: 600 take 25, which two readers share. Each costs 1,000 · 2 + 500 · 4 millionths.
    assert glance(settings, "endpoint") == "300 files, about 300 pages, about 12 h 30 min to go, for about 2.40"
    archive.execute("UPDATE task_attempts SET engine = 'rapidocr'")
    told = glance(Settings(home=tmp_path / "home"), "rapidocr")
    assert told == "300 files, about 300 pages, about 12 h 30 min to go, 25 machine-hours"


def test_a_sample_says_how_sure_it_is(tmp_path: Path) -> None:
    root = tmp_path / "many"
    for number in range(40):
        write_pdf(root / f"{number}.pdf", 1 + number % 4)  # 100 pages
    asked = (root, "--home", tmp_path / "home", "--pages-per-second", "2", "--sample", "12")
    found = planned(*asked)
    assert (found["files_new"], found["files_sampled"]) == (40, 12) and found["pages_sampled"] <= 24
    assert found["pages"]["low"] <= 100 <= found["pages"]["high"] and found["pages"]["low"] < found["pages"]["high"]
    assert found["seconds"]["expected"] == pytest.approx(found["pages"]["expected"] / 2, abs=0.6)
    assert found["speed_basis"] == "given"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--device h10", "did you mean h100? known are b200, h200, h100"),
        ("--device t4", "its compute capability is 7.5, and pixtral needs 8.0 or later"),
        ("--device h100 --pages-per-second 3", "both say how fast pages are read; leave one out"),
        ("--device h100 --engine rapidocr", "is for Pixtral; leave out --engine rapidocr, or --device"),
        ("--price-per-hour -1", "give a number from 0 up to 1,000,000"),
        ("--price-per-hour nan", "give a number from 0 up to 1,000,000"),
        ("--price-per-hour 1e9", "give a number from 0 up to 1,000,000"),
        ("--pages-per-second 0", "give a number above 0 up to 1,000,000"),
        ("--pages-per-second fast", "give a number above 0 up to 1,000,000"),
        ("--sample 0", "0 is not in the range"),
        ("--pages 0", "count from 1"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, arguments: str, said: str) -> None:
    done = call("plan", tmp_path, "--home", tmp_path / "home", *arguments.split())
    assert done.returncode == 2 and said in done.stderr and done.stdout == ""


def test_nothing_to_plan_is_told_as_a_run_tells_it(tmp_path: Path) -> None:
    device = ("--device", "h100", "--home", tmp_path / "home")
    missing = call("plan", tmp_path / "none", *device)
    assert missing.returncode == 2 and "no such file or folder" in missing.stderr
    (tmp_path / "void").mkdir()
    empty = call("plan", tmp_path / "void", *device)
    assert empty.returncode == 3 and empty.stderr == f"pagepack: no file found at {tmp_path / 'void'}\n"
