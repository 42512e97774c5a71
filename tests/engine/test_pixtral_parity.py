"""The packed forward against a plain float64 reference, mistral-inference and transformers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from benchmarks.checkpoint import PRESETS, random_tensors, tiny_tokenizer, trainable_model, write_checkpoint
from tests import pixtral_reference as reference
from workers.pixtral.model import decoder, vision
from workers.pixtral.model.load import load_model
from workers.pixtral.model.packed import attend_packed

TINY = PRESETS["tiny"]


def causal(lengths):
    """Each of the packed sequences attends to itself and its past, and to nothing else; no cache."""
    return lambda _layer, query, key, value: attend_packed(query, key, value, lengths, causal=True).flatten(1)


def variant(**vision_keys):
    params = copy.deepcopy(TINY)
    params["vision_encoder"].update(vision_keys)
    return params


VARIANTS = {
    "pixtral": TINY,
    "small": variant(
        mm_projector_id="patch_merge",
        spatial_merge_size=2,
        add_pre_mm_projector_layer_norm=True,
        adapter_bias=False,
    ),
    "moe": {**TINY, "moe": {"num_experts": 4, "num_experts_per_tok": 2}},
}


def draw(rows, columns, seed):
    return np.random.default_rng(seed).integers(0, 256, (rows * 16, columns * 16, 3), dtype=np.uint8)


def image_tokens(rows, columns, merge=1):
    tokens = ([10] * (columns // merge) + [12]) * (rows // merge)
    return [*tokens[:-1], 13]


@pytest.fixture(scope="module", params=list(VARIANTS))
def checkpoint(request, tmp_path_factory):
    params = VARIANTS[request.param]
    tensors = random_tensors(params, seed=7)
    folder = write_checkpoint(tmp_path_factory.mktemp(request.param), params, tensors, tiny_tokenizer())
    return params, tensors, folder


def pack(params, pages):
    merge = params["vision_encoder"].get("spatial_merge_size", 1)
    return [[1, 3, *image_tokens(*grid, merge), *text, 4] for grid, text in pages]


PAGES = [((4, 6), [30, 31, 32]), ((2, 2), [40]), ((6, 4), [50, 51]), ((4, 6), [60])]


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # float64: rounding of angles, which rotate in float32 as the checkpoint was trained; float32: of ~10 sums in a row
    [(torch.float64, 2e-5), (torch.float32, 1e-3)],
)
def test_packed_logits_equal_the_plain_reference(checkpoint, dtype, tolerance):
    params, tensors, folder = checkpoint
    model = load_model(folder, dtype=dtype)
    pixels = [draw(*grid, seed) for seed, (grid, _) in enumerate(PAGES)]
    prompts = pack(params, PAGES)
    lengths = [len(prompt) for prompt in prompts]
    with torch.inference_mode():
        features = vision.encode_images(model, [torch.from_numpy(image) for image in pixels])
        hidden = decoder.embed(model, torch.tensor([token for prompt in prompts for token in prompt]), features)
        positions = torch.cat([torch.arange(length) for length in lengths])
        hidden = decoder.run_layers(model, hidden, positions, causal(lengths))
        packed = decoder.logits(model, hidden).split(lengths)
    weights = reference.as_float64(tensors)
    for prompt, image, ours in zip(prompts, pixels, packed, strict=True):
        expected = reference.logits(weights, params, prompt, [image])
        assert (ours.double() - expected).abs().max() < tolerance * expected.std()


def test_patch_positions_restart_in_each_image():
    assert vision.patch_positions([(2, 3), (1, 2)]).tolist() == [
        [0, 0],
        [0, 1],
        [0, 2],
        [1, 0],
        [1, 1],
        [1, 2],
        [0, 0],
        [0, 1],
    ]


@pytest.mark.xdist_group("reader")  # whose test process imports mistral-inference, and torch's compiler with it
def test_vision_equals_mistral_inference_for_one_image(checkpoint, monkeypatch):
    """float32, 1e-4 of the features' spread: the same sums in another order."""
    import mistral_inference.transformer_layers as theirs
    from mistral_inference.transformer import Transformer

    def attend_all(query, key, value, _bias):
        out = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value)))
        return out.transpose(1, 2).contiguous()

    monkeypatch.setattr(theirs, "memory_efficient_attention", attend_all)
    params, _, folder = checkpoint
    model, upstream = load_model(folder), Transformer.from_folder(folder, device="cpu")
    image = torch.from_numpy(draw(4, 6, seed=1))
    with torch.inference_mode():
        hidden = upstream.vision_encoder([vision.normalise(image).permute(2, 0, 1)])
        if params["vision_encoder"].get("add_pre_mm_projector_layer_norm"):
            hidden = upstream.patch_merger(upstream.pre_mm_projector_norm(hidden), image_sizes=[(4, 6)])
        expected = upstream.vision_language_adapter(hidden)
        ours = vision.encode_images(model, [image])
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() < 1e-4 * expected.std()


def test_gradients_reach_every_weight_and_equal_finite_differences():
    model = trainable_model(TINY, seed=3).double()
    image = torch.from_numpy(draw(2, 3, seed=5))
    prompt = torch.tensor([1, 3, *image_tokens(2, 3), 4, 90, 91])

    def loss():
        features = vision.encode_images(model, [image])
        hidden = decoder.embed(model, prompt, features)
        attend = causal([len(prompt)])
        hidden = decoder.run_layers(model, hidden, torch.arange(len(prompt)), attend)
        return torch.nn.functional.cross_entropy(decoder.logits(model, hidden)[-3:-1], prompt[-2:])

    loss().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    for name in (
        "vision_encoder.patch_conv.weight",
        "layers.0.attention.wk.weight",
        "vision_language_adapter.w_in.bias",
    ):
        parameter = model.get_parameter(name)
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        index = int(gradient.abs().argmax())
        with torch.no_grad():
            flat[index] += 1e-5
            above = loss()
            flat[index] -= 2e-5
            below = loss()
            flat[index] += 1e-5
        assert float((above - below) / 2e-5) == pytest.approx(float(gradient[index]), rel=1e-3), name
