"""Parts of a DOCX in another format: programs that write HTML alone put all of their text there."""

from __future__ import annotations

import html
import io
import re

from pipeline.documents.code_of_html import as_utf8
from pipeline.documents.files import Kind, kind_of


def chunk(data: bytes) -> str:
    """What it says, as HTML; a DOCX in a DOCX is not looked into, and said so."""
    kind = kind_of(data[:1024])
    if kind is Kind.EML:
        from pipeline.documents.containers.eml import read_eml

        bodies = read_eml(io.BytesIO(data)).bodies
        return "".join(body.text if body.is_html else _lines(body.text) for body in bodies)
    if kind is Kind.RTF:
        from pipeline.documents.containers.rtf import rtf_text

        return _lines(rtf_text(data))
    if kind is Kind.ZIP:
        return "<p>[a document within this one: it is not read]</p>"
    text = as_utf8(data).decode("utf-8-sig", "replace")
    return (
        text if kind is Kind.HTML or re.search(r"<(p|div|table|h\d|span|br)\b", text, re.IGNORECASE) else _lines(text)
    )


def _lines(text: str) -> str:
    return "".join(f"<p>{html.escape(line)}</p>" for line in text.splitlines() if line.strip())
