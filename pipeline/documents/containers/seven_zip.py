"""Members of a 7z: its list, at the end of the file, and its solid blocks, which the standard library unpacks.

    signature, where the list lies │ packed blocks … │ the list (`seven_zip_list.py`)

The list may be packed itself. Each block holds many files, one after another, so all is unpacked into a file without a
name first. The coders of archives of documents are LZMA, LZMA2, Delta, BZip2, Deflate and none; the filter for x86
programs comes with LZMA2, for some writers use it always. What else there is (PPMd, ARM, AES) is said. The package
py7zr reads more, and brings nine packages with compiled code, 22 MB.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, BinaryIO, cast

from pipeline.documents.containers.limits import Budget
from pipeline.documents.containers.members import Member, MembersLost, Names, Part, leads_out
from pipeline.documents.containers.seven_zip_list import SIGNATURE_BYTES, Block, ListReader, named

_MOST_LIST_BYTES = 64 * 2**20
_MOST_DICTIONARY_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 20
_COPY, _LZMA, _LZMA2, _DELTA, _DEFLATE, _BZIP2, _AES = (
    bytes.fromhex(one) for one in ("00", "030101", "21", "03", "040108", "040202", "06f10701")
)
_X86 = (bytes.fromhex("03030103"), b"\x04")


class SevenZipMembers:
    """Unpacks at most `limit_bytes` into `scratch`, which it closes in the end; `over` says that there is more.

    Its list is read whole, so one of more than the `budget`'s members gives none of them.
    """

    def __init__(self, file: BinaryIO, scratch: BinaryIO, limit_bytes: int, over: MembersLost, budget: Budget) -> None:
        self._scratch, self._over, self._left = scratch, over, limit_bytes
        self._most, self._too_many = budget.num_members, budget.too_many_members()
        self._lost: MembersLost | None = None
        self._found: list[Member] = []
        try:
            self._read(file)
        except MembersLost as lost:
            self._lost = lost
        except (EOFError, IndexError, ValueError, OSError, lzma.LZMAError, zlib.error, struct.error) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            said = str(error)[:200] or type(error).__name__
            self._lost = MembersLost("damaged", f"is cut short or broken, and its list is at its end: {said}")

    def members(self) -> Iterator[Member]:
        yield from self._found
        if self._lost is not None:
            raise self._lost

    def close(self) -> None:
        self._scratch.close()

    def _read(self, file: BinaryIO) -> None:
        size = file.seek(0, 2)
        file.seek(0)
        offset, length = struct.unpack_from("<QQ", file.read(SIGNATURE_BYTES), 12)
        if not length:
            return
        if SIGNATURE_BYTES + offset + length > size or length > _MOST_LIST_BYTES:
            raise ValueError(f"the list of {length:,} bytes lies behind the end")
        file.seek(SIGNATURE_BYTES + offset)
        reader = ListReader(file.read(length), self._most, self._too_many)
        kind = reader.byte()
        if kind == 0x17:
            blocks = reader.blocks()
            if not blocks or blocks[0].sizes[-1] > _MOST_LIST_BYTES:
                raise ValueError("no list follows")
            reader = ListReader(b"".join(_unpacked(file, blocks[0])), self._most, self._too_many)
            kind = reader.byte()
        if kind != 1:
            raise ValueError("no list follows")
        self._list(file, *reader.header())

    def _list(self, file: BinaryIO, blocks: list[Block], files: list[tuple[str, bool, bool]]) -> None:
        """Unpack block after block, and give each file its part."""
        names = Names()
        with_bytes = iter([name for name, is_empty, _ in files if not is_empty])
        for name, is_empty, is_folder in files:
            if is_empty:
                opener = self._opener(0, 0)
                unique = name if is_folder else names.name(name)
                self._found.append(Member(unique, opener, None, is_folder=is_folder))
        for block in blocks:
            at = self._scratch.tell()
            refusal: tuple[str, str] | None = None
            try:
                self._spool(file, block)
            except MembersLost as lost:
                refusal = (lost.cause, lost.fact)
            except (EOFError, ValueError, OSError, lzma.LZMAError, zlib.error) as error:
                if isinstance(error, OSError) and error.errno:
                    raise
                refusal = ("damaged", f"cannot be unpacked: {str(error)[:200] or type(error).__name__}")
            end = self._scratch.tell()
            for size, wanted in zip(block.files, block.sums, strict=True):
                name = names.name(next(with_bytes, "unnamed"))
                why = leads_out(name)
                if why is None and at + size > end:
                    why = refusal or ("damaged", "is cut off: its block ends before it does")
                elif why is None and wanted is not None and self._sum(at, size) != wanted:
                    why = ("damaged", "is broken: its checksum is another")
                self._found.append(Member(name, self._opener(at, size), size, why))
                at += size
            if self._left <= 0:
                raise self._over

    def _spool(self, file: BinaryIO, block: Block) -> None:
        for data in _unpacked(file, block):
            self._scratch.write(data[: max(self._left, 0)])
            self._left -= len(data)
            if self._left <= 0:
                raise self._over

    def _opener(self, start: int, size: int) -> Callable[[], IO[bytes]]:
        return lambda: cast(IO[bytes], Part(self._scratch, start, size))

    def _sum(self, start: int, size: int) -> int:
        part, crc = Part(self._scratch, start, size), 0
        while data := part.read(_CHUNK_BYTES):
            crc = zlib.crc32(data, crc)
        self._scratch.seek(0, 2)
        return crc


def _unpacked(file: BinaryIO, block: Block) -> Iterator[bytes]:
    """The bytes of a block, no more than it announces."""
    decompress, left = _decompressor(block), block.sizes[-1]
    packed = Part(file, block.packed_at, block.packed_bytes)
    while left > 0:
        data = decompress(packed)
        if not data:
            raise EOFError("its packed bytes end too early")
        yield data[:left]
        left -= len(data)


def _decompressor(block: Block) -> Callable[[Part], bytes]:
    """Gives the next bytes at each call.

    Raises:
        MembersLost: the block is encrypted, or packed with what is not unpacked here.
    """
    methods = [method for method, _ in block.coders]
    if _AES in methods:
        raise MembersLost("encrypted", "is encrypted in its archive; pack it without a password")
    if methods == [_COPY]:
        return lambda packed: packed.read(_CHUNK_BYTES) or b""
    made: Any
    if methods == [_BZIP2]:
        made = bz2.BZ2Decompressor()
    elif methods == [_DEFLATE]:
        inflate = zlib.decompressobj(-15)
        return lambda packed: _inflated(inflate, packed)
    else:
        made = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_filters(block))

    def decompressed(packed: Part) -> bytes:
        while not made.eof:
            data = made.decompress((packed.read(_CHUNK_BYTES) or b"") if made.needs_input else b"", _CHUNK_BYTES)
            if data or (made.needs_input and not packed.has_more()):
                return bytes(data)
        return b""

    return decompressed


def _inflated(inflate: Any, packed: Part) -> bytes:
    while not inflate.eof:
        data = inflate.decompress(inflate.unconsumed_tail or packed.read(_CHUNK_BYTES) or b"", _CHUNK_BYTES)
        if data or (not inflate.unconsumed_tail and not packed.has_more()):
            return bytes(data)
    return b""


def _filters(block: Block) -> list[dict[str, Any]]:
    """For `lzma`, in the order in which they were applied."""
    filters = list[dict[str, Any]]()
    for method, properties in block.coders:
        if method == _LZMA2:
            bits = properties[0]
            size = 0xFFFF_FFFF if bits >= 40 else (2 | bits & 1) << (bits // 2 + 11)
            filters.append({"id": lzma.FILTER_LZMA2, "dict_size": _dictionary(size, block)})
        elif method == _LZMA:
            first, size = properties[0], int.from_bytes(properties[1:5], "little")
            literal = {"lc": first % 9, "lp": first // 9 % 5, "pb": first // 45}
            filters.append({"id": lzma.FILTER_LZMA1, "dict_size": _dictionary(size, block), **literal})
        elif method == _DELTA:
            filters.append({"id": lzma.FILTER_DELTA, "dist": properties[0] + 1 if properties else 1})
        elif method in _X86 and block.coders[-1][0] == _LZMA2:  # LZMA has no end by which the filter knows its own
            filters.append({"id": lzma.FILTER_X86})
        else:
            raise MembersLost("unreadable", f"is packed with {named(method)}, which is not unpacked here")
    return filters


def _dictionary(size: int, block: Block) -> int:
    """No larger than what it is for."""
    size = max(min(size, block.sizes[-1]), 4096)
    if size > _MOST_DICTIONARY_BYTES:
        raise MembersLost("too-large", f"needs a dictionary of {size:,} bytes; pack it with a smaller one")
    return size
