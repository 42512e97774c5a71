"""Stand-ins for the worker's engine. Each answers with the page's image hash, and notes each page that it begins.

PAGEPACK_INTERNAL_LOG names the file of notes, PAGEPACK_INTERNAL_PAGE_SECONDS how long a page takes. A dark page
(`documents.py`) is the one that does harm, where the engine's name says so.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from schemas.prompts import Prompt
from workers.engines import Answer, Engine


class NotingEngine(Engine):
    """Reads four pages at a time."""

    name = "noting"
    model = "noting/1"
    capacity = 4

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(self.capacity)
        self._seconds = float(os.environ.get("PAGEPACK_INTERNAL_PAGE_SECONDS", "0.2"))

    def supports(self, prompt: Prompt) -> bool:
        return True

    def submit(
        self, image_hash: str, pixels: NDArray[np.uint8], prompts: Sequence[Prompt], deadline: float | None = None
    ) -> list[Future[Answer]]:
        is_dark = float(pixels.mean()) < 128
        return [self._pool.submit(self._read, image_hash, is_dark, prompt) for prompt in prompts]

    def stats(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass

    def _read(self, image_hash: str, is_dark: bool, prompt: Prompt) -> Answer:
        note(f"{prompt.name} of {image_hash}")
        if is_dark:
            self.meet_dark_page()
        time.sleep(self._seconds)
        return Answer(f"{prompt.name} of {image_hash}", "stop", self._seconds)

    def meet_dark_page(self) -> None:
        pass


class CrashingEngine(NotingEngine):
    """A dark page kills the process, as a fault in a GPU driver does."""

    def meet_dark_page(self) -> None:
        os._exit(139)


class HangingEngine(NotingEngine):
    """A dark page is never answered, and keeps its place."""

    def meet_dark_page(self) -> None:
        threading.Event().wait()


class ExhaustedEngine(NotingEngine):
    """A dark page needs more memory than there is."""

    def meet_dark_page(self) -> None:
        raise MemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class OddTextEngine(NotingEngine):
    """Says what no database stores: a NUL and half of a surrogate pair."""

    def _read(self, image_hash: str, is_dark: bool, prompt: Prompt) -> Answer:
        answer = super()._read(image_hash, is_dark, prompt)
        return Answer(answer.text + "\0\ud800", "stop", answer.seconds)


def note(what: str) -> None:
    """One line in one write, so that processes do not tear each other's."""
    if log := os.environ.get("PAGEPACK_INTERNAL_LOG"):
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, f"{what}\n".encode())
        finally:
            os.close(descriptor)
