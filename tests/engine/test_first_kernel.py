"""Whether Triton runs is asked before weights are loaded; here it finds no GPU, and elsewhere no compiler."""

from __future__ import annotations

import os
import sys

import pytest
import torch

if not sys.platform.startswith("linux"):
    pytest.skip("Triton comes for Linux", allow_module_level=True)
pytest.importorskip("triton")

from triton.runtime import build, driver

from benchmarks.reader.evaluate import CHECKPOINT
from pipeline.errors import UsageError
from workers.engines.pixtral import PixtralEngine
from workers.pixtral import start
from workers.pixtral.cuda import first_kernel

CPU = torch.device("cpu")

pytestmark = [
    pytest.mark.xdist_group("test_gpu_programs"),
    pytest.mark.skipif(bool(os.environ.get("TRITON_INTERPRET")), reason="the interpreter runs without a GPU"),
]


def test_triton_without_a_gpu_is_told_with_what_it_needs():
    with pytest.raises(UsageError, match=r"Triton, .*, does not run on cpu here \(.*active driver.*\)\. It needs a C"):
        first_kernel.check_triton(CPU)


def test_a_machine_without_a_compiler_is_told_in_one_line(monkeypatch, tmp_path):
    """Triton's own search for one, as it begins the module for the driver."""

    class Driver:
        def __getattr__(self, name):
            return build._build("cuda_utils", str(tmp_path / "main.c"), str(tmp_path), [], [], [], [])

    monkeypatch.setattr(driver, "_active", Driver())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(UsageError) as told:
        first_kernel.check_triton(CPU)
    assert "Failed to find C compiler" in str(told.value) and "\n" not in str(told.value)
    assert str(told.value).endswith("apt install gcc libc6-dev python3-dev")


def test_it_is_asked_before_weights_are_loaded_where_kernels_would_compute(monkeypatch):
    monkeypatch.setattr(start, "takes_kernels", lambda *_: True)
    monkeypatch.setattr(start, "load_model", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(UsageError, match="does not run on cpu here"):
        PixtralEngine(CHECKPOINT, device="cpu")
    with pytest.raises(UsageError, match="does not run on cpu here"):
        start.look_at(CHECKPOINT, CPU)
