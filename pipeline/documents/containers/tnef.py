"""`winmail.dat`: what Outlook wraps a mail's attachments in for others who use Outlook (MS-OXTNEF).

Attributes follow each other, each with a level, a number, a length and a sum; a list of properties is one of them. An
attachment begins with the attribute 9002, and its name and content follow.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.documents.containers.mail import Body, decoded
from pipeline.documents.containers.rtf import rtf_text, unpacked_rtf

MAGIC = b"\x78\x9f\x3e\x22"
_BEGINS_ATTACHMENT, _TITLE, _DATA, _ATTACHED, _BODY, _CODE, _PROPERTIES = (
    *(0x9002, 0x8010, 0x800F, 0x9005, 0x800C, 0x9007, 0x9003),
)
_SIZES = {2: 4, 3: 4, 4: 4, 5: 8, 6: 8, 7: 8, 10: 4, 11: 4, 20: 8, 64: 8, 72: 16}  # of a property, by its type
_OF_ANY_SIZE = {13, 30, 31, 258}


@dataclass(slots=True)
class Wrapped:
    """What lies in it."""

    bodies: list[Body] = field(default_factory=list)
    attachments: list[tuple[str, bytes]] = field(default_factory=list)  # a message within has an empty name


def unwrapped(data: bytes) -> Wrapped:
    """As far as it goes. Raises struct.error where it is broken."""
    found, code, plain = Wrapped(), "cp1252", ""
    name, content, is_open = "", b"", False
    for number, value in _attributes(data):
        if number == _BEGINS_ATTACHMENT:
            if is_open:
                found.attachments.append((name, content))
            name, content, is_open = "", b"", True
        elif number == _CODE and len(value) >= 4:
            code = f"cp{int.from_bytes(value[:4], 'little')}"
        elif number == _TITLE:
            name = name or decoded(value.rstrip(b"\0"), code)
        elif number == _DATA:
            content = value
        elif number == _BODY:
            plain = decoded(value.rstrip(b"\0"), code)
        elif number == _ATTACHED:
            for tag, kind, stored in _properties(value):
                if tag == 0x3707:  # the long form of its name
                    name = _text(kind, stored, code) or name
                elif tag == 0x3701 and len(stored) > 16:  # an object: a class, then what it is
                    content = stored[16:] if kind == 13 else stored
        elif number == _PROPERTIES:
            found.bodies = found.bodies or _said(value, code)
    if is_open:
        found.attachments.append((name, content))
    if not found.bodies and plain.strip():
        found.bodies = [Body(False, plain)]
    return found


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 6
    while at + 9 <= len(data):
        _, number, _, size = struct.unpack_from("<BHHI", data, at)
        yield number, data[at + 9 : at + 9 + size]
        at += 9 + size + 2


def _properties(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Tag, type and value of each."""
    at = 4
    for _ in range(int.from_bytes(data[:4], "little")):
        if at + 4 > len(data):
            return
        kind, tag = struct.unpack_from("<HH", data, at)
        at += 4
        if tag >= 0x8000:  # it has a name
            (is_word,) = struct.unpack_from("<I", data, at + 16)
            (size,) = struct.unpack_from("<I", data, at + 20)
            at += 24 + (-(-size // 4) * 4 if is_word else 0)
        is_list, kind = bool(kind & 0x1000), kind & ~0x1000
        if kind not in _SIZES and kind not in _OF_ANY_SIZE:
            return
        count = 1
        if is_list or kind in _OF_ANY_SIZE:
            (count,) = struct.unpack_from("<I", data, at)
            at += 4
        for _ in range(count):
            size = _SIZES.get(kind, 0)
            if kind in _OF_ANY_SIZE:
                (size,) = struct.unpack_from("<I", data, at)
                at += 4
            if at + size > len(data):
                return
            yield tag, kind, data[at : at + size]
            at += -(-size // 4) * 4


def _said(data: bytes, code: str) -> list[Body]:
    values = {tag: (kind, value) for tag, kind, value in _properties(data) if tag in (0x1000, 0x1009, 0x1013)}
    for tag, (kind, value) in sorted(values.items(), reverse=True):  # HTML, RTF, plain text
        said = rtf_text(unpacked_rtf(value)) if tag == 0x1009 else _text(kind, value, code)
        if said.strip():
            return [Body(tag == 0x1013, said)]
    return []


def _text(kind: int, value: bytes, code: str) -> str:
    return (value.decode("utf-16-le", "replace") if kind == 31 else decoded(value, code)).rstrip("\0")
