"""The measure of reading runs on the product's own reader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.bench_quality import main

pytestmark = pytest.mark.xdist_group("rapidocr")


def test_bench_reads_drawn_pages_and_ends_in_a_line_of_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ["--kind", "few words", "--kind", "receipt"]
    main(["--per-kind", "1", *kinds, "--engine", "pagepack", "--keep", str(tmp_path), "--worst", "1"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["pages"], set(found["pagepack"]["kinds"])) == (2, {"few words", "receipt"})
    assert found["pagepack"]["recall"] > 0.9 > 0.1 > found["pagepack"]["error"]
    assert found["pagepack"]["seconds"] > 0.05
    assert (tmp_path / "read" / "pagepack" / "receipt-000.txt").read_text().strip()

    main(["--pages", str(tmp_path / "pages"), "--kind", "few words", "--engine", "pagepack"])
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["pagepack"]["kinds"]["few words"]["error"] == found["pagepack"]["kinds"]["few words"]["error"]


def test_a_page_s_own_text_is_measured_where_it_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = ["--set", "text_layer=auto", "--engine", "pagepack", "--keep", str(tmp_path)]
    main(["--per-kind", "1", "--kind", "columns", "--born-digital", "rows", *answers])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["pagepack"]
    assert found["recall"] == 1.0 and found["error"] == 0.0 and found["seconds"] < 0.2, "columns, not rows"
    facts = json.loads((tmp_path / "read" / "pagepack" / "columns-000.json").read_text())["facts"]
    assert facts["text_layer"] == "sound"
