"""A font that draws nothing, for text that is found and copied and never seen. Runs only in the sandbox.

Each letter, with the marks that stand on it, gets a code of its own: two bytes, in the order in which they come. Three
tables of the PDF font say what a code is: its width, its glyph (one of that width), and its Unicode:

    "é" = e + U+0301, the first letter of the document    code 1    /W [1 [550]]    glyph 11    <0001> <00650301>

So any script is copied out as it was read, also what lies beyond the first 65,536 characters, and readers need no font.
Tesseract and OCRmyPDF write invisible text in the same way, with one width for all letters.

The file was made with fontTools: 40 TrueType glyphs, of which glyph n is 50 n thousandths of an em wide, with an ascent
of 0.8 and a descent of 0.2, so that a reader marks the whole box of a line. Each is a line from its lower left to its
upper right corner: of no area, so that nothing is drawn even where all text is, and with a box, without which pdfium
does not find text that runs up or down a page. A test takes it apart.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

from pipeline.layout.advances import STEP, advance

DESCENT = 0.2
"""Of an em, between a line's baseline and the bottom of its box."""
MOST_LETTERS = 60_000
"""Of one font, whose codes end at 65,535."""
_WIDEST = 40  # glyphs

_FILE = (
    "eNqN1U9IFFEcB/Dfm5ndNREj3Ug9zcEkUai2CBEpKTMqI7AoCTI31z+HNRe1WCGlwEN5KDtkh0gi9iASZVBetCIvLXRoqZAIg5L+"
    "6CEPZlEyM9t3Ztd5PxOit3x35v0+M8/nb9lZEkSUSRdIJf3wkc2BKmPvYyKxCdWGxrZghNZRJ5FSivn2lnB38+Kvp3OYPyTSvK1N"
    "wVDz1z1lsLvIjlYUMhd8AZx/Qgpb27qit+2VSFzCWyzc3hjMXfAv4v4GzI+2BaMRKiEPPANz/UywrUkd3/CKyDuB+elIe2cX9oXh"
    "020ne6/I+9fXbp1aW/GDVHWWVo1kmS+h2terpKRLuEfVk9inL+GslnBW4qPYqRTjnpQoq5ZVNSEG7L3+x1ix+i4MZ/d6ag/YW/yv"
    "6/X00e5cCBlE7GuWsBQ6L+qRAWQSsbtXhNQh/Qg6pcw7q5Jai/QhYwg6oxUgNUgvMorMEHn8SDUSRUaQaXQ7G6lEOpAYMoUe4RPx"
    "lSNhZGi5c05f7E/En+6UnzRn9xpe9lxPJlPvyS+sC1mUR4W0hSpoPx2jRopQD/XTDYrRA3pCL+gtfaYFSooskS+KxDZRKQ6JE6JF"
    "dImL4oq4KYbFIzEpXoppMSd+Ks5fRicD+J+xn/W5aiA/rs5aWel6yK2HArw+6NYHD/J63K3HQ7y+5NaXelhdlKbrQhWlgylIS72U"
    "+vsrZEDKQHyFTEqZ/LhCFqUsLnFRipZFKEXWN7Y3pU5KnfWGS7+Ufmucy4SUCesOl3kp89ZlJqruiqpbES61Umqt41z6pPRZO7mM"
    "SRmzNnKZlYIiE63AFa3A/M6lRkqN+Y5Lr5Re8xmXUSmj5jCXGSkz5lUmHr8rHr95jku1lGrzJJeolKhZxWVEyohZwmVayrSZw8Sb"
    "7Yo32/jNpVJKpfGBS4eUDuM5l5iUmHGPy5SUKeM6E1+GK74M4zyXcinlRiOXsJSwcYDLkJQhYyuXhJSEkZf+MmB4aLf9JNLW4Loc"
    "59lknyuUjVnqXGV1jZ17nfN9FKZuPI9acWzCL10n1eLYQmcxD1JH+mn3j/EHjzFvsg=="
)


def font_file() -> bytes:
    """The TrueType file."""
    return zlib.decompress(base64.b64decode(_FILE))


class Fonts:
    """The fonts of one PDF, a `pymupdf.Document`: a new one where a line might not find room in the last."""

    def __init__(self, document: Any) -> None:
        self._document = document
        self._descriptor = 0
        self._font: _Font | None = None
        self._count = 0

    def font(self, num_letters: int) -> _Font:
        """With room for so many letters that are new."""
        if self._font is not None and self._font.has_room(num_letters):
            return self._font
        self.finish()
        self._descriptor = self._descriptor or _describe(self._document)
        self._count += 1
        self._font = _Font(self._document, self._descriptor, f"Glyphless{self._count}")
        return self._font

    def finish(self) -> None:
        """Write the tables of the last font, which are known at the end."""
        if self._font is not None:
            self._font.finish()
            self._font = None


class _Font:
    def __init__(self, document: Any, descriptor: int, name: str) -> None:
        self._document, self._descriptor, self.name = document, descriptor, name
        self._codes: dict[str, int] = {}
        self.xref = int(document.get_new_xref())
        document.update_object(self.xref, "<<>>")  # its number is named before it is written

    def has_room(self, num_letters: int) -> bool:
        return len(self._codes) + num_letters <= MOST_LETTERS

    def encode(self, letters: Sequence[str]) -> tuple[str, float]:
        """Letters as they stand from the left: their codes in hexadecimal, and their width in ems."""
        codes = [self._codes.setdefault(letter, len(self._codes) + 1) for letter in letters]
        return "".join(f"{code:04x}" for code in codes), sum(map(_glyph, letters)) * STEP / 1000

    def finish(self) -> None:
        glyphs = [_glyph(letter) for letter in self._codes]
        to_glyphs = _stream(self._document, b"\0\0" + b"".join(glyph.to_bytes(2, "big") for glyph in glyphs))
        to_unicode = _stream(self._document, _cmap(list(self._codes)))
        widths = " ".join(str(glyph * STEP) for glyph in glyphs)
        descendant = int(self._document.get_new_xref())
        system = "<</Registry(Adobe)/Ordering(Identity)/Supplement 0>>"
        self._document.update_object(
            descendant,
            f"<</Type/Font/Subtype/CIDFontType2/BaseFont/Glyphless/CIDSystemInfo{system}/DW 500/W[1[{widths}]]"
            f"/FontDescriptor {self._descriptor} 0 R/CIDToGIDMap {to_glyphs} 0 R>>",
        )
        self._document.update_object(
            self.xref,
            f"<</Type/Font/Subtype/Type0/BaseFont/Glyphless/Encoding/Identity-H/DescendantFonts[{descendant} 0 R]"
            f"/ToUnicode {to_unicode} 0 R>>",
        )


def _glyph(letter: str) -> int:
    return min(advance(letter) // STEP, _WIDEST)


def _describe(document: Any) -> int:
    data = font_file()
    file = _stream(document, data, f"/Length1 {len(data)}")
    descriptor = int(document.get_new_xref())
    document.update_object(
        descriptor,
        "<</Type/FontDescriptor/FontName/Glyphless/Flags 5/FontBBox[0 -200 1000 800]/ItalicAngle 0/Ascent 800"
        f"/Descent -200/CapHeight 800/StemV 80/FontFile2 {file} 0 R>>",
    )
    return descriptor


def _stream(document: Any, data: bytes, entries: str = "") -> int:
    xref = int(document.get_new_xref())
    document.update_object(xref, f"<<{entries}>>")
    document.update_stream(xref, data, new=True, compress=True)
    return xref


def _cmap(letters: Sequence[str]) -> bytes:
    lines = [
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap",
        "/CIDSystemInfo <</Registry (Adobe) /Ordering (UCS) /Supplement 0>> def",
        "/CMapName /Glyphless def /CMapType 2 def",
        "1 begincodespacerange <0000> <ffff> endcodespacerange",
    ]
    for first in range(0, len(letters), 100):  # no more in one section
        some = letters[first : first + 100]
        lines.append(f"{len(some)} beginbfchar")
        lines += [
            f"<{code:04x}> <{letter.encode('utf-16-be').hex()}>" for code, letter in enumerate(some, start=first + 1)
        ]
        lines.append("endbfchar")
    return "\n".join([*lines, "endcmap CMapName currentdict /CMap defineresource pop end end"]).encode()
