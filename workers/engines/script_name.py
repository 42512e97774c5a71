"""In which script a page is that the engine does not read: Tesseract's detector says it, where that is installed.

RapidOCR's wheel has no model for it. Asked for pages that fail alone: about 2 s on two busy cores.
"""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any

from pipeline.errors import UsageError
from workers.engines.tesseract import environment, find_tesseract

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LEAST_CONFIDENCE = 0.5  # pages in Cyrillic and Greek have 1.5 and more
_TIMEOUT_SECONDS = 20
_LONG_SIDE_PX = 2048  # in 1,024 px it knows one page of three
_LANGUAGES = {  # of a script that has a main one, as Tesseract names its data
    "Arabic": "ara",
    "Armenian": "hye",
    "Bengali": "ben",
    "Cyrillic": "rus",
    "Devanagari": "hin",
    "Georgian": "kat",
    "Greek": "ell",
    "Hangul": "kor",
    "Hebrew": "heb",
    "Tamil": "tam",
    "Thai": "tha",
}


def script_of(pixels: NDArray[np.uint8]) -> str | None:
    """`Cyrillic`, for an RGB page; None where nobody can say it."""
    import cv2
    import numpy as np

    try:
        installed = find_tesseract()
        if "osd" not in installed.languages:
            return None
        scale = max(1.0, _LONG_SIDE_PX / max(pixels.shape))
        large: Any = cv2.resize(np.ascontiguousarray(pixels), None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        grey: Any = cv2.cvtColor(large, cv2.COLOR_RGB2GRAY)
        height, width = grey.shape
        done = subprocess.run(
            [installed.command, "stdin", "stdout", "-l", "osd", "--psm", "0"],
            input=f"P5 {width} {height} 255\n".encode() + grey.tobytes(),
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
            env=environment(),
        )
    except (UsageError, OSError, subprocess.SubprocessError):
        return None
    said = done.stdout.decode(errors="replace")
    script = re.search(r"^Script: (\w+)$", said, re.MULTILINE)
    sure = re.search(r"^Script confidence: ([\d.]+)$", said, re.MULTILINE)
    # Latin, Han and Japanese the engine reads: a hand, then.
    if not script or not sure or float(sure[1]) < _LEAST_CONFIDENCE or script[1] not in _LANGUAGES:
        return None
    return script[1]


def language_of(script: str) -> str:
    return _LANGUAGES[script]
