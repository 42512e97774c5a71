"""What a page costs on a GPU, by arithmetic: operations and bytes of a checkpoint of the Pixtral family.

    768 × 1,024 px: 3,136 tokens; with 50 of the question and 800 of the answer, Pixtral 12B, one H100 (80 GB)
    vision and adapter     2 · 0.40 G · 3,072 + attention within the image             3.5 TFLOP
    prefill                2 · 10.9 G · 3,186 + causal attention                      72.8 TFLOP    97 ms at 790 TFLOP/s
    decode, a step         weights 23.2 GB for all sequences together, 588 MB of cache for each of them
    77 sequences fit       800 · (23.2 GB / 77 + 588 MB) at 3.0 TB/s                                237 ms
    bound                  3.0 pages/s

No program reaches the bound. Of it, continuous batching over a paged cache is expected to reach 65 %; 80 % is the best
that is aimed at, and 35 % what a published measurement of vLLM 0.7.2 on an H100 came to (2.6 of 7.7 requests/s).

A data sheet's figures are not reached either: 80 % of the operations and 90 % of the bytes, as measured on an H100
(790 of 989 TFLOP/s, 3.0 of 3.35 TB/s) and on an H200 (788 of 989, 4.3 of 4.8).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.documents.pages.raster import read_raster
from pipeline.errors import UsageError, did_you_mean
from pipeline.planning.ranges import Range

REACHED = Range(0.35, 0.65, 0.8)  # of the bound
_OPERATIONS, _BYTES = 0.8, 0.9  # of the data sheet
_STEP_BYTES = 4e9  # activations of one step, CUDA's own
_MOST_SEQUENCES = 256
BITS = {"int8": 8, "fp8": 8, "int4": 4}  # of the setting PAGEPACK_QUANTIZE
_LEAST_SEQUENCES = 8  # fewer, and each step loads the weights for next to nothing: narrower ones are better


@dataclass(frozen=True, slots=True)
class Gpu:
    """By its data sheet: dense bf16 with float32 sums."""

    name: str
    title: str
    memory_gb: float
    teraflops: float
    terabytes_per_second: float


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("b200", "B200", 180, 2250, 8.0),
        Gpu("h200", "H200", 141, 989, 4.8),
        Gpu("h100", "H100 SXM", 80, 989, 3.35),
        Gpu("h100-pcie", "H100 PCIe", 80, 756, 2.0),
        Gpu("a100", "A100 80 GB", 80, 312, 2.04),
        Gpu("a100-40gb", "A100 40 GB", 40, 312, 1.555),
        Gpu("l40s", "L40S", 48, 362, 0.864),
        Gpu("l4", "L4", 24, 121, 0.3),
        Gpu("a10", "A10", 24, 125, 0.6),
        Gpu("rtx5090", "RTX 5090", 32, 209.5, 1.792),
        Gpu("rtx4090", "RTX 4090", 24, 165.2, 1.008),
        Gpu("rtx3090", "RTX 3090", 24, 71, 0.936),
        Gpu("rtx6000ada", "RTX 6000 Ada", 48, 364, 0.96),
        Gpu("a6000", "RTX A6000", 48, 154.8, 0.768),
    )
}


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a checkpoint; the defaults are those of Pixtral 12B."""

    name: str = "Pixtral 12B"
    dim: int = 5120
    n_layers: int = 40
    head_dim: int = 128
    hidden_dim: int = 14336
    n_heads: int = 32
    n_kv_heads: int = 8
    vocab_size: int = 131_072
    vision_dim: int = 1024
    vision_layers: int = 24
    vision_hidden: int = 4096
    patch_px: int = 16
    merged: int = 1
    side_px: int = 1024
    is_tied: bool = False  # the head is the table of tokens

    @property
    def cell_px(self) -> int:
        """Side of the square that is one token."""
        return self.patch_px * self.merged

    @property
    def decoder_params(self) -> int:
        attention = self.dim * self.head_dim * (2 * self.n_heads + 2 * self.n_kv_heads)
        return self.n_layers * (attention + 3 * self.dim * self.hidden_dim)

    @property
    def head_params(self) -> int:
        return self.dim * self.vocab_size

    @property
    def vision_params(self) -> int:
        layers = self.vision_layers * (4 * self.vision_dim**2 + 3 * self.vision_dim * self.vision_hidden)
        return layers + self.dim * (self.vision_dim + self.dim)

    def token_bytes(self) -> int:
        """Of the cache: keys and values of every layer, two bytes each."""
        return 2 * self.n_layers * self.n_kv_heads * self.head_dim * 2

    def weight_bytes(self, bits: int) -> float:
        """Of the whole; the tower of vision, the table of tokens and the head keep two bytes."""
        return self.decoder_bytes(bits) + 2.0 * ((2 - self.is_tied) * self.head_params + self.vision_params)

    def half_bytes(self) -> float:
        """What each of two GPUs holds of the weights, in 16 bits: half of the layers' and all others."""
        return self.weight_bytes(16) - self.decoder_bytes(16) / 2

    def decoder_bytes(self, bits: int) -> float:
        """Of the layers' weights: those of four bits have a scale and an offset, two bytes each, for 64."""
        return self.decoder_params * (4.5 if bits == 4 else bits) / 8


@dataclass(frozen=True, slots=True)
class PageWork:
    """Tokens of one page: of each of its images, of the question, of the answer."""

    images: Sequence[float]
    prompt_tokens: float
    output_tokens: float
    is_cached: bool = False  # another question about the page was answered before: its images are computed already


@dataclass(frozen=True, slots=True)
class Bound:
    """What no program goes below, on one GPU."""

    seconds: float  # a page
    bits: int  # of the weights: the widest that fit
    sequences: int  # at once

    def of(self, reached: float) -> float:
        return self.seconds / reached


_DECODER = ("dim", "n_layers", "head_dim", "hidden_dim", "n_heads", "n_kv_heads", "vocab_size")
_TOWER = {
    "hidden_size": "vision_dim",
    "num_hidden_layers": "vision_layers",
    "intermediate_size": "vision_hidden",
    "patch_size": "patch_px",
}


def find_gpu(name: str) -> Gpu:
    """Raises UsageError: none is called so."""
    wanted = name.strip().lower().replace(" ", "").replace("_", "-")
    if wanted not in GPUS:
        near = did_you_mean(wanted, GPUS) or ";"
        raise UsageError(
            f"--device {name[:40]}: its figures are not known{near} known are {', '.join(GPUS)}. For another one give "
            "--pages-per-second, as it was measured"
        )
    return GPUS[wanted]


def read_shape(folder: Path) -> Shape:
    """By the params.json of a checkpoint folder.

    Raises:
        UsageError: it has none, or none with the sizes that are needed.
    """
    path = folder / "params.json"
    try:
        given: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        vision = given["vision_encoder"]
        sizes = {name: int(given[name]) for name in _DECODER} | {
            ours: int(vision[name]) for name, ours in _TOWER.items()
        }
        raster, is_tied = read_raster(vision), bool(given.get("tied_embeddings"))
        merged = raster.cell_px // sizes["patch_px"]
        return Shape(folder.absolute().name, side_px=raster.side_px, merged=merged, is_tied=is_tied, **sizes)
    except OSError as error:
        raise UsageError(f"--model {folder}: {path.name} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        fact = f"has no {error}" if isinstance(error, KeyError) else "is no params.json of the Pixtral family"
        raise UsageError(
            f"--model {folder}: {path.name} {fact}; give a checkpoint folder in Mistral's format"
        ) from error


def bound(gpu: Gpu, shape: Shape, work: PageWork, quantize: str = "auto") -> Bound:
    """Of one page among many that are read at once; `quantize` as the setting has it, where off is taken as auto.

    Raises:
        UsageError: the checkpoint does not fit, not even with weights of four bits.
    """
    context = work.prompt_tokens + work.output_tokens
    cache_bytes = max(context, 1.0) * shape.token_bytes()
    widths = [(16, _LEAST_SEQUENCES), (8, _LEAST_SEQUENCES), (4, 1)]
    for bits, least in [(BITS[quantize], 1)] if quantize in BITS else widths:
        free = gpu.memory_gb * 1e9 - shape.weight_bytes(bits) - _STEP_BYTES
        sequences = min(int(free // cache_bytes), _MOST_SEQUENCES) if free > 0 else 0
        if sequences >= least:
            return Bound(_page_seconds(gpu, shape, work, bits, sequences), bits, sequences)
    narrowest = BITS.get(quantize, 4)
    weights, cache = shape.weight_bytes(narrowest) / 1e9, cache_bytes / 1e9
    needs = f"{weights:.1f} GB with weights of {narrowest} bits, and {cache:.1f} GB for a page"
    raise UsageError(
        f"--device {gpu.name}: {shape.name} takes {needs}, which {gpu.memory_gb:g} GB do not hold; name a larger "
        "device, or another --model"
    )


def width_words(gpu: Gpu, shape: Shape, work: PageWork, bits: int, quantize: str) -> str:
    """How wide the weights are that `bound` came to, where they are not those of the checkpoint; and the other way."""
    if quantize in BITS:
        return f", with weights in {quantize}"
    if bits == 16:
        return ""
    narrow = f", with weights of {bits} bits, for those of 16 do not fit (--quantize auto)"
    page_bytes = max(work.prompt_tokens + work.output_tokens, 1.0) * shape.token_bytes() / 2
    sequences = min(int((gpu.memory_gb * 1e9 - shape.half_bytes() - _STEP_BYTES) // page_bytes), _MOST_SEQUENCES)
    if sequences < 1 or shape.n_kv_heads % 2:
        return narrow
    weights = f"{shape.half_bytes() / 1e9:.1f} GB of weights on each"
    return f"{narrow}; over two they do (--devices 0+1), {weights} and {sequences} pages at once"


def _page_seconds(gpu: Gpu, shape: Shape, work: PageWork, bits: int, sequences: int) -> float:
    operations, bandwidth = gpu.teraflops * 1e12 * _OPERATIONS, gpu.terabytes_per_second * 1e12 * _BYTES
    patches = [] if work.is_cached else [tokens * shape.merged**2 for tokens in work.images]
    vision = math.fsum(
        2 * shape.vision_params * count + 4 * shape.vision_layers * shape.vision_dim * count**2 for count in patches
    )
    width = shape.n_layers * shape.n_heads * shape.head_dim
    cached = sum(work.images) if work.is_cached else 0
    prefill = 2 * shape.decoder_params * (work.prompt_tokens - cached)
    prefill += 2 * width * (work.prompt_tokens**2 - cached**2)
    context = work.prompt_tokens + work.output_tokens / 2  # on average over the answer
    step_operations = sequences * (2 * (shape.decoder_params + shape.head_params) + 4 * width * context)
    step_bytes = shape.decoder_bytes(bits) + 2 * shape.head_params + sequences * context * float(shape.token_bytes())
    step = max(step_operations / operations, step_bytes / bandwidth)
    return (vision + prefill) / operations + work.output_tokens * step / sequences
