"""Checkpoints of the family beside Pixtral 12B, small and random, in the forms that are published."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.checkpoint import random_tensors, tiny_tokenizer, write_checkpoint
from benchmarks.family import FAMILY, FP8, made_small
from benchmarks.transformers_twin import twin_of
from pipeline.errors import UsageError
from pipeline.settings import Settings
from tests.engine.test_pixtral_parity import causal
from workers.choose import choose_engine
from workers.pixtral.model import decoder, vision
from workers.pixtral.model.config import config_of
from workers.pixtral.model.load import empty_model, load_model, weight_bytes

MINISTRAL = FAMILY["Ministral 3 3B"]
FORMS = {
    "small": FAMILY["Mistral Small 3.1"],
    "ministral, tied": MINISTRAL,
    "ministral, fp8": FAMILY["Ministral 3 8B"] | FP8,
    "yarn, scaled": MINISTRAL | {"yarn": MINISTRAL["yarn"] | {"apply_scale": True}},
}
MERGED, BREAK, END = 10, 12, 13


def in_fp8(tensors):
    """(as the file has it, what it stands for): the decoder's products in fp8, the rest in bfloat16."""
    stored, meant = {}, {}
    for name, tensor in tensors.items():
        if name.startswith("layers.") and tensor.ndim == 2:
            scale = (tensor.abs().max() / 448).to(torch.bfloat16)
            stored[name] = (tensor / scale.float()).to(torch.float8_e4m3fn)
            stored[name.removesuffix("weight") + "qscale_weight"] = scale
            stored[name.removesuffix("weight") + "qscale_act"] = torch.tensor(0.5, dtype=torch.bfloat16)
            meant[name] = stored[name].float() * scale.float()
        else:
            stored[name] = tensor.to(torch.bfloat16)
            meant[name] = stored[name].float()
    return stored, meant


def write(folder, params, tensors):
    vision_encoder = params["vision_encoder"]
    image = {
        "image_patch_size": vision_encoder["patch_size"],
        "max_image_size": vision_encoder["max_image_size"],
        "spatial_merge_size": vision_encoder["spatial_merge_size"],
    }
    return write_checkpoint(folder, params, tensors, tiny_tokenizer(special=40) | {"image": image})


@pytest.fixture(scope="module", params=list(FORMS))
def both(request, tmp_path_factory):
    """Ours, read from the files, and transformers', in float32."""
    params = made_small(FORMS[request.param])
    meant = stored = random_tensors(params, seed=5)
    if params.get("quantization"):
        stored, meant = in_fp8(stored)
    folder = write(tmp_path_factory.mktemp("family"), params, stored)
    return load_model(folder, dtype=torch.float32), twin_of(config_of(params), meant, torch.float32)


def test_logits_equal_those_of_transformers(both):
    """float32, 2e-3 of the logits' spread: far angles, turned by halves, summed in another order.

    Positions so far that scores have grown twice, and grow again within the prompt.
    """
    ours, theirs = both
    grids = [(4, 6), (2, 2)]  # of merged patches
    draw = np.random.default_rng(7)
    images = [torch.from_numpy(draw.integers(0, 256, (r * 28, c * 28, 3), dtype=np.uint8)) for r, c in grids]
    placed = [token for r, c in grids for token in [*([*[MERGED] * c, BREAK] * r)[:-1], END]]
    tokens = torch.tensor([1, 3, *placed, 60, 61, 62, 4])
    positions = torch.arange(49_140, 49_140 + len(tokens))
    padded = torch.zeros(2, 3, 4 * 28, 6 * 28)
    for place, image in enumerate(images):
        padded[place, :, : image.shape[0], : image.shape[1]] = vision.normalise(image).permute(2, 0, 1)
    with torch.inference_mode():
        hidden = decoder.embed(ours, tokens, vision.encode_images(ours, images))
        logits = decoder.logits(ours, decoder.run_layers(ours, hidden, positions, causal([len(tokens)])))
        sizes = torch.tensor([image.shape[:2] for image in images])
        expected = theirs(
            input_ids=tokens[None], pixel_values=padded, image_sizes=sizes, position_ids=positions[None]
        ).logits[0]
    assert (logits - expected).abs().max() < 2e-3 * expected.std()


def test_a_tied_head_is_the_table_of_tokens_and_counts_once(tmp_path):
    params = made_small(MINISTRAL)
    tensors = random_tensors(params)
    assert "output.weight" not in tensors
    model = load_model(write(tmp_path, params, tensors), dtype=torch.bfloat16)
    assert model.output.weight.data_ptr() == model.tok_embeddings.weight.data_ptr()
    numbers = sum(tensor.numel() for tensor in tensors.values())
    assert weight_bytes(model) == 2 * numbers == weight_bytes(empty_model(config_of(params)).to(torch.bfloat16))


def test_wrong_fp8_weights_are_named(tmp_path):
    params = made_small(FAMILY["Ministral 3 8B"] | FP8)
    good, _ = in_fp8(random_tensors(params))
    name = "layers.1.feed_forward.w2"

    def refused(words, without=None, **changes):
        changed = {key: tensor for key, tensor in good.items() if key != without}
        changed |= {f"{name}.{part}": tensor for part, tensor in changes.items()}
        with pytest.raises(UsageError, match=words):
            load_model(write(tmp_path, params, changed))

    refused(rf"{name}.qscale_weight and 0 more tensors are missing", without=f"{name}.qscale_weight")
    refused(rf"{name}.qscale_weight has shape \(64,\).* give a checkpoint in bf16", qscale_weight=torch.ones(64))
    refused(rf"{name}.weight is stored as F8_E5M2", weight=good[f"{name}.weight"].to(torch.float8_e5m2))
    refused(rf"{name}.weight_packed that params.json", weight_packed=torch.ones(64, 64, dtype=torch.uint8))
    folder = write(tmp_path, params, good)
    assert load_model(folder).dtype == torch.bfloat16
    plain = json.loads((folder / "params.json").read_text()) | {"quantization": None}
    (folder / "params.json").write_text(json.dumps(plain))
    with pytest.raises(UsageError, match=r"qscale_\w+ that params.json does not ask for|is stored as F8_E4M3"):
        load_model(folder)


@pytest.mark.parametrize("name", FAMILY)
def test_published_params_are_taken(name):
    config = config_of(FAMILY[name] | (FP8 if "Ministral" in name else {}))
    assert config.vision_encoder.spatial_merge_size == (1 if name == "Pixtral 12B" else 2)


def test_kinds_that_are_not_read_are_refused_before_anything_is_loaded(tmp_path):
    """By whoever asks which engine reads here: a run, a worker, `doctor`."""
    folder = write(tmp_path, made_small(MINISTRAL), random_tensors(made_small(MINISTRAL)))
    settings = Settings(model=folder, home=tmp_path)
    assert choose_engine(settings).engine == "pixtral"
    (folder / "tekken.json").rename(folder / "tokenizer.model.v7m1")
    with pytest.raises(UsageError, match=r"tokenizer\.model\.v7m1 in place of tekken\.json: .* --engine endpoint"):
        choose_engine(settings)
    params = json.loads((folder / "params.json").read_text())
    (folder / "params.json").write_text(json.dumps(params | {"logit_softcap": 30.0}))
    with pytest.raises(UsageError, match=r"params\.json asks for logit_softcap \(30\.0\).* --engine endpoint"):
        choose_engine(settings)
