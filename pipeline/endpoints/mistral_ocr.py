"""Mistral's OCR endpoint, `/v1/ocr`: a page's image in, Markdown out, charged by the page. It takes no prompt.

Others serve the same form (https://docs.mistral.ai/api/endpoint/ocr).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pipeline.endpoints.chat import Completion
from pipeline.endpoints.client import Client
from pipeline.endpoints.words import bad_answer, fields_of, one_line

PATH = "/ocr"


def ocr_body(model: str, image: bytes, kind: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a request for one page; `kind` of the image is png or jpeg."""
    url = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
    document = {"type": "image_url", "image_url": url}
    body = {"model": model, "document": document, "include_image_base64": False} | dict(extra)
    return {name: value for name, value in body.items() if value is not None}


async def read_page(
    client: Client, body: Mapping[str, Any], deadline: float | None, cost: Callable[[int, int, int], float | None]
) -> Completion:
    """Ask, on the client's thread. Raises as `chat.complete`."""
    reply = await client.send("POST", PATH, deadline, json=body)
    return replace(page_of(reply.json(), cost), seconds=reply.seconds, tries=reply.tries)


def page_of(answer: Mapping[str, Any], cost: Callable[[int, int, int], float | None]) -> Completion:
    """Raises Unavailable (`bad-answer`): there is no page in it."""
    usage = answer.get("usage_info")
    processed = usage.get("pages_processed") if isinstance(usage, dict) else None
    pages = processed if isinstance(processed, int) and processed >= 0 else 0
    found = answer.get("pages")
    if not isinstance(found, list) or not found or not all(isinstance(page, dict) for page in found):
        error = bad_answer(f"no pages: it has {fields_of(answer)}")
        error.cost = cost(0, 0, pages)
        raise error
    return Completion(
        text="\n\n".join(str(page.get("markdown") or "") for page in found),
        finish_reason="stop",
        model=one_line(str(answer.get("model") or ""), 100),
        seconds=0.0,
        cost=cost(0, 0, pages),
    )
