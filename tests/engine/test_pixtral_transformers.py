"""The same weights in transformers' Llava and Pixtral classes: an implementation that shares no code with ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.checkpoint import make_checkpoint
from tests.engine.test_pixtral_parity import causal
from workers.pixtral.model import decoder, vision
from workers.pixtral.model.load import load_model

pytestmark = pytest.mark.xdist_group("reader")  # whose test process imports mistral-inference, half of transformers


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    from benchmarks.transformers_twin import transformers_twin

    folder = make_checkpoint(tmp_path_factory.mktemp("tiny"), "tiny", seed=11)
    return load_model(folder), transformers_twin(folder, torch.float32)


@pytest.mark.parametrize("grid", [(4, 6), (6, 4), (1, 9), (12, 12)])
def test_logits_equal_transformers(both, grid):
    """float32, 1e-3 of the logits' spread: theirs turns halves, sums in another order."""
    ours, theirs = both
    rows, columns = grid
    pixels = torch.from_numpy(np.random.default_rng(5).integers(0, 256, (rows * 16, columns * 16, 3), dtype=np.uint8))
    tokens = torch.tensor([1, 3, *([*[10] * columns, 12] * rows)[:-1], 13, 60, 61, 62, 4])
    with torch.inference_mode():
        hidden = decoder.embed(ours, tokens, vision.encode_images(ours, [pixels]))
        attend = causal([len(tokens)])
        logits = decoder.logits(ours, decoder.run_layers(ours, hidden, torch.arange(len(tokens)), attend))
        expected = theirs(
            input_ids=tokens[None],
            pixel_values=vision.normalise(pixels).permute(2, 0, 1)[None],
            image_sizes=torch.tensor([pixels.shape[:2]]),
        ).logits[0]
    assert (logits - expected).abs().max() < 1e-3 * expected.std()


def test_logits_of_a_prompt_with_several_images_equal_transformers(both):
    """As a large page and its tiles are: images of two sizes, one after the other, before the text."""
    ours, theirs = both
    grids = [(8, 6), (5, 6), (5, 6)]
    draw = np.random.default_rng(6)
    images = [torch.from_numpy(draw.integers(0, 256, (r * 16, c * 16, 3), dtype=np.uint8)) for r, c in grids]
    placed = [token for rows, columns in grids for token in [*([*[10] * columns, 12] * rows)[:-1], 13]]
    tokens = torch.tensor([1, 3, *placed, 60, 61, 62, 4])
    padded = torch.zeros(3, 3, 128, 96)  # to the largest; `image_sizes` says what is of each
    for place, image in enumerate(images):
        padded[place, :, : image.shape[0], : image.shape[1]] = vision.normalise(image).permute(2, 0, 1)
    with torch.inference_mode():
        hidden = decoder.embed(ours, tokens, vision.encode_images(ours, images))
        attend = causal([len(tokens)])
        logits = decoder.logits(ours, decoder.run_layers(ours, hidden, torch.arange(len(tokens)), attend))
        sizes = torch.tensor([image.shape[:2] for image in images])
        expected = theirs(input_ids=tokens[None], pixel_values=padded, image_sizes=sizes).logits[0]
    assert (logits - expected).abs().max() < 1e-3 * expected.std()
