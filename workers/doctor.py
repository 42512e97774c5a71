"""What each engine finds on this machine; the part of `pagepack doctor` that needs the engines' libraries."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

from pipeline.errors import PagepackError
from pipeline.settings import Settings
from workers.choose import choose_engine


def check_engines(settings: Settings) -> list[dict[str, str]]:
    """One check an engine and one for the choice, as plain values."""
    checks = [_rapidocr(), *_pixtral(settings.model)]
    try:
        choice = choose_engine(settings)
        checks.append(_check("engine", "ok", f"{choice.engine} ({choice.model}): {choice.reason}"))
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

    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else f"CPU, {os.cpu_count()} cores"
    where = torch.device("cuda" if on_gpu else "cpu")
    try:
        attention = _check("attention", "ok", start.describe(folder, where))
    except PagepackError:  # a folder that is no checkpoint is the choice's to report
        attention = _check("attention", "ok", start.describe(None, where))
    return [_check("pixtral", "ok", f"torch {torch.__version__} on {device}"), attention]


def _check(name: str, state: str, fact: str) -> dict[str, str]:
    return {"name": name, "state": state, "fact": fact}
