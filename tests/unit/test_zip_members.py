"""Members of ZIPs as other programs write them."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

from pipeline.documents.containers.zip_files import ZipMembers
from pipeline.documents.files import Kind, kind_of
from tests.archives import picture, zipped


def members(archive: bytes) -> dict[str, bytes]:
    assert kind_of(archive[:1024]) is Kind.ZIP
    return {member.name: member.open().read() for member in ZipMembers(io.BytesIO(archive)).members()}


def test_a_comment_that_speaks_of_an_end_is_none() -> None:
    comment = b"made by PK\5\6 and others".ljust(60)
    archive = zipped({"a.png": picture(1)})[:-2] + struct.pack("<H", len(comment)) + comment
    assert members(archive) == {"a.png": picture(1)}


def test_a_name_in_unicode_beside_the_old_one_is_taken() -> None:
    entry, name = zipfile.ZipInfo("_rger.png"), "Ärger.png".encode()
    archives = []
    for sum_ in (zlib.crc32(b"_rger.png"), 1):  # the second is of a name that was changed since
        entry.extra = struct.pack("<HHBI", 0x7075, 5 + len(name), 1, sum_) + name
        archives.append(io.BytesIO())
        with zipfile.ZipFile(archives[-1], "w") as archive:
            archive.writestr(entry, picture(1))
    assert [list(members(archive.getvalue())) for archive in archives] == [["Ärger.png"], ["_rger.png"]]


def test_one_part_of_one_is_whole() -> None:
    for mark in (b"PK00", b"PK\7\x08"):
        assert members(mark + zipped({"a.png": picture(1)})) == {"a.png": picture(1)}
