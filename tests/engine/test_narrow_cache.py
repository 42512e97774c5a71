"""A cache in e4m3: what it holds, when it is chosen, and what it does to the small reader's texts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_gates
from benchmarks.bench_narrow_cache import LIMITS, rounded_cache
from benchmarks.checkpoint import PRESETS, make_checkpoint, random_model
from pipeline.errors import UsageError
from pipeline.planning.gpus import Fit, find_gpu, fit_on
from pipeline.planning.shapes import Shape
from pipeline.settings import Settings
from workers.choose import choose_engine
from workers.pixtral import start
from workers.pixtral.cpu.backend import CpuBackend
from workers.pixtral.model.config import config_of
from workers.pixtral.model.fingerprint import fingerprint
from workers.pixtral.model.kv_cache import PagedCache, narrow, widen
from workers.pixtral.model.load import empty_model, load_model
from workers.pixtral.plan import sizes

READER = Path(__file__).parents[2] / "benchmarks" / "reader" / "checkpoint"
CUDA = torch.device("cuda", 0)


def test_each_head_of_a_token_is_rounded_by_its_own_largest_number():
    rows = torch.randn(50, 4, 32) * torch.logspace(-6, 3, 4)[:, None]
    rows[7, 2] = 0
    eight, scales = narrow(rows)
    assert eight.dtype == torch.float8_e4m3fn and scales.shape == (50, 4)
    back = widen(eight, scales)
    assert torch.equal(back[7, 2], rows[7, 2])
    largest = rows.abs().amax(-1, keepdim=True)
    # Half of the last of 3 bits; below 2^-6 of e4m3's 448, half of its smallest step.
    assert ((back - rows).abs() <= torch.maximum(rows.abs() / 16, largest * 2**-10 / 448) * 1.001).all()
    alone, _ = narrow(rows[3:4])
    assert torch.equal(alone.float(), eight[3:4].float())  # neighbours change nothing


def test_it_holds_twice_the_sequences_of_pixtral_12b():
    config = config_of(PRESETS["12b"])
    assert sizes.token_bytes(config, 2, narrow=True) == 84_480
    cache = PagedCache(2, 3, 64, 8, 128, torch.device("meta"), torch.bfloat16, narrow=True)
    assert cache.nbytes == 3 * 64 * 84_480 * 2 // 40
    own, tight = (
        sizes.size_engine(config, 25_400_000_000, 44_000_000_000, 2, on_gpu=True, narrow_cache=narrow_cache)
        for narrow_cache in (False, True)
    )
    assert tight.limits.max_sequences >= 1.9 * own.limits.max_sequences


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("model") / "tiny", "tiny", dtype=torch.bfloat16)


def test_heads_that_the_decode_kernel_does_not_take_have_another_path(monkeypatch):
    """The small reader's heads have 48 numbers; on a GPU its first decode step would not have compiled."""
    monkeypatch.setattr(start, "uses_flash", lambda device, dtype: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    reader = load_model(READER)
    assert isinstance(start.make_backend(reader, LIMITS, 8, 64, 64), CpuBackend)
    assert not start.choose_cache("auto", READER, CUDA)
    with pytest.raises(UsageError, match=r"a power of two, and those of .*checkpoint are not"):
        start.choose_cache("fp8", READER, CUDA)


def test_a_device_without_fp8_is_named_before_a_page_is_claimed(monkeypatch, folder):
    with pytest.raises(UsageError, match=r"PAGEPACK_KV_CACHE=fp8 needs an Ada or Hopper GPU, and this is a CPU"):
        choose_engine(Settings(model=folder, kv_cache="fp8"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA RTX A6000")
    with pytest.raises(UsageError, match="NVIDIA RTX A6000 is older"):
        start.choose_cache("fp8", folder, CUDA)
    assert not start.choose_cache("auto", folder, CUDA)


def test_auto_takes_it_where_it_gains_room_and_the_default_never(monkeypatch, folder):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    total = {"bytes": 10**12}
    properties = lambda device: SimpleNamespace(total_memory=total["bytes"])  # noqa: E731
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    assert start.choose_cache("fp8", folder, CUDA)
    assert not start.choose_cache("auto", folder, CUDA)  # all sequences that a step may hold fit as it is
    total["bytes"] = 3 * 10**8
    assert start.choose_cache("auto", folder, CUDA)
    assert not start.choose_cache(Settings().kv_cache, folder, CUDA)
    own = choose_engine(Settings(model=folder)).model
    assert own == fingerprint(folder) == choose_engine(Settings(model=folder, kv_cache="auto")).model
    assert fingerprint(folder, "int8", narrow_cache=True) == f"{own}-int8-kvfp8"


@pytest.mark.parametrize(
    ("device", "gibibytes", "kind", "narrow_cache"),
    [
        ("a100-40gb", 40, None, False), ("rtx5090", 32, "fp8", True),
        ("rtx4090", 24, "fp8", True), ("rtx3090", 24, "int8", False), ("rtx4080", 16, "int4", True),
        ("rtx4070", 12, "int4", True), ("rtx3060", 12, "int4", False), ("h200", 139, None, True),
    ],
)  # fmt: skip
def test_auto_and_auto_choose_for_pixtral_12b_what_a_card_holds(
    monkeypatch, folder, device, gibibytes, kind, narrow_cache
):
    """And the plan of a run on that card says the same."""
    gpu, shape = find_gpu(device), Shape()
    model = empty_model(config_of(PRESETS["12b"]))
    capability = int(gpu.capability), round(gpu.capability * 10) % 10
    properties = SimpleNamespace(total_memory=gibibytes * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: gpu.title)
    monkeypatch.setattr(start, "empty_model_of", lambda folder, half=False: model)
    assert start.choose_kind(folder, CUDA, "auto") == kind
    assert start.choose_cache("auto", folder, CUDA, kind) == narrow_cache
    fit = start.fit_of(model.to(torch.bfloat16), start.whole_bytes(CUDA), CUDA, kind, narrow_cache=narrow_cache)
    bits = {None: 16, "int4": 4}.get(kind, 8)
    assert fit_on(gpu, shape, "auto", "auto") == Fit(bits, fit.limits.max_sequences, narrow_cache)


def test_a_card_that_holds_no_page_is_told_what_would_fit(monkeypatch, folder):
    model = empty_model(config_of(PRESETS["12b"])).to(torch.bfloat16)
    granted = int(10 * 2**30 * 0.92)
    with pytest.raises(
        UsageError, match=r"take a smaller checkpoint, or narrower weights: --quantize int8 or int4, or a"
    ):
        start.fit_of(model, granted, CUDA)
    with pytest.raises(UsageError, match=r"0\.\d GB for a step.*take a smaller checkpoint, or a narrower cache: PAGEP"):
        start.fit_of(model, granted, CUDA, "int4")
    with pytest.raises(UsageError, match=r"free some, or take a smaller checkpoint$"):
        start.fit_of(model, granted, CUDA, "int4", narrow_cache=True)


def test_logits_of_a_rounded_cache_are_near_the_exact_ones(monkeypatch):
    """Through the engine, with chunks and decode; a wrong scale would be an error near 1."""
    model = random_model("tiny", "cpu", torch.float32)
    exact = gpu_gates.exact_model(model)
    requests = [gpu_gates.page_request(i, *grid, max_tokens=4) for i, grid in enumerate([(4, 6), (9, 7)])]
    errors = []
    for on in (False, True):
        with rounded_cache(on=on):
            errors.append(gpu_gates.read(model, exact, requests, LIMITS, 60, {})[1])
    assert errors[0] < 1e-4 < 0.003 < errors[1] < 0.1, errors
