"""Members of ZIPs as other programs write them."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import pytest

from pipeline.documents.containers.members import MembersLost
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


NAMES = {
    "cp932": ["請求書2024.pdf", "ソ連/テスト.png", "会議室.jpg"],
    "cp866": ["Договор аренды.pdf", "фото/Счёт №5.pdf", "ПАСПОРТ.pdf"],
    "gb18030": ["合同2024.pdf", "发票.jpg", "照片/北京.jpg"],
    "cp949": ["계약서.pdf", "주민등록증.jpg"],
    "big5": ["合約.pdf", "發票.jpg"],
    "cp437": ["Müller.pdf", "Ärger/naïve café.jpg", "ö.pdf"],
    "cp850": ["São João.pdf", "Peça.pdf"],
    "cp852": ["Příloha.pdf", "Łódź.pdf"],
    "cp1251": ["Договор.pdf", "Скан.pdf"],
    "cp1252": ["Größe.pdf", "résumé.pdf"],
}


def without_flag(names: list[bytes]) -> bytes:
    """A ZIP with these names, as programs write them that know one code alone."""
    archive = zipped({f"{number}".rjust(len(name), "_"): b"%d" % number for number, name in enumerate(names)})
    for number, name in enumerate(names):
        archive = archive.replace(f"{number}".rjust(len(name), "_").encode(), name)
    return archive


@pytest.mark.parametrize("code", list(NAMES))
def test_names_are_in_the_code_in_which_they_make_most_sense(code: str) -> None:
    archive = without_flag([b"plain_name_of_ascii.pdf", *(name.encode(code) for name in NAMES[code])])
    assert list(members(archive))[1:] == NAMES[code]
    cut = archive[: archive.index(b"PK\1\2")]  # without its directory each name speaks for itself
    with pytest.raises(MembersLost):
        assert len(list(ZipMembers(io.BytesIO(cut)).members())) == 1 + len(NAMES[code])


def test_a_name_that_its_code_does_not_hold_is_kept() -> None:
    names = [name.encode("cp932") for name in NAMES["cp932"]]
    archive = without_flag([*names, names[0][:1] + b"long"])
    assert list(members(archive))[:3] == NAMES["cp932"] and len(members(archive)) == 4


def test_no_name_leads_out() -> None:
    [member] = ZipMembers(io.BytesIO(without_flag(["../../契約書.pdf".encode("cp932")]))).members()
    assert member.refusal is not None and "契約書" in member.name
