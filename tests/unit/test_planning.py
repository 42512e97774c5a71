"""Totals from samples, tokens of pages, and what a page takes on a GPU: the sums of `pagepack plan`."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.planning.card_room import pages_at_once
from pipeline.planning.gpus import GPUS, Fit, PageWork, _page_seconds, bound, find_gpu, fit_on, fit_words, work_of
from pipeline.planning.known import covered_seconds
from pipeline.planning.look import PageFacts
from pipeline.planning.make import spread
from pipeline.planning.ranges import Range, mean, systematic, total
from pipeline.planning.shapes import Shape, read_shape
from pipeline.planning.tokens import image_tokens, text_tokens

PIXTRAL = {
    "dim": 5120,
    "n_layers": 40,
    "head_dim": 128,
    "hidden_dim": 14336,
    "n_heads": 32,
    "n_kv_heads": 8,
    "vocab_size": 131_072,
    "vision_encoder": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "intermediate_size": 4096,
        "patch_size": 16,
        "image_size": 1024,
    },
}


def test_nineteen_of_twenty_ranges_hold_the_true_total() -> None:
    rng, held = random.Random(1), 0
    pages = [rng.choice([1, 1, 2, 3, 5, 8, 20]) for _ in range(400)]
    for seed in range(200):
        found = total(random.Random(seed).sample(pages, 60), len(pages))
        held += found.low <= sum(pages) <= found.high
    assert 180 <= held <= 199, held


def test_what_was_looked_at_whole_is_known_exactly() -> None:
    assert total([3, 4], 2) == Range.exact(7)
    assert total([], 0) == Range.exact(0)
    assert mean([1, 0, 0, 1], [1, 1, 1, 1], is_all=True) == Range.exact(0.5)
    assert total([5.0], 10).low == 5.0, "what was seen is there"


def test_pages_of_a_longer_document_weigh_more() -> None:
    """Two pages stand for two, two of another for two hundred."""
    found = mean([0, 0, 1, 1], [1, 1, 100, 100])
    assert found.expected == pytest.approx(200 / 202) and found.low < found.expected < found.high


def test_independent_errors_add_as_squares() -> None:
    both = Range(80, 100, 120).times(Range(0.8, 1.0, 1.2))
    assert (
        both.expected == 100 and both.high == pytest.approx(128.3, abs=0.1) and both.low == pytest.approx(71.7, abs=0.1)
    )


def test_a_systematic_sample_is_spread_over_all() -> None:
    assert systematic(3, 5, 0.9) == [0, 1, 2]
    for start in (0.0, 0.5, 0.999):
        places = systematic(1000, 7, start)
        assert len(set(places)) == 7 and max(places) < 1000
        assert {after - before for before, after in pairwise(places)} <= {142, 143}


def test_pages_that_are_read_first_are_as_full_as_the_others() -> None:
    """Reading ends after some seconds: were the sparse pages first, the time of a page would be theirs."""
    pages = [PageFacts(1.0, image_bytes=size, image=str(size).encode()) for size in range(1, 101)]
    sizes = [int(image) for image in spread(pages, 12)]
    assert len(sizes) == 12 and 45 < sum(sizes) / 12 < 56
    assert all(30 < sum(sizes[:count]) / count < 71 for count in (4, 6, 8))


def test_time_between_batches_is_not_counted_as_reading() -> None:
    assert covered_seconds([(0, 4), (1, 5), (100, 101), (100.5, 102)]) == 7


@pytest.mark.parametrize(
    ("size", "tokens"),
    [((768, 1024), [3136]), ((736, 1024), [3008]), ((800, 1024), [3264]), ((1024, 768), [3120])],
)
def test_a_page_takes_the_tokens_that_the_model_gives_it(size: tuple[int, int], tokens: list[int]) -> None:
    assert image_tokens(*size, Shape()) == tokens


def test_a_large_page_is_counted_with_its_tiles() -> None:
    assert len(image_tokens(1456, 2048, Shape())) == 7, "the whole and three rows of two"


def test_digits_take_a_token_each_and_words_few() -> None:
    assert text_tokens("1234567890") == 10
    assert 30 <= text_tokens("All human beings are born free and equal in dignity and rights. " * 3) <= 45


def test_the_bound_of_a_card_is_the_sum_that_was_done_by_hand() -> None:
    """768 × 1,024 px, 50 tokens of a prompt, 800 of the answer, on an H100: 97 ms, and 800 · (23.2 GB / 80 + 588 MB)
    at 3.0 TB/s, which is 234 ms."""
    found = bound(GPUS["h100"], Shape(), PageWork([3136], 3186, 800))
    assert found.fit == Fit(16, 80, narrow_cache=False)
    assert found.seconds == pytest.approx(0.097 + 0.234, rel=0.02)


def test_a_narrow_cache_reads_half_of_the_bytes_and_an_older_gpu_is_refused_for_it() -> None:
    work = PageWork([3136], 3186, 800)
    wide, narrow, auto = (bound(GPUS["h100"], Shape(), work, "auto", kind) for kind in ("model", "fp8", "auto"))
    assert narrow.fit == Fit(16, 168, narrow_cache=True) and auto == narrow and narrow.fit.pages > 2 * wide.fit.pages
    assert narrow.seconds == pytest.approx(0.097 + 800 * (23.2e9 / 168 + 303e6) / 3.015e12, rel=0.02)
    assert not bound(GPUS["a100"], Shape(), work, "auto", "auto").fit.narrow_cache
    with pytest.raises(UsageError, match=r"--device a100: PAGEPACK_KV_CACHE=fp8 needs an Ada or Hopper GPU"):
        bound(GPUS["a100"], Shape(), work, "auto", "fp8")
    with pytest.raises(UsageError, match=r"--device rtx3060: --quantize fp8 needs .*--quantize int8 reads there"):
        bound(GPUS["rtx3060"], Shape(), work, "fp8")


def test_cards_of_24_16_and_12_gb_read_pixtral_12b_with_the_weights_that_fit() -> None:
    work = PageWork([3136], 3186, 800)
    found = {name: bound(GPUS[name], Shape(), work, "auto", "auto").fit for name in ("rtx4090", "rtx4080", "rtx4070")}
    assert {name: one.bits for name, one in found.items()} == {"rtx4090": 8, "rtx4080": 4, "rtx4070": 4}
    assert all(one.narrow_cache for one in found.values())
    older = {name: bound(GPUS[name], Shape(), work, "auto", "auto").fit for name in ("rtx3090", "rtx3060")}
    assert {name: one.bits for name, one in older.items()} == {"rtx3090": 8, "rtx3060": 4}
    assert not any(one.narrow_cache for one in older.values())


def test_only_settings_that_would_make_it_fit_are_offered() -> None:
    """Of weights of 8 bits 14.5 GB; of 4, 9.7."""
    for device, shape, quantize, kv_cache, offered in (
        ("rtx4070", Shape(), "int8", "model", ["--quantize int4"]),
        ("rtx4080", Shape(), "int8", "model", ["--quantize int4", "PAGEPACK_KV_CACHE=fp8"]),
        ("rtx3060", Shape(), "int8", "model", ["--quantize int4"]),
        ("rtx4070", Shape(), "int8", "fp8", ["--quantize int4"]),
        ("rtx4070", Shape(n_layers=45), "int8", "model", ["--quantize int4 with PAGEPACK_KV_CACHE=fp8"]),
        ("rtx4070", Shape(n_layers=45), "auto", "model", ["PAGEPACK_KV_CACHE=fp8"]),
        ("rtx4070", Shape(n_layers=80), "int8", "model", []),
    ):
        with pytest.raises(UsageError) as caught:
            fit_on(GPUS[device], shape, quantize, kv_cache)
        said = str(caught.value).partition("do not hold; ")[2]
        assert said == ", or ".join(["name a larger device", "another --model", *offered]), (device, quantize)


def test_a_page_of_more_tokens_is_more_work_and_a_tiny_one_costs_something() -> None:
    """On two busy cores the small reader took 0.39 s a page of 56 + 36 tokens, and 1.33 s a page of 2,044 + 31; Pixtral
    12B on an H100 takes 97 ms for a prompt and 234 for its answer, by the sum above."""
    reader = read_shape(Path(__file__).parents[2] / "benchmarks" / "reader" / "checkpoint")
    tiny, large = (
        work_of(reader, PageWork([prompt - 14], prompt, answer)) for prompt, answer in ((56, 36), (2044, 31))
    )
    assert 1.33 / 0.39 < large / tiny < 2 * 1.33 / 0.39
    asked, answered = (work_of(Shape(), PageWork([3136], 3186, tokens)) for tokens in (0, 800))
    assert answered / asked == pytest.approx(1 + 234 / 97, rel=0.35)


def test_a_second_question_about_a_page_spares_its_images() -> None:
    first, second = (
        bound(GPUS["h100"], Shape(), PageWork([3136], 3186, 1, is_cached=is_cached)) for is_cached in (False, True)
    )
    assert second.seconds < 0.05 * first.seconds


def test_weights_are_as_wide_as_fit_and_a_model_that_fits_no_card_is_refused() -> None:
    work = PageWork([3136], 3186, 800)
    assert bound(GPUS["l4"], Shape(), work).fit.bits == 8
    with pytest.raises(UsageError, match=r"--device l4: .* 24 GB do not hold; name a larger device"):
        bound(GPUS["l4"], Shape(name="large", n_layers=400), work)


def test_weights_are_narrower_where_the_wider_leave_room_for_fewer_pages_than_they_have_bits() -> None:
    found = {name: fit_on(GPUS[name], Shape(), "auto", "model") for name in ("a100-40gb", "rtx5090", "a10", "rtx4080")}
    assert found == {
        "a100-40gb": Fit(16, 16, narrow_cache=False), "rtx5090": Fit(8, 24, narrow_cache=False),
        "a10": Fit(8, 14, narrow_cache=False), "rtx4080": Fit(4, 9, narrow_cache=False),
    }  # fmt: skip
    work, wide = PageWork([3136], 3186, 800), Fit(16, pages_at_once(Shape(), 32 * 2**30, 16), narrow_cache=False)
    seconds = [_page_seconds(GPUS["rtx5090"], Shape(), work, fit) for fit in (wide, found["rtx5090"])]
    assert wide.pages == 9 and seconds[0] / seconds[1] == pytest.approx(2, abs=0.1)


def test_what_fits_two_cards_and_not_one_is_told_beside_narrower_weights() -> None:
    def words(device: str, shape: Shape, quantize: str = "auto") -> str:
        return fit_words(GPUS[device], shape, fit_on(GPUS[device], shape, quantize, "model"), quantize)

    large = Shape(name="24B", hidden_dim=32768)
    said = words("rtx5090", large)
    assert "weights of 4 bits, for those of 16 leave too little room" in said
    assert "over two they fit (--devices 0+1), 25.8 GB of weights on each and 13 pages at once" in said
    assert "--devices" not in words("l4", large)  # nor do two of those
    assert "--devices" not in words("rtx5090", replace(large, n_kv_heads=1))
    assert words("a100-40gb", large, "int8") == ", with weights in int8, 16 pages at once, their cache in bfloat16"
    assert words("h100", large) == ", 40 pages at once, their cache in bfloat16"


def test_a_checkpoint_says_its_own_shape(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text(json.dumps(PIXTRAL))
    assert read_shape(tmp_path) == Shape(name=tmp_path.name)
    del PIXTRAL["dim"]
    (tmp_path / "params.json").write_text(json.dumps(PIXTRAL))
    with pytest.raises(UsageError, match=r"params\.json has no 'dim'"):
        read_shape(tmp_path)
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_shape(tmp_path / "none")


def test_a_device_is_found_however_it_is_written_and_another_told_with_its_near_one() -> None:
    assert find_gpu("RTX 4090").name == "rtx4090"
    with pytest.raises(UsageError, match=r"--device h10: .* did you mean h100\? known are b200, h200"):
        find_gpu("h10")
    with pytest.raises(UsageError, match=r"--device t4: its compute capability is 7\.5, and pixtral needs 8\.0"):
        find_gpu("T4")
