"""EML, its MIME parts, and MHTML, a web page kept as one.

Of several forms of the same text (`multipart/alternative`) the HTML one is shown, for it says what plain text leaves
out; parts that follow each other are shown one after the other. Parts of other kinds are attachments whether or not the
sender called them so. A mail within a mail is a member, and a mail of its own.
"""

from __future__ import annotations

import base64
import binascii
import email
import email.errors
import email.header
import email.message
import email.policy
import mimetypes
import quopri
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, BinaryIO

from pipeline.documents.code_of_html import as_utf8
from pipeline.documents.containers import tnef
from pipeline.documents.containers.mail import SHOWN_HEADERS, Body, Mail, decoded
from pipeline.documents.containers.members import MembersLost

_MOST_PARTS = 20_000  # 7 bytes of a mail are a part, and an object of a kilobyte
_UUENCODED = re.compile(r"begin [0-7]{3,4} (\S.*)")


def read_eml(file: BinaryIO) -> Mail:
    """From where the file stands. Raises whatever Python's parser trips over, and MembersLost."""
    message = email.message_from_binary_file(file, _class=_parts())
    mail = Mail({name: _header(_raw(message, name)) for name in SHOWN_HEADERS})
    others: list[Body] = []
    mail.bodies = _walk(message, mail, others)
    if not any(body.text.strip() for body in mail.bodies):
        mail.bodies = others
    return mail


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


def _walk(part: email.message.Message, mail: Mail, others: list[Body]) -> list[Body]:
    """What a part and those in it say; into `others` goes what is another form of it: a calendar's, an enriched one."""
    if part.get_content_type() == "message/rfc822" or part.get_content_maintype() != "multipart":
        return _leaf(part, mail, others)
    parts = part.get_payload()
    if not isinstance(parts, list):  # the boundary that it names is not there
        return [Body(False, decoded(_content(part), None))]
    told = [_walk(one, mail, others) for one in parts if isinstance(one, email.message.Message)]
    if part.get_content_subtype() != "alternative":
        return [body for bodies in told for body in bodies]
    said = [bodies for bodies in told if any(_says_something(body) for body in bodies)]
    return next((bodies for bodies in reversed(said) if any(body.is_html for body in bodies)), (said or [[]])[0])


def _says_something(body: Body) -> bool:
    text = re.sub(r"<(?!img)[^>]*>", "", body.text, flags=re.IGNORECASE) if body.is_html else body.text
    return bool(text.strip())


def _leaf(part: email.message.Message, mail: Mail, others: list[Body]) -> list[Body]:
    kind, name = part.get_content_type(), _header(part.get_filename() or "")
    is_body = not name and part.get_content_disposition() != "attachment"
    if is_body and kind == "text/html":
        return [Body(True, _html(part))]
    if is_body and kind == "text/plain":
        return [Body(False, _without_uuencoded(_text(part), mail))]
    if is_body and kind.startswith("text/"):
        is_marked_up = kind in ("text/enriched", "text/richtext")
        if kind not in ("text/css", "text/javascript"):
            others.append(Body(False, re.sub(r"<[^<>]*>", "", _text(part)) if is_marked_up else _text(part)))
    elif kind == "message/rfc822":
        inner = part.get_payload()
        inner = _inner(part, inner[0] if isinstance(inner, list) and inner else part)
        subject = _header(_raw(inner, "Subject")) if isinstance(inner, email.message.Message) else ""
        mail.attach(name or subject.replace("/", "-"), partial(_bytes, inner), word="message", ending=".eml")
    elif kind.endswith("ms-tnef") or name.lower().endswith("winmail.dat"):
        _unwrap(_content(part), name, mail, others)
    else:
        mail.attach(name, partial(_content, part), ending=mimetypes.guess_extension(kind) or "")
    return []


def _unwrap(data: bytes, name: str, mail: Mail, others: list[Body]) -> None:
    """What Outlook wrapped; a file that is none of its own stays as it is."""
    try:
        found = tnef.unwrapped(data) if data.startswith(tnef.MAGIC) else tnef.Wrapped()
    except struct.error:
        found = tnef.Wrapped()
    if not found.attachments and not found.bodies:
        mail.attach(name, partial(bytes, data))
        return
    others += found.bodies
    for inner, content in found.attachments:
        if content.startswith(tnef.MAGIC):  # a mail within
            _unwrap(content, inner, mail, others)
        else:
            mail.attach(inner, partial(bytes, content))


def _inner(part: email.message.Message, inner: Any) -> Any:
    """A mail within a mail; some programs encode it, though they may not."""
    coding = str(part.get("Content-Transfer-Encoding", "")).strip().lower()
    if coding not in ("base64", "quoted-printable") or not isinstance(inner, email.message.Message):
        return inner
    data = _bytes(inner)
    found = email.message_from_bytes(_unbase64(data) if coding == "base64" else quopri.decodestring(data.lstrip()))
    return found if found.keys() else inner


def _bytes(message: Any) -> bytes:
    return bytes(message.as_bytes()) if isinstance(message, email.message.Message) else str(message).encode()


def _content(part: email.message.Message) -> bytes:
    content = part.get_payload(decode=True)
    if any(isinstance(defect, email.errors.InvalidBase64LengthDefect) for defect in part.defects):
        return _unbase64(str(part.get_payload()).encode("ascii", "ignore"))
    return content if isinstance(content, bytes) else part.as_bytes()  # a report's parts are messages of their own


def _unbase64(text: bytes) -> bytes:
    """What there is of it: Python's parser gives up on a mail that was cut."""
    signs = re.sub(rb"[^A-Za-z0-9+/]", b"", text)
    return base64.b64decode(signs[: len(signs) - (len(signs) % 4 == 1)] + b"=" * (-len(signs) % 4 % 3))


def _without_uuencoded(text: str, mail: Mail) -> str:
    """The text, with the files that older programs wrote into it taken out as attachments."""
    lines, kept, at = text.splitlines(), list[str](), 0
    ends = [index for index, line in enumerate(lines) if line.strip() == "end"] if "\nbegin" in f"\n{text}" else []
    while ends and at < len(lines):
        begins = _UUENCODED.fullmatch(lines[at].rstrip())
        while ends and ends[0] <= at:
            ends.pop(0)
        if begins and ends:
            with suppress(binascii.Error):
                data = b"".join(map(binascii.a2b_uu, (line for line in lines[at + 1 : ends[0]] if line.strip())))
                mail.attach(begins[1], partial(bytes, data))
                at = ends[0] + 1
                continue
        kept.append(lines[at])
        at += 1
    return "\n".join([*kept, *lines[at:]]) if kept or at else text


def _text(part: email.message.Message) -> str:
    return decoded(_content(part), part.get_content_charset())


def _html(part: email.message.Message) -> str:
    """In the code that the part names, else in the one that the page itself does."""
    if part.get_content_charset():
        return _text(part)
    return as_utf8(_content(part)).decode("utf-8-sig", "replace")


def _header(value: Any) -> str:
    """Decoded, on one line. The old policy's parser takes what the new one trips over."""
    text = decoded(str(value).encode("utf-8", "surrogateescape"), None)
    with suppress(LookupError, ValueError, email.errors.HeaderParseError):
        pieces = email.header.decode_header(text)
        text = "".join(
            piece
            if isinstance(piece, str)
            else decoded(piece, charset)
            if charset
            else piece.decode("raw-unicode-escape")
            for piece, charset in pieces
        )
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _raw(message: email.message.Message, name: str) -> str:
    """A header with its bytes, which `get` replaces where they are not ASCII."""
    return next((str(value) for key, value in message.raw_items() if key.lower() == name.lower()), "")
