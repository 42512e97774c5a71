"""Sample pages through the packed engine, alone and in company, with the logits that each token was chosen from."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from schemas.prompts import DESCRIBE, OCR, Prompt
from workers.pixtral import start
from workers.pixtral.describe import describe_path
from workers.pixtral.executor import Backend, Executor
from workers.pixtral.model.load import load_model
from workers.pixtral.plan.batch import Layout
from workers.pixtral.plan.scheduler import Limits
from workers.pixtral.plan.sequence import Request, Sampling
from workers.pixtral.text.processor import Processor
from workers.pixtral.text.tile_images import filled
from workers.verify.pages import Page

KEPT_TOKENS = 64  # whose logits are kept: of 131,072 numbers 0.5 MB each


@dataclass(slots=True)
class Reading:
    """One page as the engine read it. Logits are on the host, float32 (tokens, vocabulary)."""

    page: Page
    prompt: list[int]
    tokens: list[int]
    logits: Tensor
    text: str
    finish_reason: str
    seconds: float


@dataclass(slots=True)
class Packed:
    """All readings, and where they were made."""

    alone: list[Reading]
    company: list[Reading]
    dtype: torch.dtype
    path: str
    sequences_at_once: int
    layers: int  # of the vision encoder and of the decoder


class RecordingExecutor(Executor):
    """Keeps what each sequence's tokens were chosen from, by its request."""

    def __init__(self, backend: Backend, limits: Limits) -> None:
        super().__init__(backend, limits)
        self.kept: dict[int, list[Tensor]] = {}

    def _sample(self, layout: Layout, hidden: Tensor) -> Tensor:
        if layout.sample_rows:
            rows = self.backend.logits(hidden)[: len(layout.sample_rows)].float().cpu()
            for sequence, row in zip(layout.sample_sequences, rows, strict=True):
                kept = self.kept.setdefault(id(sequence.request), [])
                if len(kept) <= KEPT_TOKENS:
                    kept.append(row.clone())
        return super()._sample(layout, hidden)


def read_packed(folder: Path, device: torch.device, pages: Sequence[Page], max_tokens: int) -> Packed:
    """Each page alone, then all of them at once, in another order and beside a second question about each.

    When it returns the engine is closed, and its memory given back. Raises UsageError: as `start.build_engine`.
    """
    packed = _read(folder, device, pages, max_tokens)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return packed


def _read(folder: Path, device: torch.device, pages: Sequence[Page], max_tokens: int) -> Packed:
    granted = start.available_bytes(device)
    dtype = start.choose_dtype(folder, device, granted)
    model = load_model(folder, device, dtype)
    processor = Processor(folder, model.config)
    pages = [replace(page, pixels=filled(page.pixels, processor.cell)) for page in pages]
    executors: list[RecordingExecutor] = []

    def make(backend: Backend, limits: Limits) -> RecordingExecutor:
        executors.append(RecordingExecutor(backend, limits))
        return executors[-1]

    engine = start.start_engine(model, processor, granted, make)
    sampling = Sampling(min(max_tokens, KEPT_TOKENS))

    def request(page: Page, prompt: Prompt, run: str) -> Request:
        return processor.encode_page(f"{run} {page.name}", page.pixels, prompt.text, sampling)

    def read(requests: Sequence[Request], of: Sequence[Page]) -> list[Reading]:
        futures = [engine.submit(one) for one in requests]
        readings = []
        for one, page, future in zip(requests, of, futures, strict=True):
            said = future.result()
            rows = torch.stack(executors[0].kept.pop(id(one)))
            logits = rows[: max(1, len(said.tokens))]
            prompt, tokens = list(one.tokens), list(said.tokens)
            readings.append(Reading(page, prompt, tokens, logits, said.text, said.finish_reason, said.seconds))
        return readings

    try:
        alone = [read([request(page, OCR, "alone")], [page])[0] for page in pages]
        others = list(pages)[::-1]
        asked = [request(page, prompt, "company") for page in others for prompt in (OCR, DESCRIBE)]
        company = read(asked, [page for page in others for _ in range(2)])[::2][::-1]
        at_once = engine.scheduler.limits.max_sequences
    finally:
        engine.close()
    layers = model.config.n_layers + model.config.vision_encoder.num_hidden_layers
    return Packed(alone, company, dtype, describe_path(device, dtype), at_once, layers)
