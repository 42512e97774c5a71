"""The step that sizes a GPU's cache, run on a CPU: what real steps take lies within what it took."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.checkpoint import PRESETS, random_model
from benchmarks.gpu_gates import page_request
from pipeline.errors import UsageError
from pipeline.planning import card_room
from workers.pixtral import start
from workers.pixtral.executor import Executor
from workers.pixtral.plan import sizes
from workers.pixtral.plan.cache_blocks import BlockPool
from workers.pixtral.plan.scheduler import Limits, Scheduler
from workers.pixtral.plan.sequence import Sequence
from workers.pixtral.worst_step import measure_step, measured_sizes, worst_steps

LIMITS = Limits(8, 512, 2048, 1200, tile_tokens=1000, step_keys=2200)


class CountedMemory(TorchDispatchMode):
    """Bytes of all tensors that operators made and that are still there, on this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.most = 0  # `held` counts what died since it was last looked for
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self.storages:
                    self.storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                    self.held += storage.nbytes()
        if self.held > self.most:
            self.most = max(self.most, self.allocated())
        return out

    def allocated(self) -> int:
        self.storages = {key: (ref, size) for key, (ref, size) in self.storages.items() if not ref.expired()}
        self.held = sum(size for _, size in self.storages.values())
        return self.held

    def peak(self) -> int:
        return self.most

    def reset_peak(self) -> None:
        self.most = self.allocated()


@pytest.fixture
def memory():
    """On one thread: lanes have their own, which a mode does not see."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with CountedMemory() as counted:
        yield counted
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model():
    vision = PRESETS["tiny"]["vision_encoder"] | {"image_size": 512}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", PRESETS["tiny"] | {"vision_encoder": vision})
        return random_model("tiny", "cpu", torch.float32)


def test_no_real_step_takes_more_than_the_worst_one(model, memory):
    worst = measure_step(model, LIMITS, 128, memory, start.make_backend)
    less = measure_step(model, dataclasses.replace(LIMITS, token_budget=512), 128, memory, start.make_backend)
    assert less < 0.7 * worst, (less, worst)
    before = memory.allocated()
    backend = start.make_backend(model, LIMITS, 160, 64, 128)
    executor, scheduler = Executor(backend, LIMITS), Scheduler(LIMITS, BlockPool(160, 64))
    memory.reset_peak()
    for number, sides in enumerate([(32, 32), (32, 24), (4, 6), (30, 20), (32, 32), (2, 2)]):
        scheduler.add(Sequence.of(page_request(number, *sides, max_tokens=2)))
    while scheduler.waiting or scheduler.running:
        for sequence, _, _, token, _ in executor.launch(scheduler.plan()).tokens():
            sequence.pending -= 1
            sequence.tokens.append(token)
            if sequence.num_generated == 2:
                scheduler.finish(sequence, "length")
                executor.forget(sequence)
    taken = memory.peak() - before - backend.cache.nbytes
    assert worst / 3 < taken < worst, (taken, worst)


def test_the_worst_steps_fill_every_limit(model):
    steps = list(worst_steps(model.config, LIMITS, 64))
    assert all(len(step.sequences) == LIMITS.max_sequences for step in steps)
    assert {len(decode.sequence.block_table) for decode in steps[0].decodes} == {-(-LIMITS.max_context // 64)}
    *_, first, last = steps
    assert first.num_tokens - len(first.decodes) == last.num_tokens - len(last.decodes) == LIMITS.token_budget
    assert sum(chunk.last for chunk in last.chunks) == LIMITS.step_keys
    assert all(chunk.sequence.request.images for chunk in first.chunks)


class Told(CountedMemory):
    """As if the model had so many bytes, and each step that is measured so many."""

    def __init__(self, *steps: int) -> None:
        super().__init__()
        self.steps = list(steps)

    def allocated(self) -> int:
        return 1_000_000_000

    def peak(self) -> int:
        return self.allocated() + self.steps.pop(0)


def test_the_cache_takes_what_the_worst_step_leaves(model):
    per_token = sizes.token_bytes(model.config, 4)
    fit = sizes.Sizes(LIMITS, 100, 128, "", 16)
    got = measured_sizes(model, fit, 6_000_000_000, Told(2_000_000_000), start.make_backend)
    step = 2_000_000_000 - np.prod((2, 2, 2, -(-(LIMITS.max_context + 1000) // 64) * 64, 16)) * 4
    assert got.num_blocks == min((5_000_000_000 - int(step * 1.05)) // (per_token * 64), 16 * 134)
    assert got.limits.max_sequences == 16 and "measured" in got.arithmetic
    with pytest.raises(UsageError, match=r"too little memory for one page .*measured"):
        measured_sizes(model, fit, 3_000_000_000, Told(2_000_000_000), start.make_backend)


def test_where_the_worst_step_takes_more_than_its_sum_a_smaller_one_is_measured(model, monkeypatch):
    """Steps of 1,024 and 256 tokens and up to 8 pages, for both are computed; what they take is told."""
    steps = [(256, 1024), (256, 256)]
    monkeypatch.setattr(card_room, "STEPS", steps)
    monkeypatch.setattr(sizes, "STEPS", steps)
    monkeypatch.setattr(card_room, "SEQUENCES", (4, 8))
    fit = sizes.size_engine(model.config, 1_000_000_000, 4_000_000_000, 2, on_gpu=True)
    assert fit.limits.token_budget == 1024
    told = Told(2_900_000_000, 100_000_000)
    got = measured_sizes(model, fit, 4_000_000_000, told, start.make_backend)
    assert got.limits.token_budget == 256 and got.limits.max_sequences > 1 and not told.steps
