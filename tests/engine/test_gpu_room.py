"""What the worst step of real checkpoints takes on a GPU, on tensors without memory: the engine's sum holds it."""

from __future__ import annotations

import sys

import pytest
import torch

if not sys.platform.startswith("linux"):
    pytest.skip("Triton comes for Linux", allow_module_level=True)
pytest.importorskip("triton")

from benchmarks.family import FAMILY
from pipeline.planning import card_room
from pipeline.planning.step_room import KEPT_BYTES, gpu_step_bytes
from tests.engine import gpu_bytes
from workers.pixtral.model.config import config_of
from workers.pixtral.model.load import empty_model, weight_bytes_as
from workers.pixtral.plan import sizes
from workers.pixtral.plan.scheduler import Limits

# One test process imports torch's compiler and Triton for both modules.
pytestmark = pytest.mark.xdist_group("test_gpu_programs")

KINDS = [(None, False), ("int8", False), ("fp8", True), ("int4", True)]
STEPS = list(zip(card_room.STEPS, (256, 32, 8, 4), strict=True))
OTHERS = [("Mistral Small 3.2", *STEPS[0]), ("Mistral Small 3.2", *STEPS[2]), ("Ministral 3 3B", *STEPS[3])]


@pytest.mark.parametrize(("kind", "narrow_cache"), KINDS)
@pytest.mark.parametrize(("name", "step", "most"), [*(("Pixtral 12B", *step) for step in STEPS), *OTHERS])
def test_no_worst_step_takes_more_than_its_sum(name, step, most, kind, narrow_cache):
    longest = card_room.LONGEST_TOKENS if narrow_cache else card_room.TILED_TOKENS
    limits = Limits(
        most, *step, card_room.LONGEST_TOKENS, tile_tokens=longest - card_room.LONGEST_TOKENS, step_keys=longest
    )  # fmt: skip
    config = config_of(FAMILY[name])
    taken = gpu_bytes.worst_bytes(FAMILY[name], limits, kind, narrow_cache=narrow_cache)
    told = gpu_step_bytes(sizes.shape_of(config), limits, longest, kind, narrow_cache=narrow_cache)
    told -= KEPT_BYTES  # which are for what libraries take
    assert 0.5 * told < taken < told, (taken, told)


@pytest.mark.parametrize(
    ("gibibytes", "kind", "narrow_cache", "sequences"),
    [(139, None, False, 184), (131, None, True, 256), (131, "fp8", False, 184), (131, "fp8", True, 256)],
)
def test_an_h200_holds_184_sequences_of_pixtral_12b_and_more(gibibytes, kind, narrow_cache, sequences):
    """139 GiB are what it shows, and 131 what 141 GB would be; 92 % of them are granted."""
    model = empty_model(config_of(FAMILY["Pixtral 12B"])).to(torch.bfloat16)
    weights, granted = weight_bytes_as(model, kind), int(gibibytes * 2**30 * 0.92)
    fit = sizes.size_engine(
        model.config, weights, granted, 2, on_gpu=True, kind=kind, narrow_cache=narrow_cache
    )  # fmt: skip
    assert fit.limits.max_sequences == sequences and fit.limits.token_budget == 8192
    cache = fit.num_blocks * card_room.BLOCK_SIZE * sizes.token_bytes(model.config, 2, narrow=narrow_cache)
    longest = fit.limits.max_context + fit.limits.tile_tokens
    step = gpu_step_bytes(sizes.shape_of(model.config), fit.limits, longest, kind, narrow_cache=narrow_cache)
    assert weights + cache + step <= granted and longest == card_room.TILED_TOKENS
    assert fit.num_blocks * card_room.BLOCK_SIZE >= sequences * card_room.TYPICAL_TOKENS


@pytest.mark.parametrize(
    ("gibibytes", "kind", "narrow_cache"),
    [(24, "int8", False), (24, "fp8", True), (16, "int4", False), (12, "int4", False), (12, "int4", True)],
)
def test_small_cards_hold_pixtral_12b_by_bytes_that_were_counted(gibibytes, kind, narrow_cache):
    """Weights, the cache and the worst step, run within the limits that the engine would take there."""
    params = FAMILY["Pixtral 12B"]
    model = empty_model(config_of(params)).to(torch.bfloat16)
    weights, granted = weight_bytes_as(model, kind), int(gibibytes * 2**30 * 0.92)
    fit = sizes.size_engine(
        model.config, weights, granted, 2, on_gpu=True, kind=kind, narrow_cache=narrow_cache
    )  # fmt: skip
    cache = fit.num_blocks * card_room.BLOCK_SIZE * sizes.token_bytes(model.config, 2, narrow=narrow_cache)
    taken = gpu_bytes.worst_bytes(params, fit.limits, kind, narrow_cache=narrow_cache)
    assert weights + cache + taken + KEPT_BYTES <= granted
    assert fit.limits.max_context == card_room.LONGEST_TOKENS


def test_where_little_is_left_the_answer_to_a_full_page_is_shorter():
    """A card of 12 GiB of which a screen takes one, with a cache in the model's own type."""
    model = empty_model(config_of(FAMILY["Pixtral 12B"])).to(torch.bfloat16)
    weights = weight_bytes_as(model, "int4")
    fit = sizes.size_engine(model.config, weights, 11_400_000_000, 2, on_gpu=True, kind="int4")
    room = fit.num_blocks * card_room.BLOCK_SIZE
    assert card_room.LEAST_TOKENS <= room < card_room.LONGEST_TOKENS and fit.limits.max_context == room
    assert f"the answer to a full page ends after {room - card_room.IMAGE_TOKENS - 300:,} tokens" in fit.arithmetic
    assert sizes.image_room(room) == card_room.IMAGE_TOKENS, "a full page is not shrunk for it"
