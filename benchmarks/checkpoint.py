"""Random checkpoints in Mistral's format: `python -m benchmarks.checkpoint --preset tiny|mini|12b OUT`.

| preset | parameters | tokenizer                     | for                                        |
|--------|------------|-------------------------------|--------------------------------------------|
| tiny   | 0.25 M     | its own, 276 tokens, ~15 KB   | tests: made and loaded in milliseconds     |
| mini   | 161 M      | Pixtral's (in mistral-common) | CPU benchmarks at real page sizes          |
| 12b    | 12.7 B     | Pixtral's                     | GPU benchmarks: the real shapes, 25 GB     |

Weights are normal with deviation gain / √fan_in. Queries and keys have a gain above 1, so that attention picks
tokens out instead of averaging a page away, and the head's spreads the logits: greedy outputs then differ from page to
page. The text is noise; speed, shapes and exactness are those of a trained model.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import shutil
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from workers.pixtral.model.config import config_of
from workers.pixtral.model.load import DTYPES, empty_model, initialise, lay_out
from workers.pixtral.model.quantize import halves, quantize
from workers.pixtral.model.vision import Pixtral

GAINS = {"wq": 2.0, "wk": 2.0, "output": 3.0, "tok_embeddings": 1.0, "patch_conv": 1.0}

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "dim": 64, "n_layers": 2, "head_dim": 16, "hidden_dim": 128, "n_heads": 4, "n_kv_heads": 2,
        "norm_eps": 1e-5, "vocab_size": 276, "rope_theta": 1e4,
        "vision_encoder": {
            "hidden_size": 64, "num_channels": 3, "image_size": 1024, "patch_size": 16, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 4, "rope_theta": 1e4, "image_token_id": 10,
            "adapter_bias": True,
        },
    },
    "mini": {
        "dim": 512, "n_layers": 4, "head_dim": 64, "hidden_dim": 1536, "n_heads": 8, "n_kv_heads": 2,
        "norm_eps": 1e-5, "vocab_size": 131072, "rope_theta": 1e9,
        "vision_encoder": {
            "hidden_size": 512, "num_channels": 3, "image_size": 1024, "patch_size": 16, "intermediate_size": 1536,
            "num_hidden_layers": 4, "num_attention_heads": 8, "rope_theta": 1e4, "image_token_id": 10,
            "adapter_bias": True,
        },
    },
    "12b": {
        "dim": 5120, "n_layers": 40, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8,
        "norm_eps": 1e-5, "vocab_size": 131072, "rope_theta": 1e9,
        "vision_encoder": {
            "hidden_size": 1024, "num_channels": 3, "image_size": 1024, "patch_size": 16, "intermediate_size": 4096,
            "num_hidden_layers": 24, "num_attention_heads": 16, "rope_theta": 1e4, "image_token_id": 10,
            "adapter_bias": True,
        },
    },
}  # fmt: skip


def draw_weight(name: str, shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight `name` of the random checkpoint `seed`; each by its own generator, so order does not matter."""
    if len(shape) == 1:
        return torch.zeros(shape, dtype=dtype) if name.endswith("bias") else torch.ones(shape, dtype=dtype)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    return (torch.randn(shape, generator=generator) * deviation(name, shape)).to(dtype)


def deviation(name: str, shape: tuple[int, ...]) -> float:
    """gain / √fan_in; 1 for embeddings, whose rows are read one at a time."""
    part = name.split(".")[-2]
    fan_in = 1 if part == "tok_embeddings" else math.prod(shape[1:])
    return GAINS.get(part, 1.0) / math.sqrt(fan_in)


def trainable_model(params: dict[str, Any], seed: int = 0) -> Pixtral:
    """A float32 model with gradients, initialised as above; `params` is the content of a params.json."""
    return initialise(empty_model(config_of(params)), lambda name, shape: draw_weight(name, shape, seed))


def random_model(preset: str, device: str, dtype: torch.dtype, seed: int = 0, kind: str | None = None) -> Pixtral:
    """The preset drawn on the device, laid out as `load_model` would: no file, no copy on the host.

    With a `kind` of narrow weights no more than half a layer is ever there in full.
    """
    model, place = empty_model(config_of(PRESETS[preset])), torch.device(device)
    generator = torch.Generator(device).manual_seed(seed)

    def draw(module: nn.Module, prefix: str = "") -> None:
        lay_out(module, place, dtype)
        for name, parameter in module.named_parameters(prefix):
            if parameter.ndim == 1:
                parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                parameter.data.normal_(0.0, deviation(name, tuple(parameter.shape)), generator=generator)

    for prefix, half in halves(model) if kind else ():
        draw(half, prefix)
        quantize(half, kind, dtype)
    draw(model)
    return model.eval().requires_grad_(False)


def tiny_tokenizer(max_image_size: int = 1024, words: tuple[str, ...] = (), special: int = 20) -> dict[str, Any]:
    """A tekken.json of single bytes (and `words`), 256 + len(words) + `special` tokens, with Pixtral's special ids."""
    tokens = [bytes([byte]) for byte in range(256)] + [word.encode() for word in words]
    vocab = [
        {
            "rank": rank,
            "token_bytes": base64.b64encode(token).decode(),
            "token_str": token.decode(errors="replace"),
        }
        for rank, token in enumerate(tokens)
    ]
    config = {
        "pattern": r"[^\s]+|\s+",
        "num_vocab_tokens": len(vocab),
        "default_vocab_size": len(vocab) + special,
        "default_num_special_tokens": special,
        "version": "v3",
    }
    image = {"image_patch_size": 16, "max_image_size": max_image_size}
    return {"config": config, "vocab": vocab, "image": image}


def write_checkpoint(
    folder: Path, params: dict[str, Any], tensors: dict[str, Tensor], tokenizer: dict[str, Any] | Path
) -> Path:
    """params.json, consolidated.safetensors and tekken.json in `folder`; tensors are stored as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params, indent=1), encoding="utf-8")
    if isinstance(tokenizer, Path):
        shutil.copyfile(tokenizer, folder / "tekken.json")
    else:
        (folder / "tekken.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "consolidated.safetensors")
    return folder


def random_tensors(params: dict[str, Any], seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Every tensor that `params` asks for, drawn."""
    shapes = empty_model(config_of(params)).named_parameters()
    return {name: draw_weight(name, tuple(tensor.shape), seed, dtype) for name, tensor in shapes}


def make_checkpoint(folder: Path, preset: str, seed: int = 0, dtype: torch.dtype | None = None) -> Path:
    """Write the preset's folder: tiny in float32 (tests compare in it), the others in bfloat16."""
    params = PRESETS[preset]
    chosen = dtype or (torch.float32 if preset == "tiny" else torch.bfloat16)
    tokenizer = tiny_tokenizer() if preset == "tiny" else real_tokenizer()
    return write_checkpoint(folder, params, random_tensors(params, seed, chosen), tokenizer)


def real_tokenizer() -> Path:
    """Pixtral's tekken.json, which mistral-common carries; `MistralTokenizer.v3` would read it to say where it lies."""
    import mistral_common

    return Path(mistral_common.__path__[0]) / "data" / "tekken_240911.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=DTYPES, help="default: float32 for tiny, else bfloat16")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    make_checkpoint(args.out, args.preset, args.seed, DTYPES[args.dtype] if args.dtype else None)
    size = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"{args.out}: {args.preset}, {size / 1e6:,.1f} MB")


if __name__ == "__main__":
    main()
