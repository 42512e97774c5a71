"""Builders of image files that are odd and readable. Each returns the path that it wrote."""

from __future__ import annotations

import base64
import struct
import zlib
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PNG_HEAD = b"\x89PNG\r\n\x1a\n"
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWl4AAAAAG1pZjFoZWl4bWlhZgAAAXxtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAAAA"
    "AERAAAIAAQAAAAABoAABAAAAAAAAAIQAAgAAAAACJAABAAAAAAAAAI8AAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVpbmZl"
    "AgAAAAACAABodmMxAAAAAA5waXRtAAAAAAABAAAA1WlwcnAAAACvaXBjbwAAAHJodmNDAQQIAAAAn/gAAAAAHvAA/Pz4+AAADwNgAAEAF0ABDAH/"
    "/wQIAAADAJ/4AAADAAAeugJAYQABACZCAQEECAAAAwCf+AAAAwAAHsCCBhZbqSSmubAgAAADAyAAAAMAIWIAAQAHRAHBcrAiQAAAABNjb2xybmNs"
    "eAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAYAAAAA5waXhpAAAAAAEIAAAAHmlwbWEAAAAAAAAAAgABBIECAwQAAgSBAgMEAAABG21kYXQAAACA"
    "KAGuCDAbX6mUCzBiEjvnR2NJTd3g1CyjBaSUhBMi/86s7/TBaAF1suejWPU6bJi+RHP5JGMMEDyQozUTo26mD1VMPfIEuHN49bb9hy9AImYCgZ5g"
    "Db8gbkqDYekpko8VXlwTZ558LVbguoNCsuRu4I9TVC5xUT8iAoqEpkLRMIAAAACLKAGuCDAbX+VctEyhUrYKNUcfCAv01B05ztAbkI2jXRrW1vNW"
    "BZEQSMHHmoKjiiowWERuiYPwCT5TzDSzorw7vhMLUGTzKDHjHdVGCkS/TlsCr8l8lrlYraWTumwdT88Ecqk259DbvSXyiPVwDRmQZTjCaeROkrgV"
    "dLhunj13N8yaPzn04CxG1KKggA=="
)
"""Bars on 64 × 96 px, and once more on their head; what reads HEIC here does not write it."""


def lines_of_text(
    width: int = 320, height: int = 240, ink: object = 0, paper: object = 255, mode: str = "L"
) -> Image.Image:
    """A page of print: dark bars of text from top to bottom."""
    image = Image.new(mode, (width, height), paper)  # type: ignore[arg-type]
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=14)
    for line in range(height // 20):
        draw.text((8, 2 + line * 20), f"line {line} of the ledger 1913", fill=ink, font=font)  # type: ignore[arg-type]
    return image


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def cut(path: Path, data: bytes, share: float) -> Path:
    """The first part of a file."""
    path.write_bytes(data[: int(len(data) * share)])
    return path


def png_chunk(name: bytes, data: bytes, crc: int | None = None) -> bytes:
    checksum = zlib.crc32(name + data) if crc is None else crc
    return struct.pack("!I", len(data)) + name + data + struct.pack("!I", checksum)


def png_with(path: Path, image: Image.Image, *chunks: bytes) -> Path:
    """A PNG with these chunks after its header, where most programs put what is no part of the picture."""
    data = encoded(image, "PNG")
    end_of_header = len(PNG_HEAD) + 25
    path.write_bytes(data[:end_of_header] + b"".join(chunks) + data[end_of_header:])
    return path


def directory_first(data: bytes) -> bytes:
    """A TIFF of one strip with its directory before the picture, as scanners write it."""
    assert data[:4] == b"II*\0"
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    entries = [struct.unpack_from("<HHII", data, at + 2 + 12 * index) for index in range(count)]
    [strip] = [value for tag, _, _, value in entries if tag == 273]
    [size] = [value for tag, _, _, value in entries if tag == 279]
    pixels = data[strip : strip + size]
    begin = 8 + 2 + 12 * count + 4
    changed = [(tag, kind, length, begin if tag == 273 else value) for tag, kind, length, value in entries]
    head = struct.pack("<4sIH", b"II*\0", 8, count) + b"".join(struct.pack("<HHII", *entry) for entry in changed)
    return head + struct.pack("<I", 0) + pixels
