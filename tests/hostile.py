"""Builders of files that do harm or are merely odd. Each returns the path that it wrote."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pymupdf


def pdf_of(objects: list[bytes], path: Path) -> Path:
    """A PDF of raw objects, numbered from 1; the first is the catalog."""
    body, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    count = len(objects) + 1
    end = b"trailer <</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (count, len(body))
    path.write_bytes(body + b"xref\n0 %d\n0000000000 65535 f \n" % count + table + end)
    return path


def stream(data: bytes, entries: bytes = b"") -> bytes:
    return b"<<%s/Length %d>>\nstream\n%s\nendstream" % (entries, len(data), data)


def nested_forms(path: Path, depth: int = 39) -> Path:
    """Three pages; the second draws a form that draws the next one twice, 2^depth drawings in all."""
    box = b"/MediaBox[0 0 200 200]"
    text = b"BT /T 20 Tf 20 100 Td (before and after) Tj ET"
    font = b"/Resources<</Font<</T<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
    plain = b"<</Type/Page/Parent 2 0 R" + box + font + b"/Contents 5 0 R>>"
    bomb = b"<</Type/Page/Parent 2 0 R" + box + b"/Resources<</XObject<</F 7 0 R>>>>/Contents 6 0 R>>"
    head = [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R 4 0 R 3 0 R]/Count 3>>", plain, bomb]
    forms = [
        stream(
            b"/F Do /F Do", b"/Type/XObject/Subtype/Form/BBox[0 0 9 9]/Resources<</XObject<</F %d 0 R>>>>" % (8 + level)
        )
        for level in range(depth)
    ]
    last = stream(b"0 0 5 5 re f", b"/Type/XObject/Subtype/Form/BBox[0 0 9 9]")
    return pdf_of([*head, stream(text), stream(b"/F Do"), *forms, last], path)


def huge_bitmap_in_pdf(path: Path) -> Path:
    """A page whose one image claims 60,000 × 60,000 px of 8-bit RGB."""
    entries = b"/Type/XObject/Subtype/Image/Width 60000/Height 60000/ColorSpace/DeviceRGB/BitsPerComponent 8"
    image = stream(zlib.compress(bytes(1 << 20)), entries + b"/Filter/FlateDecode")
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Resources<</XObject<</I 5 0 R>>>>/Contents 4 0 R>>"
    head = [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>", page]
    return pdf_of([*head, stream(b"200 0 0 200 0 0 cm /I Do"), image], path)


def lost_contents(path: Path) -> Path:
    """A page whose content stream is not in the file."""
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 9 0 R>>"
    catalog, pages = b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R 4 0 R]/Count 2>>"
    return pdf_of([catalog, pages, page, page.replace(b"9 0 R", b"5 0 R"), stream(b"0 0 90 90 re f")], path)


def pages_of(path: Path, *sizes: tuple[float, float], texts: bool = True) -> Path:
    """A PDF with a page of each size in points, saying its number."""
    document = pymupdf.open()
    for number, (width, height) in enumerate(sizes, 1):
        page = document.new_page(width=width, height=height)
        if texts:
            page.insert_text((20, 40), f"page {number}")
    document.save(path)
    return path


def encrypted(path: Path) -> Path:
    document = pymupdf.open()
    document.new_page()
    document.save(path, encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="secret", owner_pw="other")
    return path


def png_claiming(path: Path, width: int, height: int) -> Path:
    """A small PNG whose header claims any size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + name + data + struct.pack("!I", zlib.crc32(name + data))

    header = struct.pack("!IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 16))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return path
