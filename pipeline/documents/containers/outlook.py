"""MSG, Outlook's own: a compound file with a stream for each property of the message and of what is attached."""

from __future__ import annotations

import email.header
import hashlib
import re
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from functools import partial
from typing import Any, BinaryIO

from pipeline.documents.code_of_html import as_utf8
from pipeline.documents.containers.mail import Body, Mail, decoded
from pipeline.documents.containers.rtf import rtf_text, unpacked_rtf

_EMBEDDED = "__substg1.0_3701000D"  # the storage of a message within a message, in that of its attachment
_MSG_SHOWN = {"From": ("0C1A", "0C1F"), "To": ("0E04",), "Cc": ("0E03",), "Subject": ("0037",)}


def read_msg(file: BinaryIO) -> Mail:
    """Raises whatever a broken file makes its parser trip over."""
    import olefile

    size_bytes = file.seek(0, 2)
    with olefile.OleFileIO(file) as ole:
        paths: dict[tuple[str, ...], dict[tuple[str, ...], list[str]]] = {}
        for path in ole.listdir():  # by the message that they are of, which may lie in another
            folder: tuple[str, ...] = ()
            for at in range(1, len(path)):
                if path[at] == _EMBEDDED:
                    paths.setdefault(folder, {})[path[at - 1], _EMBEDDED] = path
                    folder = tuple(path[: at + 1])
            paths.setdefault(folder, {})[tuple(path[len(folder) :])] = path
        return _stored_mail(_Streams(ole, size_bytes), paths, ())


class _Streams:
    """Of an Outlook file, which together are no larger than the file, unless many of them share their sectors."""

    def __init__(self, ole: Any, size_bytes: int) -> None:
        self._ole, self._left = ole, size_bytes

    def read(self, path: list[str]) -> bytes:
        self._left -= self._ole.get_size(path)
        if self._left < 0:
            raise ValueError("its streams are larger than the file")
        return bytes(self._ole.openstream(path).read())


def _stored_mail(
    of: _Streams, paths: dict[tuple[str, ...], dict[tuple[str, ...], list[str]]], folder: tuple[str, ...]
) -> Mail:
    """A message and what it holds, from the storage in which it lies; read whole, for the file closes."""
    streams = paths.get(folder, {})

    def stored(tag: str, *below: str) -> bytes | None:
        path = streams.get((*below, f"__substg1.0_{tag}"))
        return None if path is None else of.read(path)

    properties = _properties(of, streams)
    code = _code(properties, 0x3FFD) or _code(properties, 0x3FDE)

    def text(tag: str, *below: str) -> str:
        wide, narrow = stored(f"{tag}001F", *below), stored(f"{tag}001E", *below)
        if wide is not None:
            return wide.decode("utf-16-le", "replace").rstrip("\0")
        return decoded((narrow or b"").rstrip(b"\0"), code)

    mail = Mail({name: next(filter(None, map(text, tags)), "") for name, tags in _MSG_SHOWN.items()})
    headers = stored("007D001F")
    mail.headers["Date"] = _sent(headers.decode("utf-16-le", "replace") if headers else text("007D"), properties)
    mail.bodies = _bodies(stored("10130102"), _code(properties, 0x3FDE), text, stored("10090102"))
    for attached in sorted({path[0] for path in streams if path[0].startswith("__attach_version1.0_#")}):
        name = text("3707", attached) or text("3704", attached)
        if (attached, _EMBEDDED) in streams:
            inner = _stored_mail(of, paths, (*folder, attached, _EMBEDDED))
            name = (name or inner.headers["Subject"]).replace("/", "-")
            mail.attach(name, partial(_as_eml, inner), word="message", ending=".eml")
        elif (content := stored("37010102", attached)) is not None:
            mail.attach(name, partial(bytes, content))
    return mail


def _bodies(
    html: bytes | None, html_code: str | None, text: Callable[[str], str], packed_rtf: bytes | None
) -> list[Body]:
    """What it says: as HTML, else as plain text, else as the RTF that Outlook writes for itself."""
    if html and html.strip(b"\0 \r\n"):
        return [Body(True, decoded(html, html_code) if html_code else as_utf8(html).decode("utf-8-sig", "replace"))]
    if said := text("1013"):
        return [Body(True, said)]
    said = text("1000")
    if not said.strip() and packed_rtf:
        said = rtf_text(unpacked_rtf(packed_rtf))
    return [Body(False, said)] if said else []


def _properties(of: _Streams, streams: dict[tuple[str, ...], list[str]]) -> bytes:
    path = streams.get(("__properties_version1.0",))
    return of.read(path) if path else b""


def _code(properties: bytes, number: int) -> str | None:
    """The code of a message's narrow texts, or of its HTML, by a property of it: a number of Windows' code pages."""
    at = properties.find(struct.pack("<HH", 3, number))
    if at < 0 or len(properties) < at + 12:
        return None
    page = int.from_bytes(properties[at + 8 : at + 12], "little")
    return {20127: "ascii", 20866: "koi8-r", 21866: "koi8-u", 65001: "utf-8", 50220: "iso-2022-jp"}.get(
        page, f"iso-8859-{page - 28590}" if 28590 < page < 28606 else f"cp{page}"
    )


def _sent(headers: str, properties: bytes) -> str:
    """When it was sent: of the headers that came with it, else of its properties."""
    found = re.search(r"^Date:(.*)$", headers, re.MULTILINE)
    if found:
        return found[1].strip()
    at = properties.find(b"\x40\0\x39\0")  # a time, 0039: when the client submitted it
    if at < 0 or len(properties) < at + 16:
        return ""
    ticks = int.from_bytes(properties[at + 8 : at + 16], "little")
    try:
        return f"{datetime(1601, 1, 1, tzinfo=UTC) + timedelta(microseconds=ticks // 10):%Y-%m-%d %H:%M} UTC"
    except OverflowError:
        return ""


def _as_eml(mail: Mail) -> bytes:
    """A message within a message as a file of its own, each time the same one."""
    parts = [(name, content()) for name, content in mail.attachments]
    said = hashlib.sha256(repr((mail.headers, mail.bodies)).encode("utf-8", "replace"))
    for name, content in parts:
        said.update(repr(name).encode() + content)
    message = MIMEMultipart(boundary=f"={said.hexdigest()[:32]}")
    for name, text in mail.headers.items():
        if text:
            message[name] = email.header.Header(text, "utf-8").encode()
    message["MIME-Version"], message["Message-ID"] = "1.0", f"<{said.hexdigest()}@unpacked>"
    for body in mail.bodies or [Body(False, "")]:
        message.attach(MIMEText(body.text, "html" if body.is_html else "plain", "utf-8"))
    for name, content in parts:
        part = MIMEApplication(content)
        part.add_header("Content-Disposition", "attachment", filename=("utf-8", "", name))
        message.attach(part)
    return message.as_bytes()
