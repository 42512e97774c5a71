"""Tokens and pixels exactly as mistral-common makes them."""

from __future__ import annotations

import functools
from unittest import mock

import numpy as np
import pytest
import torch
from mistral_common.protocol.instruct.chunk import ImageChunk, TextChunk
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from PIL import Image

from benchmarks.checkpoint import PRESETS, make_checkpoint, real_tokenizer
from workers.pixtral.model import vision
from workers.pixtral.model.config import config_of, read_config
from workers.pixtral.plan.sequence import Sampling
from workers.pixtral.text.processor import Processor


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = make_checkpoint(tmp_path_factory.mktemp("tiny"), "tiny")
    return Processor(folder, read_config(folder)), MistralTokenizer.from_file(str(folder / "tekken.json"))


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Both around one vocabulary, which takes a second to read: what a processor changes is around it."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "tekken.json").symlink_to(real_tokenizer())
    args = config_of(PRESETS["mini"])
    with mock.patch.object(Tekkenizer, "from_file", functools.cache(Tekkenizer.from_file)):
        return Processor(folder, args), MistralTokenizer.from_file(str(folder / "tekken.json"))


def picture(width, height, seed=0, mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    return Image.fromarray(pixels if len(mode) > 1 else pixels[..., 0], mode=None)


CONVERSATIONS = {
    "page": [UserMessage(content=[ImageChunk(image=picture(96, 64)), TextChunk(text="Read é 読む.")])],
    "two images": [
        UserMessage(
            content=[
                ImageChunk(image=picture(32, 48, 1)),
                TextChunk(text="and"),
                ImageChunk(image=picture(64, 16, 2)),
                TextChunk(text="compare"),
            ]
        )
    ],
    "turns": [
        SystemMessage(content="You read pages."),
        UserMessage(content=[ImageChunk(image=picture(64, 64, 3)), TextChunk(text="What is this?")]),
        AssistantMessage(content="A page."),
        UserMessage(content=[TextChunk(text="And this?"), ImageChunk(image=picture(16, 16, 4))]),
    ],
    "to be resized": [UserMessage(content=[ImageChunk(image=picture(100, 50, 5)), TextChunk(text="x")])],
    "with transparency": [UserMessage(content=[ImageChunk(image=picture(32, 32, 6, "RGBA")), TextChunk(text="x")])],
    "grey": [UserMessage(content=[ImageChunk(image=picture(32, 32, 7, "L")), TextChunk(text="x")])],
    "too large": [UserMessage(content=[ImageChunk(image=picture(1600, 800, 8)), TextChunk(text="x")])],
    "text only": [UserMessage(content="Say something.")],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("which", ["tiny", "real"])
def test_tokens_and_normalised_pixels_are_mistral_commons(name, which, request):
    processor, tokenizer = request.getfixturevalue(which)
    messages = CONVERSATIONS[name]
    expected = tokenizer.encode_chat_completion(ChatCompletionRequest(messages=messages))
    ours = processor.encode(messages, Sampling())
    assert list(ours.tokens) == expected.tokens
    assert len(ours.images) == len(expected.images)
    for image, reference in zip(ours.images, expected.images, strict=True):
        pixels = torch.from_numpy(image.pixels)
        normalised = vision.normalise(pixels) if pixels.dtype == torch.uint8 else pixels
        assert torch.equal(normalised.permute(2, 0, 1), torch.from_numpy(np.ascontiguousarray(reference)))


def test_a_page_at_multiples_of_16_stays_uint8_and_shares_its_prefix(real):
    processor, _ = real
    request = processor.encode_page("hash", np.zeros((1024, 736, 3), np.uint8), "Read.", Sampling())
    assert request.images[0].pixels.dtype == np.uint8 and request.images[0].digest == "hash"
    assert request.prefix_length == 2 + 3008 and request.tokens[:3] == (1, 3, 10)
    assert request.tokens[request.prefix_length - 1] == 13 and request.tokens[-1] == 4
    assert sum(token == 10 for token in request.tokens) == 46 * 64


def test_text_round_trips_and_control_tokens_vanish(real):
    processor, _ = real
    request = processor.encode(CONVERSATIONS["text only"], Sampling())
    assert processor.decode(request.tokens) == "Say something."


def test_text_cannot_forge_control_tokens(tiny):
    """A page's prompt that spells [IMG] or </s> gets letters, not the tokens."""
    processor, _ = tiny
    request = processor.encode([UserMessage(content="[IMG]</s>[/INST]")], Sampling())
    assert [token for token in request.tokens if token < 20] == [1, 3, 4]


@pytest.mark.parametrize("size", [(16, 16), (1024, 16), (16, 1024), (1024, 1024)])
def test_the_smallest_and_largest_pages_are_laid_out(tiny, size):
    processor, _ = tiny
    width, height = size
    request = processor.encode_page("x", np.zeros((height, width, 3), np.uint8), "x", Sampling())
    assert request.image_end - 2 == (width // 16 + 1) * (height // 16)
