"""fp8 where no device multiplies it: one line before anything is registered, where pages are read and only there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.checkpoint import make_checkpoint
from pipeline.errors import UsageError
from pipeline.settings import Settings
from tests.running import HANGS_AFTER_SECONDS, call, environment, pagepack, rows, start_worker, write_pdf
from workers.choose import choose_engine
from workers.pixtral.model.fingerprint import fingerprint

CHECKPOINT = Path(__file__).parents[2] / "benchmarks" / "reader" / "checkpoint"
READER = ("--engine", "pixtral", "--model", str(CHECKPOINT))
REAL = {"PAGEPACK_INTERNAL_ENGINE": ""}
OF_WEIGHTS = "--quantize fp8 needs an Ada or Hopper GPU, and this is a CPU; --quantize int8 reads here"
OF_CACHE = "PAGEPACK_KV_CACHE=fp8 needs an Ada or Hopper GPU, and this is a CPU; leave it out, or take auto"
BOTH = [({"PAGEPACK_QUANTIZE": "fp8"}, OF_WEIGHTS), ({"PAGEPACK_KV_CACHE": "fp8"}, OF_CACHE)]

on_a_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here, and may have fp8")


@on_a_cpu
@pytest.mark.parametrize(("asked", "said"), BOTH)
@pytest.mark.parametrize("command", ["run", "ask", "worker"])
def test_whoever_reads_here_is_refused_in_one_line(
    tmp_path: Path, command: str, asked: dict[str, str], said: str
) -> None:
    document, home = write_pdf(tmp_path / "in" / "a.pdf", 1), tmp_path / "home"
    arguments = {"run": [document], "ask": ["Which?", document], "worker": []}[command]
    ended = pagepack(command, *arguments, "--home", home, *READER, **REAL, **asked)
    assert (ended.returncode, ended.stderr) == (2, f"pagepack: {said}\n")
    assert not (home / "pagepack.db").exists() and not (home / "logs").exists(), "nothing is registered or started"


@on_a_cpu
def test_a_reader_by_itself_is_refused_before_its_broker_is_asked(tmp_path: Path) -> None:
    given = environment("InstantEngine", **REAL, PAGEPACK_QUANTIZE="fp8", PAGEPACK_ENGINE="pixtral")
    given |= {
        "PAGEPACK_MODEL": str(CHECKPOINT),
        "PAGEPACK_HOME": str(tmp_path),
        "PAGEPACK_BROKER_URL": "redis://[::1]:1",
    }
    reader = start_worker("read", given, log := tmp_path / "read.log")
    try:
        assert reader.wait(HANGS_AFTER_SECONDS) == 2 and OF_WEIGHTS in log.read_text()
    finally:
        reader.kill()


@pytest.mark.parametrize(("asked", "ending"), [(BOTH[0][0], "-fp8"), (BOTH[1][0], "-kvfp8")])
def test_who_submits_or_plans_needs_no_such_device(tmp_path: Path, asked: dict[str, str], ending: str) -> None:
    """Another host reads, whose GPU has fp8; its answers bear the same model's name."""
    document, home = write_pdf(tmp_path / "in" / "a.pdf", 1), tmp_path / "home"
    checkpoint = make_checkpoint(tmp_path / "tiny", "tiny")
    reader = ("--engine", "pixtral", "--model", str(checkpoint))
    done = call("submit", document, "--home", home, *reader, **REAL, **asked)
    assert done.returncode == 0, done.stderr
    assert rows(home, "SELECT model FROM batches") == [(fingerprint(checkpoint) + ending,)]
    planned = call("plan", document, "--home", home, *reader, "--json", **REAL, **asked)
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["pages"]["expected"] == 1


def test_heads_that_no_device_keeps_in_fp8_are_refused_by_who_submits(tmp_path: Path) -> None:
    """The small reader's have 48 numbers: its batch would wait for ever."""
    document, home = write_pdf(tmp_path / "in" / "a.pdf", 1), tmp_path / "home"
    done = call("submit", document, "--home", home, *READER, **REAL, PAGEPACK_KV_CACHE="fp8")
    said = f"PAGEPACK_KV_CACHE=fp8 needs heads whose size is a power of two, and those of {CHECKPOINT} are not"
    assert done.returncode == 2 and said in done.stderr
    assert not (home / "pagepack.db").exists()


def test_every_gpu_that_was_asked_for_must_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGEPACK_INTERNAL_DEVICE", "0,3")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: [(8, 9), (8, 6)][device.index])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: ["NVIDIA L4", "NVIDIA A10"][device.index])
    with pytest.raises(UsageError, match=r"--quantize fp8 needs an Ada or Hopper GPU, and NVIDIA A10 is older"):
        choose_engine(Settings(model=CHECKPOINT, quantize="fp8"))
    monkeypatch.setenv("PAGEPACK_INTERNAL_DEVICE", "0")
    assert choose_engine(Settings(model=CHECKPOINT, quantize="fp8")).model == fingerprint(CHECKPOINT, "fp8")
