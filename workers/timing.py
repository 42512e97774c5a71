"""`python -m workers time`: how long pages take here; PNGs on standard input, a line of base64 each.

The first line is JSON, {"seconds": 20}: pages that are not begun by then are left. What comes out is one line of JSON:
seconds of each page, how many pages are read at once, and the seconds until the engine could read.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from concurrent.futures import CancelledError, wait
from typing import Any

import numpy as np

from pipeline.blobs.png import hash_pixels, load
from pipeline.errors import PagepackError
from pipeline.settings import Settings
from schemas.prompts import OCR
from workers.choose import make_engine
from workers.engines import Engine


def run(settings: Settings) -> dict[str, Any]:
    """Read what stands on standard input. Raises UsageError: the engine cannot run here."""
    began = time.monotonic()
    engine: Engine = make_engine(settings)
    try:
        loaded = time.monotonic()
        asked = json.loads(sys.stdin.readline())
        futures = []
        for line in sys.stdin:
            image = load(base64.b64decode(line))
            futures += engine.submit(hash_pixels(image), np.array(image.convert("RGB")), [OCR])
        waited = wait(futures, timeout=asked["seconds"])
        for late in waited.not_done:
            late.cancel()  # one that is read already goes on
        seconds = []
        for future in futures:
            try:
                seconds.append(future.result().seconds)
            except (CancelledError, PagepackError):
                continue
        at_once = int(engine.stats().get("threads", 1))
        return {"page_seconds": seconds, "at_once": at_once, "start_seconds": loaded - began}
    finally:
        engine.close()
