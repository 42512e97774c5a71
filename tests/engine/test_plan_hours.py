"""Hours of a plan are a GPU's where one reads, else a machine's; a price is never passed over in silence."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.reader.evaluate import CHECKPOINT
from pipeline.planning.readers import gpus_of, has_gpu
from tests.running import call, pagepack, write_pdf

REAL = {"PAGEPACK_INTERNAL_ENGINE": ""}
SHORT = {"PAGEPACK_MAX_ANSWER_TOKENS": "16", "PAGEPACK_MAX_SIDE_PX": "128"}
READER = ("--engine", "pixtral", "--model", str(CHECKPOINT))
NUMBER = "5f" * 16  # of a worker's incarnation

on_a_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here, and reads")


def plan(*arguments: str | Path, **variables: str) -> tuple[dict[str, Any], str]:
    """As JSON, and the text's lines."""
    made, told = (call("plan", *arguments, *more, **REAL, **variables) for more in (("--json",), ()))
    assert made.returncode == told.returncode == 0, made.stderr
    found: dict[str, Any] = json.loads(made.stdout)
    return found, told.stdout


def test_a_given_speed_says_gpu_hours_and_their_cost(tmp_path: Path) -> None:
    asked = (write_pdf(tmp_path / "in" / "a.pdf", 36), "--home", tmp_path / "home", "--pages-per-second", "0.01")
    found, told = plan(*asked, "--gpus", "2", "--price-per-hour", "3")
    assert found["seconds"]["expected"] == 3600 and found["gpu_hours"]["expected"] == 2, "an hour on each"
    assert found["machine_hours"] is None and found["cost"]["expected"] == 6
    assert told.endswith("36 pages to read, about 1 h 0 min, 2 GPU-hours, for about 6.00\n"), told
    found, told = plan(*asked, "--engine", "rapidocr", "--text-layer", "keep", "--price-per-hour", "3")
    assert found["gpu_hours"] is None and found["machine_hours"]["expected"] == 1 and found["cost"]["expected"] == 3
    assert ", 1 machine-hours, for about 3.00" in told


@on_a_cpu
def test_a_measured_speed_says_hours_of_who_has_read(tmp_path: Path) -> None:
    home, price = tmp_path / "home", ("--price-per-hour", "3.6")
    done = pagepack("run", write_pdf(tmp_path / "in" / "a.pdf", 24), "--home", home, *READER, **REAL, **SHORT)
    assert done.returncode == 0, done.stderr
    asked = (write_pdf(tmp_path / "next" / "b.pdf", 30), "--home", home, *READER, *price)
    found, _ = plan(*asked)
    alike, _ = plan(*asked, **SHORT)
    assert found["seconds"]["low"] > alike["seconds"]["high"], "whole pages have eight times the tokens"
    told = "times their work for each of these, by its tokens"
    assert told in found["speed_by"] and told not in alike["speed_by"]
    hours, cost = found["machine_hours"]["expected"], found["cost"]["expected"]
    assert found["speed_basis"] == "measured" and found["gpu_hours"] is None
    assert hours == pytest.approx(found["seconds"]["expected"] / 3600, abs=1e-4) and cost > 0
    for device, gpus in {"0": 1, "0+1": 2}.items():
        with sqlite3.connect(home / "pagepack.db") as db:  # as a reader on these is called
            db.execute("UPDATE task_attempts SET worker = ?", (f"gpu1:read-{device}-{NUMBER}/",))
        on_gpu, _ = plan(*asked)
        assert on_gpu["machine_hours"] is None and on_gpu["seconds"] == found["seconds"]
        assert on_gpu["gpu_hours"]["expected"] == pytest.approx(gpus * hours, abs=2e-4)
        assert on_gpu["cost"]["expected"] == pytest.approx(gpus * cost, rel=0.01)


def test_without_a_speed_a_checkpoint_on_a_cpu_is_told_to_read_some_pages_first(tmp_path: Path) -> None:
    found, told = plan(write_pdf(tmp_path / "a.pdf", 1), "--home", tmp_path / "home", *READER)
    assert found["speed_basis"] == "unknown" and found["seconds"] is None
    assert "how fast pages are read: read twenty or more of them first (`pagepack run`), or give" in told


def test_a_price_that_nothing_can_be_made_of_is_told(tmp_path: Path) -> None:
    asked = ("--engine", "endpoint", "--endpoint-url", "http://127.0.0.1:9/v1", "--endpoint-model", "m")
    found, told = plan(write_pdf(tmp_path / "a.pdf", 1), "--home", tmp_path / "home", *asked, "--price-per-hour", "3")
    assert found["cost"] is None and found["cost_by"] == "at 3 an hour, and nothing says how many"
    assert "cost        not known: at 3 an hour, and nothing says how many\n" in told


def test_each_answer_of_an_endpoint_costs_its_page(tmp_path: Path) -> None:
    asked = ("--engine", "endpoint", "--endpoint-url", "http://127.0.0.1:9/v1", "--endpoint-model", "m")
    pages = (write_pdf(tmp_path / "a.pdf", 5), "--home", tmp_path / "home", "--prompt", "ocr", "--prompt", "describe")
    found, _ = plan(*pages, *asked, PAGEPACK_ENDPOINT_PAGE_PRICE="100")
    assert found["cost"]["expected"] == 5 * 2 * 100 / 1_000


def test_a_worker_without_a_named_device_reads_on_its_hosts_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpus_of(f"a:read-GPU-0d3c-11-{NUMBER}/") == 1 and gpus_of(f"a:read-{NUMBER}/", "b") == 0
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert not has_gpu(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert has_gpu(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not has_gpu(tmp_path)
