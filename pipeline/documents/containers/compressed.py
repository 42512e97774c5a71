"""One compressed file: a TAR, whose members are its own, or anything else, which is its one member.

It is unpacked into a file without a name first, for a TAR's members are wanted in any order.
"""

from __future__ import annotations

import bz2
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, BinaryIO, cast

from pipeline.documents.containers.members import Member, MembersLost, Names, Part
from pipeline.documents.containers.tar_files import TarMembers
from pipeline.documents.files import Kind, kind_of

_CHUNK_BYTES = 1 << 20
_PACKED_BYTES = 1 << 16  # what follows a stream is copied: of many tiny ones, for each
_XZ_MEMORY_BYTES = 256 * 2**20  # `xz -9` needs 65 MiB; a header may ask for 4 GiB
_MOST_EMPTY_STREAMS = 1_000
_ENDINGS = {Kind.GZIP: (".gz", ".tgz"), Kind.BZIP2: (".bz2", ".tbz2", ".tbz"), Kind.XZ: (".xz", ".txz")}


class _Inflate:
    """zlib's decompressor for gzip, in the manner of the other two."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    Kind.GZIP: _Inflate,
    Kind.BZIP2: bz2.BZ2Decompressor,
    Kind.XZ: lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES),
}


class CompressedMembers:
    """Unpacks at most `limit_bytes` into `scratch`, which it closes in the end; `over` says that there is more."""

    def __init__(
        self, file: BinaryIO, kind: str, name: str, scratch: BinaryIO, limit_bytes: int, over: MembersLost
    ) -> None:
        self._scratch = scratch
        self._name = name
        self._kind = Kind(kind)
        self._lost: MembersLost | None = None
        try:
            self._unpack(file, limit_bytes, over)
        except (EOFError, OSError, ValueError, lzma.LZMAError, zlib.error, MemoryError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            self._lost = MembersLost("damaged", f"is cut short or broken: {str(error)[:200] or 'too much memory'}")

    def members(self) -> Iterator[Member]:
        self._scratch.seek(0)
        head = self._scratch.read(1024)
        size = self._scratch.seek(0, os.SEEK_END)
        if kind_of(head) is Kind.TAR:
            try:
                yield from TarMembers(self._scratch).members()
            except MembersLost as lost:
                raise (self._lost or lost) from lost
        elif size:
            name = Names().name(_without_ending(self._name, self._kind))
            yield Member(name, lambda: cast(IO[bytes], Part(self._scratch, 0, size)), size)
        if self._lost is not None:
            raise self._lost

    def close(self) -> None:
        self._scratch.close()

    def _unpack(self, file: BinaryIO, limit_bytes: int, over: MembersLost) -> None:
        """All of its streams, one after another."""
        file.seek(0)
        packed, size, num_empty = file.read(_PACKED_BYTES), 0, 0
        while packed:
            decompressor, before = _DECOMPRESSORS[self._kind](), size
            while not decompressor.eof:
                if not packed and decompressor.needs_input:
                    packed = file.read(_PACKED_BYTES)
                    if not packed:
                        raise EOFError("it ends in the middle")
                data, packed = decompressor.decompress(packed, _CHUNK_BYTES), b""
                if size + len(data) > limit_bytes:
                    self._scratch.write(data[: limit_bytes - size])
                    self._lost = over
                    return
                self._scratch.write(data)
                size += len(data)
            num_empty += size == before
            if num_empty > _MOST_EMPTY_STREAMS:
                raise ValueError("it is made of empty streams")
            packed = (decompressor.unused_data or file.read(_PACKED_BYTES)).lstrip(b"\0")


def _without_ending(name: str, kind: Kind) -> str:
    name = name.rpartition("/")[2]
    for ending in _ENDINGS[kind]:
        if name.casefold().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return name
