"""Who reads the pages: pagepack as its commands do, and Tesseract beside it."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.quality.draw import Page
from benchmarks.quality.paper import pymupdf
from pipeline.blobs.png import load
from pipeline.documents.files import kind_of
from pipeline.documents.rasterize import PageFailure, Rasterizer
from pipeline.errors import PageFailed
from pipeline.layout.own_text import own_text
from pipeline.settings import Settings
from schemas.prompts import OCR
from schemas.text_layers import Verdict


@dataclass(frozen=True)
class Reading:
    """What was read of one page, the processor time for it, and what a look at it needs."""

    text: str
    seconds: float
    facts: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)  # kept with --keep, not printed


class Reader(Protocol):
    name: str
    model: str

    def read(self, path: Path, page: Page) -> Reading: ...

    def close(self) -> None: ...


class Pagepack:
    """A file through the sandboxed rasterizer and the engine, one page after the other on one thread.

    The image is read even where the file carries its text, unless the setting `text_layer` is given: this measures
    reading. Drawing happens in another process, whose time counts once it has ended: `close`.
    """

    name = "pagepack"

    def __init__(self, settings: Settings) -> None:
        from workers.choose import make_engine

        self._rasterizer, self._engine, self._text_layer = (
            Rasterizer(settings),
            make_engine(settings),
            settings.text_layer,
        )
        self.model = f"{self._engine.model}, detail {settings.detail}"

    def read(self, path: Path, page: Page) -> Reading:
        with path.open("rb") as file:
            kind = kind_of(file.read(4096))
        with self._rasterizer.open(path, kind) as document:
            drawn = next(document.pages())
        if isinstance(drawn, PageFailure):
            return Reading("", 0.0, {"failed": str(drawn.error)})
        if drawn.text_layer and (
            self._text_layer == "always"
            or (self._text_layer in ("auto", "prefer") and drawn.text_layer_verdict == Verdict.SOUND)
        ):
            started = time.process_time()
            text = own_text(drawn.text_layer, drawn.text_layer_found)
            return Reading(text, time.process_time() - started, {"text_layer": drawn.text_layer_verdict})
        pixels = np.asarray(load(drawn.image).convert("RGB"))
        started = time.process_time()
        try:
            answer = self._engine.submit(drawn.image_hash, pixels, [OCR])[0].result()
        except PageFailed as error:
            said = {"failed": str(error), "review": error.cause}  # it says so, too: a row of `failures`
            return Reading("", time.process_time() - started, said)
        seconds = time.process_time() - started
        size = {"width_px": drawn.width_px, "height_px": drawn.height_px, "png_bytes": len(drawn.image)}
        said = {"confidence": answer.confidence, "angle": answer.angle, "review": answer.review_reason}
        said |= {"finish_reason": answer.finish_reason, "review_score": answer.review_score}
        return Reading(answer.text, seconds, {**size, **said, "warnings": drawn.warnings}, answer.details)

    def close(self) -> None:
        self._engine.close()
        self._rasterizer.close()


class Tesseract:
    """The installed Tesseract on one thread, with its own finding of how a page lies; PDF pages at 300 dpi.

    It is told a page's language, which pagepack finds out.
    """

    name = "tesseract"

    def __init__(self) -> None:
        first = subprocess.run(["tesseract", "--version"], capture_output=True, text=True, check=True).stdout
        self.model = first.splitlines()[0]
        listed = subprocess.run(["tesseract", "--list-langs"], capture_output=True, text=True, check=True).stdout
        self._languages = {"en": "eng", "zh": "chi_sim+eng" if "chi_sim" in listed.split() else "eng"}
        self._languages["other"] = "eng"
        self._folder = tempfile.TemporaryDirectory()

    def read(self, path: Path, page: Page) -> Reading:
        if path.suffix == ".pdf":
            drawn = Path(self._folder.name) / "page.png"
            pymupdf.open(path)[0].get_pixmap(dpi=300).save(drawn)
            path = drawn
        command = ["tesseract", str(path), "-", "--psm", "1", "-l", self._languages[page.language]]
        before = _children_seconds()
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "OMP_THREAD_LIMIT": "1"}, check=False
        )
        facts = {} if done.returncode == 0 else {"failed": done.stderr.strip()[-300:]}
        return Reading(done.stdout, _children_seconds() - before, facts)

    def close(self) -> None:
        self._folder.cleanup()


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def has_tesseract() -> bool:
    return shutil.which("tesseract") is not None
