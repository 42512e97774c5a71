"""The CPU engine: PP-OCRv6 (small) through RapidOCR and ONNX Runtime, with the models of RapidOCR's own wheel.

One detector and one recognizer, each with a single ONNX thread, are shared by as many Python threads as there are
cores: a thread reads a page from end to end. ONNX Runtime and OpenCV release the GIL, so every core is busy;
benchmarks/RESULTS.md has the figures of the alternatives (threads inside one call, batches of lines) and of the
settings below. Choices that lost: the orientation classifier (it turns good lines of small print upside down, 24 % of
the characters of a 9 pt page; we turn whole pages, by their confidence), enlarging the page, six lines a batch.

Cui et al. 2025, "PaddleOCR 3.0 technical report", arXiv:2507.05595; Liao et al. 2020 (the detector, DB),
arXiv:1911.08947.

Over 300 lines: sessions, threads and what is made of the lines are one engine.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cores import num_cores
from pipeline.daemons import start_daemon
from pipeline.errors import PageFailed, Unavailable, UsageError
from schemas.prompts import Prompt
from workers.engines import Answer
from workers.engines.strips import StripDetector
from workers.layout.lines import Line
from workers.layout.reading_order import text_in_reading_order

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MODEL_FILES = {"Det": "PP-OCRv6_det_small.onnx", "Rec": "PP-OCRv6_rec_small.onnx"}
_PARAMETERS: dict[str, Any] = {
    "Global.use_cls": False,
    # Pages come as large as their print needs, and are never resampled, but for rounding to the network's multiples
    # of 32. RapidOCR's defaults would shrink a page to 2,000 px, and enlarge a narrow strip many times over.
    "Global.max_side_len": 100_000,
    "Det.limit_type": "max",
    "Det.limit_side_len": 100_000,
    # One line at a time: no padding to the longest of six, and a line's text depends on that line alone.
    "Rec.rec_batch_num": 1,
    "EngineConfig.onnxruntime.intra_op_num_threads": 1,
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    "Global.log_level": "critical",
}
# Part of the fingerprint: raise it when the same lines would give other text (reading order, turning).
_LAYOUT_VERSION = 2


@dataclass(eq=False, slots=True)
class _Job:
    pixels: NDArray[np.uint8]
    deadline: float | None
    future: Future[Answer]

    @property
    def is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline


class _Stopped(Exception):
    """Ends a page between two calls of the model: its deadline passed, or the engine closes."""


class RapidOcrEngine:
    """Reads pages on the CPU, as many at once as there are cores; answers the prompt named `ocr` only.

    A running ONNX call cannot be interrupted. Deadlines and `close` are looked at between calls: at most one
    detection (2 s) or one line (0.1 s) later. A page past its deadline, waiting or running, ends with
    finish_reason "deadline" and empty text. A future that waits can be cancelled; one that runs cannot.

    Raises:
        UsageError: RapidOCR's wheel lacks its models, or they cannot be loaded. Nothing is ever downloaded.
    """

    name = "rapidocr"

    def __init__(self, num_threads: int | None = None) -> None:
        """`num_threads`: pages read at once; by default the cores that this process may use."""
        self.model = fingerprint()
        num_threads = num_threads or num_cores()
        self.capacity = 2 * num_threads  # one page read and one waiting for each thread
        self._current = threading.local()  # .job: what this thread reads, for `_check`
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._stats = {"pages": 0.0, "lines": 0.0, "failed": 0.0, "seconds": 0.0}
        self._reader = _load(self._check)
        self._threads = [
            start_daemon(f"rapidocr-{i}", self._work, longest_seconds=1.0, is_over=lambda: self._closed)
            for i in range(num_threads)
        ]

    def supports(self, prompt: Prompt) -> bool:
        return prompt.name == "ocr"

    def submit(
        self,
        image_hash: str,
        pixels: NDArray[np.uint8],
        prompts: Sequence[Prompt],
        deadline: float | None = None,
    ) -> list[Future[Answer]]:
        """Queue one page; `pixels` must not change until its futures are done."""
        futures: list[Future[Answer]] = []
        for prompt in prompts:
            future: Future[Answer] = Future()
            futures.append(future)
            if not self.supports(prompt):
                message = (
                    f"rapidocr transcribes only (prompt `ocr`), it cannot answer `{prompt.name}`; use --engine pixtral"
                )
                future.set_exception(PageFailed(message, cause="unsupported-prompt"))
                continue
            with self._changed:
                if self._closed:
                    future.set_exception(Unavailable("the rapidocr engine is closed"))
                else:
                    self._waiting.append(_Job(pixels, deadline, future))
                    self._changed.notify()
        return futures

    def stats(self) -> dict[str, float]:
        """pages, lines and failed since the start; seconds: reading time summed over threads; waiting: pages now."""
        with self._changed:
            return {**self._stats, "waiting": float(len(self._waiting)), "threads": float(len(self._threads))}

    def close(self) -> None:
        with self._changed:
            self._closed = True
            jobs, self._waiting = self._waiting, deque()
            self._changed.notify_all()
        for job in jobs:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(Unavailable("the rapidocr engine was closed before this page was read"))
        # Native threads that outlive the interpreter crash it.
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _work(self) -> None:
        while (job := self._next_job()) is not None:
            started = time.monotonic()
            self._current.job = job
            num_lines, failed = 0, 0
            try:
                answer = self._read(job.pixels, started)
                num_lines = len(answer.details["lines"])
                job.future.set_result(answer)
            except _Stopped:
                if self._closed:
                    job.future.set_exception(Unavailable("the rapidocr engine was closed while it read this page"))
                else:
                    job.future.set_result(Answer("", "deadline", time.monotonic() - started))
            except Exception as exc:
                failed = 1
                job.future.set_exception(_page_failed(job.pixels, exc))
            finally:
                if not job.future.done():  # whoever waits for it must hear of it, too
                    job.future.set_exception(Unavailable("the thread that read this page failed; its log says why"))
            with self._changed:
                self._stats["pages"] += 1 - failed
                self._stats["failed"] += failed
                self._stats["lines"] += num_lines
                self._stats["seconds"] += time.monotonic() - started
            self._current.job = None
            del job  # hold no page's pixels while waiting for the next

    def _next_job(self) -> _Job | None:
        """Waits for a page; on the way, answers every waiting page whose deadline has passed. None: closed."""
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return None
                late = [job for job in self._waiting if job.is_late]
                if late:
                    self._waiting = deque(job for job in self._waiting if job not in late)
                job = self._waiting.popleft() if self._waiting else None
            for one in late:  # outside the lock: a future's callbacks may submit
                if one.future.set_running_or_notify_cancel():
                    one.future.set_result(Answer("", "deadline", 0.0))
            if job is not None and job.future.set_running_or_notify_cancel():
                return job

    def _check(self) -> None:
        job = getattr(self._current, "job", None)
        if self._closed or (job is not None and job.is_late):
            raise _Stopped

    def _read(self, pixels: NDArray[np.uint8], started: float) -> Answer:
        """The page as it stands; turned where its lines stand upright or it makes little sense."""
        import numpy as np

        lines, turns = self._lines(pixels), 0
        for other in _turns_to_try(lines):
            turned = self._lines(np.rot90(pixels, other))
            if (turns == 0 and other != 2) or _confidence(turned) > _confidence(lines):
                lines, turns = turned, other
        details: dict[str, Any] = {"lines": [_compact(line, turns, pixels.shape) for line in lines]}
        if turns:
            details["turned_degrees"] = 90 * turns
        return Answer(
            text_in_reading_order(lines),
            "stop",
            time.monotonic() - started,
            confidence=_confidence(lines) if lines else None,
            details=details,
        )

    def _lines(self, pixels: NDArray[np.uint8]) -> list[Line]:
        import numpy as np

        found = self._reader(np.ascontiguousarray(pixels[:, :, ::-1]))  # arrays are taken as BGR
        return [] if found.txts is None else list(map(_line, found.boxes, found.txts, found.scores))


@cache
def fingerprint() -> str:
    """What reads: the model's name, a hash of its weights and our parameters, RapidOCR's version.

    Costs a hash of 31 MB, once a process; loads neither RapidOCR nor ONNX Runtime.
    """
    digest = hashlib.sha256(json.dumps([_PARAMETERS, _LAYOUT_VERSION], sort_keys=True).encode())
    for path in _model_paths().values():
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"PP-OCRv6-small/{digest.hexdigest()[:12]}/rapidocr-{importlib.metadata.version('rapidocr')}"


def _model_paths() -> dict[str, Path]:
    spec = importlib.util.find_spec("rapidocr")
    if spec is None or spec.origin is None:
        raise UsageError("the rapidocr package is not installed; pip install rapidocr")
    paths = {part: Path(spec.origin).parent / "models" / name for part, name in _MODEL_FILES.items()}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise UsageError(
            f"rapidocr's models are missing in its wheel: {', '.join(missing)}; pip install 'rapidocr>=3.10,<4'"
        )
    return paths


def _load(check: Callable[[], None]) -> Any:
    """A RapidOCR with both models loaded, which calls `check` before each use of a model."""
    paths = {f"{part}.model_path": str(path) for part, path in _model_paths().items()}  # a given path is never fetched
    try:
        import cv2
        import numpy as np
        import onnxruntime
        from rapidocr import RapidOCR

        onnxruntime.set_default_logger_severity(4)  # fatal only
        cv2.setNumThreads(1)  # the cores are taken: one page each
        reader: Any = RapidOCR(params={**_PARAMETERS, **paths})
        logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)
        blank = np.full((64, 64, 3), 255, np.uint8)
        reader(blank, use_det=False)  # models load on first use: load both now, where an error says so
        reader(blank, use_det=True)
    except Exception as exc:
        raise UsageError(f"rapidocr cannot load its models ({exc}); reinstall rapidocr and onnxruntime") from exc
    for part in (reader.text_det, reader.text_rec):
        part.session = _checked(part.session, check)
    reader.text_det = StripDetector(reader.text_det)
    return reader


def _checked(session: Callable[[Any], Any], check: Callable[[], None]) -> Callable[[Any], Any]:
    def run(inputs: Any) -> Any:
        check()
        return session(inputs)

    return run


def _line(box: Any, text: str, score: float) -> Line:
    corners = [(float(x), float(y)) for x, y in box]
    return Line((corners[0], corners[1], corners[2], corners[3]), text, float(score))


def _confidence(lines: list[Line]) -> float:
    """Mean over characters; 0 where there is none."""
    weight = sum(len(line.text) for line in lines)
    return sum(line.confidence * len(line.text) for line in lines) / weight if weight else 0.0


def _turns_to_try(lines: list[Line]) -> tuple[int, ...]:
    """Quarter turns, counter-clockwise: both where most lines stand upright, a half where reading makes no sense.

    Scans lie upside down often enough. Small print read right has a confidence above 0.9, a page on its head under
    0.75; only pages in doubt pay for a second reading. One line alone is a stamp or a margin, not a turned page.
    """
    heights = [math.dist(line.quad[0], line.quad[3]) for line in lines]
    widths = [math.dist(line.quad[0], line.quad[1]) for line in lines]
    if sum(h > 1.5 * w for h, w in zip(heights, widths, strict=True)) > max(1, len(lines) // 2):
        return (1, 3)
    return (2,) if len(lines) > 1 and _confidence(lines) < 0.8 else ()


def _compact(line: Line, turns: int, shape: tuple[int, ...]) -> list[float | int | str]:
    """[x0, y0, x1, y1, confidence, text]: the upright rectangle around the line, whole pixels of the page as given."""
    corners = list(line.quad)
    height, width = shape[0], shape[1]
    if turns == 1:
        corners = [(width - y, x) for x, y in corners]
    elif turns == 2:
        corners = [(width - x, height - y) for x, y in corners]
    elif turns == 3:
        corners = [(y, height - x) for x, y in corners]
    xs, ys = zip(*corners, strict=True)
    return [round(min(xs)), round(min(ys)), round(max(xs)), round(max(ys)), round(line.confidence, 3), line.text]


def _page_failed(pixels: Any, exc: Exception) -> PageFailed:
    fact = str(exc).strip().splitlines()[-1:] or [type(exc).__name__]
    return PageFailed(f"rapidocr cannot read an image of shape {getattr(pixels, 'shape', None)}: {fact[0]}")
