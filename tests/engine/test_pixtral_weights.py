"""Checkpoint folders: what is read, what is refused and by which name."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.checkpoint import PRESETS, make_checkpoint, random_tensors, tiny_tokenizer, write_checkpoint
from pipeline.errors import UsageError
from workers.pixtral.model.config import read_config
from workers.pixtral.model.fingerprint import fingerprint, read_header
from workers.pixtral.model.load import load_model, weight_bytes
from workers.pixtral.text.processor import Processor

YARN = {"factor": 16, "original_max_position_embeddings": 16384, "beta": 32, "alpha": 1, "apply_scale": False}


@pytest.fixture
def folder(tmp_path):
    return make_checkpoint(tmp_path / "tiny", "tiny")


def edit_params(folder, **changes):
    path = folder / "params.json"
    params = json.loads(path.read_text())
    params.update(changes)
    path.write_text(json.dumps({key: value for key, value in params.items() if value is not None}))


def edit_tensors(folder, change):
    path = folder / "consolidated.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_every_tensor_arrives_once_and_fused_weights_are_views(folder):
    model = load_model(folder)
    stored = load_file(folder / "consolidated.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, stored[name]), name
    attention = model.layers[0].attention
    assert attention.wk.weight.data_ptr() == attention.fused_qkv[64:].data_ptr(), "a second copy of wk"
    assert weight_bytes(model) == sum(tensor.nbytes for tensor in stored.values())


def test_shards_give_the_same_model_and_dtype_can_be_chosen(folder):
    whole = load_model(folder, dtype=torch.bfloat16)
    tensors = load_file(folder / "consolidated.safetensors")
    names = sorted(tensors)
    (folder / "consolidated.safetensors").unlink()
    for shard, part in enumerate((names[:20], names[20:])):
        save_file(
            {name: tensors[name] for name in part},
            folder / f"consolidated-0000{shard + 1}-of-00002.safetensors",
        )
    sharded = load_model(folder, dtype=torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), sharded.parameters(), strict=True))
    assert sharded.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("layers.1.feed_forward.w2.weight"), ["layers.1.feed_forward.w2.weight", "missing"]),
        (lambda t: t.update({"layers.9.odd": torch.zeros(2)}), ["layers.9.odd", "does not ask for"]),
        (lambda t: t.update({"norm.weight": torch.zeros(3)}), ["norm.weight", "(3,)", "(64,)"]),
        (lambda t: t.update({"norm.weight": torch.zeros(64, dtype=torch.int8)}), ["norm.weight", "I8"]),
    ],
)
def test_wrong_tensors_are_named(folder, change, words):
    edit_tensors(folder, change)
    with pytest.raises(UsageError) as caught:
        load_model(folder)
    assert all(word in str(caught.value) for word in [*words, str(folder)])


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"vision_encoder": None}, "vision_encoder"),
        ({"rope_theta": None}, "rope_theta"),
        ({"sliding_window": 4096}, "sliding window"),
        ({"quantization": {"x": 1}}, "quantization"),
        ({"dim": None}, "does not describe"),
        ({"model_type": "mamba"}, "does not describe"),
        ({"n_kv_heads": 3}, "do not divide"),
        ({"tied_embeddings": True}, r"output\.weight, and params\.json says tied_embeddings"),
        ({"use_biases": True}, "use_biases"),
        ({"scale_emb": 12}, "scale_emb"),
        ({"causal": False}, "causal"),
        ({"activation": "gelu"}, "activation"),
        ({"yarn": {"factor": 16}}, r"yarn\.original_max_position_embeddings is missing"),
        ({"yarn": YARN | {"apply_scale": None}}, r"yarn\.apply_scale is missing"),
        ({"yarn": YARN | {"truncate": False, "mscale": 2}}, r"asks for yarn\.mscale \(2\)"),
        ({"llama_4_scaling": {"beta": 0.1}}, r"llama_4_scaling\.original_max_position_embeddings is missing"),
        ({"kv_lora_rank": 256}, r"asks for kv_lora_rank \(256\): latent attention .* --engine endpoint"),
        ({"quantization": {"quant_method": "compressed-tensors"}}, r'asks for quantization\.quant_method \("comp'),
        ({"quantization": {"qformat_weight": "nvfp4"}}, r'asks for quantization\.qformat_weight \("nvfp4"\)'),
        ({"quantization": {"qformat_weight": "fp8_e4m3", "block": 128}}, r"asks for quantization\.block \(128\)"),
        ({"quantization_config": {"config_groups": {"group_0": {"weights": [0] * 999}}}}, r"quantization_config .*…\)"),
        ({"moe": {"num_experts": 3, "num_experts_per_tok": 2, "num_shared_experts": 1}}, r"moe\.num_shared_experts"),
        ({"vision_encoder": PRESETS["tiny"]["vision_encoder"] | {"qk_norm": True}}, r"vision_encoder\.qk_norm"),
    ],
)
def test_wrong_params_are_named(folder, changes, word):
    edit_params(folder, **changes)
    with pytest.raises(UsageError, match=word):
        load_model(folder)


def test_keys_that_change_nothing_are_taken(folder):
    """Those that checkpoints of the family carry; null and false ask for nothing."""
    vision = {"image_break_token_id": 12, "image_end_token_id": 13, "max_image_size": 1024}
    edit_params(
        folder,
        vision_encoder=PRESETS["tiny"]["vision_encoder"] | vision,
        max_position_embeddings=131072, max_seq_len=131072, model_parallel=1, causal=True, activation="silu",
        tied_embeddings=False,
    )  # fmt: skip
    params = json.loads((folder / "params.json").read_text()) | {"yarn": None, "quantization": None}
    (folder / "params.json").write_text(json.dumps(params))
    assert load_model(folder).config.dim == 64


def test_the_type_is_that_of_most_weights(folder):
    """A norm in float32 stands first in the file; safetensors lays wider types before narrower ones."""

    def narrow(tensors):
        tensors.update({name: t.bfloat16() for name, t in tensors.items() if t.ndim > 1})

    edit_tensors(folder, narrow)
    assert next(iter(read_header(folder / "consolidated.safetensors").values()))["dtype"] == "F32"
    assert load_model(folder).dtype == torch.bfloat16


def test_rope_theta_is_the_checkpoints_own(folder):
    edit_params(folder, rope_theta=1e9)
    assert read_config(folder).rope_theta == 1e9


@pytest.mark.parametrize("size", [0, 4, 100, 200_000])
def test_damaged_weights_are_refused_by_file(folder, size):
    path = folder / "consolidated.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    for read in (load_model, fingerprint):
        with pytest.raises(UsageError, match=r"consolidated\.safetensors"):
            read(folder)


def test_garbage_in_the_header_is_refused(folder):
    path = folder / "consolidated.safetensors"
    raw = bytearray(path.read_bytes())
    raw[8:40] = b"\xff" * 32
    path.write_bytes(raw)
    with pytest.raises(UsageError, match="damaged"):
        load_model(folder)


def test_absent_files_are_named(tmp_path, folder):
    with pytest.raises(UsageError, match="not a folder"):
        load_model(tmp_path / "nowhere")
    (folder / "params.json").rename(folder / "gone.json")
    with pytest.raises(UsageError, match=r"params\.json"):
        fingerprint(folder)
    (folder / "params.json").write_text("{")
    with pytest.raises(UsageError, match=r"params\.json"):
        load_model(folder)


def test_wrong_tokenizers_are_refused(folder):
    args, path = read_config(folder), folder / "tekken.json"

    def refused(content, word):
        path.write_text(content)
        with pytest.raises(UsageError, match=word):
            Processor(folder, args)

    without_images = tiny_tokenizer()
    del without_images["image"]
    refused(json.dumps(without_images), "without images")
    refused(json.dumps(tiny_tokenizer(words=("word",))), "does not belong")
    refused("{", "damaged")
    refused(
        json.dumps(tiny_tokenizer() | {"image": {"image_patch_size": 14, "max_image_size": 1024}}),
        "patches of 14",
    )
    path.unlink()
    with pytest.raises(UsageError, match=r"no tekken\.json"):
        Processor(folder, args)


@pytest.mark.parametrize("name", ["image_break_token_id", "image_end_token_id"])
def test_a_tokenizer_with_other_image_tokens_is_refused(folder, name):
    edit_params(folder, vision_encoder=PRESETS["tiny"]["vision_encoder"] | {name: 99})
    with pytest.raises(UsageError, match=f"{name} is 1[23], params.json says 99"):
        Processor(folder, read_config(folder))


@pytest.mark.xdist_group("reader")  # whose test process imports mistral-inference, and torch's compiler with it
def test_lora_is_merged_as_mistral_inference_merges_it(folder):
    base = "layers.0.attention.wq"
    generator = torch.Generator().manual_seed(1)
    down, up = torch.randn(4, 64, generator=generator), torch.randn(64, 4, generator=generator)
    lora = {f"{base}.lora_A.weight": down, f"{base}.lora_B.weight": up}
    save_file(lora, folder / "lora.safetensors")
    from mistral_inference.transformer import Transformer

    theirs = Transformer.from_folder(folder, device="cpu")
    theirs.load_lora(folder / "lora.safetensors")
    ours = load_model(folder)
    assert torch.equal(ours.layers[0].attention.wq.weight, theirs.layers["0"].attention.wq.weight)
    edit_params(folder, lora={"rank": 4, "scaling": 0.5})
    plain = load_file(folder / "consolidated.safetensors")[f"{base}.weight"]
    torch.testing.assert_close(load_model(folder).layers[0].attention.wq.weight, plain + 0.5 * up @ down)
    save_file({f"{base}.lora_A.weight": down}, folder / "lora.safetensors")
    with pytest.raises(UsageError, match="partner"):
        load_model(folder)
    save_file({"layers.7.attention.wq.lora_A.weight": down}, folder / "lora.safetensors")
    with pytest.raises(UsageError, match=r"layers\.7"):
        load_model(folder)


def test_fingerprint_follows_weights_params_and_tokenizer(tmp_path, folder):
    first = fingerprint(folder)
    assert first == fingerprint(make_checkpoint(tmp_path / "again", "tiny")), "the same content elsewhere"
    edit_tensors(folder, lambda tensors: tensors["norm.weight"].__setitem__(5, 1.5))
    second = fingerprint(folder)
    edit_params(folder, norm_eps=1e-6)
    third = fingerprint(folder)
    (folder / "tekken.json").write_text(json.dumps(tiny_tokenizer(max_image_size=512)))
    assert len({first, second, third, fingerprint(folder)}) == 4


def test_fingerprint_follows_the_adapter_that_is_merged_and_no_other_file(folder):
    plain = fingerprint(folder)
    adapter = {"layers.0.attention.wq.lora_A.weight": torch.ones(4, 64)}
    save_file(adapter, folder / "lora-of-last-year.safetensors")
    assert fingerprint(folder) == plain
    save_file(adapter, folder / "lora.safetensors")
    assert fingerprint(folder) != plain


def test_fingerprint_of_a_large_file_samples_every_tensor(monkeypatch, folder):
    from workers.pixtral.model import fingerprint as module

    monkeypatch.setattr(module, "WHOLE_BYTES", 0)
    monkeypatch.setattr(module, "PIECE_BYTES", 16)
    first = fingerprint(folder)
    edit_tensors(folder, lambda tensors: tensors["output.weight"].view(-1).__setitem__(-1, 9.0))
    assert fingerprint(folder) != first


def test_fingerprint_and_adapter_import_without_torch(folder):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path; from workers.engines.pixtral import PixtralEngine, fingerprint\n"
        f"print(fingerprint(Path({str(folder)!r})))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=_root())
    assert run.stdout.strip() == fingerprint(folder), run.stderr


def _root():
    from pathlib import Path

    return Path(__file__).parents[2]


def test_experts_and_merging_load_too(tmp_path):
    params = copy.deepcopy(PRESETS["tiny"])
    params["moe"] = {"num_experts": 3, "num_experts_per_tok": 2}
    params["vision_encoder"] |= {"mm_projector_id": "patch_merge", "spatial_merge_size": 2}
    folder = write_checkpoint(tmp_path / "both", params, random_tensors(params), tiny_tokenizer())
    model = load_model(folder)
    assert model.layers[0].feed_forward.experts[2].fused_w1_w3.shape == (256, 64)
    params["vision_encoder"]["mm_projector_id"] = "other"
    (folder / "params.json").write_text(json.dumps(params))
    with pytest.raises(UsageError, match="projector"):
        load_model(folder)
