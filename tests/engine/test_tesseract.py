"""Tesseract as an engine: its tables as version 5.3.0 wrote them, and the command itself where it is installed."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import PageFailed, UsageError
from pipeline.settings import Settings
from schemas.prompts import OCR
from schemas.review import ReviewReason
from tests import dejavu
from workers.choose import choose_engine
from workers.engines import Answer
from workers.engines.tesseract import TesseractEngine, fingerprint
from workers.engines.tesseract_tsv import lines_of

RECORDED = Path(__file__).parent / "recorded" / "tesseract-5.3.0-rus.tsv"
HEAD = "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext\n"


def read(engine: TesseractEngine, pixels: np.ndarray, deadline: float | None = None) -> Answer:
    return engine.submit("hash", pixels, [OCR], deadline)[0].result(timeout=120)


def test_words_of_a_recorded_table_become_lines() -> None:
    lines, unread = lines_of(RECORDED.read_text(encoding="utf-8"))
    assert [line.text for line in lines] == dejavu.RUSSIAN and not unread
    assert all(0.9 < line.confidence <= 1 for line in lines)
    (x0, y0), (x1, _), (_, y1), _ = lines[0].quad
    assert 25 < x0 < 35 and 25 < y0 < 45 < y1 < 55 and 350 < x1 < 420


def test_what_tesseract_sees_in_a_picture_is_counted_and_not_kept() -> None:
    row = "5\t1\t1\t1\t{}\t1\t10\t{}\t80\t20\t{}\t{}\n"
    table = (
        HEAD + row.format(1, 10, "96.1", "Harbour") + row.format(2, 40, "12.5", "~|_") + row.format(3, 70, "95", " ")
    )
    lines, unread = lines_of(table)
    assert [line.text for line in lines] == ["Harbour"]
    assert [region.quad[0] for region in unread] == [(10.0, 40.0)]


def test_chinese_words_are_joined_without_spaces() -> None:
    row = "5\t1\t1\t1\t1\t{}\t{}\t10\t40\t20\t96\t{}\n"
    table = HEAD + row.format(1, 10, "港务") + row.format(2, 52, "局") + row.format(3, 90, "1913")
    assert [line.text for line in lines_of(table)[0]] == ["港务局 1913"]


def test_missing_command_is_a_usage_error_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="tesseract is not installed; `apt-get install -y tesseract-ocr`"):
        choose_engine(Settings(home=tmp_path, engine="tesseract"))


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command that says what it has, as tesseract does, and hangs over every page."""
    (tmp_path / "eng.traineddata").write_bytes(b"data")
    program = (
        f"#!{sys.executable}\n"
        "import sys, time\n"
        "if '--version' in sys.argv: print('tesseract 5.0.0')\n"
        f"elif '--list-langs' in sys.argv: print('List of available languages in \"{tmp_path}/\" (1):\\neng')\n"
        "else: time.sleep(600)\n"
    )
    command = tmp_path / "tesseract"
    command.write_text(program)
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def test_a_language_that_is_not_there_is_named_with_the_way_to_those_that_are(hanging: Path) -> None:
    with pytest.raises(UsageError, match=r"language rus, chi_sim; it has eng\. `apt-cache search tesseract-ocr-`"):
        choose_engine(Settings(home=hanging, engine="tesseract", ocr_language="rus+chi_sim"))
    before = fingerprint("eng")
    assert choose_engine(Settings(home=hanging, engine="tesseract", ocr_language="eng")).model == before
    assert before.startswith("tesseract-5.0.0/eng/")


def test_a_page_past_its_deadline_loses_its_process(hanging: Path) -> None:
    engine = TesseractEngine(num_threads=1)
    try:
        began = time.monotonic()
        answer = read(engine, dejavu.in_dejavu(dejavu.ENGLISH), deadline=began + 3)  # by then its process is there
        assert (answer.text, answer.finish_reason) == ("", "deadline") and time.monotonic() - began < 30
        assert answer.review_reason == ReviewReason.DEADLINE
    finally:
        engine.close()


def test_the_command_sees_no_credentials(hanging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = hanging / "tesseract"
    seen = hanging / "seen"
    leaks = f"import os; open({str(seen)!r}, 'a').write(repr(dict(os.environ)) + chr(10)); sys.exit(1)"
    command.write_text(command.read_text().replace("time.sleep(600)", leaks))
    monkeypatch.setenv("PAGEPACK_DATABASE_URL", "postgresql://clerk:secret@server/archive")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("TESSDATA_PREFIX", str(hanging))
    engine = TesseractEngine(num_threads=1)
    try:
        with pytest.raises(PageFailed, match="ended with code 1"):
            read(engine, np.full((16, 16, 3), 255, np.uint8))
    finally:
        engine.close()
    assert "secret" not in seen.read_text() and str(hanging) in seen.read_text()


def test_the_command_that_is_installed_reads_pages_whichever_way_they_lie() -> None:
    if shutil.which("tesseract") is None:
        pytest.skip("tesseract is not installed here: only its recorded tables are read")
    engine = TesseractEngine()
    try:
        for turns in (0, 1, 2):
            answer = read(engine, np.rot90(dejavu.in_dejavu(dejavu.ENGLISH), turns))
            assert (answer.text.split(), answer.angle) == (" ".join(dejavu.ENGLISH).split(), 90 * turns)
            assert answer.confidence is not None and answer.confidence > 0.85 and answer.review_reason is None
        blank = read(engine, np.full((64, 64, 3), 255, np.uint8))
        assert (blank.text, blank.finish_reason, blank.review_reason) == ("", "stop", None)
    finally:
        engine.close()
