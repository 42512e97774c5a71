"""Members of a ZIP, from its directory at the end; of one that is cut, from the headers before each member.

The directory is read entry by entry: Python's `ZipFile` holds it whole, 67 MB of memory for 100,000 members, and gives
up on a file without one. What it has for the members themselves, `ZipExtFile`, is used here.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import IO, BinaryIO, cast
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZIP_STORED, BadZipFile, ZipExtFile, ZipInfo

from pipeline.documents.containers.members import Member, MembersLost, Names, Part, leads_out
from pipeline.documents.containers.zip_names import USUAL, code_of

_END, _END_64, _LOCATOR_64 = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_CENTRAL, _LOCAL = b"PK\1\2", b"PK\3\4"
_CENTRAL_HEADER = struct.Struct("<4s4BHHHHIIIHHHHHII")
_LOCAL_HEADER = struct.Struct("<4s2BHHHHIIIHH")
_LONGEST_COMMENT = 65_535
_NOT_READ_HERE = {9: "Deflate64", 93: "Zstandard", 95: "XZ", 97: "WavPack", 98: "PPMd"}
_IS_UTF_8 = 0x800  # a flag
_MOST_LOOKED_AT = 10_000  # entries, for the code of their names
_CHUNK_BYTES = 1 << 16
_MOST_MEASURED_BYTES = 4 * 2**30  # unpacked only to see where members end: 10 to 20 s


class ZipMembers:
    """Opens at once; a file that is no ZIP at all shows when its members are asked for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        self._left_to_measure = _MOST_MEASURED_BYTES

    def members(self) -> Iterator[Member]:
        names, count = Names(), 0
        directory = self._directory()
        for entry in self._entries(*directory) if directory else self._entries_without_directory():
            opener = partial(self._open, entry)
            if entry.filename.endswith("/"):
                yield Member(entry.filename, opener, is_folder=True)
                continue
            name = names.name(entry.filename)
            yield Member(name, opener, entry.file_size, _refusal(name, entry))
            count += 1
        if directory is None:
            found = "nothing before that can be read" if count == 0 else f"{count:,} members lie before that"
            raise MembersLost("damaged", f"is cut short, or its directory is lost: {found}")

    def close(self) -> None:
        pass

    def _open(self, entry: ZipInfo) -> IO[bytes]:
        """Raises BadZipFile where no member begins at its place."""
        start = self._start(entry.header_offset)
        if start is None:
            raise BadZipFile("no member lies where the directory says")
        return cast(IO[bytes], ZipExtFile(Part(self._file, start, entry.compress_size), "r", entry))

    def _start(self, offset: int) -> int | None:
        header = self._read(offset, _LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(_LOCAL):
            return None
        *_, len_name, len_extra = _LOCAL_HEADER.unpack(header)
        return offset + _LOCAL_HEADER.size + int(len_name) + int(len_extra)

    def _read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)

    def _directory(self) -> tuple[int, int, int] | None:
        """Where the directory begins and ends, and how many bytes lie before the archive's own first; None: none."""
        first = max(0, self._size - _LONGEST_COMMENT - 22)
        tail = self._read(first, self._size - first)
        at = len(tail)
        while (at := tail.rfind(_END, 0, at)) >= 0:  # the comment behind it may hold the same signs
            if len(tail) - at >= 22 and (found := self._directory_before(first + at, tail[at : at + 22])):
                return found
        return None

    def _directory_before(self, end: int, record: bytes) -> tuple[int, int, int] | None:
        size, offset = struct.unpack("<II", record[12:20])
        locator = self._read(end - 20, 20) if end >= 20 else b""
        if locator.startswith(_LOCATOR_64):
            [end_64] = struct.unpack("<Q", locator[8:16])
            found = self._read(end_64, 56) if end_64 < self._size else b""
            if found.startswith(_END_64) and len(found) == 56:
                size, offset = struct.unpack("<QQ", found[40:56])
                end = end_64
        start = end - size
        # What lies before an archive that was appended to something shifts all its offsets.
        if start < 0 or start < offset or (size and self._read(start, 4) != _CENTRAL):
            return None
        return start, end, start - offset

    def _entries(self, start: int, end: int, shift: int) -> Iterator[ZipInfo]:
        code = None
        for at, fields, name, extra in self._records(start, end):
            flags, method, crc, packed, size = fields[5], fields[6], *fields[9:12]
            if code is None and _is_odd(name, flags):
                code = self._code_of_names(at, end)
            entry = ZipInfo()
            entry.filename = _name_in_unicode(extra, name) or _decoded(name, flags, code)
            entry.create_system, entry.flag_bits, entry.compress_type, entry.CRC = fields[2], flags, method, crc
            entry.external_attr = fields[17]
            wide = _sizes_64(extra, size, packed, fields[18])
            entry.file_size, entry.compress_size, entry.header_offset = wide[0], wide[1], wide[2] + shift
            yield entry

    def _records(self, start: int, end: int) -> Iterator[tuple[int, tuple[int, ...], bytes, bytes]]:
        """Entries of the directory: where each begins, its fields, its name and its extra fields."""
        buffer, at = b"", start
        while at < end:
            if len(buffer) < _CENTRAL_HEADER.size + 3 * 65_535:
                buffer += self._read(at + len(buffer), min(1 << 20, end - at - len(buffer)))
            if len(buffer) < _CENTRAL_HEADER.size or not buffer.startswith(_CENTRAL):
                raise MembersLost("damaged", f"has a broken directory: no entry lies at byte {at:,}")
            fields = _CENTRAL_HEADER.unpack_from(buffer)
            len_name, len_extra, len_comment = fields[12:15]
            name_end = _CENTRAL_HEADER.size + len_name
            yield at, fields, buffer[_CENTRAL_HEADER.size : name_end], buffer[name_end : name_end + len_extra]
            record = name_end + len_extra + len_comment
            buffer, at = buffer[record:], at + record

    def _code_of_names(self, start: int, end: int) -> str:
        """Of those from the first on that is no UTF-8."""
        names: list[bytes] = []
        with suppress(MembersLost):  # said where the entries are taken
            for _, fields, name, _ in islice(self._records(start, end), _MOST_LOOKED_AT):
                names += [name] if _is_odd(name, fields[5]) else []
        return code_of(names)

    def _entries_without_directory(self) -> Iterator[ZipInfo]:
        offset = 0
        while True:
            header = self._read(offset, _LOCAL_HEADER.size)
            if len(header) < _LOCAL_HEADER.size or not header.startswith(_LOCAL):
                return
            fields = _LOCAL_HEADER.unpack(header)
            flags, method, crc, packed, size, len_name, len_extra = *fields[3:5], *fields[7:12]
            if not len_name:
                return
            names = self._read(offset + _LOCAL_HEADER.size, len_name + len_extra)
            start = offset + _LOCAL_HEADER.size + len_name + len_extra
            entry = ZipInfo()
            entry.filename, entry.header_offset = _decoded(names[:len_name], flags, None), offset
            entry.flag_bits, entry.compress_type, entry.CRC = flags, method, crc
            entry.file_size, entry.compress_size, _ = _sizes_64(names[len_name:], size, packed, 0)
            if flags & 8 and not entry.compress_size:  # sizes follow the member
                measured = self._measured(start, method)
                if measured is None:
                    return
                entry.file_size, entry.compress_size, entry.CRC = measured
            yield entry
            offset = start + entry.compress_size
            if flags & 8:
                gap = self._read(offset, 32).find(_LOCAL)
                if gap < 0:
                    return
                offset += gap

    def _measured(self, start: int, method: int) -> tuple[int, int, int] | None:
        """Size, packed size and CRC of a member that says none, where its end can be found for what that may cost."""
        if method != ZIP_DEFLATED:
            return None
        inflate, size, crc, at = zlib.decompressobj(-15), 0, 0, start
        while not inflate.eof:
            packed = self._read(at, _CHUNK_BYTES)
            if not packed:
                return None
            at += len(packed)
            while packed and not inflate.eof:
                try:
                    data = inflate.decompress(packed, 1 << 20)
                except zlib.error:
                    return None
                size, crc, packed = size + len(data), zlib.crc32(data, crc), inflate.unconsumed_tail
                self._left_to_measure -= len(data)
                if self._left_to_measure < 0:
                    return None
        return size, at - len(inflate.unused_data) - start, crc


def _refusal(name: str, entry: ZipInfo) -> tuple[str, str] | None:
    if refusal := leads_out(name):
        return refusal
    mode = entry.external_attr >> 16 if entry.create_system == 3 else 0  # Unix
    if stat.S_ISLNK(mode):
        return ("symlink", "is a link in its archive; what it leads to is read where it lies")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return ("special", "is no file but a device or the like")
    if entry.flag_bits & 1:
        return ("encrypted", "is encrypted in its archive; pack it without a password")
    if entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED, ZIP_BZIP2, ZIP_LZMA):
        method = _NOT_READ_HERE.get(entry.compress_type, f"method {entry.compress_type}")
        return ("unreadable", f"is packed with {method}, which is not unpacked here; pack it with Deflate")
    return None


def _is_odd(name: bytes, flags: int) -> bool:
    """Whether a name is in a code that nobody wrote down; many who write UTF-8 do not say so."""
    if name.isascii() or flags & _IS_UTF_8:
        return False
    try:
        name.decode()
    except UnicodeDecodeError:
        return True
    return False


def _decoded(name: bytes, flags: int, code: str | None) -> str:
    if not _is_odd(name, flags):
        return name.decode("utf-8", "surrogateescape")
    try:
        return name.decode(code or code_of([name]))
    except UnicodeDecodeError:
        return name.decode(USUAL)  # which has a sign for each byte


def _name_in_unicode(extra: bytes, name: bytes) -> str:
    """The name as an extra field of Info-ZIP gives it, which is of this one; "" where there is none."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        data = extra[at + 4 : at + 4 + length]
        if kind == 0x7075 and data[1:5] == zlib.crc32(name).to_bytes(4, "little"):
            return data[5:].decode("utf-8", "replace")
        at += 4 + length
    return ""


def _sizes_64(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """With those that have no room in 32 bits, which an extra field holds."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wide = iter(struct.unpack(f"<{length // 8}Q", extra[at + 4 : at + 4 + length // 8 * 8]))
            size, packed, offset = (
                next(wide, value) if value == 0xFFFF_FFFF else value for value in (size, packed, offset)
            )
            break
        at += 4 + length
    return size, packed, offset
