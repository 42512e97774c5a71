"""RapidOCR's models computed by OpenVINO, on pages drawn here: the same text, from several threads at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.settings import Settings, load_settings
from schemas.prompts import OCR
from tests.engine.test_rapidocr import COLUMNS_TEXT, FEW_LINES_TEXT, draw, few_lines, read, two_columns
from tests.running import call, write_pdf
from workers.choose import choose_engine, make_engine
from workers.doctor import check_engines
from workers.engines.openvino_session import OpenVinoSession, precision_here
from workers.engines.rapidocr import RapidOcrEngine, fingerprint, load
from workers.engines.rapidocr_models import choose_models

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.xdist_group("rapidocr")


@pytest.fixture(scope="module")
def engine() -> Iterator[RapidOcrEngine]:
    engine = RapidOcrEngine(num_threads=2, models=choose_models(runtime="openvino"))
    yield engine
    engine.close()


def test_pages_read_at_once_have_the_text_that_onnxruntime_gives(engine: RapidOcrEngine) -> None:
    pages = [two_columns(), few_lines(), np.rot90(few_lines(), 2)]
    futures = [engine.submit(str(number), page, [OCR])[0] for number, page in enumerate(pages)]
    answers = [future.result(timeout=600) for future in futures]
    assert [answer.text for answer in answers] == [COLUMNS_TEXT, *[FEW_LINES_TEXT] * 2]
    assert all(answer.confidence is not None and 0.9 < answer.confidence <= 1 for answer in answers)
    chinese = "港务局档案共四十一箱，内有信件、账簿与图纸，"
    assert read(engine, draw((20, 40, chinese), font="china-s")).text == chinese


def test_its_answers_are_another_models() -> None:
    chosen = choose_engine(Settings(home=Path("unused"), ocr_runtime="openvino"))
    assert chosen.model == f"{fingerprint()}/openvino-{precision_here()}"


def test_recognizer_gives_what_onnxruntime_does_but_for_rounding() -> None:
    models = choose_models()
    reader = load(models)
    line = draw((20, 40, "Receipt 206 of 41 boxes"))[30:56, :224]
    scaled = reader.text_rec.resize_norm_img(line, 416 / 48)[None]
    exact = reader.text_rec.session.session(scaled)
    decode = reader.text_rec.postprocess_op
    assert decode(exact)[0][0][0] == "Receipt 206 of 41 boxes"
    for precision, most in (("f32", 0.005), ("bf16", 0.5)):
        found = OpenVinoSession(models.recognizer, precision, num_threads=1)(scaled)
        assert found.shape == exact.shape and decode(found)[0][0][0] == "Receipt 206 of 41 boxes"
        assert np.abs(found - exact).max() < most


def test_fast_models_and_the_small_ones_behind_them_read_with_it(tmp_path: Path) -> None:
    engine = make_engine(Settings(home=tmp_path, engine="rapidocr", fast=True, ocr_runtime="openvino"))
    assert isinstance(engine, RapidOcrEngine)
    try:
        assert engine.model.startswith("PP-OCRv6-tiny/") and engine.model.endswith(f"/openvino-{precision_here()}")
        assert read(engine, few_lines()).text == FEW_LINES_TEXT
        kana = "その多くは1913年以来読まれていない。"
        assert read(engine, draw((20, 40, kana), font="japan")).text == kana
    finally:
        engine.close()


_HEARD = """
import sys
from pathlib import Path
heard = []
def hear(event, told):
    writes = event == "open" and set(str(told[1])) & set("wax+")
    if writes or event.startswith("socket.") or event == "subprocess.Popen":
        heard.append((event, *map(str, told)))
sys.addaudithook(hear)
from workers.engines.openvino_session import OpenVinoSession, precision_here
OpenVinoSession(Path(sys.argv[1]), precision_here(), num_threads=1)
print(sorted(name for name in sys.modules if name.startswith("openvino_telemetry.")), heard)
"""


def test_nothing_is_sent_and_no_file_is_written(tmp_path: Path) -> None:
    """`import openvino` alone would tell its makers of it, with a number that it keeps in the home."""
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    words = [sys.executable, "-c", _HEARD, str(choose_models().recognizer)]
    done = subprocess.run(words, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=600)
    assert done.stdout == "[] []\n"
    assert not list(tmp_path.iterdir())


def test_missing_package_is_one_line_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path, ocr_runtime="openvino")
    (check,) = (check for check in check_engines(settings) if check["name"] == "openvino")
    assert check["state"] == "ok" and "openvino 20" in check["fact"]
    monkeypatch.setitem(sys.modules, "openvino", None)  # as where it is not installed
    with pytest.raises(UsageError, match=r"^openvino is not installed; pip install 'pagepack\[openvino\]', or leave"):
        choose_engine(settings)
    checks = {check["name"]: check for check in check_engines(settings)}
    assert (checks["openvino"]["state"], checks["engine"]["state"]) == ("absent", "broken")


@pytest.mark.parametrize(
    ("words", "who"),
    [
        (("--engine", "endpoint", "--endpoint-url", "http://127.0.0.1:9/v1"), r"endpoint reads \(--engine endpoint\)"),
        (("--engine", "pixtral", "--model", "no-folder"), r"pixtral reads \(--engine pixtral\)"),
        (("--model", "no-folder"), r"pixtral reads \(a model folder is set\)"),
        (("--engine", "tesseract"), r"tesseract reads \(--engine tesseract\)"),
    ],
)
def test_the_option_is_refused_beside_another_engine_before_anything_starts(
    tmp_path: Path, words: tuple[str, ...], who: str
) -> None:
    home = tmp_path / "home"
    for command in (("run", write_pdf(tmp_path / "a.pdf", 1)), ("submit", tmp_path / "a.pdf"), ("worker",)):
        done = call(*command, "--home", home, "--ocr-runtime", "openvino", *words)
        assert done.returncode == 2
        assert re.search(f"^pagepack: --ocr-runtime openvino: .*{who}; leave it out, or .*rapidocr", done.stderr)
        assert len(done.stderr.splitlines()) == 1 and not home.exists()


def test_a_setting_for_all_commands_is_passed_over_by_other_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the package is not there."""
    monkeypatch.setenv("PAGEPACK_OCR_RUNTIME", "openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    settings = load_settings(home=tmp_path, engine="endpoint", endpoint_url="http://127.0.0.1:9/v1", endpoint_model="m")
    assert settings.ocr_runtime == "openvino" and choose_engine(settings).engine == "endpoint"
    with pytest.raises(UsageError, match="openvino is not installed"):
        choose_engine(load_settings(home=tmp_path, engine="rapidocr", ocr_runtime="openvino"))
