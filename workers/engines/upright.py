"""Pages are set upright before a model that sees pictures reads them: it makes nonsense of a page on its side.

How a page lies, `page_lie.py` says. The engine behind gets the picture as it was turned, under a name of its own, and
the answer says by how much.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.cores import num_cores
from schemas.prompts import Prompt
from workers.engines import Answer, Begun, Converses, Engine
from workers.engines.page_lie import Lie, find_lie
from workers.engines.regions import Models

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workers.engines.endpoint_jobs import Book

log = logging.getLogger("pagepack.worker")

_CELL_PX = 16


def set_upright(pixels: NDArray[np.uint8], lie: Lie) -> NDArray[np.uint8]:
    """The picture as it was turned, with white where the sheet does not reach; sides stay multiples of 16."""
    import cv2
    import numpy as np

    turned = np.ascontiguousarray(np.rot90(pixels, lie.turn))
    if not lie.skew:
        return turned
    height, width = turned.shape[:2]
    radians = math.radians(abs(lie.skew))
    wide = width * math.cos(radians) + height * math.sin(radians)
    high = height * math.cos(radians) + width * math.sin(radians)
    wide_px, high_px = (math.ceil(side / _CELL_PX) * _CELL_PX for side in (wide, high))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -lie.skew, 1.0)  # OpenCV's angles run the other way
    matrix[0, 2] += (wide_px - width) / 2
    matrix[1, 2] += (high_px - height) / 2
    white = (255, 255, 255)
    return np.asarray(cv2.warpAffine(turned, matrix, (wide_px, high_px), flags=cv2.INTER_CUBIC, borderValue=white))


class Upright(Engine):
    """An engine that gets pages upright; all else is its own. `submit` takes as long as the look at the page."""

    def __init__(self, engine: Engine, models: Models | None = None) -> None:
        self._engine = engine
        self._models = models
        self._loading = threading.Lock()
        self._cannot_load = False
        self._cores = threading.Semaphore(num_cores())  # a look takes one
        self.name, self.model, self.capacity = engine.name, engine.model, engine.capacity
        self.takes_drafts = engine.takes_drafts
        self.least_cost, self.least_page_seconds = engine.least_cost, engine.least_page_seconds

    def keep_jobs_in(self, book: Book) -> None:
        self._engine.keep_jobs_in(book)

    def converse(self, messages: list[dict[str, Any]], prompt: Prompt) -> Future[Answer]:
        """Nothing is turned: who sends pictures in a conversation has chosen them."""
        assert isinstance(self._engine, Converses), self.name
        return self._engine.converse(messages, prompt)

    def supports(self, prompt: Prompt) -> bool:
        return self._engine.supports(prompt)

    def stats(self) -> dict[str, float]:
        return self._engine.stats()

    def close(self) -> None:
        self._engine.close()

    def submit(
        self,
        image_hash: str,
        pixels: NDArray[np.uint8],
        prompts: Sequence[Prompt],
        deadline: float | None = None,
        begun: Sequence[Begun | None] = (),
    ) -> list[Future[Answer]]:
        lie = self._lie(image_hash, pixels)
        if lie is None:
            return self._engine.submit(image_hash, pixels, prompts, deadline, begun)
        if not lie.angle:
            futures = self._engine.submit(image_hash, pixels, prompts, deadline, begun)
        else:
            name = f"{image_hash}-turned-{lie.angle:g}"
            futures = self._engine.submit(name, set_upright(pixels, lie), prompts, deadline, begun)
        return [_Turned(future, lie, self._engine.model) for future in futures]

    def _lie(self, image_hash: str, pixels: NDArray[np.uint8]) -> Lie | None:
        """None where it cannot be found out: the page is read as it lies."""
        try:
            if (models := self._loaded()) is None:
                return None
            with self._cores:
                return find_lie(models, pixels)
        except Exception:
            log.exception("how the page image %s lies is not known; it is read as it is", image_hash)
            return None

    def _loaded(self) -> Models | None:
        """None where they cannot be loaded, which is tried and said once."""
        with self._loading:
            if self._models is None and not self._cannot_load:
                from workers.engines.rapidocr import load

                try:
                    self._models = Models(load())
                except Exception as error:
                    self._cannot_load = True
                    why = str(error) or type(error).__name__
                    log.warning("pages are read as they lie, for what finds out how they do cannot be loaded: %s", why)
            return self._models


class _Turned(Future[Answer]):
    """An answer about a page that was turned first."""

    def __init__(self, inner: Future[Answer], lie: Lie, model: str) -> None:
        super().__init__()
        self._inner, self._lie, self._model = inner, lie, model
        inner.add_done_callback(self._take)

    def cancel(self) -> bool:
        self._inner.cancel()
        return super().cancel()

    def _take(self, inner: Future[Answer]) -> None:
        if inner.cancelled():
            super().cancel()
            self.set_running_or_notify_cancel()
        elif self.set_running_or_notify_cancel():
            if (error := inner.exception()) is not None:
                self.set_exception(error)
            else:
                self.set_result(self._told(inner.result()))

    def _told(self, answer: Answer) -> Answer:
        angle = self._lie.angle
        if not angle:
            return replace(answer, angle=answer.angle or 0.0)
        angle = (angle + (answer.angle or 0.0)) % 360  # a try may have turned it further
        # What was read of the page as it lies would be another text.
        return replace(answer, angle=angle, model=f"{answer.model or self._model}+turned")
