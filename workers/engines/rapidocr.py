"""The CPU engine: PP-OCRv6 (small) through RapidOCR and ONNX Runtime, by default with the models of RapidOCR's wheel.

One detector and one recognizer, each with a single ONNX thread, are shared by as many Python threads as there are
cores: a thread reads a page from end to end. ONNX Runtime and OpenCV release the GIL, so every core is busy;
benchmarks/RESULTS.md has the figures of the alternatives (threads inside one call, batches of lines) and of the
settings below. Choices that lost: RapidOCR's orientation classifier of lines (it turns good lines of small print upside
down, 24 % of the characters of a 9 pt page; orientation.py turns whole pages), enlarging the page, six lines a batch.

Cui et al. 2025, "PaddleOCR 3.0 technical report", arXiv:2507.05595; Liao et al. 2020 (the detector, DB),
arXiv:1911.08947.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.cores import num_cores
from pipeline.errors import PageFailed, UsageError
from workers.engines import Answer
from workers.engines.doubts import confidence_of, is_unreadable
from workers.engines.page_answer import answer_of
from workers.engines.page_lines import read_lines
from workers.engines.page_threads import PageThreads
from workers.engines.rapidocr_models import ModelFiles, choose_models
from workers.engines.regions import Models
from workers.engines.script_name import language_of, script_of
from workers.engines.strips import StripDetector

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PARAMETERS: dict[str, Any] = {
    "Global.use_cls": False,
    # Pages come as large as their print needs, and are never resampled, but for rounding to the network's multiples
    # of 32. RapidOCR's defaults would shrink a page to 2,000 px, and enlarge a narrow strip many times over.
    "Global.max_side_len": 100_000,
    "Det.limit_type": "max",
    "Det.limit_side_len": 100_000,
    # One line at a time: no padding to the longest of six, and a line's text depends on that line alone.
    "Rec.rec_batch_num": 1,
    # What widens a line is `Widened`'s. RapidOCR's 320 px cost a cell of a table twice the time.
    "Rec.rec_img_shape": [3, 48, 32],
    "EngineConfig.onnxruntime.intra_op_num_threads": 1,
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    "Global.log_level": "critical",
}
# Part of the fingerprint: raise it when the same lines would give other text (reading order, turning).
_LAYOUT_VERSION = 26
_A_SCRIPT = "a script or hand that"
# Of 81 public pages, 9 of the 10 that were read worst stand below it.
_SOUND_CONFIDENCE = 0.98
# Sound pages have 0.97 and more with the tiny models, those in scripts or signs that they do not know 0.92 and less.
_SOUND_CONFIDENCE_OF_TINY = 0.95


class RapidOcrEngine(PageThreads):
    """Reads pages on the CPU, as many at once as there are cores; answers the prompt named `ocr` only.

    A running ONNX call cannot be interrupted. Deadlines and `close` are looked at between calls: at most one
    detection (2 s) or one line (0.1 s) later.

    Raises:
        UsageError: RapidOCR's wheel lacks its models, or they cannot be loaded. Nothing is ever downloaded.
    """

    name = "rapidocr"

    def __init__(self, num_threads: int | None = None, models: ModelFiles | None = None) -> None:
        """`num_threads`: pages read at once; by default the cores that this process may use."""
        models, num_threads = models or choose_models(), num_threads or num_cores()
        self.model = fingerprint(models)
        self._models = Models(load(models, num_threads), reads_greek=models.language is not None)
        self._second = Models(load(models.second, num_threads)) if models.second else None
        self._models_name = (models.second or models).name
        super().__init__(num_threads)

    def _read(self, pixels: NDArray[np.uint8], is_late: Callable[[], bool]) -> Answer:
        started = time.monotonic()
        page = read_lines(self._models, pixels, is_late)
        if self._second and not page.is_late and 0 < (confidence_of(page.lines) or 0) < _SOUND_CONFIDENCE_OF_TINY:
            page = read_lines(self._second, pixels, is_late)
        if is_unreadable(page):
            script = None if is_late() else script_of(pixels)
            is_in, language = (f"{script} script, which", language_of(script)) if script else (_A_SCRIPT, "LANGUAGE")
            raise PageFailed(
                f"its {len(page.foreign) + len(page.lines)} lines are in {is_in} {self._models_name} does not read; "
                f"use --engine tesseract --ocr-language {language}, or --engine pixtral --model DIR",
                cause="unread-script",
            )
        return answer_of(page, pixels, time.monotonic() - started, _SOUND_CONFIDENCE)


class Widened:
    """The recognizer's session, called as that is, with empty paper at the end of each line.

    Without it more of the last letters are wrong. Widths come in steps, for OpenVINO builds its kernels anew for each
    that it has not met.
    """

    PAPER_PX = 32
    STEP_PX = 32

    def __init__(self, session: Any) -> None:
        self.session = session

    def __call__(self, lines: NDArray[np.float32]) -> Any:
        """Lines (count, 3, 48, width), where zero is the grey with which RapidOCR, too, widens them."""
        import numpy as np

        width = lines.shape[3]
        more = self.PAPER_PX + -(width + self.PAPER_PX) % self.STEP_PX
        return self.session(np.pad(lines, ((0, 0), (0, 0), (0, 0), (0, more))))


def fingerprint(models: ModelFiles | None = None) -> str:
    """What reads, by default with the models of RapidOCR's wheel."""
    return (models or choose_models()).fingerprint(_PARAMETERS, _LAYOUT_VERSION)


def load(models: ModelFiles | None = None, num_threads: int = 1) -> Any:
    """A RapidOCR with both models loaded; `num_threads` of them call it at once."""
    models = models or choose_models()
    # A path that is given is never fetched.
    parameters = {"Det.model_path": str(models.detector), "Rec.model_path": str(models.recognizer)}
    parameters = {**_PARAMETERS, **models.parameters, **parameters}
    try:
        import cv2
        import numpy as np
        import onnxruntime
        from rapidocr import RapidOCR

        onnxruntime.set_default_logger_severity(4)  # fatal only
        cv2.setNumThreads(1)  # the cores are taken: one page each
        with models.character_list() as characters:
            reader: Any = RapidOCR(params=parameters | ({"Rec.rec_keys_path": characters} if characters else {}))
            logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)
            blank = np.full((64, 64, 3), 255, np.uint8)
            reader(blank, use_det=False)  # models load on first use: load both now, where an error says so
            reader(blank, use_det=True)
            if models.precision is not None:  # RapidOCR's own session of OpenVINO bears one call at a time
                from workers.engines.openvino_session import OpenVinoSession

                reader.text_det.session = OpenVinoSession(models.detector, models.precision, num_threads)
                reader.text_rec.session = OpenVinoSession(models.recognizer, models.precision, num_threads)
            reader.text_rec.session = Widened(reader.text_rec.session)
    except UsageError:
        raise
    except Exception as exc:
        way_out = "reinstall rapidocr and onnxruntime" if models.language is None else f"is {models.recognizer} whole?"
        if models.precision is not None:
            way_out = "reinstall openvino, or leave --ocr-runtime openvino out"
        raise UsageError(f"rapidocr cannot load its models ({exc}); {way_out}") from exc
    reader.text_det = StripDetector(reader.text_det)
    return reader
