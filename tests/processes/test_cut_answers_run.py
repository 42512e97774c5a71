"""A run whose answers are cut tells so, `retry --cause length` opens them, and the same command lets them go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.reader.draw import UNSEEN, generator, lay_out, pdf_bytes, plain
from benchmarks.reader.evaluate import CHECKPOINT
from tests.running import call, pagepack, rows

SHOWN = "SELECT page_number, text, finish_reason, output_tokens FROM page_text ORDER BY 1"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layout = plain(lay_out(generator(UNSEEN, 20, 3), (192, 64), kind="words"))
    path = tmp_path_factory.mktemp("in") / "a.pdf"
    path.write_bytes(pdf_bytes(layout))
    return path


def test_nobody_has_a_cut_answer_without_being_told(document: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    ocr = tmp_path / "short.txt"
    ocr.write_text("Read it.")
    # How the page lies is not looked at: that would load other models in each run.
    variables = {"PAGEPACK_INTERNAL_ENGINE": "", "PAGEPACK_MAX_SIDE_PX": "192", "PAGEPACK_TURN_PAGES": "false"}
    run = ["run", document, "--home", home, "--model", CHECKPOINT, "--prompt-file", ocr, "--max-tokens", "5"]
    first = pagepack(*run, engine="", **variables)
    assert first.returncode == 0, first.stderr
    assert "worth a look: 1 page (length)" in first.stdout or "length" in first.stdout
    assert "1 page was cut at the longest length of an answer" in first.stdout
    assert f"pagepack retry --home {home} --cause length" in first.stdout, "as it is to be typed"
    ((number, text, reason, tokens),) = rows(home, SHOWN)
    assert (number, reason, tokens) == (1, "length", 5) and text
    assert rows(home, "SELECT reason FROM review") == [("length",)]

    refused = call("retry", "--home", home, "--max-tokens", "9")
    assert refused.returncode == 2 and "add --cause length" in refused.stderr
    fewer = call("retry", "--home", home, "--cause", "length", "--max-tokens", "5")
    assert fewer.returncode == 3 and "cut at 5 tokens" in fewer.stdout
    wrong = call("retry", "--home", home, "--cause", "length", "--where", "nonsense =")
    assert wrong.returncode == 2 and "--where nonsense =" in wrong.stderr
    none = call("retry", "--home", home, "--cause", "length", "--where", "page_number = 7")
    assert none.returncode == 3 and "no answer of this batch" in none.stdout
    told = call("retry", "--home", home, "--cause", "length", "--json")
    assert told.returncode == 0 and json.loads(told.stdout)["pages_waiting"] == 1
    assert json.loads(told.stdout)["max_tokens"] == 10, "twice as many"
    assert rows(home, SHOWN) == [(1, text, "length", 5)], "shown meanwhile"

    second = pagepack(*run, engine="", **variables)
    assert second.returncode == 0, second.stderr
    ((_, longer, _, tokens),) = rows(home, SHOWN)
    assert longer.startswith(text) and len(longer) > len(text) and tokens <= 10
    assert rows(home, "SELECT count(*) FROM answers") == [(1,)] or rows(
        home, "SELECT count(*) FROM answers WHERE is_current"
    ) == [(1,)]
