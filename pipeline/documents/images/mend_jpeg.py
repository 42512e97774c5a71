"""A JPEG whose segments are broken before its picture, made whole: what is no part of the picture is left out.

    FFD8 FFD8 …                    begins twice                       →  begins once
    FFD8 FFE1 EA60 …               a segment of 60,000 bytes that     →  left out; the tables of the picture are
                                   ends where no other begins            looked for
    FFC0 … 0000 … FFDA … FFDC …    the height stands behind the scan  →  it stands in the header

A thumbnail in a broken segment has tables of its own: of several pictures that may begin, the largest is taken.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

_BEGIN, _SCAN, _EXIF = b"\xff\xd8", 0xDA, b"Exif\0\0"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_MAY_BEGIN = re.compile(rb"\xff[\xc0-\xc2\xc4\xdb\xdd\xe0-\xef]")
_HEIGHT_FOLLOWS = re.compile(rb"\xff\xdc\0\x04(..)", re.DOTALL)
_MOST_TRIES = 2_000
_UNDECODED = {0xC3: "its picture is packed without loss", 0xC5: "its picture is hierarchical"}
_UNDECODED |= dict.fromkeys((0xC7, 0xCB, 0xCF), _UNDECODED[0xC3]) | {0xC6: _UNDECODED[0xC5]}


@dataclass(frozen=True, slots=True)
class _Walked:
    """Segments from one place to the scan of a picture."""

    kept: list[tuple[int, int]]  # where each begins and ends
    broken_at: int | None  # where no segment begins; None: the scan was reached
    scan_at: int = 0
    frame_at: int = 0  # 0: none was met
    width: int = 0
    height: int = 0


def mended(path: str) -> tuple[bytes, str] | None:
    """The JPEG made whole, and what is to be said of it; None where nothing is broken that can be mended so."""
    data = Path(path).read_bytes()
    whole = _made_whole(data)
    if whole is None:
        return None
    note = "the JPEG file is damaged before its picture, and what is no part of that is left out"
    if _EXIF in data and _EXIF not in whole:
        note += "; should the picture be turned, nobody knows"
    return whole, note


def _made_whole(data: bytes) -> bytes | None:
    walked = _walk(data, len(_BEGIN))
    kept = walked.kept
    if walked.broken_at is not None:
        tries = _MAY_BEGIN.finditer(data, walked.broken_at)
        places = [found.start() for found, _ in zip(tries, range(_MOST_TRIES), strict=False)]
        ways = [way for way in (_walk(data, place) for place in places) if way.frame_at and way.broken_at is None]
        if not ways:
            return None
        walked = max(ways, key=lambda way: (way.width * max(way.height, 1), len(way.kept)))
    if not walked.frame_at or not walked.width:
        return None
    segments = [*({} if kept is walked.kept else dict.fromkeys(kept)), *walked.kept]
    head = b"".join(data[start:end] for start, end in segments if not _is_begin(data, start))
    body = data[walked.scan_at :]
    if not walked.height:
        found = _HEIGHT_FOLLOWS.search(body)
        if found is None or not int.from_bytes(found[1], "big"):
            return None
        frame = data[walked.frame_at : walked.frame_at + 5]
        head = head.replace(frame + b"\0\0", frame + found[1], 1)
        body = body[: found.start()] + body[found.end() :]
    whole = _BEGIN + head + body
    return whole if whole != data else None


def why_not_decoded(path: str) -> str:
    """Why no decoder here takes a JPEG whose segments are sound; nothing where that is not seen."""
    data = Path(path).read_bytes()
    walked = _walk(data, len(_BEGIN))
    if not walked.frame_at or walked.broken_at is not None:
        return ""
    if not walked.width or not walked.height:
        return f"its header says that it measures {walked.width:,} × {walked.height:,} px"
    bits = data[walked.frame_at + 4]
    if bits != 8:
        return f"it has {bits} bits a sample, which is not decoded; save it with 8"
    undecoded = _UNDECODED.get(data[walked.frame_at + 1])
    return f"{undecoded}, which is not decoded; save it as a baseline JPEG or a PNG" if undecoded else ""


def _walk(data: bytes, at: int) -> _Walked:
    kept: list[tuple[int, int]] = []
    frame_at = width = height = 0
    while True:
        mark = data[at + 1] if len(data) > at + 4 and data[at] == 0xFF else 0
        if mark in (0xFF, 0xD8):  # filling, or another beginning
            step = 1 if mark == 0xFF else 2
            kept += [(at, at + 2)] if mark == 0xD8 else []
            at += step
            continue
        if mark < 0xC0 or 0xD0 <= mark < 0xDA:
            return _Walked(kept, at)
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        end = at + 2 + length
        if mark == _SCAN:
            return _Walked(kept, None if frame_at and length > 2 else at, at, frame_at, width, height)
        follows = data[end : end + 2]
        if length < 2 or len(follows) < 2 or follows[0] != 0xFF or follows[1] < 0xC0:
            return _Walked(kept, at + 2)
        if mark in _FRAMES and length >= 8:
            frame_at = at
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
        kept.append((at, end))
        at = end


def _is_begin(data: bytes, at: int) -> bool:
    return data[at : at + 2] == _BEGIN
