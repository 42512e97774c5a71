"""The child's side of `searchable.py`: a document is opened, text comes page by page, and a PDF goes back.

parent → child   {"op": "searchable", "kind", "detail", "size_bytes"} with the file's descriptor
child → parent   {"is": "opened", "page_count": n} or {"is": "rejected", "cause", "text"}
parent → child   {"op": "text", "page_index", "lines", "page_px", "dpi"}
child → parent   {"is": "added"} or {"is": "failed", "cause", "text"}
parent → child   {"op": "write"}
child → parent   {"is": "content", "data", "is_update"}, …, {"is": "end"}: it goes behind the file's own bytes, or
                 is all; without content, there was nothing to add. Or {"is": "rejected", "cause", "text"}
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.documents.pages.drawn import Limits, translated
from pipeline.documents.pdf.text_over import PdfWithText, PicturesWithText, open_with_text
from pipeline.errors import DocumentRejected, PageFailed

_CONTENT_BYTES = 1 << 20  # a message
Send = Callable[[dict[str, Any]], None]


def serve(opening: dict[str, Any], path: str, limits: Limits, requests: Iterator[dict[str, Any]], send: Send) -> None:
    """`requests` are those that follow `opening`; it is done with the last one, or where it cannot go on."""
    try:
        document = open_with_text(path, opening["kind"], limits, opening["detail"])
    except DocumentRejected as error:
        send({"is": "rejected", "cause": error.cause, "text": str(error)})
        return
    send({"is": "opened", "page_count": document.page_count})
    for request in requests:
        if request["op"] == "write":
            _write(document, opening["size_bytes"], send)
            return
        page_px = tuple(request["page_px"]) if request["page_px"] else None
        try:
            document.add(request["page_index"], request["lines"], page_px, request["dpi"])
            send({"is": "added"})
        except PageFailed as error:
            send({"is": "failed", "cause": error.cause, "text": str(error)})


def _write(document: PdfWithText | PicturesWithText, size_bytes: int, send: Send) -> None:
    waiting = bytearray()

    def flush() -> None:
        if waiting:
            data = base64.b64encode(waiting).decode()
            send({"is": "content", "data": data, "is_update": document.is_update})
            waiting.clear()

    def take(data: bytes) -> None:  # MuPDF writes some kilobytes at a time
        waiting.extend(data)
        if len(waiting) >= _CONTENT_BYTES:
            flush()

    try:
        document.write(take, size_bytes)
        flush()
        send({"is": "end"})
    except OSError:  # nobody listens any more
        raise
    except Exception as error:  # MuPDF's errors have no common root
        rejection = translated(error, DocumentRejected, "the PDF cannot be written")
        send({"is": "rejected", "cause": rejection.cause, "text": str(rejection)})
