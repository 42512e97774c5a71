"""In which code a web page or a mail is written: as it declares, as browsers take it."""

from __future__ import annotations

import codecs
import re
from contextlib import suppress

_HEAD_BYTES = 2048  # within which a web page says its code, more than browsers look at
_CHARSET = re.compile(rb"""((?:charset|encoding)\s*=\s*["']?\s*)([\w.:-]+)""", re.IGNORECASE)
_DECLARED = re.compile(_CHARSET.pattern.decode(), re.IGNORECASE)
_ALIASES = {  # names in use that Python does not know
    "cp-850": "cp850",
    "dos-874": "cp874",
    "iso-8859-6-e": "iso8859_6",
    "iso-8859-6-i": "iso8859_6",
    "iso-8859-8-e": "iso8859_8",
    "iso-8859-8-i": "iso8859_8",
    "logical": "iso8859_8",
    "visual": "iso8859_8",
    "windows-31j": "cp932",
    "windows-874": "cp874",
    "windows-949": "cp949",
    "x-euc-cn": "gb18030",
    "x-mac-roman": "mac_roman",
    "x-mac-ukrainian": "mac_cyrillic",
}
_WIDER = {  # what is called so holds letters of the larger code; so say browsers (encoding.spec.whatwg.org)
    "ascii": "cp1252",
    "big5": "big5hkscs",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "iso8859-1": "cp1252",
    "iso8859-11": "cp874",
    "iso8859-9": "cp1254",
    "shift_jis": "cp932",
    "tis-620": "cp874",
}


def as_utf8(html: bytes) -> bytes:
    """A web page in the code that it declares, as browsers take it; MuPDF knows hardly one besides UTF-8."""
    if (code := utf16(html)) is not None:
        text = html.decode(code, "replace")
        return (_DECLARED.sub(r"\1utf-8", text[:_HEAD_BYTES]) + text[_HEAD_BYTES:]).encode()
    head, rest = html[:_HEAD_BYTES], html[_HEAD_BYTES:]
    found = None if html.startswith(codecs.BOM_UTF8) else _CHARSET.search(head)
    stated = found[2].decode().lower() if found else ""
    name = codec_of(stated)
    if name.startswith(("utf-16", "utf-32")):  # it could not have been found
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


def codec_of(stated: str) -> str:
    """Python's name of the code that a page or mail states; "" where it is not known."""
    stated = stated.strip().lower()
    for label in (_ALIASES.get(stated, stated), stated.removeprefix("x-").replace("mac-", "mac_")):
        with suppress(LookupError, ValueError):
            name = codecs.lookup(label).name
            return _WIDER.get(name, name)
    return ""


def utf16(head: bytes) -> str | None:
    """The code of two bytes a letter in which a text begins, by its mark or by the zero beside its first sign."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return {b"<\0": "utf-16-le", b"\0<": "utf-16-be"}.get(head[:2])
