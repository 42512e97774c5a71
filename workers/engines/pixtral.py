"""The Pixtral engine behind the interface that every engine has."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PageFailed, UsageError
from schemas.prompts import OCR, Prompt
from workers.engines import Answer, Begun, Engine
from workers.pixtral.model.fingerprint import fingerprint

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from pipeline.documents.pages.tiles import Tiling
    from workers.pixtral.plan.sequence import Image
    from workers.pixtral.text.generation import Generation

__all__ = ["PixtralEngine", "fingerprint"]

logger = logging.getLogger(__name__)

WARM_TOP_P = 0.95  # of a try with a temperature: out of 131,072 tokens the unlikeliest would come now and then


class PixtralEngine(Engine):
    """A checkpoint in Mistral's format, packed: see `workers/pixtral/`. Importing this file needs no torch."""

    name = "pixtral"

    def __init__(
        self,
        model_dir: Path,
        device: str = "auto",
        dtype: str | None = None,
        memory_bytes: int | None = None,
        most_tokens: int = 8192,
        *,
        drafts: bool = True,
        quantize: str = "off",
        kv_cache: str = "model",
    ) -> None:
        """Load the checkpoint and start the engine's thread.

        `device` is auto, cpu, cuda or cuda:N, or two of them for a model over both, as cuda:0+cuda:1; `dtype` None
        keeps the checkpoint's own, or takes float32 where a CPU has no arithmetic of it. `memory_bytes` is what
        weights, cache and steps together may take of each device's memory. An answer to a prompt of the usual length
        ends at `most_tokens`, be that more or less; where a prompt's length was set, that holds. With `drafts` it
        tries those that it is given, where the device can. `quantize` is off, int8, int4, fp8, or auto: the widest
        that fit. `kv_cache` is model, fp8 or auto, as `start.choose_cache` says.

        Raises:
            UsageError: the folder, the device or the memory does not serve; the message says why and what would.
        """
        try:
            import torch

            from workers.devices import check_capability
            from workers.pixtral import start
            from workers.pixtral.pair.first import build_pair
        except ImportError as error:
            raise UsageError(
                f"the pixtral engine needs {error.name or error}: pip install 'pagepack[pixtral]'"
            ) from error
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise UsageError(f"the device {device} was asked for, and torch {torch.__version__} sees no CUDA device")
        first, *others = (torch.device(name) for name in device.split("+"))
        for each in (first, *others):
            check_capability(each)
        kind = settled(quantize, model_dir, first, kv_cache) if not others else None
        narrow_cache = start.choose_cache(kv_cache, model_dir, first, kind, half=bool(others))
        if others:
            pair = (first, *others)
            self._built = build_pair(model_dir, pair, dtype, memory_bytes, drafts=drafts, narrow_cache=narrow_cache)
        else:
            self._built = start.build_engine(
                model_dir, first, dtype, memory_bytes, drafts=drafts, kind=kind, narrow_cache=narrow_cache
            )
        self.takes_drafts = self._built.engine.scheduler.limits.drafts is not None
        self.model = fingerprint(model_dir, kind, narrow_cache=narrow_cache)
        self._most_tokens = most_tokens
        self._pool = ThreadPoolExecutor(1, "pagepack-ladder")  # starts its thread with the first loop
        self.capacity = 2 * self._built.engine.scheduler.limits.max_sequences

    def supports(self, prompt: Prompt) -> bool:
        return True

    def submit(
        self,
        image_hash: str,
        pixels: NDArray[np.uint8],
        prompts: Sequence[Prompt],
        deadline: float | None = None,
        begun: Sequence[Begun | None] = (),
    ) -> list[Future[Answer]]:
        from workers.engines.pixtral_ladder import Climb

        page = _Page(image_hash, pixels, deadline)

        def climb(prompt: Prompt, before: Begun | None) -> Future[Answer]:
            return Climb(lambda rung: self._try(page, prompt, rung, before), self._pool, deadline).begin()

        return [climb(prompt, before) for prompt, before in zip_longest(prompts, begun)]

    def converse(self, messages: list[dict[str, Any]], prompt: Prompt) -> Future[Answer]:
        """Of a conversation, whose messages are as OpenAI's API has them, the next answer."""
        from workers.pixtral.plan.sequence import Sampling

        def answer(generation: Generation) -> Answer:
            return Answer(
                text=generation.text,
                finish_reason=generation.finish_reason,
                seconds=generation.seconds - generation.queue_seconds,
                prompt_tokens=generation.prompt_tokens,
                output_tokens=len(generation.tokens),
                temperature=prompt.temperature,
            )

        sampling = Sampling(prompt.max_tokens, prompt.temperature, prompt.top_p, prompt.seed, prompt.stop)
        try:
            request = self._built.processor.encode_conversation(messages, sampling)
        except Exception as error:  # mistral-common has no one root of its errors
            failed: Future[Answer] = Future()
            failed.set_exception(PageFailed(f"the conversation does not fit the model's input: {error}"))
            return failed
        return self._built.engine.submit(request, answer)

    def stats(self) -> dict[str, float]:
        return self._built.engine.stats()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=False)  # a climb that is not over asks the engine, which refuses
        self._built.close()

    def _tiling(self, pixels: NDArray[np.uint8], *, smaller: bool = False) -> Tiling | None:
        """How the page is cut; by the page alone, unless the cache holds less than the most that a page may take.

        None where it is one image as it is; with `smaller` where it is too small for tiles of half the size.
        """
        from pipeline.documents.pages import tiles as page_tiles
        from workers.pixtral.plan import sizes

        processor, pool = self._built.processor, self._built.engine.scheduler.pool
        height, width = pixels.shape[:2]
        side, tiled_from = processor.max_side_px, round(page_tiles.SHRINKS_BY * processor.max_side_px)
        if smaller:
            side = tiled_from = min(side, max(width, height)) // 2 // processor.cell * processor.cell
            if side < 2 * page_tiles.OVERLAP_PX:
                return None
        return page_tiles.plan_tiles(
            width,
            height,
            side=side,
            cell=processor.cell,
            most_tokens=min(page_tiles.MOST_TOKENS, sizes.image_room(pool.num_blocks * pool.block_size)),
            tiled_from=tiled_from,
        )

    def _try(self, page: _Page, prompt: Prompt, number: int, begun: Begun | None) -> Future[Answer] | None:
        """A rung of the ladder; None where the page is too small for it. The first goes on from what was begun."""
        from workers.engines.pixtral_ladder import LADDER
        from workers.pixtral.plan.sequence import Sampling
        from workers.pixtral.text.repetition import lines_of_page

        rung = LADDER[number]
        pixels, image_hash = page.turned(rung.quarter_turns)
        tiling = self._tiling(pixels, smaller=rung.smaller_tiles)
        if rung.smaller_tiles and tiling is None:
            return None
        sampling = Sampling(
            self._most_tokens if prompt.goes_on else prompt.max_tokens,
            prompt.temperature + rung.warmer,
            min(prompt.top_p, WARM_TOP_P) if rung.warmer else prompt.top_p,
            prompt.seed + number,
            prompt.stop,
            lines_of_page(max(pixels.shape[:2])),
        )

        def answer(generation: Generation) -> Answer:
            said = _as_answer(generation, tiling, is_ocr=prompt.name == OCR.name)
            angle = 90.0 * rung.quarter_turns if rung.quarter_turns else None
            if said.finish_reason == "length" and number == 0:
                said = dataclasses.replace(said, token_ids=generation.tokens)
            if begun is not None and begun.tokens and number == 0:
                said = _with_begun(said, begun, len(generation.tokens))
            return dataclasses.replace(said, temperature=sampling.temperature, angle=angle)

        try:
            encode = self._built.processor.encode_page
            request = encode(image_hash, pixels, prompt.text, sampling, page.deadline, tiling)
            constrain = self._built.processor.grammars.of(prompt.schema) if prompt.schema is not None else None
            request = dataclasses.replace(request, constrain=constrain)
            if begun is not None and begun.draft and self.takes_drafts:
                request = dataclasses.replace(request, draft=self._built.processor.draft(begun.draft))
            if begun is not None and begun.tokens and number == 0:
                tokens = request.tokens + begun.tokens
                request = dataclasses.replace(request, tokens=tokens, written=len(begun.tokens))
        except PageFailed as error:
            refused: Future[Answer] = Future()
            refused.set_exception(error)
            return refused
        except Exception as error:  # mistral-common has no one root of its errors
            failed: Future[Answer] = Future()
            failed.set_exception(PageFailed(f"the page does not fit the model's input: {error}"))
            return failed
        if not (rung.quarter_turns or rung.smaller_tiles):
            page.images = page.images or request.images
            request = dataclasses.replace(request, images=page.images)
        return self._built.engine.submit(request, answer)


def settled(quantize: str, model_dir: Path, device: torch.device, kv_cache: str = "model") -> str | None:
    """The kind of weights that the settings come to; None is the checkpoint's own."""
    if quantize != "auto":
        return None if quantize == "off" else quantize
    from workers.pixtral import start

    return start.choose_kind(model_dir, device, kv_cache)


class _Page:
    """What was given to be read, and its images: all prompts of the page share them."""

    def __init__(self, image_hash: str, pixels: NDArray[np.uint8], deadline: float | None) -> None:
        self.image_hash, self.pixels, self.deadline = image_hash, pixels, deadline
        self.images: tuple[Image, ...] = ()

    def turned(self, quarters: int) -> tuple[NDArray[np.uint8], str]:
        """The pixels, clockwise, and a name for them."""
        if not quarters:
            return self.pixels, self.image_hash
        import numpy as np

        return np.ascontiguousarray(np.rot90(self.pixels, -quarters)), f"{self.image_hash} turned {quarters}"


def _with_begun(said: Answer, begun: Begun, tokens: int) -> Answer:
    """With the confidence of all of it: a geometric mean over all tokens, of which the first were counted before."""
    if begun.confidence is None or said.confidence is None or tokens <= len(begun.tokens):
        return dataclasses.replace(said, confidence=begun.confidence)
    share = len(begun.tokens) / tokens
    return dataclasses.replace(said, confidence=begun.confidence**share * said.confidence ** (1 - share))


def _as_answer(generation: Generation, tiling: Tiling | None, *, is_ocr: bool) -> Answer:
    from workers.pixtral.text.confidence import without
    from workers.pixtral.text.seams import doubled_seams, without_doubled_seams

    text, doubled, sure, loop = generation.text, list[str](), generation.confidence, generation.loop
    doubts = sure.doubts if sure else ()
    if tiling is not None and is_ocr:
        doubts = without(doubts, doubled_seams(text, len(tiling.boxes) - 1))
        text, doubled = without_doubled_seams(text, len(tiling.boxes) - 1)
    return Answer(
        text=text,
        finish_reason=generation.finish_reason,
        seconds=generation.seconds - generation.queue_seconds,
        prompt_tokens=generation.prompt_tokens,
        output_tokens=len(generation.tokens),
        confidence=sure.mean if sure else None,
        lowest_confidence=sure.lowest if sure else None,
        drafted_tokens=generation.drafted or None,
        accepted_tokens=generation.accepted if generation.drafted else None,
        details={
            "queue_seconds": round(generation.queue_seconds, 4),
            "time_to_first_token_seconds": generation.time_to_first_token_seconds,
            "preemptions": generation.preemptions,
            **({"tiles": tiling.on_page()} if tiling else {}),
            **({"doubled_lines": doubled} if doubled else {}),
            **({"doubts": [[*doubt, text[doubt.first : doubt.last]] for doubt in doubts]} if doubts else {}),
            **({"loop": {"tokens": loop.tokens, "copies": loop.copies}} if loop else {}),
        },
    )
