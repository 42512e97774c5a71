"""Mails: headers and body are a document's text, attachments are members. EML and its MIME parts; MSG, Outlook's own.

The body is the HTML one where there is one, for it says what plain text leaves out; parts of other kinds are
attachments whether or not the sender called them so. A mail within a mail is a member, and a mail of its own.
"""

from __future__ import annotations

import email
import email.header
import email.message
import email.policy
import hashlib
import html
import io
import mimetypes
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from functools import partial
from typing import IO, Any, BinaryIO

from pipeline.documents.code_of_html import as_utf8
from pipeline.documents.containers.members import UNPACK_ERRORS, Member, MembersLost, Names, leads_out
from pipeline.documents.files import Kind

MOST_MAIL_BYTES = 256 * 2**20  # it is held in memory, and its parts a second time
_MOST_PARTS = 20_000  # 7 bytes of a mail are a part, and an object of a kilobyte
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SHOWN_HEADERS = ("From", "To", "Cc", "Date", "Subject")
_EMBEDDED = "__substg1.0_3701000D"  # the storage of a message within a message, in that of its attachment
_MSG_SHOWN = {"From": ("0C1A", "0C1F"), "To": ("0E04",), "Cc": ("0E03",), "Subject": ("0037",)}


@dataclass(slots=True)
class Mail:
    """What a mail says and carries."""

    headers: dict[str, str]
    html: str | None = None
    plain: str | None = None
    attachments: list[tuple[str, Callable[[], bytes]]] = field(default_factory=list)  # name, content


class MailMembers:
    """The attachments of a mail."""

    def __init__(self, file: BinaryIO, kind: str) -> None:
        self._file, self._kind = file, kind

    def members(self) -> Iterator[Member]:
        mail, names = read_mail(self._file, self._kind), Names()
        for raw, content in mail.attachments:
            name = names.name(raw)
            yield Member(name, partial(_opened, content), None, leads_out(name))

    def close(self) -> None:
        pass


def _opened(content: Callable[[], bytes]) -> IO[bytes]:
    return io.BytesIO(content())


def read_mail(file: BinaryIO, kind: str) -> Mail:
    """Raises MembersLost where it is broken, or larger than what memory is spent on."""
    if (size := file.seek(0, 2)) > MOST_MAIL_BYTES:
        raise MembersLost("too-large", f"is a mail of {size:,} bytes, over the limit of {MOST_MAIL_BYTES:,}")
    file.seek(0)
    if file.read(3) != _BYTE_ORDER_MARK:
        file.seek(0)
    try:
        return _eml(email.message_from_binary_file(file, _class=_parts())) if kind == Kind.EML else _msg(file)
    except MembersLost:
        raise
    except (*UNPACK_ERRORS, AttributeError, TypeError) as error:
        raise MembersLost("damaged", f"is a broken mail: {str(error)[:200] or type(error).__name__}") from error


def as_html(mail: Mail) -> bytes:
    """The mail as a page shows it: who, to whom, when, about what, what is attached, and what it says."""
    lines = [(name, mail.headers[name]) for name in _SHOWN_HEADERS if mail.headers.get(name)]
    if mail.attachments:
        lines.append(("Attached", ", ".join(name for name, _ in mail.attachments)))
    head = "".join(f"<p><b>{name}:</b> {html.escape(text)}</p>" for name, text in lines) + "<hr/>"
    if mail.html is not None:
        body = mail.html
        found = re.search(r"<body[^>]*>", body, re.IGNORECASE)
        at = found.end() if found else 0
        text = body[:at] + head + body[at:] if found else f"<html><body>{head}{body}</body></html>"
    else:
        lines_of_text = html.escape(mail.plain or "").expandtabs().splitlines()
        text = "<br/>".join(re.sub("  +", lambda run: "\u00a0" * len(run[0]), line) for line in lines_of_text)
        text = f"<html><body>{head}<p>{text}</p></body></html>"
    # Whatever the HTML says of its own encoding was of the bytes that it came in.
    text = re.sub(r"<meta[^>]*charset[^>]*>", "", text, flags=re.IGNORECASE)
    return _BYTE_ORDER_MARK + text.encode("utf-8", "replace")


def _parts() -> Callable[..., email.message.Message]:
    """What makes the parts of one mail, and counts them."""
    left = _MOST_PARTS

    def make(policy: email.policy.Policy) -> email.message.Message:
        nonlocal left
        left -= 1
        if left < 0:
            raise MembersLost("too-large", f"is a mail of more than {_MOST_PARTS:,} parts")
        return email.message.Message(policy)

    return make


def _eml(message: email.message.Message) -> Mail:
    mail = Mail({name: _header(_raw(message, name)) for name in _SHOWN_HEADERS})
    _walk(message, mail)
    return mail


def _walk(part: email.message.Message, mail: Mail) -> None:
    if part.get_content_type() == "message/rfc822" or part.get_content_maintype() != "multipart":
        _leaf(part, mail)
        return
    parts = part.get_payload()
    for one in parts if isinstance(parts, list) else []:
        if isinstance(one, email.message.Message):
            _walk(one, mail)


def _leaf(part: email.message.Message, mail: Mail) -> None:
    kind, name = part.get_content_type(), _header(part.get_filename() or "")
    is_body = not name and part.get_content_disposition() != "attachment"
    if is_body and kind == "text/html":
        mail.html = (mail.html or "") + _html(part)
    elif is_body and kind == "text/plain":
        mail.plain = _text(part) if mail.plain is None else f"{mail.plain}\n{_text(part)}"
    elif is_body and kind.startswith("text/"):
        return  # a calendar's or an enriched form of the same body
    elif kind == "message/rfc822":
        inner = part.get_payload()
        inner = inner[0] if isinstance(inner, list) and inner else part
        subject = _header(_raw(inner, "Subject")) if isinstance(inner, email.message.Message) else ""
        mail.attachments.append(
            (_named(name or subject.replace("/", "-"), "message", ".eml", mail), partial(_bytes, inner))
        )
    else:
        ending = mimetypes.guess_extension(kind) or ""
        mail.attachments.append((_named(name, "part", ending, mail), partial(_content, part)))


def _named(name: str, word: str, ending: str, mail: Mail) -> str:
    # Programs leave whole paths in it; that a name leads upwards says nothing of where it would be written.
    name = "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", ".", ".."))
    if not name:
        return f"{word}-{len(mail.attachments) + 1}{ending}"
    return name if name.lower().endswith(ending) or word == "part" else name + ending


def _bytes(message: Any) -> bytes:
    return bytes(message.as_bytes()) if isinstance(message, email.message.Message) else str(message).encode()


def _content(part: email.message.Message) -> bytes:
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else part.as_bytes()  # a report's parts are messages of their own


def _text(part: email.message.Message) -> str:
    return _decoded(_content(part), part.get_content_charset())


def _html(part: email.message.Message) -> str:
    """In the code that the part names, else in the one that the page itself does."""
    if part.get_content_charset():
        return _text(part)
    return as_utf8(_content(part)).decode("utf-8-sig", "replace")


def _decoded(text: bytes, charset: str | None) -> str:
    for name in (charset, "utf-8"):
        try:
            return text.decode(name or "utf-8")
        except (LookupError, UnicodeError):
            continue
    return text.decode("cp1252", "replace")


def _header(value: Any) -> str:
    """Decoded, on one line. The old policy's parser takes what the new one trips over."""
    text = _decoded(str(value).encode("utf-8", "surrogateescape"), None)
    with suppress(LookupError, ValueError, email.errors.HeaderParseError):
        text = str(email.header.make_header(email.header.decode_header(text)))
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _raw(message: email.message.Message, name: str) -> str:
    """A header with its bytes, which `get` replaces where they are not ASCII."""
    return next((str(value) for key, value in message.raw_items() if key.lower() == name.lower()), "")


def _msg(file: BinaryIO) -> Mail:
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

    def text(tag: str, *below: str) -> str:
        wide, narrow = stored(f"{tag}001F", *below), stored(f"{tag}001E", *below)
        if wide is not None:
            return wide.decode("utf-16-le", "replace").rstrip("\0")
        return _decoded((narrow or b"").rstrip(b"\0"), None)

    mail = Mail({name: next(filter(None, map(text, tags)), "") for name, tags in _MSG_SHOWN.items()})
    properties = streams.get(("__properties_version1.0",))
    mail.headers["Date"] = _sent(stored("007D001F"), of.read(properties) if properties else b"")
    html_bytes = stored("10130102")
    mail.html = _decoded(html_bytes, None) if html_bytes else text("1013") or None
    mail.plain = text("1000") or None
    for attached in sorted({path[0] for path in streams if path[0].startswith("__attach_version1.0_#")}):
        name = text("3707", attached) or text("3704", attached)
        if (attached, _EMBEDDED) in streams:
            inner = _stored_mail(of, paths, (*folder, attached, _EMBEDDED))
            name = _named((name or inner.headers["Subject"]).replace("/", "-"), "message", ".eml", mail)
            mail.attachments.append((name, partial(_as_eml, inner)))
        elif (content := stored("37010102", attached)) is not None:
            mail.attachments.append((_named(name, "part", "", mail), partial(bytes, content)))
    return mail


def _sent(headers: bytes | None, properties: bytes) -> str:
    """When it was sent: of the headers that came with it, else of its properties."""
    found = re.search(r"^Date:(.*)$", (headers or b"").decode("utf-16-le", "replace"), re.MULTILINE)
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
    said = hashlib.sha256(repr((mail.headers, mail.html, mail.plain)).encode("utf-8", "replace"))
    for name, content in parts:
        said.update(repr(name).encode() + content)
    message = MIMEMultipart(boundary=f"={said.hexdigest()[:32]}")
    for name, text in mail.headers.items():
        if text:
            message[name] = email.header.Header(text, "utf-8").encode()
    message["MIME-Version"], message["Message-ID"] = "1.0", f"<{said.hexdigest()}@unpacked>"
    kind, text = ("html", mail.html) if mail.html is not None else ("plain", mail.plain or "")
    message.attach(MIMEText(text, kind, "utf-8"))
    for name, content in parts:
        part = MIMEApplication(content)
        part.add_header("Content-Disposition", "attachment", filename=("utf-8", "", name))
        message.attach(part)
    return message.as_bytes()
