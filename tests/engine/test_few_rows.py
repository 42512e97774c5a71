"""A step of few rows computes few rows, where that gives the same floats."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.checkpoint import make_checkpoint
from workers.pixtral.cpu import backend as cpu
from workers.pixtral.cpu.backend import CpuBackend
from workers.pixtral.model.load import load_model
from workers.pixtral.plan.draft_rows import Filled
from workers.pixtral.plan.scheduler import Limits


@pytest.fixture(scope="module", params=[None, "int8"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CpuBackend:
    folder = make_checkpoint(tmp_path_factory.mktemp("few") / "tiny", "tiny", dtype=torch.bfloat16)
    return CpuBackend(load_model(folder, kind=request.param), Limits(128, 256, 512), 8, 64, 128)


def test_a_page_alone_computes_eight_rows_and_a_full_step_tiles_of_many(made: CpuBackend) -> None:
    assert [made.decode_rows(count) for count in (1, 8, 9, 64, 65)] == [8, 8, 64, 64, 128]
    assert made.few(8).padded(1) == 8 and made.few(64).padded(1) == 64
    assert made.drafts == Filled(64), "drafts fill what a step of many leaves free"


def test_rows_have_the_same_logits_in_a_tile_of_few_and_of_many(made: CpuBackend) -> None:
    hidden = torch.randn(64, 64, generator=torch.Generator().manual_seed(3)).bfloat16()
    few = torch.cat([made.logits(hidden[first : first + 8]) for first in range(0, 64, 8)])
    assert torch.equal(few, made.logits(hidden))


def test_where_few_rows_give_other_floats_a_step_computes_many(
    made: CpuBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(head: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda rows: head(rows) * (1.0 if len(rows) > 8 else 1.01)

    prepared = cpu.prepared_product
    monkeypatch.setattr(cpu, "prepared_product", lambda weight, rows: other(prepared(weight, rows)))
    again = CpuBackend(made.model, Limits(128, 256, 512), 8, 64, 128)
    assert [again.decode_rows(count) for count in (1, 9)] == [64, 64]
