"""The directories of a TIFF: where each picture of the file is described, and which of them are pages.

A file is a chain of directories (IFDs), each a table of tags. A picture may be a smaller copy of another, a level of a
pyramid or a mask: NewSubfileType says so in bits 0 and 2, the old SubfileType with 2. Such are no pages, unless there
is nothing else. Where the chain holds copies alone, the pictures that they belong to may hang below it (SubIFDs).

Read here and not by Pillow, which refuses the whole file over one picture whose samples it does not know.
"""

from __future__ import annotations

import io
import os
import struct
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, cast

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_COUNTS = 273, 274, 277, 278, 279
X_RESOLUTION, Y_RESOLUTION, PLANAR, PREDICTOR = 282, 283, 284, 317
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS = 322, 323, 324, 325
EXTRA_SAMPLES, SAMPLE_FORMAT = 338, 339
_NEW_SUBFILE, _SUBFILE, _SUB_DIRECTORIES = 254, 255, 330
_REDUCED, _MASK = 1, 4
_OF_PIECES = (292, 293, 320, 347, 530, 532)  # of fax, palettes and JPEG: how a piece is decoded by itself
_KEPT = frozenset(
    (
        *(WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, STRIP_OFFSETS, ORIENTATION, SAMPLES),
        *(ROWS_PER_STRIP, STRIP_COUNTS, X_RESOLUTION, Y_RESOLUTION, PLANAR, PREDICTOR, TILE_WIDTH, TILE_HEIGHT),
        *(TILE_OFFSETS, TILE_COUNTS, EXTRA_SAMPLES, SAMPLE_FORMAT, _NEW_SUBFILE, _SUBFILE, _SUB_DIRECTORIES),
        *_OF_PIECES,
    )
)
FORMS = {1: "B", 2: "B", 3: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d"}
FORMS |= {13: "I", 16: "Q", 17: "q", 18: "Q"}
_MAX_VALUES = 1_000_000  # of one tag: a million strips
_MOST_BEYOND = 1_000  # times the file's size: a table of contents further off is none
_THUMBNAIL_PX = 320  # a picture that is no larger, and a quarter of the first or less, is its thumbnail
_PICTURES = (0, 1, 2, 3, 5, 6, 8)  # photometric interpretations that are pictures; others are raw data of cameras


@dataclass(frozen=True)
class Directory:
    """One table: where it lies, and its tags as (type, values); a rational is two values."""

    offset: int
    tags: dict[int, tuple[int, tuple[Any, ...]]]

    def values(self, tag: int) -> tuple[Any, ...]:
        return self.tags[tag][1] if tag in self.tags else ()

    def value(self, tag: int, default: int = 0) -> int:
        values = self.values(tag)
        return int(values[0]) if values else default

    @property
    def size(self) -> tuple[int, int]:
        return self.value(WIDTH), self.value(HEIGHT)

    @property
    def is_beside(self) -> bool:
        """A smaller copy or a mask, by what it says of itself."""
        return bool(self.value(_NEW_SUBFILE) & (_REDUCED | _MASK)) or self.value(_SUBFILE) == 2


class TiffReader:
    """The tables of an open file, and its bytes as if any of them were the first."""

    def __init__(self, file: BinaryIO) -> None:
        """Raises ValueError: it is no TIFF."""
        self._file, self._size = file, os.fstat(file.fileno()).st_size
        self._head = self._read(0, 16)
        order, version = self._head[:2], self._head[2:4]
        self.order = "<" if order == b"II" else ">"
        self._is_big = version in (b"+\0", b"\0+")
        self._entry = struct.Struct(self.order + ("HHQ8s" if self._is_big else "HHI4s"))
        self._offset = struct.Struct(self.order + ("Q" if self._is_big else "I"))
        self._first_at = 8 if self._is_big else 4
        if len(self._head) < self._first_at + self._offset.size:
            raise ValueError("no TIFF follows its first bytes")

    def pages(self, max_pages: int) -> tuple[list[Directory], list[str]]:
        """The directories that are pages, at most one more than `max_pages`, and what is to be said of the others."""
        chain, notes = self._chain(max_pages)
        pages = [directory for directory in chain if not directory.is_beside]
        if not pages:
            below = [found for directory in chain for found in self._below(directory)]
            pages = [found for found in below if not found.is_beside and found.value(PHOTOMETRIC) in _PICTURES]
            return pages or chain, notes
        small = [page for page in pages[1:] if _is_thumbnail(page, pages[0])]
        if small:
            notes.append(f"{len(small)} small copies of the first picture are no pages, and are not read")
            pages = [page for page in pages if page not in small]
        return pages, notes

    def why_empty(self) -> str:
        """A reason for a file without a picture. Writers that compress put the table behind the pictures."""
        (offset,) = self._offset.unpack_from(self._head, self._first_at)
        if offset > _MOST_BEYOND * self._size:
            return "no TIFF follows its first bytes"
        if offset >= self._size:
            return f"the file ends early: its pictures are described at byte {offset:,}, and it has {self._size:,}"
        return "what describes its pictures is damaged or missing"

    def beginning_with(self, directory: Directory) -> IO[bytes]:
        """The file with a header that names this directory, for decoders that take the first."""
        head = self._head[: self._first_at] + self._offset.pack(directory.offset)
        return cast(IO[bytes], _Headed(self._file, head))

    def read(self, offset: int, size: int) -> bytes:
        return self._read(offset, size)

    def _chain(self, max_pages: int) -> tuple[list[Directory], list[str]]:
        (offset,) = self._offset.unpack_from(self._head, self._first_at)
        found: list[Directory] = []
        seen = {0}
        while offset not in seen and len(found) <= max_pages:
            seen.add(offset)
            directory, offset = self._directory(offset)
            if directory is None:
                return found, ["the file ends before the next of its pictures: what follows is lost"]
            found.append(directory)
        return found, []

    def _below(self, directory: Directory) -> list[Directory]:
        found = (self._directory(int(offset))[0] for offset in directory.values(_SUB_DIRECTORIES)[:16])
        return [below for below in found if below is not None]

    def _directory(self, offset: int) -> tuple[Directory | None, int]:
        """The table there, and where the next one is; None where there is none."""
        count_form = struct.Struct(self.order + ("Q" if self._is_big else "H"))
        head = self._read(offset, count_form.size)
        if len(head) < count_form.size:
            return None, 0
        count = min(count_form.unpack(head)[0], 65_535)
        table = self._read(offset + count_form.size, count * self._entry.size + self._offset.size)
        entries = len(table) // self._entry.size if len(table) < count * self._entry.size else count
        tags = {}
        for index in range(entries):
            tag, kind, length, inline = self._entry.unpack_from(table, index * self._entry.size)
            if tag in _KEPT and kind in FORMS and tag not in tags:
                values = self._values(kind, min(length, _MAX_VALUES), inline)
                if values:
                    tags[tag] = (kind, values)
        if not tags.get(WIDTH) or not tags.get(HEIGHT):
            return None, 0
        behind = table[count * self._entry.size :]
        following = self._offset.unpack(behind)[0] if len(behind) == self._offset.size else 0
        return Directory(offset, tags), following

    def _values(self, kind: int, length: int, inline: bytes) -> tuple[Any, ...]:
        form = FORMS[kind]
        size = struct.calcsize("=" + form) * length
        data = inline if size <= len(inline) else self._read(self._offset.unpack(inline)[0], size)
        data = data[:size]
        return struct.unpack(f"{self.order}{len(form) * length}{form[0]}", data) if len(data) == size else ()

    def _read(self, offset: int, size: int) -> bytes:
        if not 0 <= offset < self._size:
            return b""
        self._file.seek(offset)
        return self._file.read(min(size, self._size - offset))  # Python makes room for all that is asked for


class _Headed(io.BufferedIOBase):
    """A file with another head; the decoder that takes its descriptor is told the directory itself."""

    def __init__(self, file: BinaryIO, head: bytes) -> None:
        self._file, self._head = file, head
        file.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        at = self._file.tell()
        data = self._file.read(-1 if size is None else size)
        return self._head[at : at + len(data)] + data[max(len(self._head) - at, 0) :] if at < len(self._head) else data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        """The file stays open for the next picture."""


def _is_thumbnail(page: Directory, first: Directory) -> bool:
    """Says nothing of itself, and is small and of the first picture's shape."""
    (width, height), (first_width, first_height) = page.size, first.size
    if max(width, height) > _THUMBNAIL_PX or 4 * max(width, height) > max(first_width, first_height) or not height:
        return False
    return abs(width / height * first_height / max(first_width, 1) - 1) < 0.05
