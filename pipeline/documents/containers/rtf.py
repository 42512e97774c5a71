"""The text of an RTF, for mails whose body Outlook keeps in no other form; fonts, pictures and layout are lost.

MS-OXRTFCP: the body is packed with an LZ77 of its own, whose window begins with words that most RTF has. MS-OXRTFEX: an
HTML body may be wrapped in RTF; what stands between `\\htmlrtf` and `\\htmlrtf0` is RTF's own copy, and is passed over.
"""

from __future__ import annotations

import re

from pipeline.documents.code_of_html import codec_of

_WINDOW = (
    rb"{\rtf1\ansi\mac\deff0\deftab720{\fonttbl;}{\f0\fnil \froman \fswiss \fmodern \fscript \fdecor MS Sans Serif"
    rb"SymbolArialTimes New RomanCourier{\colortbl\red0\green0\blue0"
    b"\r\n"
    rb"\par \pard\plain\f0\fs20\b\i\u\tab\tx"
)
_MOST_BYTES = 16 * 2**20  # some seconds, for it is unpacked byte by byte
_TOKEN = re.compile(
    rb"\\([a-z]{1,32})(-?\d{1,10})? ?|\\'([0-9a-f]{2})|\\(.)|([{}])|[\r\n]+|([^\\{}\r\n]+)", re.I | re.S
)
_PASSED_OVER = {
    *(b"fonttbl", b"colortbl", b"stylesheet", b"info", b"pict", b"object", b"header", b"footer", b"htmltag"),
    *(b"mhtmltag", b"fldinst", b"listtable", b"listoverridetable", b"generator", b"rsidtbl", b"themedata"),
}
_SIGNS = {
    b"par": "\n",
    b"line": "\n",
    b"row": "\n",
    b"sect": "\n",
    b"page": "\n",
    b"tab": "\t",
    b"cell": "\t",
    b"emdash": "—",
    b"endash": "–",
    b"bullet": "•",
    b"lquote": "‘",
    b"rquote": "’",
    b"ldblquote": "“",
    b"rdblquote": "”",
}


def unpacked_rtf(packed: bytes) -> bytes:
    """As far as it goes."""
    if packed[8:12] == b"MELA":
        return packed[16:]
    window, at, data, write = bytearray(_WINDOW.ljust(4096, b"\0")), 16, bytearray(), len(_WINDOW)
    while at < len(packed) and len(data) < _MOST_BYTES:
        flags, at = packed[at], at + 1
        for bit in range(8):
            if flags >> bit & 1:
                if at + 2 > len(packed):
                    return bytes(data)
                place, at = int.from_bytes(packed[at : at + 2], "big"), at + 2
                read, length = place >> 4, (place & 15) + 2
                if read == write:  # its end
                    return bytes(data)
                copied = True
            elif at < len(packed):
                read, length, at, copied = 0, 1, at + 1, False
            else:
                break
            for step in range(length):  # one by one: a copy may read what it writes
                sign = window[(read + step) % 4096] if copied else packed[at - 1]
                window[write] = sign
                write = (write + 1) % 4096
                data.append(sign)
    return bytes(data)


def rtf_text(rtf: bytes) -> str:
    """Its paragraphs as lines."""
    pieces, pending, stack = list[str](), bytearray(), list[tuple[bool, bool, int]]()
    is_passed, is_copy, skip, left, code = False, False, 1, 0, "cp1252"

    def flush() -> None:
        pieces.append(pending.decode(code, "replace"))
        pending.clear()

    for found in _TOKEN.finditer(rtf):
        word, number, byte, sign, brace, text = found.groups()
        if brace == b"{":
            stack.append((is_passed, is_copy, skip))
        elif brace == b"}":
            is_passed, is_copy, skip = stack.pop() if stack else (False, False, 1)
        elif word is not None:
            if word == b"ansicpg" and number:
                code = codec_of(f"cp{int(number)}") or code
            elif word == b"htmlrtf":
                is_copy = number != b"0"
            elif word == b"uc":
                skip = int(number or 1)
            elif word in _PASSED_OVER:
                is_passed = True
            elif is_passed or is_copy:
                continue
            elif word == b"u" and number:
                flush()
                pieces.append(chr(int(number) & 0xFFFF))
                left = skip
            elif word in _SIGNS:
                flush()
                pieces.append(_SIGNS[word])
        elif sign == b"*":  # a group that only some readers know
            is_passed = True
        elif not (is_passed or is_copy):
            data = (
                bytes([int(byte, 16)])
                if byte
                else {b"~": b" ", b"_": b"-", b"-": b""}.get(sign, sign)
                if sign
                else text
            )
            if left and data:  # stands for the sign before it, where that is not known
                data, left = data[left:], max(0, left - len(data))
            pending += data or b""
    flush()
    text = "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return "\n".join(line.strip() for line in text.splitlines()).strip()
