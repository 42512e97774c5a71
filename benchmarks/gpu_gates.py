"""Whether the engine is right on a device: what `bench_engine_gpu` asks before it times anything.

Each check raises AssertionError where an error is above what it states, so that no figure of a wrong engine exists.
Logits are teacher-forced: the engine reads pages in its own way (in a pack, chunked, preempted, with its graph), and a
plain forward in float64 reads the same page with the tokens that the engine wrote. A page that sees its neighbour, a
wrong slot or a wrong mask show there as errors near 1; a near tie that bfloat16 decides otherwise does not show at all.
And each token must be the likeliest in float64, but for such near ties: so a text in a pack is the text alone, as far
as the arithmetic can tell the two apart. Narrow weights are held against the numbers that they multiply as, to within
bfloat16's rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_kernel_gates import relative
from pipeline.planning.card_room import BLOCK_SIZE
from workers.pixtral import start
from workers.pixtral.engine import PackedEngine
from workers.pixtral.executor import Executor, Launched
from workers.pixtral.model import decoder, vision
from workers.pixtral.model.layers import Attention, Product
from workers.pixtral.model.load import empty_model, lay_out
from workers.pixtral.model.packed import attend_packed
from workers.pixtral.model.quantize import halves, kind_of, quantize
from workers.pixtral.model.vision import Pixtral
from workers.pixtral.plan.batch import Layout
from workers.pixtral.plan.cache_blocks import BlockPool
from workers.pixtral.plan.scheduler import Limits, Scheduler, Step
from workers.pixtral.plan.sequence import Image, Request, Sampling

# Relative, of a page's logits. On a CPU: float32 2e-6; bfloat16 0.03 (tiny) and 0.08 (mini, whose attention is sharp);
# with pages that see each other 0.49 (tiny) and 0.84 (mini).
LOGITS_ERROR = {torch.bfloat16: 0.2, torch.float32: 1e-4}
# In its place with narrow weights, whatever the type: the rows' own rounding to 8 bits is in it (int4 rounds none).
NARROW_ERROR = {"int8": 0.2, "fp8": 0.4, "int4": 0.2}
# A token that is not the likeliest in float64 may lie behind it by so many times what a logit of its row is off (root
# mean square): the largest of 131,072 such errors is 4.5 times that, in two logits.
NEAR_TIE = 9.0
GRIDS = ((4, 6), (20, 13), (2, 2), (33, 30), (4, 6), (48, 40))  # pages of the engine's checks, in patches


def page_request(number: int, rows: int, columns: int, max_tokens: int, num_text: int = 48) -> Request:
    """A page of noise laid out as mistral-common lays it; the text is any tokens, other ones for each page."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (rows * 16, columns * 16, 3), dtype=np.uint8)
    image = [*([*[10] * columns, 12] * rows)[:-1], 13]
    text = (20 + rng.integers(0, 200, num_text)).tolist()
    end = 2 + len(image)
    sampling = Sampling(max_tokens=max_tokens)
    return Request((1, 3, *image, *text, 4), (Image(f"page {number}", pixels),), end, end, sampling)


def run(engine: PackedEngine, requests: Sequence[Request]) -> list[tuple[int, ...]]:
    return [future.result().tokens for future in [engine.submit(request) for request in requests]]


def make_engine(model: Pixtral, limits: Limits, blocks: int, executor: Executor) -> PackedEngine:
    scheduler = Scheduler(limits, BlockPool(blocks, BLOCK_SIZE), 64)
    return PackedEngine(executor, scheduler, lambda tokens: "", -1, lookahead=model.device.type == "cuda")


class WatchedExecutor(Executor):
    """Keeps the logits of every token; on a GPU a launch that would make the host wait is an error."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.logits: dict[tuple[int, int], Tensor] = {}  # by a request's id and the position

    def launch(self, step: Step) -> Launched:
        if self.device.type != "cuda":
            return super().launch(step)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return super().launch(step)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def _sample(self, layout: Layout, hidden: Tensor) -> Tensor:
        if layout.sample_rows:
            logits = self.backend.logits(hidden)
            for row, (sequence, position) in enumerate(
                zip(layout.sample_sequences, layout.sample_positions, strict=True)
            ):
                self.logits[id(sequence.request), position] = logits[row].clone()  # not all rows of the graph
        return super()._sample(layout, hidden)


def narrow(model: Pixtral, kind: str) -> Pixtral:
    """The model with its decoder's layers quantized, as loading would have it."""
    for _, half in halves(model):
        quantize(half, kind, model.dtype)
    return model


@torch.no_grad()
def exact_model(model: Pixtral) -> Pixtral:
    """The same weights in float64; narrow ones as wide as they multiply."""
    exact = empty_model(model.config)
    lay_out(exact, model.device, torch.float64)
    wide = dict(model.named_parameters())
    for name, half in halves(model):
        fused = (
            {"product_q": ("wq",), "product_kv": ("wk", "wv"), "wo": ("wo",)}
            if isinstance(half, Attention)
            else {"product_w1_w3": ("w1", "w3"), "w2": ("w2",)}
        )
        for place, linears in fused.items():
            product = getattr(half, place)
            if isinstance(product, Product):
                parts = _multiplied(product, model).chunk(len(linears))
                wide |= {f"{name}.{linear}.weight": part for linear, part in zip(linears, parts, strict=True)}
    for name, ours in exact.named_parameters():
        ours.data.copy_(wide[name])
    return exact.eval().requires_grad_(False)


def _multiplied(product: Product, model: Pixtral) -> Tensor:
    """The numbers of a narrow weight, (outs, ins): each product with a row of zeros and a single 1.

    A product's result is in the model's type, and fp8's comes by way of bfloat16: there each number is rounded to 8
    binary digits, by 0.4 % at most, before it is the reference. What a weight is off by less than that does not show.
    """
    ones = torch.eye(product.ins, device=model.device, dtype=model.dtype)
    return product(ones).t()


@torch.inference_mode()
def exact_logits(exact: Pixtral, request: Request, tokens: Sequence[int]) -> Tensor:
    """Logits of each of `tokens`, were they what the model wrote: one page, one plain causal forward in float64."""
    ids, written = (torch.tensor(part, device=exact.device) for part in (request.tokens, tokens[:-1]))
    images = [torch.from_numpy(np.ascontiguousarray(image.pixels)).to(exact.device) for image in request.images]
    prompt = decoder.embed(exact, ids, vision.encode_images(exact, images))
    # Random weights may write the token of images: of an answer it stands for no image, as in the engine.
    hidden = torch.cat((prompt, decoder.embed(exact, written.long())))

    def attend(_layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend_packed(query, key, value, [len(hidden)], causal=True).flatten(1)

    last = decoder.run_layers(exact, hidden, torch.arange(len(hidden), device=exact.device), attend)
    return decoder.logits(exact, last[len(request.tokens) - 1 :])


@dataclass(frozen=True, slots=True)
class Reading:
    """One page as the engine read it: its tokens, and the logits of each (N, vocabulary), ours and in float64."""

    tokens: tuple[int, ...]
    ours: Tensor
    exact: Tensor

    @property
    def error(self) -> float:
        return relative(self.ours, self.exact)

    @property
    def behind(self) -> float:
        """By how much the furthest token lies behind the likeliest, in errors of its row's logits."""
        chosen = torch.tensor(self.tokens, device=self.exact.device)[:, None]
        gaps = self.exact.amax(1) - self.exact.gather(1, chosen)[:, 0]
        errors = (self.ours.double() - self.exact).square().mean(1).sqrt()
        return float((gaps / errors.clamp_min(1e-12)).max())


def check_engine(
    model: Pixtral, modes: dict[str, tuple[Limits, int, dict[str, Any]]] | None = None, max_tokens: int = 40
) -> dict[str, float]:
    """For each way of running: the worst relative error of a page's logits, and the share of text equal to it alone.

    `modes` are limits, blocks and what is set of the backend. Raises AssertionError over LOGITS_ERROR, with narrow
    weights over NARROW_ERROR, and where a token is none that float64 might choose.
    """
    requests = [page_request(i, *grid, max_tokens=max_tokens) for i, grid in enumerate(GRIDS)]
    limits = Limits(8, 512, 2048, 4096)
    if modes is None:
        modes = {
            "packed": (limits, 400, {}),
            "packed, no graph": (limits, 400, {"use_graph": False}),
            "preempted": (limits, 60, {}),
            "other chunks": (Limits(8, 256, 256, 4096), 400, {}),
        }
        if torch.cuda.get_device_capability(model.device) >= (8, 9):
            modes["narrow cache"] = limits, 400, {"narrow_cache": True}
    exact = exact_model(model)
    alone: list[tuple[int, ...]] = []
    found = {"alone, logits": 0.0, "alone, behind the likeliest": 0.0}
    for request in requests:
        (page,) = read_pages(model, exact, [request], limits, 400, {})
        alone.append(page.tokens)
        found["alone, logits"] = _worse(found["alone, logits"], page.error)
        found["alone, behind the likeliest"] = _worse(found["alone, behind the likeliest"], page.behind)
    for name, (mode_limits, blocks, more) in modes.items():
        pages = read_pages(model, exact, requests, mode_limits, blocks, more)
        found[f"{name}, logits"] = float(np.max([page.error for page in pages]))
        found[f"{name}, behind the likeliest"] = float(np.max([page.behind for page in pages]))
        shares = []
        for expected, page in zip(alone, pages, strict=True):
            differ = (i for i, (a, b) in enumerate(zip(expected, page.tokens, strict=True)) if a != b)
            shares.append(next(differ, len(expected)) / len(expected))
        found[f"{name}, same text"] = float(np.mean(shares))
    allowed = allowed_error(model)
    assert all(error < allowed for name, error in found.items() if name.endswith("logits")), (allowed, found)
    behind = {name: gap for name, gap in found.items() if name.endswith("likeliest")}
    assert all(gap < NEAR_TIE for gap in behind.values()), f"tokens that float64 would not choose: {behind}"
    return found


def allowed_error(model: Pixtral) -> float:
    kind = kind_of(model)
    return LOGITS_ERROR[model.dtype] if kind is None else NARROW_ERROR[kind]


def _worse(one: float, other: float) -> float:
    return float(np.max([one, other]))  # NaN stays NaN


def read(
    model: Pixtral, exact: Pixtral, requests: list[Request], limits: Limits, blocks: int, more: dict[str, Any]
) -> tuple[list[tuple[int, ...]], float]:
    """Tokens of each request, and the worst error of any one's logits."""
    pages = read_pages(model, exact, requests, limits, blocks, more)
    return [page.tokens for page in pages], float(np.max([page.error for page in pages]))


def read_pages(
    model: Pixtral, exact: Pixtral, requests: list[Request], limits: Limits, blocks: int, more: dict[str, Any]
) -> list[Reading]:
    options = dict(more)
    narrow_cache, drafts = options.pop("narrow_cache", False), options.pop("drafts", False)
    backend = start.make_backend(model, limits, blocks, BLOCK_SIZE, None, narrow_cache=narrow_cache)
    for name, value in options.items():
        setattr(backend, name, value)
    executor = WatchedExecutor(backend, limits)
    engine = make_engine(model, replace(limits, drafts=backend.drafts if drafts else None), blocks, executor)
    texts = run(engine, requests)
    engine.close()
    engine.scheduler.pool.check([])
    pages = []
    for request, tokens in zip(requests, texts, strict=True):
        first = len(request.tokens) - 1
        ours = torch.stack([executor.logits[id(request), first + i] for i in range(len(tokens))])
        pages.append(Reading(tokens, ours, exact_logits(exact, request, tokens)))
    return pages
