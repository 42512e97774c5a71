"""Checkpoints of the family beside Pixtral 12B, small and random, in the forms that are published."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from mistral_common.protocol.instruct.chunk import ImageChunk, TextChunk
from mistral_common.protocol.instruct.messages import UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.checkpoint import random_tensors, tiny_tokenizer, write_checkpoint
from benchmarks.family import FAMILY, FP8, made_small
from benchmarks.transformers_twin import twin_of
from pipeline.documents.pages.tiles import plan_tiles
from pipeline.errors import UsageError
from pipeline.settings import Settings
from tests.engine.test_pixtral_parity import causal
from workers.choose import choose_engine
from workers.doctor import check_engines
from workers.pixtral.model import decoder, vision
from workers.pixtral.model.config import config_of
from workers.pixtral.model.load import empty_model, load_model, weight_bytes
from workers.pixtral.plan.sequence import Sampling
from workers.pixtral.start import start_engine
from workers.pixtral.text.processor import Processor
from workers.verify.reference import NotHere, read_reference

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


# By their places: what tokenizers of the version v7 have, then those of v11 and of v13 from 32 on.
SPECIAL = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
]
LATER = [*SPECIAL, *(f"<SPECIAL_{number}>" for number in range(20, 32)), "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"]
THINK = LATER.index("[THINK]")


def tokenizer(vision_encoder, version):
    made = tiny_tokenizer(special=40)
    made["config"]["version"] = version
    names = SPECIAL if version == "v7" else LATER
    made["special_tokens"] = [{"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)]
    made["image"] = {
        "image_patch_size": vision_encoder["patch_size"],
        "max_image_size": vision_encoder["max_image_size"],
        "spatial_merge_size": vision_encoder["spatial_merge_size"],
    }
    return made


def write(folder, params, tensors, version="v13"):
    return write_checkpoint(folder, params, tensors, tokenizer(params["vision_encoder"], version))


@pytest.fixture(scope="module", params=list(FORMS))
def both(request, tmp_path_factory):
    """Ours, read from the files, and transformers', in float32."""
    params = made_small(FORMS[request.param])
    meant = stored = random_tensors(params, seed=5)
    if params.get("quantization"):
        stored, meant = in_fp8(stored)
    folder = write(tmp_path_factory.mktemp("family"), params, stored)
    return load_model(folder, dtype=torch.float32), twin_of(config_of(params), meant, torch.float32)


@pytest.mark.xdist_group("reader")  # whose test process imports mistral-inference, half of transformers
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


def test_quantized_to_fp8_a_checkpoint_in_fp8_keeps_its_own_numbers(tmp_path):
    """Through bfloat16 and back; with scales of our own by row, many would be rounded a second time."""
    params = made_small(FAMILY["Ministral 3 8B"] | FP8)
    stored, _ = in_fp8(random_tensors(params, seed=9))
    model = load_model(write(tmp_path, params, stored), kind="fp8")
    for number, layer in enumerate(model.layers):
        products = {
            "attention.wq": layer.attention.product_q, "attention.wk attention.wv": layer.attention.product_kv,
            "attention.wo": layer.attention.wo, "feed_forward.w1 feed_forward.w3": layer.feed_forward.product_w1_w3,
            "feed_forward.w2": layer.feed_forward.w2,
        }  # fmt: skip
        for names, product in products.items():
            parts = [f"layers.{number}.{name}" for name in names.split()]
            weights = [stored[f"{part}.weight"].float() for part in parts]
            assert torch.equal(product.weight.float(), torch.cat(weights)), names
            scales = [
                stored[f"{part}.qscale_weight"].float().expand(len(w), 1)
                for part, w in zip(parts, weights, strict=True)
            ]
            assert torch.equal(product.scale, torch.cat(scales)), names


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
    (folder / "tokenizer.model.v7m1").rename(folder / "tekken.json")
    file = folder / "consolidated.safetensors"
    tensors, name = load_file(file), "layers.1.feed_forward.w2.weight"
    save_file(tensors | {name: tensors[name].to(torch.int8)}, file)
    small = "give a checkpoint in bf16, with --quantize int8 where the card is small, or .* --engine endpoint"
    with pytest.raises(UsageError, match=rf"consolidated\.safetensors: {name} is stored as I8, .*; {small}"):
        choose_engine(settings)
    params = json.loads((folder / "params.json").read_text())
    for key, asked in {"qformat_weight": "nvfp4", "quant_method": "gptq"}.items():
        (folder / "params.json").write_text(json.dumps(params | {"quantization": {key: asked}}))
        with pytest.raises(UsageError, match=rf'asks for quantization\.{key} \("{asked}"\).*; {small}'):
            choose_engine(settings)
    (folder / "params.json").write_text(json.dumps(params | {"logit_softcap": 30.0}))
    with pytest.raises(UsageError, match=r"params\.json asks for logit_softcap \(30\.0\).* --engine endpoint"):
        choose_engine(settings)


SCORES = {
    "llama_4_scaling": {"original_max_position_embeddings": 4, "beta": 2.0}
}  # they grow much within a short prompt


@pytest.fixture(scope="module")
def ministral(tmp_path_factory):
    params = made_small(FAMILY["Ministral 3 8B"] | SCORES)
    folder = write(tmp_path_factory.mktemp("ministral"), params, random_tensors(params, seed=3))
    return folder, load_model(folder), Processor(folder, config_of(params))


def test_the_paged_engine_writes_what_a_plain_pass_over_all_tokens_would(ministral):
    """Through chunks, tiles of rows, the wanted rows of the last layer, and decode steps: each has a rotation."""
    _, model, processor = ministral
    pages = [np.random.default_rng(seed).integers(0, 256, (56, 84, 3), dtype=np.uint8) for seed in (1, 2)]
    requests = [processor.encode_page(f"p{n}", page, "read it all", Sampling(9)) for n, page in enumerate(pages)]
    engine = start_engine(model, processor, 2 * 2**30)
    try:
        answers = [future.result().tokens for future in [engine.submit(request) for request in requests]]
    finally:
        engine.close()
    for request, page, answer in zip(requests, pages, answers, strict=True):
        grown = list(request.tokens)
        with torch.inference_mode():
            features = vision.encode_images(model, [torch.from_numpy(page)])
            while len(grown) < len(request.tokens) + len(answer):
                hidden = decoder.embed(model, torch.tensor(grown), features)
                attend, positions = causal([len(grown)]), torch.arange(len(grown))
                logits = decoder.logits(model, decoder.run_layers(model, hidden, positions, attend))
                grown.append(int(logits[-1].argmax()))
        assert tuple(grown[len(request.tokens) :]) == answer


@pytest.mark.parametrize("version", ["v7", "v11", "v13"])  # of Mistral Small 3.1, of 3.2, of Magistral and Ministral 3
def test_tokens_of_merged_patches_are_those_of_mistral_common(tmp_path, version):
    params = made_small(FAMILY["Mistral Small 3.2"])
    (tmp_path / "tekken.json").write_text(json.dumps(tokenizer(params["vision_encoder"], version)))
    processor = Processor(tmp_path, config_of(params))
    pixels = np.random.default_rng(1).integers(0, 256, (56, 84, 3), dtype=np.uint8)
    ours = processor.encode_page("p", pixels, "read", Sampling(1))
    content = [ImageChunk(image=Image.fromarray(pixels)), TextChunk(text="read")]
    theirs = MistralTokenizer.from_file(str(tmp_path / "tekken.json")).encode_chat_completion(
        ChatCompletionRequest(messages=[UserMessage(content=content)])
    )
    assert list(ours.tokens) == theirs.tokens
    assert list(ours.tokens[:10]) == [1, 3, MERGED, MERGED, MERGED, BREAK, MERGED, MERGED, MERGED, END]
    assert ours.images[0].pixels.dtype == np.uint8 and np.array_equal(ours.images[0].pixels, pixels)
    normalised = vision.normalise(torch.from_numpy(pixels)).permute(2, 0, 1).numpy()
    assert np.array_equal(normalised, theirs.images[0])
    written = processor.draft("14 tons")
    assert processor.decode([THINK, *written, processor.eos_id]) == "14 tons", "control tokens are no text"
    assert processor.grammars.of(json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}})) is not None


def test_verify_asks_no_reference_that_computes_another_model(ministral):
    """mistral-inference would pass over yarn, and every page would differ."""
    folder, *_ = ministral
    with pytest.raises(NotHere, match="does not know yarn, llama_4_scaling, which this checkpoint's params"):
        read_reference(folder, torch.device("cpu"), torch.float32, [])


def test_doctor_says_how_pages_are_drawn_for_the_model(ministral):
    folder, *_ = ministral
    facts = {check["name"]: check["fact"] for check in check_engines(Settings(model=folder))}
    assert facts["pages"] == "drawn for this model: 1,540 px at most, unless print is small, in squares of 28 px"


@pytest.mark.parametrize(("width", "height"), [(736, 1024), (1456, 2048), (640, 5360)])
def test_a_page_that_was_drawn_for_pixtral_is_filled_up_and_never_resampled(ministral, width, height):
    """One image, or tiles at the page's own size: each pixel of the page is there as it is stored."""
    _, _, processor = ministral
    page = np.random.default_rng(4).integers(0, 255, (height, width, 3), dtype=np.uint8)  # nowhere white
    tiling = plan_tiles(width, height, side=processor.max_side_px, cell=processor.cell)
    request = processor.encode_page("p", page, "read", Sampling(1), None, tiling)
    assert (tiling is None) == (height <= 1540)
    boxes = [(0, 0, 756, 1036)] if tiling is None else tiling.boxes
    seen = np.zeros(page.shape[:2], bool)
    for image, (left, top, right, bottom) in zip(request.images[bool(tiling) :], boxes, strict=True):
        assert image.pixels.shape[0] % 28 == image.pixels.shape[1] % 28 == 0
        part = page[top:bottom, left:right]
        assert np.array_equal(image.pixels[: part.shape[0], : part.shape[1]], part)
        assert (image.pixels[part.shape[0] :] == 255).all() and (image.pixels[:, part.shape[1] :] == 255).all()
        seen[top:bottom, left:right] = True
    assert seen.all()
