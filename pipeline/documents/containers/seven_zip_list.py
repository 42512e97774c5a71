"""The list of a 7z: its blocks, the coders through which they went, and its files.

Numbers in it are a stranger's: none is believed beyond the bytes that are there. A thing that takes a byte in the list
takes hundreds in memory, and a list packs well: so there are no more of each kind than a container may have members.
Format: 7zFormat.txt of the 7-Zip sources.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.documents.containers.members import MembersLost

SIGNATURE_BYTES = 32
_MOST_CODERS = 32  # of a block, as 7-Zip has it
_NAMES = {"030401": "PPMd", "0303011b": "BCJ2", "04f71101": "Zstandard", "03030501": "ARM", "040109": "Deflate64"}


@dataclass(slots=True)
class Block:
    coders: list[tuple[bytes, bytes]]  # method and properties, as the files went through them
    first: int = 0  # of them, by the list's own numbers
    packed_at: int = 0
    packed_bytes: int = 0
    sizes: list[int] = field(default_factory=list)  # of what each coder takes, then of the block
    files: list[int] = field(default_factory=list)  # sizes
    sums: list[int | None] = field(default_factory=list)  # CRC of each


class ListReader:
    """The list, read from its beginning; what reads past the end raises IndexError or EOFError.

    Raises `over` where it tells of more than `most` files, blocks or whatever else is counted.
    """

    def __init__(self, data: bytes, most: int, over: MembersLost) -> None:
        self._data, self._at = data, 0
        self._most, self._over = most, over

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def bytes(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise EOFError("the list ends too early")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self) -> int:
        """Up to 8 bytes, of which the first says how many follow."""
        first, value = self.byte(), 0
        for index in range(8):
            if not first & (0x80 >> index):
                return value | (first & ((0x80 >> index) - 1)) << (8 * index)
            value |= self.byte() << (8 * index)
        return value

    def size(self) -> int:
        """Of bytes that follow."""
        size = self.number()
        if size > len(self._data) - self._at:
            raise EOFError("the list announces more than it holds")
        return size

    def count(self) -> int:
        """Of things that take a byte each, at least."""
        count = self.size()
        if count > self._most:
            raise self._over
        return count

    def bits(self, count: int) -> list[bool]:
        data = self.bytes(-(-count // 8))
        return [bool(data[index // 8] & (0x80 >> index % 8)) for index in range(count)]

    def sums(self, count: int) -> list[int | None]:
        defined = [True] * count if self.byte() else self.bits(count)
        return [int.from_bytes(self.bytes(4), "little") if one else None for one in defined]

    def header(self) -> tuple[list[Block], list[tuple[str, bool, bool]]]:
        """Blocks, and files as (name, is empty, is a folder)."""
        blocks, files = list[Block](), list[tuple[str, bool, bool]]()
        while (kind := self.byte()) != 0:
            if kind == 2:  # properties of the archive, which nobody writes
                while self.byte():
                    self.bytes(self.size())
            elif kind in (3, 4):
                found = self.blocks()
                blocks = found if kind == 4 else blocks
            elif kind == 5:
                files = self._files()
            else:
                raise ValueError(f"part {kind} of the list is unknown")
        return blocks, files

    def blocks(self) -> list[Block]:
        packed_at, packed, blocks, sums = 0, list[int](), list[Block](), list[int | None]()
        while (kind := self.byte()) != 0:
            if kind == 6:
                packed_at, count = SIGNATURE_BYTES + self.number(), self.count()
                while (part := self.byte()) != 0:
                    if part == 9:
                        packed = [self.number() for _ in range(count)]
                    else:
                        self.sums(count)
            elif kind == 7:
                blocks, sums = self._coders()
            elif kind == 8:
                self._files_of_blocks(blocks, sums)
            else:
                raise ValueError(f"part {kind} of the list is unknown")
        for block, size in zip(blocks, packed, strict=False):
            block.packed_at, block.packed_bytes = packed_at, size
            packed_at += size
            if not block.files and not block.sums:
                block.files, block.sums = [block.sizes[-1]], [None]
        return blocks

    def _coders(self) -> tuple[list[Block], list[int | None]]:
        blocks, sums = list[Block](), list[int | None]()
        while (kind := self.byte()) != 0:
            if kind == 11:
                count = self.count()
                if self.byte():
                    raise ValueError("its list lies elsewhere")
                blocks = [self._block() for _ in range(count)]
            elif kind == 12:
                for block in blocks:
                    block.sizes = [self.number() for _ in range(len(block.coders))]
                    block.sizes.append(block.sizes[block.first])
            else:
                sums = self.sums(len(blocks))
        return blocks, sums or [None] * len(blocks)

    def _block(self) -> Block:
        coders = []
        if not 0 < (count := self.count()) <= _MOST_CODERS:
            raise ValueError(f"a block has {count:,} coders")
        for _ in range(count):
            flags = self.byte()
            method = self.bytes(flags & 0x0F)
            if flags & 0x10 and (self.number(), self.number()) != (1, 1):
                raise MembersLost("unreadable", f"is packed with {named(method)}, which is not unpacked here")
            coders.append((method, self.bytes(self.size()) if flags & 0x20 else b""))
        pairs = {self.number(): self.number() for _ in range(len(coders) - 1)}  # input ← output
        order, seen = list[int](), (set(range(len(coders))) - set(pairs.values()))
        at: int | None = seen.pop() if seen else 0  # whose output is the files'
        while at is not None and at not in order and at < len(coders):
            order.append(at)
            at = pairs.get(at)
        if len(order) != len(coders):
            raise MembersLost("unreadable", "is packed with coders in an order that is not unpacked here")
        return Block([coders[index] for index in order], order[0])

    def _files_of_blocks(self, blocks: list[Block], sums: list[int | None]) -> None:
        counts, kind = [1] * len(blocks), self.byte()
        if kind == 13:
            counts = [self.number() for _ in blocks]
            if sum(counts) > self._most:
                raise self._over
            kind = self.byte()
        for block, count in zip(blocks, counts, strict=True):
            sizes = [self.number() for _ in range(count - 1)] if kind == 9 else []
            rest = block.sizes[-1] - sum(sizes)
            if rest < 0 or (count > 1 and kind != 9):
                raise ValueError("the sizes of a block's files are more than its own")
            block.files = [*sizes, rest] if count else []
        if kind == 9:
            kind = self.byte()
        lone = [len(block.files) == 1 and one is not None for block, one in zip(blocks, sums, strict=True)]
        wanted = sum(len(block.files) for block, is_known in zip(blocks, lone, strict=True) if not is_known)
        told = list[int | None]()
        while kind != 0:
            if kind == 10:
                told = self.sums(wanted)
            kind = self.byte()
        rest_of = iter(told or [None] * wanted)
        for block, is_known, one in zip(blocks, lone, sums, strict=True):
            block.sums = [one] if is_known else [next(rest_of) for _ in block.files]

    def _files(self) -> list[tuple[str, bool, bool]]:
        count, names = self.count(), list[str]()
        is_empty, is_file = [False] * count, list[bool]()
        while (kind := self.byte()) != 0:
            part = ListReader(self.bytes(self.size()), self._most, self._over)
            if kind == 14:
                is_empty = part.bits(count)
            elif kind == 15:
                is_file = part.bits(sum(is_empty))
            elif kind == 17 and not part.byte():
                names = part.bytes(len(part._data) - 1).decode("utf-16-le", "replace").split("\0", count)[:count]
        names += ["unnamed"] * (count - len(names))
        empty_files = iter([*is_file, *[False] * sum(is_empty)])
        return [(name, empty, empty and not next(empty_files)) for name, empty in zip(names, is_empty, strict=True)]


def named(method: bytes) -> str:
    """A method as people know it."""
    return _NAMES.get(method.hex(), f"method {method.hex()}")
