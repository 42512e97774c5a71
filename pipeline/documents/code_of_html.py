"""In which code a web page is written: as it declares, as browsers take it."""

from __future__ import annotations

import codecs
import re

_HEAD_BYTES = 2048  # within which a web page says its code, more than browsers look at
_CHARSET = re.compile(rb"""((?:charset|encoding)\s*=\s*["']?\s*)([\w.:-]+)""", re.IGNORECASE)
_DECLARED = re.compile(_CHARSET.pattern.decode(), re.IGNORECASE)


def as_utf8(html: bytes) -> bytes:
    """A web page in the code that it declares, as browsers take it; MuPDF knows hardly one besides UTF-8."""
    if (code := utf16(html)) is not None:
        text = html.decode(code, "replace")
        return (_DECLARED.sub(r"\1utf-8", text[:_HEAD_BYTES]) + text[_HEAD_BYTES:]).encode()
    head, rest = html[:_HEAD_BYTES], html[_HEAD_BYTES:]
    found = None if html.startswith(codecs.BOM_UTF8) else _CHARSET.search(head)
    stated = found[2].decode().lower() if found else ""
    try:
        name = codecs.lookup(stated).name
    except LookupError:
        name = ""
    if name in ("iso8859-1", "ascii"):
        name = "cp1252"
    elif name.startswith(("utf-16", "utf-32")):  # it could not have been found
        name = "utf-8"
    if not name:  # not said, or nothing known
        try:
            html.decode()
            name = "utf-8"
        except UnicodeDecodeError:
            name = "cp1252"
    if name == "utf-8":
        return html
    head = _CHARSET.sub(rb"\1utf-8", head)
    try:
        return (head + rest).decode(name, "replace").encode()
    except (LookupError, UnicodeError):  # what Python calls a codec and is no code of text
        return html


def utf16(head: bytes) -> str | None:
    """The code of two bytes a letter in which a text begins, by its mark or by the zero beside its first sign."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return {b"<\0": "utf-16-le", b"\0<": "utf-16-be"}.get(head[:2])
