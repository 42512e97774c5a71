"""What `bench_engine_gpu` holds before it times anything, on a CPU: what is right passes, what is not does not."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from benchmarks import bench_engine_gpu, checkpoint, gpu_draft_gates, gpu_gates, gpu_kernel_gates
from benchmarks.checkpoint import random_model
from pipeline.errors import UsageError
from pipeline.planning.gpus import find_gpu, fit_on
from pipeline.planning.shapes import Shape
from pipeline.planning.step_room import FEWER_ROWS, buckets, run_rows
from workers.pixtral import start
from workers.pixtral.cpu.attention import attend_packed, attend_past
from workers.pixtral.cpu.tiles import TiledRunner
from workers.pixtral.cuda import attention
from workers.pixtral.executor import Executor
from workers.pixtral.model.quantize import Fp8, has_products, kind_of
from workers.pixtral.plan.draft_rows import Grouped, Wish
from workers.pixtral.plan.drafts import MOST_AHEAD
from workers.pixtral.plan.scheduler import Limits
from workers.pixtral.plan.sequence import Sequence

NOT_THERE = {"mistral_inference", "mistral_common", "xformers", "simple_parsing"}
NOT_THERE |= {"pydantic", "pydantic_core", "sqlalchemy", "celery", "kombu"}
THERE = {"torch", "torchgen", "triton", "numpy", "safetensors", "tqdm", "typing_extensions"}
OF_TESTS = {"__main__", "pytest", "_pytest", "pluggy", "xdist", "execnet", "hypothesis"}


@pytest.fixture(scope="module")
def tiny():
    return random_model("tiny", "cpu", torch.float32)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    monkeypatch.setattr(gpu_gates, "GRIDS", ((4, 6), (2, 2), (9, 7)))


MODES = {"packed": (Limits(8, 32, 256, 4096), 60, {}), "preempted": (Limits(8, 512, 2048, 4096), 4, {})}


def test_an_engine_that_is_right_passes(tiny):
    found = gpu_gates.check_engine(tiny, MODES, max_tokens=6)
    assert found.keys() >= {"alone, logits", "packed, logits", "preempted, same text"}
    assert found["packed, same text"] == found["preempted, same text"] == 1.0


def test_an_answer_may_hold_the_token_of_images():
    """Random weights write it by chance; made five times as long, its row of the head wins about half of the time."""
    model = random_model("tiny", "cpu", torch.float32)
    image_token = model.config.vision_encoder.image_token_id
    model.output.weight.data[image_token] *= 5
    requests = [gpu_gates.page_request(i, *grid, max_tokens=6) for i, grid in enumerate(gpu_gates.GRIDS)]
    exact = gpu_gates.exact_model(model)
    pages = gpu_gates.read_pages(model, exact, requests, Limits(8, 512, 2048, 4096), 60, {})
    assert any(image_token in page.tokens[:-1] for page in pages)
    assert max(page.error for page in pages) < gpu_gates.LOGITS_ERROR[torch.float32]


def test_pages_that_see_each_other_do_not_pass(tiny, monkeypatch):
    """As in mistral-inference: the images of a pack attend to all of it."""

    def leaking(self, lengths, device):
        return lambda query, key, value: attend_packed(query, key, value, [sum(lengths)], causal=False)

    monkeypatch.setattr(TiledRunner, "packed_attention", leaking)
    with pytest.raises(AssertionError, match="packed, logits"):
        gpu_gates.check_engine(tiny, MODES, max_tokens=6)


@pytest.mark.parametrize("kind", ["int8", "int4", "fp8"])
def test_narrow_weights_are_held_against_what_they_multiply_as(kind):
    """On a CPU fp8 multiplies as on a GPU; a weight that is not what its scale says does not pass."""
    model = gpu_gates.narrow(random_model("tiny", "cpu", torch.float32), kind)
    found = gpu_gates.check_engine(model, MODES, max_tokens=6)
    assert 1e-4 < found["packed, logits"] < gpu_gates.NARROW_ERROR[kind] and found["preempted, same text"] == 1.0


def test_rows_that_share_a_scale_do_not_pass(monkeypatch):
    model, right = gpu_gates.narrow(random_model("tiny", "cpu", torch.float32), "fp8"), Fp8.prepare

    def prepare(self, rows):
        narrow, scale = right(self, rows)
        return narrow, scale[:1].expand_as(scale).contiguous()

    monkeypatch.setattr(Fp8, "prepare", prepare)
    with pytest.raises(AssertionError, match="packed, logits"):
        gpu_gates.check_engine(model, MODES, max_tokens=6)


def test_a_token_that_is_another_pages_does_not_pass(tiny, monkeypatch):
    """The logits are right, and each token is written behind another page."""
    right = gpu_gates.WatchedExecutor._sample
    monkeypatch.setattr(
        gpu_gates.WatchedExecutor, "_sample", lambda self, layout, hidden: right(self, layout, hidden).roll(1, dims=1)
    )
    with pytest.raises(AssertionError, match=r"float64 would not choose: .*packed"):
        gpu_gates.check_engine(tiny, {"packed": (Limits(8, 512, 2048, 4096), 60, {})}, max_tokens=1)


def test_the_bound_goes_by_the_width_of_weights_and_cache():
    """An H200 that multiplies narrow weights at twice the rate: the sums of RESULTS.md for a page of Pixtral 12B."""
    wide_fit, weights_fit, both_fit = (
        fit_on(find_gpu("h200"), Shape(), *how) for how in (("off", "model"), ("fp8", "model"), ("fp8", "fp8"))
    )
    assert (wide_fit.pages, weights_fit.pages, both_fit.pages) == (184, 200, 256)
    ceilings = SimpleNamespace(flops=788e12, layer_flops=788e12, bytes=4.3e12)
    requests = [gpu_gates.page_request(0, 64, 48, max_tokens=700)]
    wide = bench_engine_gpu.bound("12b", requests, wide_fit.pages, ceilings)
    no_faster = bench_engine_gpu.bound("12b", requests, weights_fit.pages, ceilings, "fp8")
    ceilings.layer_flops *= 2
    weights = bench_engine_gpu.bound("12b", requests, weights_fit.pages, ceilings, "fp8")
    narrow = bench_engine_gpu.bound("12b", requests, both_fit.pages, ceilings, "fp8", narrow_cache=True)
    found = [each["pages_per_second"] for each in (wide, no_faster, weights, narrow)]
    assert found == pytest.approx([4.72, 4.97, 6.36, 9.15], abs=0.01)
    assert narrow["decode_seconds"] == pytest.approx(wide["decode_seconds"] / 2, rel=0.02)
    assert narrow["prefill_seconds"] == pytest.approx(wide["prefill_seconds"] * 0.55, rel=0.1)


@pytest.mark.parametrize("kind", ["int8", "int4", "fp8"])
def test_drafts_pass_with_narrow_weights_too(kind):
    model = gpu_gates.narrow(random_model("tiny", "cpu", torch.float32), kind)
    found = gpu_draft_gates.check_drafts(model, max_tokens=8)
    assert 1e-4 < found["drafted, logits"] < gpu_gates.NARROW_ERROR[kind]


def test_drafts_that_change_no_text_pass_and_others_do_not(tiny, monkeypatch):
    found = gpu_draft_gates.check_drafts(tiny, max_tokens=8)
    assert found["drafted, same text"] == 1.0
    monkeypatch.setattr(Sequence, "was_wrong", lambda self, position, draft: False)
    with pytest.raises(AssertionError, match="draft 1 changed a page"):
        gpu_draft_gates.check_drafts(tiny, max_tokens=8)


def test_a_draft_of_a_page_alone_takes_no_larger_graph(tiny, monkeypatch):
    """Else its products have other rows than without, and in bfloat16 a near tie would fail the gate."""
    asked = []

    def read(model, exact, requests, limits, blocks, more):
        asked.append(limits.max_sequences)
        return [(0,) * 8 for _ in requests], 0.0

    monkeypatch.setattr(gpu_gates, "read", read)
    gpu_draft_gates.check_drafts(tiny, max_tokens=8)
    (sequences,) = set(asked)
    for run in (run_rows(4, 2), run_rows(8, 2)):  # of tiny, of mini
        graphs = buckets(sequences, run, FEWER_ROWS)
        (drafted,) = Grouped(graphs, run, sequences, 0.01).shares([Wish(MOST_AHEAD, 0.9, 500)], 0, 0)
        assert drafted > 8
        assert next(rows for rows in graphs if rows >= 1 + drafted) == graphs[0], (graphs, drafted)


@pytest.mark.parametrize("kind", ["int8", "int4", "fp8"])
def test_narrow_weights_are_drawn_half_a_layer_at_a_time(kind, monkeypatch):
    """12.7 billion numbers in bfloat16 fit no card of 24 GB, and their int4 does."""
    wide = []

    def quantize(half, kind, dtype):
        wide.append([name for name, each in checkpoint.halves(model) if not has_products(each) and is_there(each)])
        return narrowed(half, kind, dtype)

    def is_there(half):
        return any(parameter.device.type != "meta" for parameter in half.parameters())

    narrowed, made = checkpoint.quantize, checkpoint.empty_model
    model = made(checkpoint.config_of(checkpoint.PRESETS["tiny"]))
    monkeypatch.setattr(checkpoint, "empty_model", lambda config: model)
    monkeypatch.setattr(checkpoint, "quantize", quantize)
    drawn = random_model("tiny", "cpu", torch.float32, kind=kind)
    assert drawn is model and kind_of(drawn) == kind
    assert wide == [[name] for name, _ in checkpoint.halves(drawn)] and len(wide) == 4
    assert not any(parameter.is_meta for parameter in drawn.parameters())


def test_a_card_that_is_too_small_is_told_before_the_gates(monkeypatch):
    monkeypatch.setattr(start, "available_bytes", lambda device: 22_000_000_000)  # what an RTX 4090 grants
    monkeypatch.setattr(bench_engine_gpu, "check_capability", lambda device: None)
    device = torch.device("cuda")
    bench_engine_gpu.check_serves(device, "12b", "int4", narrow_cache=False)
    with pytest.raises(UsageError, match=r"too little memory for one page \(22\.0 GB granted - 25\.4 GB weights"):
        bench_engine_gpu.check_serves(device, "12b", None, narrow_cache=False)


def test_pages_with_drafts_are_timed(tiny):
    """By `bench_engine_gpu` on a GPU."""
    limits = Limits(8, 512, 2048, 4096)
    backend = start.make_backend(tiny, limits, 60, 64, 128)
    engine = gpu_gates.make_engine(tiny, replace(limits, drafts=backend.drafts), 60, Executor(backend, limits))
    requests = [gpu_gates.page_request(number, 4, 6, max_tokens=24) for number in range(2)]
    answers = gpu_gates.run(engine, requests)
    plain = engine.stats()
    found = bench_engine_gpu.time_drafts(engine, requests, answers, 1.0)
    engine.close()
    assert list(found) == ["0.02", "0.05", "0.2"] and plain["drafted_tokens"] == 0
    for figures in found.values():
        assert figures["same_text"] == 1.0 and 0 < figures["accepted"] <= 1 and figures["steps"] < plain["steps"]


def _varlen(seen):
    """FlashAttention's part played by SDPA; `seen` says which keys a chunk's past leaves it."""

    def attend(query, key, value, cu_q, cu_k, max_q, max_k, *, causal):
        spans = zip(pairwise(cu_q.tolist()), pairwise(cu_k.tolist()), strict=True)
        if not causal:
            return attend_packed(query, key, value, [b - a for a, b in pairwise(cu_q.tolist())], causal=False)
        parts = [(slice(*q), slice(*seen(q, k))) for q, k in spans]
        return torch.cat([attend_past(query[rows], key[keys], value[keys]) for rows, keys in parts])

    return attend


def test_varlen_attention_is_held_to_look_back_from_the_bottom_right(monkeypatch):
    monkeypatch.setattr(attention, "attend_varlen", _varlen(lambda q, k: k))
    errors = gpu_kernel_gates.check_varlen(torch.device("cpu"), heads=2, kv_heads=1)
    assert errors.keys() == {"varlen with a past", "varlen inside images"}
    monkeypatch.setattr(attention, "attend_varlen", _varlen(lambda q, k: (k[0], k[0] + q[1] - q[0])))
    with pytest.raises(AssertionError, match="varlen with a past"):
        gpu_kernel_gates.check_varlen(torch.device("cpu"), heads=2, kv_heads=1)


class Absent:
    """Asked before all other finders of modules."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NOT_THERE:
            raise ModuleNotFoundError(name)


def test_it_imports_where_a_gpu_image_has_only_torch(monkeypatch):
    """Anew, with all that it imports but what a GPU image has: no module that is here already hides a lack."""
    pytest.importorskip("triton")
    before = dict(sys.modules)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    try:
        for name in before:
            if name.partition(".")[0] not in sys.stdlib_module_names | THERE | OF_TESTS:
                del sys.modules[name]
        for name in ("benchmarks.bench_engine_gpu", "workers.pixtral.cuda.graph"):
            assert importlib.import_module(name) is not before.get(name)
    finally:
        for name in sys.modules.keys() - before.keys():
            del sys.modules[name]
        sys.modules.update(before)
