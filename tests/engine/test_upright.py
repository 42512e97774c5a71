"""Pages are set upright, and level, before a model that sees pictures reads them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pymupdf
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import PageFailed
from pipeline.settings import Settings
from pipeline.store.endpoint_jobs import JobBook
from schemas.prompts import DESCRIBE, OCR, Prompt
from tests.stand_ins import InstantEngine
from workers.engines import Answer, Begun, Converses, Engine, page_lie, rapidocr_models, whole_page
from workers.engines.orientation import Turn
from workers.engines.page_lie import Lie, find_lie
from workers.engines.rapidocr import load
from workers.engines.regions import Models, Reading
from workers.engines.upright import Upright, set_upright
from workers.engines.whole_page import turn_of_whole_page

pytestmark = pytest.mark.xdist_group("rapidocr")

Pixels = NDArray[np.uint8]
LINES = ["The harbour office holds", "forty-one boxes of letters,", "unread since 1913."]
SHEETS = {"title": ["Annual Report"], "number": ["Page 17"]}
BLANK = np.full((64, 96, 3), 255, np.uint8)


@pytest.fixture(scope="module")
def models() -> Models:
    return Models(load())


def sheet(lines: Sequence[str], degrees: float = 0) -> Pixels:
    page = pymupdf.open().new_page(width=300, height=220)
    for number, line in enumerate(lines):
        page.insert_text((25, 60 + 22 * number), line, fontsize=13)
    pixmap = page.get_pixmap(matrix=pymupdf.Matrix(1.5, 1.5), alpha=False)
    image = Image.frombytes("RGB", (pixmap.width, pixmap.height), pixmap.samples)
    return np.array(image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor="white"))


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("kind", SHEETS)
def test_a_page_is_found_to_lie_as_it_does(models: Models, kind: str, turns: int) -> None:
    lie = find_lie(models, np.rot90(sheet(SHEETS[kind]), turns))
    assert lie == Lie(Turn(-turns % 4), 0.0) and lie.angle == 90 * turns


@pytest.mark.parametrize("turns", range(4))
def test_lines_askew_are_set_level_whichever_way_the_page_lies(models: Models, turns: int) -> None:
    askew = np.rot90(sheet(LINES, degrees=4), turns)
    lie = find_lie(models, askew)
    assert lie.turn == -turns % 4 and lie.skew == pytest.approx(4, abs=0.5)
    level = set_upright(askew, lie)
    assert all(side % 16 == 0 for side in level.shape[:2]) and find_lie(models, level) == Lie()


def test_lines_that_are_hardly_askew_are_left_so(models: Models) -> None:
    assert find_lie(models, sheet(LINES, degrees=0.6)) == Lie()


WORDS = {
    "russian": "В портовой конторе хранится сорок один ящик писем, книг и чертежей, которых никто не читал. Весной "
    "вода дошла до нижних полок, и смотритель записал это в книгу. ",
    "greek": "Το λιμεναρχείο φυλάσσει σαράντα ένα κιβώτια με επιστολές και σχέδια που κανείς δεν διάβασε. Την άνοιξη "
    "το νερό έφτασε στα χαμηλά ράφια και ο φύλακας το έγραψε. ",
}


def foreign(script: str) -> Pixels:
    page = pymupdf.open().new_page(width=240, height=240)
    writer = pymupdf.TextWriter(page.rect)
    writer.fill_textbox((24, 24, 216, 216), WORDS[script] * 2, font=pymupdf.Font("tiro"), fontsize=11)
    writer.write_text(page)
    pixmap = page.get_pixmap(matrix=pymupdf.Matrix(1.2, 1.2), alpha=False)
    return np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.h, pixmap.w, 3)


@pytest.mark.parametrize("script", WORDS)
def test_a_page_in_a_script_that_is_not_read_is_known_as_a_whole(script: str) -> None:
    page = foreign(script)
    for turns in range(4):
        assert turn_of_whole_page(np.rot90(page, turns)) == -turns % 4
    assert turn_of_whole_page(sheet(SHEETS["number"])) is None, "a word may lie any way"


def test_a_turned_page_in_a_script_that_is_not_read_is_put_right(models: Models) -> None:
    assert find_lie(models, np.rot90(foreign("russian"), 2)) == Lie(Turn.HALF, 0.0)


def test_small_print_in_such_a_script_is_known_as_a_whole_too(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look finds no line of it; the second finds lines that make no sense."""
    page = np.rot90(foreign("russian"), 2)
    monkeypatch.setattr(page_lie, "_LOOK_PIXELS", page.shape[0] * page.shape[1] // 10)
    assert not page_lie._look(models, page, page_lie._LOOK_PIXELS).regions
    assert find_lie(models, page) == Lie(Turn.HALF, 0.0)


HEBREW = "במשרד הנמל נשמרים ארבעים ואחד ארגזים של מכתבים, ספרים ושרטוטים שאיש לא קרא. באביב הגיעו המים אל המדפים. "


def hebrew(paragraphs: Sequence[str], size: int = 12) -> Pixels:
    """In a face with serifs."""
    page = pymupdf.open().new_page(width=420, height=560)
    text = "".join(f'<p dir="rtl">{paragraph}</p>' for paragraph in paragraphs)
    page.insert_htmlbox((30, 30, 390, 530), text, css=f"* {{font-family: serif; font-size: {size}px}}")
    pixmap = page.get_pixmap(matrix=pymupdf.Matrix(1.9, 1.9), alpha=False)
    return np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.h, pixmap.w, 3)


def test_hebrew_is_not_set_on_its_head(models: Models) -> None:
    """All that looks at it is surer of it so: it reads as capitals then, and the model of whole pages agrees."""
    page = hebrew([HEBREW * 3])
    assert turn_of_whole_page(page) == Turn.HALF, "it would not be this test's page else"
    assert find_lie(models, page) == Lie()


def test_where_numbers_make_sense_hebrew_stays_as_it_lies(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not sound sense; whatever the model of whole pages says."""
    monkeypatch.setattr(page_lie, "turn_of_whole_page", lambda _: Turn.HALF)
    words = ["תיק", "מספר", "משנת", "דפים", "תאריך", "קופסה"]
    numbers = [(f"{1900 + n * 7}-{n * 131:04}", f"{n + 1}.{1 + n % 12}.19{10 + n}") for n in range(14)]
    lines = [
        f"{words[n % 6]} {number} {words[(n + 2) % 6]} {date} {' '.join(words[:3])} {n * 977 + 12345}"
        for n, (number, date) in enumerate(numbers)
    ]
    page = hebrew(lines, 16)
    look = page_lie._look(models, page, page_lie._LOOK_PIXELS)
    assert not look.is_sound, "it would not be this test's page else"
    assert find_lie(models, page) == Lie()


def test_without_the_model_of_whole_pages_such_a_page_stays_as_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_page, "_model", lambda: None)
    assert turn_of_whole_page(np.rot90(foreign("greek"), 1)) is None


LONG = [f"{number} {' '.join(LINES)} {' '.join(LINES)}" for number in range(12, 20)]


def wide_sheet(lines: Sequence[str]) -> Pixels:
    page = pymupdf.open().new_page(width=500, height=30 + 22 * len(lines))
    for number, line in enumerate(lines):
        page.insert_text((20, 30 + 22 * number), line[:96], fontsize=10)
    pixmap = page.get_pixmap(matrix=pymupdf.Matrix(1.5, 1.5), alpha=False)
    return np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.h, pixmap.w, 3)


class Counting(Models):
    """Keeps what is read, and how long it was for its height."""

    def __init__(self, models: Models) -> None:
        super().__init__(models._reader)
        self.read_lines: list[tuple[str, float]] = []

    def read(self, image: Pixels) -> Reading:
        reading = super().read(image)
        self.read_lines.append((reading.text, image.shape[1] / image.shape[0]))
        return reading


def test_a_look_reads_the_beginnings_of_three_lines(models: Models) -> None:
    """Of a page that lies right; of one on its head those lines both ways, and no more where they are clear."""
    page, counting = wide_sheet(LONG), Counting(models)
    assert find_lie(counting, page) == Lie()
    assert len(counting.read_lines) == 3
    for text, heights in counting.read_lines:
        assert re.match(r"1\d ?The", text), "page contents end in dots and numbers, which say little"
        assert heights == pytest.approx(page_lie._MOST_HEIGHTS, rel=0.05)
    counting.read_lines.clear()
    assert find_lie(counting, np.rot90(page, 2)) == Lie(Turn.HALF)
    assert len(counting.read_lines) == 6 + 3, "on its head nothing makes sense, so all are tried that may be"


COLUMN = "港湾事務所の文書館には手紙帳簿図面の箱が四十一箱ありその多くは百年以上も誰にも読まれずに棚に置かれている"


def columns(num_signs: int, size_pt: float) -> Pixels:
    page = pymupdf.open().new_page(width=300, height=90 + num_signs * 1.06 * size_pt)
    for x, begin in ((260, 0), (260 - 2 * size_pt, 7)):
        for place in range(num_signs):
            sign = COLUMN[(begin + place) % len(COLUMN)]
            page.insert_text((x, 70 + 1.06 * size_pt * place), sign, fontname="japan", fontsize=size_pt)
    pixmap = page.get_pixmap(matrix=pymupdf.Matrix(2, 2), alpha=False)
    return np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.h, pixmap.w, 3)


@pytest.mark.parametrize(("num_signs", "size_pt", "shrunk"), [(25, 14, 1), (50, 10, 4)])
def test_long_columns_of_vertical_writing_do_not_turn_the_page(
    models: Models, monkeypatch: pytest.MonkeyPatch, num_signs: int, size_pt: float, shrunk: int
) -> None:
    """They are longer than what is read of them to tell how they stand; a box in a small picture is too long."""
    page = columns(num_signs, size_pt)
    monkeypatch.setattr(page_lie, "_LOOK_PIXELS", page.shape[0] * page.shape[1] // shrunk)
    assert find_lie(models, page) == Lie()


def test_a_blank_page_lies_right(models: Models) -> None:
    assert find_lie(models, np.full((224, 320, 3), 255, np.uint8)) == Lie()


class RecordingEngine(InstantEngine):
    """Keeps what it is given, and answers when it is told."""

    def __init__(self) -> None:
        self.given: list[tuple[str, Pixels]] = []
        self.futures: list[Future[Answer]] = []

    def submit(
        self,
        image_hash: str,
        pixels: Pixels,
        prompts: Sequence[Prompt],
        deadline: float | None = None,
        begun: Sequence[Begun | None] = (),
    ) -> list[Future[Answer]]:
        self.given.append((image_hash, pixels))
        self.futures = [Future[Answer]() for _ in prompts]
        return self.futures


@pytest.fixture
def engine(models: Models) -> Iterator[tuple[Upright, RecordingEngine]]:
    inner = RecordingEngine()
    yield Upright(inner, models), inner


def test_the_engine_sees_the_picture_that_was_turned(engine: tuple[Upright, RecordingEngine]) -> None:
    outer, inner = engine
    page = sheet(LINES)
    futures = outer.submit("a1", np.rot90(page, 1), [OCR, DESCRIBE])
    ((name, seen),) = inner.given
    assert np.array_equal(seen, page) and name == "a1-turned-90", "another picture has another name"
    inner.futures[0].set_result(Answer("read", "stop", 0.1))
    inner.futures[1].set_exception(PageFailed("not this one"))
    answer = futures[0].result(1)
    assert (answer.text, answer.angle, answer.model) == ("read", 90.0, "instant/1+turned")
    with pytest.raises(PageFailed, match="not this one"):
        futures[1].result(1)


def test_an_upright_page_is_given_as_it_is(engine: tuple[Upright, RecordingEngine]) -> None:
    outer, inner = engine
    page = sheet(LINES)
    (future,) = outer.submit("a1", page, [OCR])
    assert inner.given[0][0] == "a1" and inner.given[0][1] is page
    inner.futures[0].set_result(Answer("read", "stop", 0.1))
    assert (future.result(1).angle, future.result().model) == (0.0, None)


@pytest.mark.parametrize("by_whom", ["caller", "engine"])
def test_a_page_that_is_cancelled_is_cancelled_everywhere(
    engine: tuple[Upright, RecordingEngine], by_whom: str
) -> None:
    outer, inner = engine
    (future,) = outer.submit("a1", BLANK, [OCR])
    (future if by_whom == "caller" else inner.futures[0]).cancel()
    assert inner.futures[0].cancelled() and future.cancelled() and future.done()


def test_a_look_that_fails_leaves_the_page_as_it_lies() -> None:
    class Broken(Models):
        def find(self, pixels: Pixels) -> list[object]:  # type: ignore[override]
            raise MemoryError

    inner = RecordingEngine()
    Upright(inner, Broken(None)).submit("a1", np.rot90(sheet(LINES), 1), [OCR])
    assert inner.given[0][0] == "a1"


def test_models_that_cannot_be_loaded_are_tried_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = rapidocr_models.choose_models()
    (tmp_path / "detector.onnx").write_bytes(whole.detector.read_bytes()[:1000])
    broken = replace(whole, detector=tmp_path / "detector.onnx")
    loads: list[int] = []
    monkeypatch.setattr("workers.engines.rapidocr.choose_models", lambda: loads.append(1) or broken)
    inner = RecordingEngine()
    outer = Upright(inner)
    for name in ("a1", "a2", "a3"):
        outer.submit(name, np.rot90(sheet(LINES), 1), [OCR])
    assert [name for name, _ in inner.given] == ["a1", "a2", "a3"] and len(loads) == 1
    (record,) = [one for one in caplog.records if one.name == "pagepack.worker"]
    assert record.levelname == "WARNING" and "pages are read as they lie" in record.message


class ServersEngine(RecordingEngine):
    """Says all that an engine may say, and converses."""

    least_cost, least_page_seconds = 0.5, 90_000.0

    def submit(
        self,
        image_hash: str,
        pixels: Pixels,
        prompts: Sequence[Prompt],
        deadline: float | None = None,
        begun: Sequence[Begun | None] = (),
    ) -> list[Future[Answer]]:
        self.begun = begun
        return super().submit(image_hash, pixels, prompts, deadline)

    def keep_jobs_in(self, book: object) -> None:
        self.book = book

    def converse(self, messages: list, prompt: Prompt) -> Future[Answer]:
        future: Future[Answer] = Future()
        future.set_result(Answer(messages[0]["content"], "stop", 0.0))
        return future


def test_what_an_engine_says_of_itself_it_says_upright_too(models: Models) -> None:
    inner = ServersEngine()
    outer: Engine = Upright(inner, models)
    assert (outer.least_cost, outer.least_page_seconds) == (0.5, 90_000.0)
    outer.keep_jobs_in(book := JobBook)  # type: ignore[arg-type]
    assert inner.book is book
    begun = [Begun((1, 2), 0.5), None]
    outer.submit("a1", BLANK, [OCR, DESCRIBE], None, begun)
    assert inner.begun == begun
    assert inspect.getattr_static(outer, "converse", None), "as isinstance of a protocol looks, from Python 3.12 on"
    assert isinstance(outer, Converses) and outer.converse([{"content": "hello"}], OCR).result(1).text == "hello"
    plain = Upright(RecordingEngine(), models)
    assert (plain.least_cost, plain.least_page_seconds) == (None, 0.0)
    plain.submit("a1", BLANK, [OCR])


def test_it_may_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    from workers import choose

    made = InstantEngine()
    assert choose._turning(made, Settings(turn_pages=False)) is made
    assert isinstance(choose._turning(made, Settings()), Upright)


def small_print(stamp: str = "", headline: str = "") -> Pixels:
    page = pymupdf.open().new_page(width=250, height=200)
    page.insert_text((20, 22), headline, fontname="tibo", fontsize=18)
    page.insert_text((220, 12), stamp, fontname="hebo", fontsize=18, rotate=180)
    for number in range(22):
        page.insert_text((20, 46 + 6.5 * number), " ".join(LINES * 3)[number % 5 :][:27], fontsize=5.4)
    pixmap = page.get_pixmap(matrix=pymupdf.Matrix(2.5, 2.5), alpha=False)
    return np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.h, pixmap.w, 3)


@pytest.fixture
def small_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """All is a sixteenth of the size that it would have, or less."""
    monkeypatch.setattr(page_lie, "_LOOK_PIXELS", page_lie._LOOK_PIXELS // 24)
    monkeypatch.setattr(page_lie, "_CLOSE_PIXELS", page_lie._CLOSE_PIXELS // 16)


def test_small_print_of_a_large_page_is_looked_at_closer(models: Models, small_looks: None) -> None:
    """In the small picture no line of it is found."""
    turned = np.rot90(small_print(), 2)
    assert not page_lie._look(models, turned, page_lie._LOOK_PIXELS).is_sound
    assert find_lie(models, turned) == Lie(Turn.HALF)


def test_a_stamp_on_small_print_does_not_say_how_the_page_lies(models: Models, small_looks: None) -> None:
    """Nor does a headline say that it is level: in the small picture nothing else is found."""
    page = small_print(stamp="RECEIVED")
    first = page_lie._look(models, page, page_lie._LOOK_PIXELS)
    assert (first.turn, first.is_sound) == (Turn.HALF, True)
    assert find_lie(models, page) == Lie()
    image = Image.fromarray(small_print(headline="Annual Report"))
    askew = np.array(image.rotate(4, Image.Resampling.BICUBIC, fillcolor="white"))
    assert find_lie(models, askew).skew == pytest.approx(4, abs=0.5)
