"""The CPU engine: PP-OCRv6 (small) through RapidOCR and ONNX Runtime, with the models of RapidOCR's own wheel.

One detector and one recognizer, each with a single ONNX thread, are shared by as many Python threads as there are
cores: a thread reads a page from end to end. ONNX Runtime and OpenCV release the GIL, so every core is busy;
benchmarks/RESULTS.md has the figures of the alternatives (threads inside one call, batches of lines) and of the
settings below. Choices that lost: RapidOCR's orientation classifier of lines (it turns good lines of small print upside
down, 24 % of the characters of a 9 pt page; orientation.py turns whole pages), enlarging the page, six lines a batch.

Cui et al. 2025, "PaddleOCR 3.0 technical report", arXiv:2507.05595; Liao et al. 2020 (the detector, DB),
arXiv:1911.08947.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PageFailed, UsageError
from workers.engines import Answer
from workers.engines.doubts import confidence_of, doubt_of, is_unreadable
from workers.engines.orientation import Turn
from workers.engines.page_lines import read_lines
from workers.engines.page_threads import PageThreads
from workers.engines.regions import Models
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
_LAYOUT_VERSION = 6


class RapidOcrEngine(PageThreads):
    """Reads pages on the CPU, as many at once as there are cores; answers the prompt named `ocr` only.

    A running ONNX call cannot be interrupted. Deadlines and `close` are looked at between calls: at most one
    detection (2 s) or one line (0.1 s) later.

    Raises:
        UsageError: RapidOCR's wheel lacks its models, or they cannot be loaded. Nothing is ever downloaded.
    """

    name = "rapidocr"

    def __init__(self, num_threads: int | None = None) -> None:
        """`num_threads`: pages read at once; by default the cores that this process may use."""
        self.model = fingerprint()
        self._models = Models(_load())
        super().__init__(num_threads)

    def _read(self, pixels: NDArray[np.uint8], is_late: Callable[[], bool]) -> Answer:
        import numpy as np

        started = time.monotonic()
        page = read_lines(self._models, pixels, is_late)
        if is_unreadable(page):
            raise PageFailed(
                f"its {len(page.foreign)} lines are in a script or hand that rapidocr does not read (it knows Latin, "
                "Chinese, Japanese); use --engine tesseract --ocr-language LANGUAGE, or --engine pixtral --model DIR",
                cause="unread-script",
            )
        doubt = doubt_of(page)
        details: dict[str, Any] = {"lines": [_compact(line, page.turn, pixels.shape) for line in page.lines]}
        if page.turn:
            details["turned_degrees"] = 90 * page.turn  # counter-clockwise
        if num_unread := len(page.unread) + len(page.foreign):
            details["unread_regions"] = num_unread
        return Answer(
            text_in_reading_order(page.lines, np.rot90(pixels, page.turn)),
            "deadline" if page.is_late else "stop",
            time.monotonic() - started,
            confidence=confidence_of(page.lines),
            details=details,
            angle=float(-90 * page.turn % 360) if page.lines else None,
            review_reason=doubt.reason if doubt else None,
            review_score=round(doubt.score, 3) if doubt else None,
        )


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


def _load() -> Any:
    """A RapidOCR with both models loaded."""
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
    reader.text_det = StripDetector(reader.text_det)
    return reader


def _compact(line: Line, turn: Turn, shape: tuple[int, ...]) -> list[float | int | str]:
    """[x0, y0, x1, y1, confidence, text]: the upright rectangle around the line, whole pixels of the page as given."""
    corners = list(line.quad)
    height, width = shape[0], shape[1]
    if turn == Turn.LEFT:
        corners = [(width - y, x) for x, y in corners]
    elif turn == Turn.HALF:
        corners = [(width - x, height - y) for x, y in corners]
    elif turn == Turn.RIGHT:
        corners = [(y, height - x) for x, y in corners]
    xs, ys = zip(*corners, strict=True)
    return [round(min(xs)), round(min(ys)), round(max(xs)), round(max(ys)), round(line.confidence, 3), line.text]
