"""A step of few rows computes few rows, where that gives the same floats."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.checkpoint import make_checkpoint
from workers.pixtral.cpu import backend as cpu
from workers.pixtral.cpu.backend import CpuBackend
from workers.pixtral.cpu.products import lay_out_layers
from workers.pixtral.cpu.tiles import TiledRunner
from workers.pixtral.model import decoder
from workers.pixtral.model.decoder import PLAIN
from workers.pixtral.model.load import load_model, weight_bytes
from workers.pixtral.model.vision import Pixtral
from workers.pixtral.plan.draft_rows import Filled
from workers.pixtral.plan.scheduler import Limits


@pytest.fixture(scope="module", params=[None, "int8"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CpuBackend:
    folder = make_checkpoint(tmp_path_factory.mktemp("few") / "tiny", "tiny", dtype=torch.bfloat16)
    model = load_model(folder, kind=request.param)
    lay_out_layers(model)
    return CpuBackend(model, Limits(128, 256, 512), 8, 64, 128)


def cuts(runner: TiledRunner, num_rows: int) -> list[int]:
    """Rows of the pieces that a runner makes of so many, in order."""
    places = torch.arange(num_rows)
    found: list[Tensor] = []
    runner.rows(lambda rows: (found.append(rows), rows)[1:], places)
    found.sort(key=lambda rows: int(rows[0]))
    assert torch.equal(torch.cat(found), places)
    return [len(rows) for rows in found]


def test_a_step_computes_rows_in_eights_and_cuts_them_into_equal_tiles(made: CpuBackend) -> None:
    assert [made.decode_rows(count) for count in (1, 8, 9, 64, 65)] == [8, 8, 16, 64, 72]
    assert [cuts(made.few(rows), rows) for rows in (8, 40, 64, 72, 128)] == [[8], [40], [64], [40, 32], [64, 64]]
    assert cuts(made.runner(72), 256 + 72) == [128, 128, 40, 32], "prefill tiles before them"
    assert made.drafts == Filled(64), "drafts fill what a step of many leaves free"


def test_rows_have_the_same_logits_in_a_tile_of_few_and_of_many(made: CpuBackend) -> None:
    hidden = torch.randn(64, 64, generator=torch.Generator().manual_seed(3)).bfloat16()
    many = made.logits(hidden)
    for size in range(8, 64, 8):
        assert torch.equal(torch.cat([made.logits(rows) for rows in hidden.split(size)]), many), size


@pytest.mark.parametrize("size", [8, 40])
def test_where_fewer_rows_give_other_floats_a_step_computes_many(
    made: CpuBackend, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    def other(head: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda rows: head(rows) * (1.01 if len(rows) == size else 1.0)

    prepared = cpu.prepared_product
    monkeypatch.setattr(cpu, "prepared_product", lambda weight, rows: other(prepared(weight, rows)))
    again = CpuBackend(made.model, Limits(128, 256, 512), 8, 64, 128)
    assert [again.decode_rows(count) for count in (1, 9)] == [64, 64]


def test_laid_out_weights_give_what_plain_ones_do_and_none_is_held_twice(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN does not multiply bfloat16 here")
    folder = make_checkpoint(tmp_path_factory.mktemp("laid") / "tiny", "tiny", dtype=torch.bfloat16)
    plain, laid_out = load_model(folder), load_model(folder)
    before = weight_bytes(laid_out)
    lay_out_layers(laid_out)
    assert weight_bytes(laid_out) == before
    assert not any(".layers." in f".{name}" and "norm" not in name for name, _ in laid_out.named_parameters())
    lay_out_layers(laid_out)  # a second engine takes them as they are
    exact = load_model(folder, dtype=torch.float64)
    noise = torch.Generator().manual_seed(5)
    hidden, attended = (torch.randn(64, 64, generator=noise).bfloat16() for _ in range(2))
    rotation = decoder.rotation_1d(torch.arange(64), plain.config, torch.bfloat16)

    def whole(model: Pixtral, rows: slice = slice(None)) -> list[Tensor]:
        layer, dtype = decoder.layers_of(model)[1], model.dtype
        parts = (hidden[rows].to(dtype, copy=True), None, rotation[rows].to(torch.promote_types(dtype, torch.float32)))
        stream, *heads = layer.project(*parts, PLAIN.ops)
        return [*heads, *layer.finish(stream, attended[rows].to(dtype), PLAIN.ops)]

    with torch.inference_mode():
        truth, usual, ours = whole(exact), whole(plain), whole(laid_out)
        few = whole(laid_out, slice(8, 16))
    for right, theirs, mine, part in zip(truth, usual, ours, few, strict=True):
        assert (mine - right).norm() <= 1.05 * (theirs - right).norm(), "farther from the truth than plain weights"
        assert torch.equal(part, mine[8:16])
