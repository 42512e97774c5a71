"""A page larger than 1,024 px: the whole page and its tiles in one prompt, from pixels to the answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from mistral_common.protocol.instruct.chunk import ImageChunk, TextChunk
from mistral_common.protocol.instruct.messages import UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from PIL import Image

from benchmarks.checkpoint import PRESETS, make_checkpoint, random_tensors
from pipeline.documents.pages.tiles import plan_tiles
from schemas.prompts import OCR, Prompt
from tests import pixtral_reference as reference
from workers.engines.pixtral import PixtralEngine
from workers.pixtral.cpu.backend import CpuBackend
from workers.pixtral.engine import PackedEngine
from workers.pixtral.executor import Executor
from workers.pixtral.model import vision
from workers.pixtral.model.load import load_model
from workers.pixtral.plan.cache_blocks import BlockPool
from workers.pixtral.plan.scheduler import Limits, Scheduler
from workers.pixtral.plan.sequence import Sampling
from workers.pixtral.text.processor import Processor
from workers.pixtral.text.tile_images import ABOUT_TILES

SEED = 7
SHORT = Sampling(max_tokens=9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("tiny"), "tiny", seed=SEED)


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def processor(folder, model):
    return Processor(folder, model.config)


def page(number, width, height):
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def tiling_of(pixels):
    return plan_tiles(pixels.shape[1], pixels.shape[0], side=1024, cell=16)


def request(processor, number, width, height, text="read", sampling=SHORT):
    pixels = page(number, width, height)
    return processor.encode_page(f"p{number}", pixels, text, sampling, None, tiling_of(pixels))


class WatchedExecutor(Executor):
    """Knows how many images' features were held at once."""

    most_held = 0

    def _encode_group(self, group):
        super()._encode_group(group)
        self.most_held = max(self.most_held, len(self.features))


def read(
    model,
    requests,
    *,
    chunk=64,
    budget=128,
    blocks=4096,
    max_sequences=8,
    max_context=1024,
    tile_tokens=0,
    step_keys=2**31,
    make_backend=CpuBackend,
):
    """Through a fresh engine, all at once; results in order, the executor and the scheduler."""
    limits = Limits(max_sequences, chunk, budget, max_context, tile_tokens=tile_tokens, step_keys=step_keys)
    executor = WatchedExecutor(make_backend(model, limits, blocks, 8, 32), limits)
    scheduler = Scheduler(limits, BlockPool(blocks, 8), expected_output_tokens=0)
    engine = PackedEngine(executor, scheduler, str, 2, lookahead=False)
    try:
        with engine._wake:  # so that all wait before the first step
            futures = [engine.submit(request) for request in requests]
        results = [future.result(60) for future in futures]
    finally:
        engine.close()
    scheduler.pool.check([])
    assert not executor.features, "features outlive their sequence"
    return results, executor, scheduler


def test_tokens_and_pixels_are_mistral_commons_for_the_same_images(processor, folder):
    pixels = page(0, 80, 1600)
    tiling = tiling_of(pixels)
    ours = processor.encode_page("p", pixels, "read", SHORT, None, tiling)
    whole = Image.new("RGB", (64, 1024), "white")
    whole.paste(Image.fromarray(pixels).resize((51, 1024), Image.Resampling.LANCZOS))
    images = [whole, *(Image.fromarray(pixels[top:bottom, left:right]) for left, top, right, bottom in tiling.boxes)]
    assert len(images) == 3 and all(max(image.size) <= 1024 for image in images)
    about = ABOUT_TILES.format(last=3, rows=2, columns=1)
    content = [*(ImageChunk(image=image) for image in images), TextChunk(text=about + "read")]
    tokenizer = MistralTokenizer.from_file(str(folder / "tekken.json"))
    expected = tokenizer.encode_chat_completion(ChatCompletionRequest(messages=[UserMessage(content=content)]))
    assert list(ours.tokens) == expected.tokens
    for image, theirs in zip(ours.images, expected.images, strict=True):
        assert image.pixels.dtype == np.uint8, "a tile was resampled"
        normalised = vision.normalise(torch.from_numpy(image.pixels)).permute(2, 0, 1)
        assert torch.equal(normalised, torch.from_numpy(np.ascontiguousarray(theirs)))
    assert ours.prefix_length == ours.image_end == 2 + 64 * 5 + 2 * 54 * 6 and ours.tile_tokens == 2 * 54 * 6
    assert ours.tokens.count(13) == 3, "each image has its end"
    assert all(np.shares_memory(image.pixels, pixels) for image in ours.images[1:]), "tiles wait beside their page"


def test_an_answer_about_tiles_equals_the_plain_reference(model, processor):
    asked = request(processor, 1, 1600, 32, sampling=Sampling(max_tokens=3))
    (result,), executor, _ = read(model, [asked])
    weights = reference.as_float64(random_tensors(PRESETS["tiny"], SEED))
    pixels = [image.pixels for image in asked.images]
    assert len(pixels) == 3 and executor.images_encoded == 3
    expected = reference.greedy(weights, PRESETS["tiny"], list(asked.tokens), pixels, len(result.tokens))
    assert list(result.tokens) == expected


def test_packed_with_others_and_preempted_its_text_is_the_same(model, processor):
    """Large and small pages beside each other, in a cache that is too small for all, in chunks that end anywhere."""
    asked = [
        request(processor, 2, 1600, 32),
        request(processor, 3, 48, 64),
        request(processor, 4, 32, 1600),
        request(processor, 2, 1600, 32, "what is it?"),
    ]
    alone = [read(model, [one])[0][0].tokens for one in asked]
    assert len(set(alone)) == len(alone)
    for more in ({}, {"chunk": 7, "budget": 7}, {"blocks": 200}, {"step_keys": 800}):
        results, _, _ = read(model, asked, **more)
        assert [result.tokens for result in results] == alone, more
    tight = sum(-(-(len(one.tokens) + 1) // 8) for one in (asked[0], asked[2]))
    results, _, scheduler = read(model, [asked[0], asked[2]], blocks=tight)
    assert [result.tokens for result in results] == [alone[0], alone[2]] and scheduler.preemptions


def test_a_second_prompt_takes_the_prefix_of_all_images(model, processor):
    asked = [request(processor, 5, 1600, 32, text) for text in ("read", "describe")]
    _, executor, scheduler = read(model, asked)
    assert executor.images_encoded == 3
    assert scheduler.prefix_hit_tokens == asked[0].prefix_length > 2 + 130


def test_pages_that_differ_in_one_tile_share_nothing(processor):
    one, other = request(processor, 6, 1600, 32), request(processor, 7, 1600, 32)
    assert one.prefix_key != other.prefix_key and len({image.digest for image in one.images}) == 3


def test_only_the_images_under_way_have_features(model, processor):
    """A page of many tiles must not hold them all at once: 42 MB of features each for Pixtral 12B."""
    asked = request(processor, 8, 16, 8192)
    assert len(asked.images) == 10
    _, executor, _ = read(model, [asked])
    assert executor.images_encoded == 10 and executor.most_held <= 3


def test_tiles_leave_the_room_for_text_as_it_is(model, processor):
    """The context that each page has counts one image; the answer to a large page is as long as that to a small one."""
    large, small = (request(processor, 9, *size, sampling=Sampling(max_tokens=500)) for size in [(1600, 32), (16, 16)])
    limit = len(small.tokens) + 20
    assert len(large.tokens) > limit
    results, _, _ = read(model, [small], max_context=limit)
    assert len(results[0].tokens) <= 20 and results[0].finish_reason in ("length", "stop")
    room = Scheduler(Limits(1, 64, 64, 600), BlockPool(4096, 8))
    assert large.tile_tokens == 220 and len(large.tokens) - large.tile_tokens < 600 < len(large.tokens)
    from workers.pixtral.plan.sequence import Sequence

    sequence = Sequence.of(large)
    assert room.fits(sequence)
    room.add(sequence)
    assert sequence.max_tokens == 600 + 220 - len(large.tokens)


# The adapter


@pytest.fixture(scope="module")
def adapter(folder):
    engine = PixtralEngine(folder, device="cpu", memory_bytes=400_000_000)
    yield engine
    engine.close()


def test_the_adapter_cuts_a_large_page_once_and_says_where(adapter):
    prompts = [Prompt("ocr", "read", max_tokens=4), Prompt("describe", "describe it", max_tokens=4)]
    before = adapter.stats()
    answers = [future.result(30) for future in adapter.submit("h", page(10, 32, 2048), prompts)]
    boxes = [[0, 0, 32, 768], [0, 640, 32, 1408], [0, 1280, 32, 2048]]
    assert [answer.details["tiles"] for answer in answers] == [boxes, boxes]
    after = adapter.stats()
    assert after["images"] == before["images"] + 4 and after["prefix_hit_tokens"] > before["prefix_hit_tokens"]


def test_a_page_within_the_positions_or_little_over_goes_whole(adapter):
    small, larger, large = (
        adapter.submit("h", page(11, *size), [Prompt("p", "x", max_tokens=1)])[0].result(30)
        for size in [(1024, 16), (1360, 16), (1376, 16)]
    )
    assert small.prompt_tokens == larger.prompt_tokens == 2 + 65 + len("x") + 1  # 1,024 × 16 px
    assert "tiles" not in small.details and larger.details["tiles"] == []
    assert len(large.details["tiles"]) == 2


def test_a_seam_that_the_model_doubles_is_joined_in_transcriptions_alone(adapter, monkeypatch):
    lines = [f"line {number} of a long receipt" for number in range(12)]
    doubled = "\n".join([*lines[:8], *lines[4:8], *lines[8:]])
    said = replace(adapter._built.engine.vocabulary, decode=lambda _tokens: doubled)
    monkeypatch.setattr(adapter._built.engine, "vocabulary", said)
    pixels = page(12, 32, 2048)
    ocr, other = replace(OCR, max_tokens=4), Prompt("own", OCR.text, max_tokens=4)
    read, asked = (future.result(60) for future in adapter.submit("h", pixels, [ocr, other]))
    assert read.text.split("\n") == lines and read.details["doubled_lines"] == lines[4:8]
    assert asked.text == doubled and "doubled_lines" not in asked.details
    (small,) = adapter.submit("s", page(13, 32, 32), [ocr])
    assert small.result(60).text == doubled
