"""Which engine reads here, and why."""

from __future__ import annotations

import importlib
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UsageError
from pipeline.settings import Settings
from workers.engines import Engine

if TYPE_CHECKING:
    import torch

    from workers.engines.rapidocr_models import ModelFiles


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine by name, the fingerprint of its model, and the reason in a sentence."""

    engine: str
    model: str
    reason: str
    only_prompts: list[str] | None  # None: any prompt

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def choose_engine(settings: Settings, *, reads_here: bool = True) -> Choice:
    """By the settings and the GPUs that were asked for; loads no model. Raises UsageError: it cannot run here.

    Without `reads_here` it is for a reader elsewhere, whose devices are its own: this machine's need not have fp8, and
    are asked only where a setting is auto.
    """
    if stand_in := _stand_in():
        return Choice(stand_in.name, stand_in.model, "a stand-in for tests and benchmarks", None)
    engine = settings.engine
    reason = f"--engine {engine}"
    if engine == "auto":
        engine = "pixtral" if settings.model else "rapidocr"
        reason = (
            f"a model folder is set ({settings.model})"
            if settings.model
            else "the default; --model DIR chooses pixtral"
        )
    devices = os.environ.get("PAGEPACK_INTERNAL_DEVICE")
    if devices and engine != "pixtral":
        raise UsageError(
            f"--devices {devices}: the engine {engine} ({reason}) reads on the CPU; leave --devices out, or read "
            "with --engine pixtral --model DIR"
        )
    if settings.quantize not in ("off", "auto") and engine != "pixtral":
        raise UsageError(
            f"--quantize {settings.quantize}: the engine {engine} ({reason}) has no weights to quantize; leave it out, "
            "or read with --engine pixtral --model DIR"
        )
    is_pair = "+" in (devices or "")
    if settings.quantize != "off" and is_pair:
        raise UsageError(
            f"--devices {devices} --quantize {settings.quantize}: halves of a layer are not quantized; leave one of "
            "the two out, for narrow weights may fit one GPU"
        )
    if engine == "rapidocr":
        from workers.engines import rapidocr

        return Choice("rapidocr", rapidocr.fingerprint(_rapidocr_models(settings)), reason, ["ocr"])
    if engine == "tesseract":
        from workers.engines import tesseract

        if settings.fast:
            raise UsageError("--fast chooses models of rapidocr; leave it out with --engine tesseract")
        return Choice("tesseract", tesseract.fingerprint(settings.ocr_language), reason, ["ocr"])
    if engine == "endpoint":
        from pipeline.endpoints.prices import Prices
        from workers.engines.endpoint_request import Asked

        asked = Asked.of(settings)
        if settings.max_cost is not None and not Prices.of(settings).are_known():
            raise UsageError(
                "--max-cost needs prices: PAGEPACK_ENDPOINT_INPUT_PRICE and PAGEPACK_ENDPOINT_OUTPUT_PRICE, of a "
                "million tokens each, or PAGEPACK_ENDPOINT_PAGE_PRICE, of a thousand pages"
            )
        return Choice("endpoint", asked.fingerprint, f"{reason}, at {asked.url}", asked.only_prompts)
    if settings.model is None:
        raise UsageError("the engine pixtral needs a model folder: --model DIR or PAGEPACK_MODEL")
    from workers.engines import pixtral
    from workers.pixtral.model.config import check_folder, check_heads

    check_folder(settings.model)
    if devices:
        from workers.devices import check_devices

        check_devices(devices)
    if is_pair:
        from workers.pixtral.model.config import read_config
        from workers.pixtral.model.half import half_of

        half_of(read_config(settings.model), settings.model)
    kind = _kind(settings.model, settings.quantize, settings.kv_cache)
    if reads_here and kind not in (None, "int8"):  # which every device multiplies
        _check_kind(kind, devices, is_chosen=settings.quantize == "auto")
    narrow_cache = settings.kv_cache == "fp8"
    if settings.kv_cache == "auto" or (narrow_cache and reads_here):
        narrow_cache = _narrow_cache(settings.model, settings.kv_cache, kind, devices)
    elif narrow_cache:
        check_heads(settings.model)
    return Choice("pixtral", pixtral.fingerprint(settings.model, kind, narrow_cache=narrow_cache), reason, None)


def _check_kind(kind: str, devices: str | None, *, is_chosen: bool) -> None:
    asked = _torch_devices(devices)
    from workers.pixtral.model.quantize import check_kind

    for device in asked:
        try:
            check_kind(kind, device)
        except UsageError as error:
            if is_chosen:
                raise UsageError(f"--quantize auto came to {kind} by the first GPU of several: {error}") from error
            raise


def _narrow_cache(folder: Path, kv_cache: str, kind: str | None, devices: str | None) -> bool:
    """auto goes by the first of the devices, fp8 is refused where one of them has none."""
    first, *others = _torch_devices(devices)
    from workers.pixtral import start

    half = "+" in (devices or "")
    if kv_cache != "auto":
        for device in others:
            start.choose_cache(kv_cache, folder, device, kind, half=half)
    return start.choose_cache(kv_cache, folder, first, kind, half=half)


def _torch_devices(devices: str | None) -> list[torch.device]:
    """Those that this process would read on; CUDA shows it no others than were asked for."""
    try:
        import torch
    except ImportError as error:
        raise UsageError("the pixtral engine needs torch: pip install 'pagepack[pixtral]'") from error
    if not torch.cuda.is_available():
        return [torch.device("cpu")]
    asked = len(re.split("[,+]", devices)) if devices else 1
    return [torch.device("cuda", number) for number in range(asked)]


def _kind(folder: Path, quantize: str, kv_cache: str) -> str | None:
    """What the weights are quantized to; torch is asked only where the memory decides."""
    if quantize != "auto":
        return None if quantize == "off" else quantize
    device = _torch_devices(None)[0]
    from workers.engines import pixtral

    return pixtral.settled(quantize, folder, device, kv_cache)


def make_engine(settings: Settings) -> Engine:
    """Load the chosen engine; returns when it can read. Raises UsageError with the way out."""
    if stand_in := _stand_in():
        made: Engine = stand_in()
        return made
    choice = choose_engine(settings)
    if choice.engine == "rapidocr":
        from workers.engines.rapidocr import RapidOcrEngine

        return RapidOcrEngine(models=_rapidocr_models(settings))
    if choice.engine == "tesseract":
        from workers.engines.tesseract import TesseractEngine

        return TesseractEngine(settings.ocr_language)
    if choice.engine == "endpoint":
        from workers.engines.endpoint import EndpointEngine

        return _turning(EndpointEngine(settings), settings)
    from workers.engines.pixtral import PixtralEngine

    assert settings.model is not None
    device = _torch_names(os.environ.get("PAGEPACK_INTERNAL_DEVICE"))
    drafts, longest = settings.drafts == "auto", settings.max_answer_tokens
    quantize, kv_cache = settings.quantize, settings.kv_cache
    made_here = PixtralEngine(
        settings.model, device, most_tokens=longest, drafts=drafts, quantize=quantize, kv_cache=kv_cache
    )
    return _turning(made_here, settings)


def _torch_names(devices: str | None) -> str:
    """As torch has them, for CUDA shows this process no others: 5 → cuda, 2+3 → cuda:0+cuda:1."""
    if not devices:
        return "auto"
    if "+" not in devices:
        return "cuda"
    return "+".join("cpu" if name == "cpu" else f"cuda:{n}" for n, name in enumerate(devices.split("+")))


def _turning(engine: Engine, settings: Settings) -> Engine:
    """Engines that look at pictures themselves do not turn them."""
    if not settings.turn_pages:
        return engine
    from workers.engines.upright import Upright

    return Upright(engine)


def _rapidocr_models(settings: Settings) -> ModelFiles:
    from workers.engines.rapidocr_models import choose_models

    return choose_models(
        fast=settings.fast,
        language=settings.ocr_language,
        folder=settings.ocr_models,
        runtime=settings.ocr_runtime,
    )


def _stand_in() -> Any:
    """An engine class named as `module:Class` by PAGEPACK_INTERNAL_ENGINE: tests and benchmarks of the rest use one."""
    name = os.environ.get("PAGEPACK_INTERNAL_ENGINE")
    if not name:
        return None
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
