"""Pages a second of the reader: packed, one at a time, and by transformers: `python -m benchmarks.reader.bench`.

The same unseen pages, the same weights, `ocr` only, greedy, bfloat16 on the CPU. Each way reads all pages in turn,
`--rounds` times, and its best round counts; the order of ways turns from round to round, and no page's prefix is kept
from one to the next. transformers' Llava/Pixtral
gets the weights converted (queries and keys permuted to its half-split rotation) and our pixels, in batches: all
prompts have one length here, so it pads nothing, and several batch sizes are tried. Ends in one
line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.reader.draw import PATCH_PX
from benchmarks.reader.evaluate import CHECKPOINT, Sample, ask, draw_samples, error_rate
from benchmarks.reader.lesson import EOS, prompt_ids
from schemas.prompts import OCR
from workers.pixtral.model.fingerprint import read_params
from workers.pixtral.model.vision import normalise

LIMITED = replace(OCR, max_tokens=200)  # no page here is longer; a slip would only cost time
KINDS = ("words", "random", "numbers", "table", "inverse")


def converted(folder: Path, dtype: torch.dtype) -> Any:
    """The checkpoint as transformers' LlavaForConditionalGeneration."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration, MistralConfig, PixtralVisionConfig

    params = read_params(folder)
    vision = params["vision_encoder"]
    config = LlavaConfig(
        text_config=MistralConfig(
            vocab_size=params["vocab_size"],
            hidden_size=params["dim"],
            intermediate_size=params["hidden_dim"],
            num_hidden_layers=params["n_layers"],
            num_attention_heads=params["n_heads"],
            num_key_value_heads=params["n_kv_heads"],
            head_dim=params["head_dim"],
            rms_norm_eps=params["norm_eps"],
            rope_parameters={"rope_type": "default", "rope_theta": params["rope_theta"]},
            sliding_window=None,
            tie_word_embeddings=False,
            bos_token_id=1,
            eos_token_id=EOS,
        ),
        vision_config=PixtralVisionConfig(
            hidden_size=vision["hidden_size"],
            intermediate_size=vision["intermediate_size"],
            num_hidden_layers=vision["num_hidden_layers"],
            num_attention_heads=vision["num_attention_heads"],
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            hidden_act="silu",
            rope_parameters={"rope_type": "default", "rope_theta": vision["rope_theta"]},
        ),
        image_token_index=vision["image_token_id"],
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    state = _renamed(load_file(folder / "consolidated.safetensors"), params)
    missing, spare = model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)
    assert not missing and not spare, (missing, spare)
    return model.to(dtype).eval()


def _renamed(tensors: dict[str, Tensor], params: dict[str, Any]) -> dict[str, Tensor]:
    vision = params["vision_encoder"]
    whole = {
        "tok_embeddings.weight": "model.language_model.embed_tokens.weight",
        "norm.weight": "model.language_model.norm.weight",
        "output.weight": "lm_head.weight",
        "vision_encoder.patch_conv.weight": "model.vision_tower.patch_conv.weight",
        "vision_encoder.ln_pre.weight": "model.vision_tower.ln_pre.weight",
    }
    parts = [
        ("attention.wq", "self_attn.q_proj"), ("attention.wk", "self_attn.k_proj"),
        ("attention.wv", "self_attn.v_proj"), ("attention.wo", "self_attn.o_proj"),
        ("feed_forward.w1", "mlp.gate_proj"), ("feed_forward.w2", "mlp.down_proj"),
        ("feed_forward.w3", "mlp.up_proj"), ("ffn_norm", "post_attention_layernorm"),
        ("attention_norm", "input_layernorm"),
    ]  # fmt: skip
    state = {}
    for name, tensor in tensors.items():
        for part, heads in (("wq", params["n_heads"]), ("wk", params["n_kv_heads"])):
            if f".{part}." in name:
                count = vision["num_attention_heads"] if name.startswith("vision") else heads
                tensor = tensor.view(count, -1, 2, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        if name in whole:
            state[whole[name]] = tensor
        elif name.startswith("vision_language_adapter."):
            new = name.replace("w_in", "linear_1").replace("w_out", "linear_2")
            state[new.replace("vision_language_adapter", "model.multi_modal_projector")] = tensor
        elif name.startswith("vision_encoder.transformer"):
            new = name.replace("vision_encoder.transformer", "model.vision_tower.transformer")
            for ours, theirs in parts:
                if "norm" not in ours:
                    theirs = theirs.replace("self_attn", "attention").replace("mlp", "feed_forward")
                    new = new.replace(f".{ours}.", f".{theirs}.")
            state[new] = tensor
        else:
            new = f"model.language_model.{name}"
            for ours, theirs in parts:
                new = new.replace(f".{ours}.", f".{theirs}.")
            state[new] = tensor
    return state


def read_by_transformers(
    model: Any, samples: Sequence[Sample], batch: int, decode: Callable[[list[int]], str]
) -> list[str]:
    """Greedy, in batches of pages of one size."""
    texts = []
    for first in range(0, len(samples), batch):
        part = samples[first : first + batch]
        height, width = part[0].pixels.shape[:2]
        prompt = prompt_ids(width, height, OCR.name)
        pixels = torch.stack([normalise(torch.from_numpy(sample.pixels)).permute(2, 0, 1) for sample in part])
        ids = torch.tensor([prompt] * len(part))
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=pixels.to(model.dtype),
                image_sizes=torch.tensor([[height, width]] * len(part)),
                max_new_tokens=LIMITED.max_tokens,
                do_sample=False,
                eos_token_id=EOS,
                pad_token_id=EOS,
            )
        for row in out[:, len(prompt) :].tolist():
            texts.append(decode(row[: row.index(EOS)] if EOS in row else row))
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", type=Path, default=CHECKPOINT)
    parser.add_argument("--pages", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--canvas", default="192x64")
    parser.add_argument("--batches", default="1,32,100", help="batch sizes of transformers to try")
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    from workers.engines.pixtral import PixtralEngine

    width, height = map(int, args.canvas.split("x"))
    assert width % PATCH_PX == height % PATCH_PX == 0, args.canvas
    samples = draw_samples(args.pages, (width, height), seed=1, kinds=KINDS)
    engine = PixtralEngine(args.model, "cpu", args.dtype)
    decode = engine._built.processor.decode
    theirs = converted(args.model, getattr(torch, args.dtype))
    ways: dict[str, Callable[[Sequence[Sample]], list[str]]] = {
        "packed": lambda pages: [page[0].text for page in ask(engine, pages, [LIMITED])],
        "one at a time": lambda pages: [ask(engine, [page], [LIMITED])[0][0].text for page in pages],
    }
    for batch in map(int, args.batches.split(",")):
        ways[f"transformers, {batch} at once"] = lambda pages, batch=batch: read_by_transformers(
            theirs, pages, batch, decode
        )
    best: dict[str, float] = {}
    cpu: dict[str, float] = {}  # of all threads, a page
    texts: dict[str, list[str]] = {}
    for way in ways.values():
        way(samples[:8])
    names = list(ways)
    for turn in range(args.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            engine._built.engine.scheduler.pool.drop_prefixes()
            began, began_cpu = time.perf_counter(), time.process_time()
            texts[name] = ways[name](samples)
            taken = (time.process_time() - began_cpu) / len(samples)
            cpu[name] = min(cpu.get(name, taken), taken)
            rate = len(samples) / (time.perf_counter() - began)
            best[name] = max(best.get(name, 0.0), rate)
            print(f"round {turn + 1}: {name}: {rate:.2f} pages/s", flush=True)
    engine.close()
    truth = [sample.layout.text for sample in samples]
    for name, rate in best.items():
        print(f"{name:28} {rate:8.2f} pages/s   CER {error_rate(list(zip(truth, texts[name], strict=True))):.4f}")
    transformers = {name: rate for name, rate in best.items() if name.startswith("transformers")}
    figures = {
        "pages": len(samples), "canvas": args.canvas, "dtype": args.dtype, "threads": torch.get_num_threads(),
        "pages_per_second": {name: round(rate, 2) for name, rate in best.items()},
        "cpu_seconds_a_page": {name: round(seconds, 4) for name, seconds in cpu.items()},
        "packed_over_one_at_a_time": round(best["packed"] / best["one at a time"], 2),
        "packed_over": {name: round(best["packed"] / rate, 2) for name, rate in transformers.items()},
        "same_text_packed_and_alone": texts["packed"] == texts["one at a time"],
        "same_text_as_transformers": sum(map(str.__eq__, texts["packed"], texts[names[-1]])) / len(samples),
    }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
