"""Builders of archives, sound and hostile. Each returns their bytes."""

from __future__ import annotations

import io
import itertools
import lzma
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from email import message_from_bytes, policy
from email.message import EmailMessage

from PIL import Image


def picture(shade: int) -> bytes:
    """A small PNG; each shade is other content."""
    file = io.BytesIO()
    image = Image.new("L", (16, 16), shade)
    image.putpixel((0, 0), 255 - shade)  # a picture of one colour is none
    image.save(file, "PNG")
    return file.getvalue()


def zipped(members: Mapping[str, bytes] | Sequence[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            info = zipfile.ZipInfo(name)  # as it is: writestr would mend some names
            info.filename, info.compress_type = name, method
            with warnings.catch_warnings(action="ignore"):  # of a name that is there already
                archive.writestr(info, data)
    return file.getvalue()


def tarred(members: Mapping[str, bytes], kind: str = "") -> bytes:
    """`kind` is gz, bz2 or xz. A member of type bytes(1) is a special one: its content is the type."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{kind}") as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            if len(data) == 1:
                info.type, info.linkname = data, "/etc/passwd"
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def encrypted(archive: bytes) -> bytes:
    """A ZIP of one member that says that it is encrypted."""
    data = bytearray(archive)
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    return bytes(data)


def mail(body: str = "a plain body", html: str | None = None, **attachments: bytes) -> bytes:
    """An EML; `a_png` becomes the attachment `a.png`."""
    message = EmailMessage(policy.SMTP)
    message["From"], message["To"] = "Clerk <clerk@example.org>", "archive@example.org"
    message["Subject"], message["Date"] = "Überweisung", "Thu, 01 Jan 2026 10:00:00 +0000"
    message.set_content(body)
    if html is not None:
        message.add_alternative(html, subtype="html")
    for name, data in attachments.items():
        if data.startswith(b"From:"):
            message.add_attachment(message_from_bytes(data, policy=policy.SMTP))
        else:
            file_name = name.replace("_", ".")
            message.add_attachment(data, maintype="application", subtype="octet-stream", filename=file_name)
    return message.as_bytes()


def outlook(streams: Mapping[str, bytes]) -> bytes:
    """An MSG: a compound file of these streams, with `/` between storages and streams; short ones are filled up."""
    entries: list[tuple[str, int, bytes]] = [("Root Entry", 5, b"")]  # name, type, content
    children: dict[int, list[int]] = {0: []}
    known: dict[str, int] = {"": 0}
    for path, data in streams.items():
        above = ""
        for part in path.split("/"):
            here = f"{above}/{part}"
            if here not in known:
                known[here] = len(entries)
                is_stream = here == f"/{path}"
                entries.append((part, 2 if is_stream else 1, data.ljust(4096, b"\0") if is_stream else b""))
                children[known[here]] = []
                children[known[above]].append(known[here])
            above = here
    free, end = 0xFFFFFFFF, 0xFFFFFFFE
    body, fat, records = b"", list[int](), list[bytes]()

    def put(data: bytes) -> int:
        nonlocal body
        first, count = len(fat), -(-len(data) // 512)
        fat.extend([*range(first + 1, first + count), end])
        body += data.ljust(count * 512, b"\0")
        return first

    following = {one: other for some in children.values() for one, other in itertools.pairwise(some)}
    starts = [put(data) if data else end for _, _, data in entries]
    for index, (name, kind, data) in enumerate(entries):
        wide = name.encode("utf-16-le") + b"\0\0"
        first = children[index][0] if children[index] else free
        record = wide.ljust(64, b"\0") + struct.pack(
            "<HBBIII", len(wide), kind, 1, free, following.get(index, free), first
        )
        clsid = bytes.fromhex("0b0d020000000000c000000000000046") if index == 0 else bytes(16)
        records.append(record + clsid + bytes(20) + struct.pack("<IQ", starts[index], len(data)))
    directory = put(b"".join(records).ljust(-(-len(records) // 4) * 512, b"\0"))
    fat_at = len(fat)
    assert fat_at < 127, "one sector of the table is enough"
    fat.append(0xFFFFFFFD)
    body += struct.pack("<128I", *fat, *[free] * (128 - len(fat)))
    header = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(16) + struct.pack("<HHHHH6x", 62, 3, 0xFFFE, 9, 6)
    header += struct.pack("<IIIIIIIIIII", 0, 1, directory, 0, 4096, end, 0, end, 0, fat_at, free)
    return header.ljust(512, b"\xff") + body


def seven_zipped(members: Mapping[str, bytes], coder: bytes = b"\x21\x21\x01\x10") -> bytes:
    """A 7z of one block, packed with LZMA2 whatever `coder` says, and a list that is not packed."""

    def number(value: int) -> bytes:
        return bytes([value]) if value < 0x80 else b"\xff" + value.to_bytes(8, "little")

    def bits(values: Sequence[bool]) -> bytes:
        text = "".join("01"[value] for value in values)
        return bytes(int(text[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(text), 8))

    full = [data for data in members.values() if data]
    packed = lzma.compress(b"".join(full), lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}])
    streams = b"\x06\0\x01\x09" + number(len(packed)) + b"\0"
    streams += b"\x07\x0b\x01\0\x01" + coder + b"\x0c" + number(sum(map(len, full))) + b"\0"
    streams += b"\x08\x0d" + number(len(full)) + b"\x09" + b"".join(number(len(data)) for data in full[:-1])
    streams += b"\x0a\x01" + b"".join(zlib.crc32(data).to_bytes(4, "little") for data in full) + b"\0\0"
    names = b"\0" + b"".join(name.encode("utf-16-le") + b"\0\0" for name in members)
    empty = bits([not data for data in members.values()])
    files = b"\x0e" + number(len(empty)) + empty
    are_files = bits([not name.endswith("/") for name, data in members.items() if not data])
    files += (b"\x0f" + number(len(are_files)) + are_files) if are_files else b""
    files += b"\x11" + number(len(names)) + names
    listed = b"\x01\x04" + streams + b"\x05" + number(len(members)) + files + b"\0\0"
    start = struct.pack("<QQI", len(packed), len(listed), zlib.crc32(listed))
    return b"7z\xbc\xaf\x27\x1c\0\4" + zlib.crc32(start).to_bytes(4, "little") + start + packed + listed
