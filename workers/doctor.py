"""What each engine finds on this machine; the part of `pagepack doctor` that needs the engines' libraries."""

from __future__ import annotations

import importlib.metadata
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.documents.pages.raster import raster_of
from pipeline.errors import PagepackError
from pipeline.settings import Settings
from workers.choose import choose_engine

if TYPE_CHECKING:
    import torch


def check_engines(settings: Settings) -> list[dict[str, str]]:
    """One check an engine and one for the choice, as plain values."""
    checks = [_rapidocr(), _openvino(), _tesseract(), *_pixtral(settings.model), *_endpoint(settings)]
    try:
        choice = choose_engine(settings, reads_here=False)  # each device is looked at below
        checks.append(_check("engine", "ok", f"{choice.engine} ({choice.model}): {choice.reason}"))
        if choice.engine == "pixtral" and settings.model is not None and "attention" in {one["name"] for one in checks}:
            checks += [
                *_model(settings.model, settings.quantize, settings.kv_cache),
                _weights(settings.model, settings.quantize),
            ]
            checks.append(_pages(settings))
    except PagepackError as error:
        checks.append(_check("engine", "broken", str(error)))
    return checks


def _rapidocr() -> dict[str, str]:
    try:
        import onnxruntime

        from workers.engines import rapidocr

        return _check("rapidocr", "ok", f"{rapidocr.fingerprint()} on onnxruntime {onnxruntime.__version__}")
    except (ImportError, PagepackError) as error:
        return _check("rapidocr", "broken", f"{error}; `pip install rapidocr onnxruntime`")


def _openvino() -> dict[str, str]:
    try:
        from workers.engines.openvino_session import precision_here

        precision = precision_here()
        version = importlib.metadata.version("openvino")
    except (ImportError, PagepackError) as error:
        return _check("openvino", "absent", str(error))
    if precision == "bf16":
        return _check("openvino", "ok", f"openvino {version} in bfloat16: --ocr-runtime openvino is the faster here")
    return _check("openvino", "ok", f"openvino {version}; this processor has no bfloat16: onnxruntime is as fast")


def _tesseract() -> dict[str, str]:
    from workers.engines.tesseract import find_tesseract

    try:
        found = find_tesseract()
    except PagepackError as error:
        return _check("tesseract", "absent", str(error))
    names = ", ".join(sorted(found.languages - {"osd"})) or "none"
    return _check("tesseract", "ok", f"tesseract {found.version}, languages: {names}")


def _pixtral(folder: Path | None) -> list[dict[str, str]]:
    try:
        import torch
    except ImportError:
        return [_check("pixtral", "absent", "torch is not installed; `pip install 'pagepack[pixtral]'`")]
    for package in ("mistral-common", "safetensors"):
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return [_check("pixtral", "absent", f"{package} is not installed; `pip install 'pagepack[pixtral]'`")]
    from workers.pixtral import start

    first, *_ = devices = _devices()
    checks = [_check("pixtral", "ok", f"torch {torch.__version__} on {', '.join(devices.values())}")]
    with suppress(PagepackError):  # a folder that is no checkpoint is the choice's to report
        if folder is not None:
            return [*checks, _check("attention", "ok", start.describe(folder, first))]
    any_folder = f"{start.describe(None, first)}, where the weights are bfloat16; --model DIR looks at yours"
    return [*checks, _check("attention", "ok", any_folder)]


def _endpoint(settings: Settings) -> list[dict[str, str]]:
    """Whether the server answers, where one is set; no page is sent, so nothing is charged."""
    if settings.endpoint_url is None:
        return []
    from pipeline.endpoints.check import look_at_server

    try:
        return [_check("endpoint", "ok", look_at_server(settings))]
    except PagepackError as error:
        return [_check("endpoint", "broken", str(error))]


def _devices() -> dict[torch.device, str]:
    """Where the engine may run here, with names for people: each GPU, or the CPU where there is none."""
    import torch

    if not torch.cuda.is_available():
        return {torch.device("cpu"): f"CPU, {os.cpu_count()} cores"}
    count = torch.cuda.device_count()
    return {torch.device("cuda", n): f"GPU {n}, {torch.cuda.get_device_name(n)}" for n in range(count)}


def _weights(folder: Path, quantize: str) -> dict[str, str]:
    """What the weights take, by how wide they are: the sum that `pagepack plan` makes."""
    from pipeline.planning.shapes import read_shape

    shape = read_shape(folder)
    sizes = {"as they are": 16, "int8 or fp8": 8, "int4": 4}
    fact = ", ".join(f"{shape.weight_bytes(bits) / 1e9:.3g} GB {name}" for name, bits in sizes.items())
    return _check("quantize", "ok", f"--quantize {quantize}; the weights take {fact}")


def _pages(settings: Settings) -> dict[str, str]:
    """How large pages are drawn for the model."""
    raster = raster_of(settings)
    most = f"{raster.side_px:,} px at most, unless print is small"
    return _check("pages", "ok", f"drawn for this model: {most}, in squares of {raster.cell_px} px")


def _model(folder: Path, quantize: str, kv_cache: str) -> list[dict[str, str]]:
    """Whether the checkpoint is whole and fits each device, by the engine's own sum."""
    from workers.devices import check_capability
    from workers.engines import pixtral
    from workers.pixtral import start

    checks = []
    devices = _devices()
    able = {}  # of computing with it as is asked, whatever memory they have
    for device, name in devices.items():
        try:
            check_capability(device)
            kind = pixtral.settled(quantize, folder, device, kv_cache)
            able[device] = name
            fit = start.look_at(folder, device, kind, narrow_cache=start.choose_cache(kv_cache, folder, device, kind))
            fact = f"{folder} fits {name}, {fit.limits.max_sequences} pages at once: {fit.arithmetic}"
            checks.append(_check("model", "ok", fact))
        except PagepackError as error:
            checks.append(_check("model", "broken", f"{folder} does not read on {name}: {error}"))
    if len(able) > 1 and quantize == "off" and "broken" in [check["state"] for check in checks]:
        checks += _model_over_two(folder, kv_cache, able)
    return checks


def _model_over_two(folder: Path, kv_cache: str, devices: dict[torch.device, str]) -> list[dict[str, str]]:
    """Whether the first two of them hold what one does not: a way out, and no fault where they do not either."""
    from workers.pixtral import start

    (first, name), (second, other), *_ = devices.items()
    with suppress(PagepackError):
        narrow_cache = start.choose_cache(kv_cache, folder, first, half=True)
        fit = start.look_at(folder, first, narrow_cache=narrow_cache, other=second)
        fact = f"{folder} fits {name} and {other} together (--devices {first.index}+{second.index}), "
        return [_check("model", "ok", f"{fact}{fit.limits.max_sequences} pages at once; on each: {fit.arithmetic}")]
    return []


def _check(name: str, state: str, fact: str) -> dict[str, str]:
    return {"name": name, "state": state, "fact": fact}
