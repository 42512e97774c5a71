"""The shipped reader behind a real server: what the engine `endpoint` reads there is what it reads directly."""

from __future__ import annotations

import threading
import time

import pytest

from benchmarks.reader.evaluate import CHECKPOINT, draw_samples, error_rate
from benchmarks.reader.serve import serve
from pipeline.settings import Settings
from schemas.prompts import DESCRIBE, OCR
from workers.engines.endpoint import EndpointEngine
from workers.engines.pixtral import PixtralEngine

pytestmark = pytest.mark.xdist_group("reader")


def test_pages_read_through_a_server_are_read_as_without_it() -> None:
    pages = [page for number, canvas in enumerate(((192, 64), (64, 32))) for page in draw_samples(7, canvas, number)]
    direct = PixtralEngine(CHECKPOINT, "cpu")
    server = serve(direct, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    through = EndpointEngine(Settings(endpoint_url=url, endpoint_model="pagepack-reader"))
    try:
        prompts = [OCR, DESCRIBE]
        read = []
        for engine in (direct, through):
            deadline = time.monotonic() + 300
            futures = [engine.submit(page.image_hash, page.pixels, prompts, deadline) for page in pages]
            read.append([[future.result() for future in of_page] for of_page in futures])
    finally:
        through.close()
        server.shutdown()
        server.server_close()
        direct.close()

    def said(answers):
        return [[(a.text, a.finish_reason, a.prompt_tokens, a.output_tokens) for a in page] for page in answers]

    assert said(read[1]) == said(read[0])
    pairs = [(page.layout.text, ocr.text) for page, (ocr, _) in zip(pages, read[1], strict=True)]
    assert error_rate(pairs) < 0.05 and any(len(text) > 20 for _, text in pairs)
    blank = [ocr for page, (ocr, _) in zip(pages, read[1], strict=True) if page.kind == "blank"]
    assert [(ocr.text, ocr.review_reason) for ocr in blank] == [("", None)] * 2
