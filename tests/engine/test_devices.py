"""GPUs that were asked for: they are there, or the command ends with 2 and says so; nothing falls back to a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.errors import UsageError
from pipeline.settings import Settings
from tests.running import pagepack, write_pdf
from workers import devices
from workers.choose import choose_engine, make_engine
from workers.devices import check_devices

CHECKPOINT = Path(__file__).parents[2] / "benchmarks" / "reader" / "checkpoint"
NOT_THERE = "62,63"  # on the largest machine of eight or sixteen GPUs


@pytest.mark.parametrize("command", ["run", "ask", "worker"])
@pytest.mark.parametrize(
    ("engine", "words"),
    [(("--engine", "pixtral", "--model", str(CHECKPOINT)), "GPU"), (("--engine", "rapidocr"), "reads on the CPU")],
)
def test_a_gpu_that_is_not_there_ends_every_command_with_2(
    tmp_path: Path, command: str, engine: tuple[str, ...], words: str
) -> None:
    document = write_pdf(tmp_path / "a.pdf", 1)
    arguments = {"run": [document], "ask": ["Which?", document], "worker": []}[command]
    more = ["--home", tmp_path / "home", "--devices", NOT_THERE]
    ended = pagepack(command, *arguments, *more, *engine, PAGEPACK_INTERNAL_ENGINE="")
    assert ended.returncode == 2, ended.stderr
    assert f"--devices {NOT_THERE}" in ended.stderr and words in ended.stderr
    assert "leave --devices out" in ended.stderr and "Traceback" not in ended.stderr
    assert not (tmp_path / "home" / "logs").exists()  # no worker was started


def test_the_first_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # CUDA shows those before the first that is missing
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    check_devices("0")
    with pytest.raises(UsageError, match=r"--devices 0,7: CUDA finds no GPU 7 here; `nvidia-smi -L` lists"):
        check_devices("0,7")
    with pytest.raises(UsageError, match=r"--devices 0\+7: CUDA finds no GPU 7 here; `nvidia-smi -L` lists"):
        check_devices("0+7")


def test_a_gpu_before_ampere_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities = [(8, 9), (7, 5)]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device.index or 0])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(UsageError, match=r"the GPU 5 is a Tesla T4 of compute capability 7\.5; pixtral needs 8\.0"):
        check_devices("3,5")
    check_devices("3")
    capabilities.reverse()
    with pytest.raises(UsageError, match=r"Tesla T4 .*CUDA_VISIBLE_DEVICES= hides it"):  # before a weight is read
        make_engine(Settings(model=CHECKPOINT))


def test_a_torch_without_cuda_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UsageError, match=r"--devices 0: this torch \(.*\) is built without CUDA"):
        check_devices("0")


def test_rapidocr_does_not_take_a_gpu_that_it_would_not_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGEPACK_INTERNAL_DEVICE", "0")
    with pytest.raises(UsageError, match=r"--devices 0: the engine rapidocr \(the default; .*\) reads on"):
        choose_engine(Settings())


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_an_engine_whose_gpu_does_not_answer_is_not_made_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGEPACK_INTERNAL_DEVICE", "0")
    monkeypatch.setattr(devices, "check_devices", lambda asked: None)  # it is listed, and its driver is broken
    with pytest.raises(UsageError, match=r"the device cuda was asked for, and torch .* sees no CUDA device"):
        make_engine(Settings(model=CHECKPOINT))
