"""Engines with the true interface and one named behaviour each; PAGEPACK_INTERNAL_ENGINE names one to the workers."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.database.open import open_database
from pipeline.errors import PageFailed, UsageError
from pipeline.settings import load_settings
from pipeline.store.fleet import workers
from schemas.prompts import Prompt
from workers.engines import Answer, Engine


class InstantEngine(Engine):
    """Answers at once with the image's hash, so that a test can say which page an answer belongs to."""

    name = "instant"
    model = "instant/1"
    capacity = 8

    def supports(self, prompt: Prompt) -> bool:
        return True

    def submit(
        self, image_hash: str, pixels: NDArray[np.uint8], prompts: Sequence[Prompt], deadline: float | None = None
    ) -> list[Future[Answer]]:
        futures: list[Future[Answer]] = []
        for prompt in prompts:
            future: Future[Answer] = Future()
            future.set_result(Answer(f"{prompt.name} of {image_hash}", "stop", 0.0))
            futures.append(future)
        return futures

    def stats(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


class OcrOnlyEngine(InstantEngine):
    """As RapidOCR: no other prompt."""

    name = model = "ocr-only"

    def supports(self, prompt: Prompt) -> bool:
        return prompt.name == "ocr"


class SilentEngine(InstantEngine):
    """Finds nothing on any page."""

    name, model = "silent", "silent/1"

    def submit(
        self, image_hash: str, pixels: NDArray[np.uint8], prompts: Sequence[Prompt], deadline: float | None = None
    ) -> list[Future[Answer]]:
        futures = [Future[Answer]() for _ in prompts]
        for future in futures:
            future.set_result(Answer(" \n", "stop", 0.0))
        return futures


class BrokenEngine(InstantEngine):
    """Dies at whatever page, as on a broken GPU."""

    def submit(
        self, image_hash: str, pixels: NDArray[np.uint8], prompts: Sequence[Prompt], deadline: float | None = None
    ) -> list[Future[Answer]]:
        os._exit(139)


class UnstartableEngine(InstantEngine):
    """Raises what nobody foresaw when it is loaded."""

    def __init__(self) -> None:
        raise KeyError("no such kernel")


class UnfitEngine(InstantEngine):
    """Finds, when it is loaded, that it does not fit this machine: after an ingest worker has said that it is ready."""

    def __init__(self) -> None:
        db = open_database(load_settings())
        while not any(worker.role == "ingest" for worker in workers(db)):
            time.sleep(0.05)
        raise UsageError("too little memory for one page; take a smaller checkpoint")


class SlowEngine(InstantEngine):
    """Takes a tenth of a second a page, four at a time; notes each page that it begins in a file."""

    capacity = 4
    seconds = 0.1

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(4)
        self._lock = threading.Lock()

    def submit(
        self, image_hash: str, pixels: NDArray[np.uint8], prompts: Sequence[Prompt], deadline: float | None = None
    ) -> list[Future[Answer]]:
        return [self._pool.submit(self._read, image_hash, prompt) for prompt in prompts]

    def _read(self, image_hash: str, prompt: Prompt) -> Answer:
        if log := os.environ.get("PAGEPACK_INTERNAL_LOG"):
            with self._lock, Path(log).open("a") as file:
                file.write(f"{image_hash}\n")
        time.sleep(self.seconds)
        return Answer(f"{prompt.name} of {image_hash}", "stop", self.seconds)


class SlowerEngine(SlowEngine):
    """Leaves the time to start a command, on a slow machine too, before it has read two hundred pages."""

    seconds = 1.0


class SlowestEngine(SlowEngine):
    """Reads one page a second: what it has to do for minutes is drawn in a second or two."""

    seconds = 4.0


class HeldEngine(SlowEngine):
    """Begins six pages, and more when there is a file where PAGEPACK_INTERNAL_GATE says."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = itertools.count(1)

    def _read(self, image_hash: str, prompt: Prompt) -> Answer:
        if next(self._begun) > 6:
            while not os.path.exists(os.environ["PAGEPACK_INTERNAL_GATE"]):
                time.sleep(0.05)
        return super()._read(image_hash, prompt)


class CrashingEngine(InstantEngine):
    """Kills its process at a dark page; others are answered."""

    def submit(
        self, image_hash: str, pixels: NDArray[np.uint8], prompts: Sequence[Prompt], deadline: float | None = None
    ) -> list[Future[Answer]]:
        if float(pixels.mean()) < 100:  # the dark page
            os._exit(139)
        return super().submit(image_hash, pixels, prompts, deadline)


class FailingEngine(InstantEngine):
    """Says of every dark page that it cannot be read."""

    def submit(
        self, image_hash: str, pixels: NDArray[np.uint8], prompts: Sequence[Prompt], deadline: float | None = None
    ) -> list[Future[Answer]]:
        if float(pixels.mean()) < 100:
            raise PageFailed("this page is dark", cause="engine")
        return super().submit(image_hash, pixels, prompts, deadline)


class DoubtfulEngine(InstantEngine):
    """Answers a dark page without an end, and doubts what it describes."""

    def submit(
        self, image_hash: str, pixels: NDArray[np.uint8], prompts: Sequence[Prompt], deadline: float | None = None
    ) -> list[Future[Answer]]:
        futures = [Future[Answer]() for _ in prompts]
        reason = "length" if float(pixels.mean()) < 100 else "stop"
        for future, prompt in zip(futures, prompts, strict=True):
            confidence = 0.79 if prompt.name == "describe" else 0.8
            future.set_result(Answer(f"{prompt.name} of {image_hash}", reason, 0.0, confidence=confidence))
        return futures


class HangingEngine(InstantEngine):
    """Never answers; a future of it can be cancelled."""

    def submit(
        self, image_hash: str, pixels: NDArray[np.uint8], prompts: Sequence[Prompt], deadline: float | None = None
    ) -> list[Future[Answer]]:
        return [Future() for _ in prompts]


class HeldOcrOnlyEngine(HeldEngine):
    """As RapidOCR, and held."""

    name = model = "held-ocr-only"

    def supports(self, prompt: Prompt) -> bool:
        return prompt.name == "ocr"


class MortalConverser(InstantEngine):
    """Answers the first conversation, and dies at the second."""

    def converse(self, messages: list[dict[str, Any]], prompt: Prompt) -> Future[Answer]:
        if len(messages) > 1:
            time.sleep(0.5)  # so that the first answer is out
            os._exit(139)
        future: Future[Answer] = Future()
        future.set_result(Answer("a bar", "stop", 0.0))
        return future
