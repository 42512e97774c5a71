"""Small archives that would cost much time or memory outside the sandbox, had their parsers no bounds."""

from __future__ import annotations

import io
import lzma
import struct
import tarfile
import tempfile
import tracemalloc
import zlib
from pathlib import Path

import pytest

from pipeline.documents.containers import zip_files
from pipeline.documents.containers.attachments import AttachedMembers
from pipeline.documents.containers.limits import Budget
from pipeline.documents.containers.mail_files import read_mail
from pipeline.documents.containers.members import MembersLost, Names
from pipeline.documents.containers.seven_zip import SevenZipMembers
from pipeline.documents.containers.tar_files import TarMembers
from pipeline.documents.containers.zip_files import ZipMembers
from pipeline.documents.files import Kind
from pipeline.settings import Settings
from tests.archives import outlook, picture, seven_zipped, zipped


def test_members_that_all_have_one_name_are_numbered_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    key = Names.name.__globals__["_key"]
    monkeypatch.setitem(Names.name.__globals__, "_key", lambda name: hashed.append(name) or key(name))
    names = Names()
    given = [names.name(raw) for raw in ["a", "a (3)", *["a"] * 2_000]]
    assert given[:5] == ["a", "a (3)", "a (2)", "a (4)", "a (5)"] and len(set(given)) == len(given)
    assert len(hashed) < 3 * len(given)


def packed_list(listed: bytes) -> bytes:
    """A 7z of nothing but a list, which is packed itself."""
    packed = lzma.compress(listed, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}])

    def number(value: int) -> bytes:
        return b"\xff" + value.to_bytes(8, "little")

    about = b"\x17\x06\0\x01\x09" + number(len(packed)) + b"\0\x07\x0b\x01\0\x01\x21\x21\x01\x10\x0c"
    about += number(len(listed)) + b"\0\0"
    start = struct.pack("<QQI", len(packed), len(about), zlib.crc32(about))
    return b"7z\xbc\xaf\x27\x1c\0\4" + zlib.crc32(start).to_bytes(4, "little") + start + packed + about


MANY = b"\xff" + (1_000_000).to_bytes(8, "little")


@pytest.mark.parametrize(
    "told",
    [
        b"\x05" + MANY + b"\0" * 1_000_002,  # files
        b"\x04\x07\x0b" + MANY + b"\0" + b"\x01\0" * 1_000_000,  # blocks
        b"\x04\x07\x0b\x01\0\x01\0\x0c\0\0\x08\x0d" + MANY + b"\0" * 1_000_000,  # parts of a block
    ],
)
def test_a_list_of_a_million_things_is_not_made(told: bytes) -> None:
    archive = packed_list(b"\x01" + told)
    assert len(archive) < 10_000
    tracemalloc.start()
    try:
        members = SevenZipMembers(
            io.BytesIO(archive), io.BytesIO(), 10**9, MembersLost("too-large", "bytes"), Budget(100_000, 10**9)
        )
        with pytest.raises(MembersLost, match="100,000 members") as lost:
            list(members.members())
        assert lost.value.cause == "too-large"
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    finally:
        tracemalloc.stop()


def test_a_7z_of_as_many_members_as_may_be_is_read() -> None:
    archive = io.BytesIO(seven_zipped({"1.png": picture(1), "2.png": picture(2), "empty/": b""}))
    over = MembersLost("too-large", "bytes")
    found = list(SevenZipMembers(archive, io.BytesIO(), 10**6, over, Budget(3, 10**6)).members())
    assert [member.name for member in found if not member.is_folder] == ["1.png", "2.png"]


def test_gaps_of_a_sparse_member_take_no_more_than_a_header_may() -> None:
    info = tarfile.TarInfo("sparse")
    info.type = tarfile.GNUTYPE_SPARSE
    first = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    gap = b"00000000001\0" * 2
    first[386:482], first[482], first[483:495] = gap * 4, 1, b"00000001000\0"
    first[148:156] = b" " * 8
    first[148:156] = b"%06o\0 " % sum(first)
    more = gap * 21 + b"\1" + bytes(7)
    tracemalloc.start()
    try:
        with pytest.raises(MembersLost, match="a header has more than 1,048,576 bytes"):
            list(TarMembers(io.BytesIO(bytes(first) + more * 20_000)).members())
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    finally:
        tracemalloc.stop()


def test_the_streams_of_an_outlook_file_are_no_larger_than_the_file() -> None:
    attached = "__attach_version1.0_#{:08}/__substg1.0_37010102"
    streams = {attached.format(number): b"x" * 4096 for number in range(10)}
    sound = outlook(streams)
    assert len(read_mail(io.BytesIO(sound), Kind.MSG).attachments) == 10
    mark = "__substg1.0_37010102".encode("utf-16-le")
    hostile, at = bytearray(sound), sound.index(mark)
    first = sound[at + 116 : at + 120]
    while (at := sound.find(mark, at + 1)) >= 0:  # all are the first, which is made of all sectors
        hostile[at + 116 : at + 120] = first
        hostile[at + 120 : at + 128] = struct.pack("<Q", 10 * 4096)
    with pytest.raises(MembersLost, match="its streams are larger than the file"):
        read_mail(io.BytesIO(bytes(hostile)), Kind.MSG)


def test_members_without_a_directory_are_measured_as_far_as_that_may_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_files, "_MOST_MEASURED_BYTES", 1_500_000)
    whole = zipped({f"{number}.png": bytes(1_000_000) for number in range(3)})
    cut = bytearray(whole[: whole.index(b"PK\1\2")])
    at = 0
    while (at := cut.find(b"PK\3\4", at)) >= 0:  # as who writes to a pipe has it: sizes after the member
        cut[at + 6] |= 8
        cut[at + 14 : at + 26] = bytes(12)
        at += 4
    found = []
    with pytest.raises(MembersLost, match="1 members lie before that"):
        found += [member.name for member in ZipMembers(io.BytesIO(bytes(cut))).members()]


class EndlessChild:
    """A sandboxed process that a hostile PDF made tell of attachments without end."""

    num_told = 0

    def send(self, message: dict[str, str], descriptor: int) -> None:
        pass

    def receive(self, seconds: float) -> dict[str, str | None]:
        self.num_told += 1
        assert self.num_told < 1_000, "nobody stops it"
        return {"is": "attachment", "name": f"{self.num_told}.txt", "error": None}


class EndlessRasterizer:
    is_closed = False

    def __init__(self) -> None:
        self.held = EndlessChild()

    def child(self) -> EndlessChild:
        return self.held

    def close(self) -> None:
        self.is_closed = True


def test_attachments_without_a_byte_are_counted(tmp_path: Path) -> None:
    rasterizer = EndlessRasterizer()
    with tempfile.TemporaryFile() as file:
        settings, budget = Settings(home=tmp_path), Budget(20, 10**6)
        held = AttachedMembers(file, "a.pdf", lambda: rasterizer, settings, budget)  # type: ignore[arg-type, return-value]
        with pytest.raises(MembersLost, match=r"more than 20 members.*what comes before that is taken"):
            list(held.members())
        held.close()
    assert rasterizer.is_closed and rasterizer.held.num_told == 21
