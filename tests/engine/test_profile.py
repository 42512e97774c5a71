"""benchmarks/profile.py on real runs: a run's own processes count its stages, clocks the parts of the engine."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import profile
from benchmarks.reader.evaluate import CHECKPOINT, draw_samples
from schemas.prompts import OCR
from workers.engines.pixtral import PixtralEngine

MEMORY = 2_000_000_000

pytestmark = pytest.mark.xdist_group("reader")


def test_a_run_says_where_its_time_went(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile.main(["--engine", "instant", "--pages", "3", "--picture", str(tmp_path / "p.svg")])
    said = capsys.readouterr().out
    found = json.loads(said.splitlines()[-1])
    way = found["way_ms_a_page"]
    assert found["pages"] == 3 and tuple(way) == profile.WAY and not found["thread_ms_a_page"]
    assert all(way[stage] > 0 for stage in ("ingest", "queue wait", "claim", "load", "store"))
    assert way["upright"] == way["encode"] == 0, "an engine that answers at once has no such parts"
    assert found["processor_seconds"] > 0 and "| queue wait |" in said
    bars = ElementTree.parse(tmp_path / "p.svg").findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == 1 + len(profile.WAY)


def test_the_parts_of_the_engine_add_up_to_the_time_that_it_took() -> None:
    engine, clocks = PixtralEngine(CHECKPOINT, "cpu", memory_bytes=MEMORY), profile.Clocks()
    profile.watch(engine, clocks)
    try:
        (page,) = draw_samples(1, (128, 48), seed=3)
        clocks.begin()
        (answer,) = engine.submit(page.image_hash, page.pixels, [OCR])
        text = answer.result(600).text
    finally:
        engine.close()
    busy = engine.stats()["busy_seconds"]
    found = clocks.figures(busy)
    assert text and found["encode"] > 0
    parts = [found[name] for name in profile.THREAD if name != "idle"]
    assert min(parts) > 0 and sum(parts) == pytest.approx(busy)
    assert found["decode"] > 0 and found["vision"] > 0
