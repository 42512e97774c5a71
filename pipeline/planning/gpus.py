"""What a page costs on a GPU, by arithmetic: operations and bytes of a checkpoint of the Pixtral family.

    768 × 1,024 px: 3,136 tokens; with 50 of the question and 800 of the answer, Pixtral 12B, one H100 (80 GB)
    vision and adapter     2 · 0.40 G · 3,072 + attention within the image             3.5 TFLOP
    prefill                2 · 10.9 G · 3,186 + causal attention                      72.8 TFLOP    97 ms at 790 TFLOP/s
    decode, a step         weights 23.2 GB for all sequences together, 588 MB of cache for each of them
    80 sequences fit       800 · (23.2 GB / 80 + 588 MB) at 3.0 TB/s                                234 ms
    bound                  3.0 pages/s

No program reaches the bound. Of it, continuous batching over a paged cache is expected to reach 65 %; 80 % is the best
that is aimed at, and 35 % what a published measurement of vLLM 0.7.2 on an H100 came to (2.6 of 7.7 requests/s).

A data sheet's figures are not reached either: 80 % of the operations and 90 % of the bytes, as measured on an H100
(790 of 989 TFLOP/s, 3.0 of 3.35 TB/s) and on an H200 (788 of 989, 4.3 of 4.8).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from pipeline.errors import UsageError, did_you_mean
from pipeline.planning.card_room import MOST_SEQUENCES, TYPICAL_TOKENS, WORTH_IT, pages_at_once
from pipeline.planning.ranges import Range
from pipeline.planning.shapes import Shape

REACHED = Range(0.35, 0.65, 0.8)  # of the bound
_OPERATIONS, _BYTES = 0.8, 0.9  # of the data sheet
# An operation of an answer's token takes so much longer than one of a prompt's: 8 times with the small reader on two
# cores of a CPU, 24 pages of 192 × 64 px at once (8 and 65 GFLOP/s of processor time); 9 in the sum above.
DECODE_COSTS = 8
PAGE_COSTS = 6e9  # operations of a page beside its tokens, as of tiny pages and models: 0.1 s on those cores, busy
BITS = {"int8": 8, "fp8": 8, "int4": 4}  # of the setting PAGEPACK_QUANTIZE


@dataclass(frozen=True, slots=True)
class Gpu:
    """By its data sheet: dense bf16 with float32 sums; GeForce cards sum so at twice the rate of their shaders."""

    name: str
    title: str
    memory_gib: float
    teraflops: float
    terabytes_per_second: float
    capability: float  # of CUDA

    @property
    def has_fp8(self) -> bool:
        return self.capability >= 8.9


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("b200", "B200", 179, 2250, 8.0, 10.0),
        Gpu("h200", "H200", 139, 989, 4.8, 9.0),
        Gpu("h100", "H100 SXM", 80, 989, 3.35, 9.0),
        Gpu("h100-pcie", "H100 PCIe", 80, 756, 2.0, 9.0),
        Gpu("a100", "A100 80 GB", 80, 312, 2.04, 8.0),
        Gpu("a100-40gb", "A100 40 GB", 40, 312, 1.555, 8.0),
        Gpu("l40s", "L40S", 48, 362, 0.864, 8.9),
        Gpu("l4", "L4", 24, 121, 0.3, 8.9),
        Gpu("a10", "A10", 24, 125, 0.6, 8.6),
        Gpu("rtx5090", "RTX 5090", 32, 209.5, 1.792, 12.0),
        Gpu("rtx4090", "RTX 4090", 24, 165.2, 1.008, 8.9),
        Gpu("rtx4080", "RTX 4080", 16, 97.5, 0.717, 8.9),
        Gpu("rtx4070", "RTX 4070", 12, 58.3, 0.504, 8.9),
        Gpu("rtx4060ti", "RTX 4060 Ti 16 GB", 16, 44.1, 0.288, 8.9),
        Gpu("rtx3090", "RTX 3090", 24, 71, 0.936, 8.6),
        Gpu("rtx3060", "RTX 3060 12 GB", 12, 25.5, 0.36, 8.6),
        Gpu("rtx6000ada", "RTX 6000 Ada", 48, 364, 0.96, 8.9),
        Gpu("a6000", "RTX A6000", 48, 154.8, 0.768, 8.6),
    )
}
TOO_OLD = {"t4": 7.5, "v100": 7.0, "rtx8000": 7.5, "rtx2080ti": 7.5, "p100": 6.0}  # by capability


@dataclass(frozen=True, slots=True)
class PageWork:
    """Tokens of one page: of each of its images, of the question, of the answer."""

    images: Sequence[float]
    prompt_tokens: float
    output_tokens: float
    is_cached: bool = False  # another question about the page was answered before: its images are computed already


@dataclass(frozen=True, slots=True)
class Fit:
    """How a checkpoint is held by a GPU."""

    bits: int  # of the weights: the widest that leave room
    pages: int  # usual ones, at once, as `pagepack doctor` says it there
    narrow_cache: bool  # in fp8

    @property
    def cache(self) -> str:
        return "fp8" if self.narrow_cache else "bfloat16"


@dataclass(frozen=True, slots=True)
class Bound:
    """What no program goes below, on one GPU."""

    seconds: float  # a page
    fit: Fit

    def of(self, reached: float) -> float:
        return self.seconds / reached


def find_gpu(name: str) -> Gpu:
    """Raises UsageError: none is called so, or pixtral does not read on it."""
    wanted = name.strip().lower().replace(" ", "").replace("_", "-")
    if wanted in TOO_OLD:
        raise UsageError(
            f"--device {wanted}: its compute capability is {TOO_OLD[wanted]}, and pixtral needs 8.0 or later (A100, "
            f"RTX 30 and what came after), for bfloat16 and FlashAttention; known are {', '.join(GPUS)}"
        )
    if wanted not in GPUS:
        near = did_you_mean(wanted, GPUS) or ";"
        raise UsageError(
            f"--device {name[:40]}: its figures are not known{near} known are {', '.join(GPUS)}. For another one give "
            "--pages-per-second, as it was measured"
        )
    return GPUS[wanted]


def bound(gpu: Gpu, shape: Shape, work: PageWork, quantize: str = "auto", kv_cache: str = "model") -> Bound:
    """Of one page among many that are read at once. Raises as `fit_on`."""
    fit = fit_on(gpu, shape, quantize, kv_cache)
    return Bound(_page_seconds(gpu, shape, work, fit), fit)


@cache
def fit_on(gpu: Gpu, shape: Shape, quantize: str, kv_cache: str) -> Fit:
    """With both settings as they are, where quantize off is taken as auto.

    Raises:
        UsageError: the GPU has no fp8 and it was asked for, or the checkpoint does not fit.
    """
    _check_fp8(gpu, quantize, kv_cache)
    may_narrow = kv_cache != "model" and gpu.has_fp8
    memory = gpu.memory_gib * 2**30
    for bits, least in [(BITS[quantize], 1)] if quantize in BITS else WORTH_IT:
        narrow, wide = (pages_at_once(shape, memory, bits, narrow_cache=is_narrow) for is_narrow in (True, False))
        if (narrow if may_narrow else wide) >= least:
            is_narrow = may_narrow and (kv_cache == "fp8" or wide < MOST_SEQUENCES)
            return Fit(bits, narrow if is_narrow else wide, is_narrow)
    narrowest = BITS.get(quantize, 4)
    ways = ["name a larger device", "another --model", *_ways_to_fit(gpu, shape, narrowest, may_narrow=may_narrow)]
    raise UsageError(
        f"--device {gpu.name}: {shape.name} takes {shape.weight_bytes(narrowest) / 1e9:.1f} GB with weights of "
        f"{narrowest} bits, and the cache of a page and a step beside them, which {gpu.memory_gib:g} GB do not hold; "
        f"{', or '.join(ways)}"
    )


def _ways_to_fit(gpu: Gpu, shape: Shape, bits: int, *, may_narrow: bool) -> list[str]:
    """Settings with which it does fit, where weights of so many bits do not: one of them, else both."""
    memory, narrower, cache = gpu.memory_gib * 2**30, "--quantize int4", "PAGEPACK_KV_CACHE=fp8"

    def fitting(ways: list[tuple[str, int, bool]]) -> list[str]:
        return [way for way, bits, narrow in ways if pages_at_once(shape, memory, bits, narrow_cache=narrow)]

    can_narrow = gpu.has_fp8 and not may_narrow
    single = [(narrower, 4, may_narrow)] * (bits > 4) + [(cache, bits, True)] * can_narrow
    return fitting(single) or fitting([(f"{narrower} with {cache}", 4, True)] * (bits > 4 and can_narrow))


def fit_words(gpu: Gpu, shape: Shape, fit: Fit, quantize: str) -> str:
    """How it is held; where the weights are not those of the checkpoint, how wide they are, and the other way."""
    at_once = f", {fit.pages} pages at once, their cache in {fit.cache}"
    if quantize in BITS:
        return f", with weights in {quantize}{at_once}"
    if fit.bits == 16:
        return at_once
    narrow = f", with weights of {fit.bits} bits, for those of 16 leave too little room (--quantize auto){at_once}"
    if shape.n_kv_heads % 2:
        return narrow
    half = shape.half()
    pages = pages_at_once(half, gpu.memory_gib * 2**30, 16, narrow_cache=fit.narrow_cache)
    if pages < 1:
        return narrow
    weights = f"{half.weight_bytes(16) / 1e9:.1f} GB of weights on each"
    return f"{narrow}; over two they fit (--devices 0+1), {weights} and {pages} pages at once"


def _check_fp8(gpu: Gpu, quantize: str, kv_cache: str) -> None:
    """Raises UsageError: it was asked for, and the GPU has none."""
    for asked, instead in (
        ("--quantize fp8" if quantize == "fp8" else "", "--quantize int8 reads there"),
        ("PAGEPACK_KV_CACHE=fp8" if kv_cache == "fp8" else "", "leave it out, or take auto"),
    ):
        if asked and not gpu.has_fp8:
            raise UsageError(f"--device {gpu.name}: {asked} needs an Ada or Hopper GPU, and it is older; {instead}")


def _page_seconds(gpu: Gpu, shape: Shape, work: PageWork, fit: Fit) -> float:
    operations, bandwidth = gpu.teraflops * 1e12 * _OPERATIONS, gpu.terabytes_per_second * 1e12 * _BYTES
    context = _context(work)
    sequences = max(1, min(fit.pages, int(fit.pages * TYPICAL_TOKENS / max(context, 1.0))))
    step_operations = sequences * _token_operations(shape, context)
    read = sequences * context * shape.token_bytes(narrow_cache=fit.narrow_cache)
    step_bytes = shape.decoder_bytes(fit.bits) + 2 * shape.head_params + read
    step = max(step_operations / operations, step_bytes / bandwidth)
    return _prompt_operations(shape, work) / operations + work.output_tokens * step / sequences


def work_of(shape: Shape, work: PageWork) -> float:
    """What a page costs beside another one on the same device, GPU or CPU, among many that are read at once."""
    answer = work.output_tokens * _token_operations(shape, _context(work))
    return PAGE_COSTS + _prompt_operations(shape, work) + DECODE_COSTS * answer


def _context(work: PageWork) -> float:
    return work.prompt_tokens + work.output_tokens / 2  # on average over the answer


def _prompt_operations(shape: Shape, work: PageWork) -> float:
    """Of the tower of vision and prefill."""
    patches = [] if work.is_cached else [tokens * shape.merged**2 for tokens in work.images]
    vision = math.fsum(
        2 * shape.vision_params * count + 4 * shape.vision_layers * shape.vision_dim * count**2 for count in patches
    )
    cached = sum(work.images) if work.is_cached else 0
    prefill = 2 * shape.decoder_params * (work.prompt_tokens - cached)
    return vision + prefill + 2 * _width(shape) * (work.prompt_tokens**2 - cached**2)


def _token_operations(shape: Shape, context: float) -> float:
    return 2 * (shape.decoder_params + shape.head_params) + 4 * _width(shape) * context


def _width(shape: Shape) -> int:
    return shape.n_layers * shape.n_heads * shape.head_dim
