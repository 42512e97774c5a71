"""Quantized weights: what they compute, what they take, whose answers they are, and who refuses them."""

from __future__ import annotations

import ctypes
import functools
import json
import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from benchmarks.checkpoint import PRESETS, make_checkpoint
from benchmarks.family import FAMILY
from benchmarks.reader.evaluate import CHECKPOINT, ask, draw_samples, error_rate
from pipeline.errors import UsageError
from pipeline.planning import card_room
from pipeline.planning.gpus import GPUS, PageWork, bound
from pipeline.planning.shapes import Shape, read_shape
from pipeline.settings import Settings
from schemas.prompts import OCR
from workers.choose import choose_engine
from workers.engines.pixtral import PixtralEngine, fingerprint
from workers.pixtral import start
from workers.pixtral.model import load
from workers.pixtral.model import quantize as narrow
from workers.pixtral.model.config import config_of, read_config
from workers.pixtral.model.half import half_of
from workers.pixtral.model.load import empty_model, load_model, weight_bytes, weight_bytes_as
from workers.pixtral.model.vision import Pixtral
from workers.pixtral.plan.sizes import shape_of, size_engine

KINDS = ("int8", "int4", "fp8")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("quantize") / "tiny", "tiny", dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def weight() -> torch.Tensor:
    return torch.randn(192, 256, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("kind", "within"), [("int8", 0.02), ("int4", 0.15), ("fp8", 0.06)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_narrow_product_is_near_the_wide_one(
    weight: torch.Tensor, kind: str, within: float, dtype: torch.dtype
) -> None:
    rows = torch.randn(40, 256, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = F.linear(rows.double(), weight.double())
    product = narrow.MAKERS[kind](weight.to(dtype), dtype)(rows)
    error = (product.double() - exact).norm() / exact.norm()
    assert product.dtype == dtype and within / 20 < error < within


def test_eight_bits_are_the_sums_of_whole_numbers() -> None:
    weight, row = torch.tensor([[0.5, -1.0]]).repeat(1, 16), torch.tensor([[3.0, 1.0]]).repeat(1, 16)
    made = narrow.Int8(weight, torch.float32)
    whole = round(made.levels / 3)
    expected = 16 * (64 * made.levels - 127 * whole) / 127 * 3 / made.levels
    assert made(row).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("levels", [127, 63])
def test_eight_bits_are_the_same_with_and_without_onednn(
    weight: torch.Tensor, monkeypatch: pytest.MonkeyPatch, levels: int
) -> None:
    """To a processor without VNNI rows give 7 bits, so that pairs of products fit in 16: the extremes show it."""
    monkeypatch.setattr(narrow, "multiplies_whole_numbers", lambda: levels == 127)
    rows = torch.cat((torch.randn(3, 256), torch.full((1, 256), 5.0), torch.full((1, 256), -5.0), torch.zeros(1, 256)))
    extreme = weight.clone()
    extreme[0] = 1.0
    first = narrow.Int8(extreme, torch.float32)
    assert first.packed is not None and first.levels == levels
    monkeypatch.setattr(narrow, "_has_onednn", lambda: False)
    second = narrow.Int8(extreme, torch.float32)
    assert second.packed is None
    second.levels = levels
    torch.testing.assert_close(first(rows), second(rows), rtol=1e-6, atol=1e-4 if levels == 127 else 2e-2)
    assert first(rows)[3, 0].item() == pytest.approx(256 * 5.0, rel=1e-5) and not first(rows)[5].any()


def test_a_row_of_eight_bits_is_its_own_whatever_stands_beside_it(weight: torch.Tensor) -> None:
    product = narrow.Int8(weight.bfloat16(), torch.bfloat16)
    rows = torch.randn(512, 256).bfloat16()
    together = product(rows)
    for count in (1, 8, 64):
        assert torch.equal(product(rows[:count]), together[:count])


def test_four_bits_are_one_weight_for_few_rows_and_for_many(weight: torch.Tensor) -> None:
    product = narrow.Int4(weight, torch.float32)
    rows = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    few = torch.cat([product(rows[first : first + 8]) for first in range(0, 64, 8)])
    torch.testing.assert_close(product(rows), few, rtol=0.02, atol=0.15)  # both round to bfloat16, at 16 of deviation
    assert F.cosine_similarity(product(rows).flatten(), few.flatten(), dim=0) > 0.9999


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_checkpoint_takes_what_was_said_and_leaves_vision_and_head(tiny: Path, kind: str) -> None:
    model, plain = load_model(tiny, kind=kind), load_model(tiny)
    assert weight_bytes(model) == weight_bytes_as(empty_model(read_config(tiny)).to(torch.bfloat16), kind)
    assert weight_bytes(model) < weight_bytes(plain) and narrow.kind_of(model) == kind
    kept = dict(model.named_parameters())
    assert {name for name, _ in plain.named_parameters()} - set(kept) == {
        f"layers.{layer}.{part}.weight"
        for layer in (0, 1)
        for part in (*(f"attention.w{x}" for x in "qkvo"), *(f"feed_forward.w{x}" for x in "123"))
    }
    for name, parameter in plain.named_parameters():
        assert name not in kept or torch.equal(parameter, kept[name])


def test_an_adapter_is_merged_before_its_weights_are_narrow(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "tiny", "tiny")
    down, up = torch.randn(4, 64), torch.randn(64, 4)
    bases = ("layers.1.attention.wo", "vision_language_adapter.w_out")
    pairs = {
        f"{base}.lora_{part}.weight": tensor.clone() for base in bases for part, tensor in (("A", down), ("B", up))
    }
    save_file(pairs, folder / "lora.safetensors")
    merged, narrow_model = load_model(folder), load_model(folder, kind="int8")
    rows = torch.randn(9, 64)
    ours, theirs = (model.layers[1].attention.wo(rows) for model in (narrow_model, merged))
    assert (ours - theirs).norm() < 0.03 * theirs.norm()
    assert torch.equal(narrow_model.vision_language_adapter.w_out.weight, merged.vision_language_adapter.w_out.weight)


def test_loading_never_holds_more_than_the_narrow_model_and_half_a_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that no file backs, at the moments when the most is there: before a half is made narrow, and after."""
    layers = {"n_layers": 12, "hidden_dim": 1024}
    monkeypatch.setitem(PRESETS, "deep", PRESETS["tiny"] | {"dim": 512, "n_heads": 8, "head_dim": 64} | layers)
    monkeypatch.setattr(
        "benchmarks.checkpoint.draw_weight", lambda _name, shape, _seed, dtype: torch.ones(shape, dtype=dtype)
    )
    monkeypatch.setattr("benchmarks.checkpoint.real_tokenizer", lambda: CHECKPOINT / "tekken.json")
    folder = make_checkpoint(tmp_path / "deep", "deep", dtype=torch.bfloat16)

    def resident() -> int:
        ctypes.CDLL(None).malloc_trim(0)  # an engine of another test lets the allocator keep what was freed
        text = Path("/proc/self/status").read_text()
        return int(re.findall(r"RssAnon:\s+(\d+) kB", text)[0]) * 1024

    held = []
    quantize = load.quantize

    def watched(*args: object) -> None:
        held.append(resident())
        quantize(*args)  # type: ignore[arg-type]
        held.append(resident())

    monkeypatch.setattr(load, "quantize", watched)
    before = resident()
    model = load_model(folder, kind="int8")
    whole, one_half = 12 * 2 * (2 * 512 * 512 + 4 * 64 * 512 + 3 * 1024 * 512), 2 * 3 * 1024 * 512
    assert weight_bytes(model) < 0.56 * whole
    assert max(held) - before < weight_bytes(model) + 5 * one_half < 0.9 * whole


def test_the_small_reader_reads_in_eight_bits_alone_as_in_company() -> None:
    samples = draw_samples(12, (128, 48), kinds=("words", "numbers", "table"))
    engine = PixtralEngine(CHECKPOINT, "cpu", quantize="int8")
    try:
        together = [page[0].text for page in ask(engine, samples, [OCR])]
        alone = [ask(engine, [sample], [OCR])[0][0].text for sample in samples[:2]]
    finally:
        engine.close()
    assert alone == together[:2]
    assert error_rate([(one.layout.text, text) for one, text in zip(samples, together, strict=True)]) < 0.05


def test_answers_of_quantized_weights_are_another_models(tiny: Path) -> None:
    plain = fingerprint(tiny)
    asked = {kind: Settings(model=tiny, quantize=kind) for kind in ("off", *KINDS)}  # type: ignore[arg-type]
    names = {kind: choose_engine(settings, reads_here=False).model for kind, settings in asked.items()}
    assert names == {"off": plain, **{kind: f"{plain}-{kind}" for kind in KINDS}}
    engine = PixtralEngine(tiny, "cpu", quantize="int4")
    engine.close()
    assert engine.model == names["int4"]


def test_auto_takes_the_widest_weights_that_fit(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_engine(Settings(model=tiny, quantize="auto")).model == fingerprint(tiny)
    real = start.fit_of

    def fits(only: str) -> None:
        def fit_of(
            model: object, granted: int, device: torch.device, kind: str | None = None, *, narrow_cache: bool = False
        ) -> object:
            if kind != only:
                raise UsageError("too little memory")
            return real(model, granted, device, kind, narrow_cache=narrow_cache)  # type: ignore[arg-type]

        monkeypatch.setattr(start, "fit_of", fit_of)

    for kind in ("int8", "int4"):
        fits(kind)
        assert choose_engine(Settings(model=tiny, quantize="auto")).model == fingerprint(tiny, kind)


def test_what_cannot_be_is_refused_with_the_way_out(tiny: Path) -> None:
    with pytest.raises(UsageError, match="fp8 needs an Ada or Hopper GPU, and this is a CPU; --quantize int8"):
        PixtralEngine(tiny, "cpu", quantize="fp8")
    with pytest.raises(UsageError, match=r"too little memory for one page .*--quantize int8"):
        PixtralEngine(tiny, "cpu", memory_bytes=10_000_000)
    with pytest.raises(UsageError, match=r"--quantize int8: the engine rapidocr .* has no weights to quantize"):
        choose_engine(Settings(engine="rapidocr", quantize="int8"))


def test_the_table_of_weights_is_what_plan_doctor_and_engine_say() -> None:
    model = empty_model(config_of(PRESETS["12b"])).to(torch.bfloat16)
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(off|int8|int4|fp8)` \| ([\d.]+) GB \| (\d+) GiB \|", text, flags=re.MULTILINE)
    assert [kind for kind, _, _ in rows] == ["off", "int8", "int4", "fp8"]
    cards = (8, 12, 16, 20, 24, 32, 40)
    for kind, told, card in rows:
        planned = Shape().weight_bytes({"off": 16, "int4": 4}.get(kind, 8))
        taken = weight_bytes_as(model, None if kind == "off" else kind)
        assert abs(planned / taken - 1) < 0.002 and f"{taken / 1e9:.1f}" == told
        assert next(one for one in cards if pages_at_once(model, kind, one)) == int(card)
    cells = re.findall(r"^\| (\d+) GiB \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$", text, flags=re.MULTILINE)
    assert len(cells) == 9
    for gibibytes, *columns in cells:
        for kinds, told in zip((("off",), ("int8", "fp8"), ("int4",)), columns, strict=True):
            for kind in kinds:
                fits = [pages_at_once(model, kind, int(gibibytes), narrow_cache=narrow) for narrow in (False, True)]
                assert ", ".join(str(fit or "does not fit") for fit in fits) == told, (gibibytes, kind)
                bits = {"off": 16, "int4": 4}.get(kind, 8)
                memory = int(gibibytes) * 2**30
                assert fits == [
                    card_room.pages_at_once(Shape(), memory, bits, narrow_cache=narrow) for narrow in (False, True)
                ]


of_each = functools.cache(weight_bytes_as)  # a walk through all of a model's weights for each card and cache


def pages_at_once(model: Pixtral, kind: str, gibibytes: int, *, narrow_cache: bool = False) -> int:
    """0 where not one fits."""
    narrowed = None if kind == "off" else kind
    weights, granted = of_each(model, narrowed), int(gibibytes * 2**30 * 0.92)
    try:
        fit = size_engine(model.config, weights, granted, 2, on_gpu=True, kind=narrowed, narrow_cache=narrow_cache)
    except UsageError:
        return 0
    return fit.limits.max_sequences


def test_a_plan_counts_pages_as_the_engine_does_for_every_checkpoint_and_card(tmp_path: Path) -> None:
    counted = differ = 0
    for name, params in FAMILY.items():
        (tmp_path / "params.json").write_text(json.dumps(params))
        shape, model = read_shape(tmp_path), empty_model(config_of(params)).to(torch.bfloat16)
        for gibibytes, (kind, bits), narrow_cache in product(
            (12, 16, 24, 32, 48, 80, 139), (("off", 16), ("int8", 8), ("int4", 4)), (False, True)
        ):
            engines = pages_at_once(model, kind, gibibytes, narrow_cache=narrow_cache)
            planned = card_room.pages_at_once(shape, gibibytes * 2**30, bits, narrow_cache=narrow_cache)
            counted, differ = counted + 1, differ + (engines != planned)
            assert abs(engines - planned) <= 8, (name, gibibytes, kind, narrow_cache, engines, planned)
    assert differ <= counted / 100, "but where two sums of weights differ by a few thousandths at an edge"


@pytest.mark.parametrize("name", FAMILY)
def test_a_plan_and_the_engine_sum_up_one_shape_whole_or_half(tmp_path: Path, name: str) -> None:
    (tmp_path / "params.json").write_text(json.dumps(FAMILY[name]))
    config, shape = config_of(FAMILY[name]), read_shape(tmp_path)
    assert replace(shape_of(config), name=shape.name) == shape
    assert replace(shape_of(half_of(config, tmp_path)), name=shape.name) == shape.half()


def test_a_plan_goes_by_the_weights_that_are_asked_for() -> None:
    work = PageWork([3136], 3186, 800)
    assert [bound(GPUS["h100"], Shape(), work, kind).fit.bits for kind in ("off", "auto", *KINDS)] == [16, 16, 8, 4, 8]
    assert bound(GPUS["h100"], Shape(), work, "int8").seconds < bound(GPUS["h100"], Shape(), work).seconds


@pytest.mark.xdist_group("reader")  # whose test process imports torch's compiler
@pytest.mark.parametrize("kind", KINDS)
def test_the_products_of_a_gpu_fit_the_signatures_of_this_torch(kind: str) -> None:
    """Without a GPU: shapes, types and names of arguments by torch's own rules for them, and no numbers."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        for dtype in (torch.bfloat16,) if kind == "int4" else (torch.bfloat16, torch.float16):
            product = narrow.MAKERS[kind](torch.empty(256, 512, dtype=dtype, device="meta"), dtype)
            for count in (1, 8, 128):
                made = product(torch.empty(count, 512, dtype=dtype, device="meta"))
                assert made.shape == (count, 256) and made.dtype == dtype
