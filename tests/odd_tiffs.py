"""A writer of TIFF files with any samples, and what Pillow's writer does not make."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Tags = Mapping[int, list[int]]
Picture = tuple[Tags, list[bytes]]
_SHORT = (258, 259, 262, 266, 274, 277, 284, 296, 317, 338, 339)


def packed(samples: NDArray[np.uint64], bits: int, order: str = "<") -> bytes:
    """Rows of samples as they lie in a file: whole bytes in the file's order, others bit by bit, each row filled up."""
    if bits in (8, 16, 32, 64):
        return samples.astype(f"{order}u{bits // 8}").tobytes()
    places = np.arange(bits - 1, -1, -1).astype(np.uint64)
    each = ((samples[:, :, None] >> places) & np.uint64(1)).astype(np.uint8)
    return np.packbits(each.reshape(len(samples), -1), axis=1).tobytes()


def picture(
    width: int, height: int, bits: int, strips: Sequence[bytes], tags: Tags | None = None
) -> tuple[Tags, list[bytes]]:
    """A directory and its strips, for `written`."""
    rows = -(-height // len(strips))
    plain: Tags = {256: [width], 257: [height], 258: [bits], 259: [1], 262: [1], 277: [1], 278: [rows]}
    return {**plain, **(tags or {})}, list(strips)


def written(
    path: Path, *pictures: tuple[Tags, list[bytes]], order: str = "<", below: Sequence[int] = (), end: int = 0
) -> Path:
    """A TIFF with these pictures, directories before strips; those whose numbers `below` names hang below the first,
    and `end` is where the last one says that another follows."""
    sizes = [2 + 12 * (len(tags) + 2 + (tags is pictures[0][0] and bool(below))) + 4 for tags, _ in pictures]
    starts = [8 + sum(sizes[:index]) for index in range(len(pictures))]
    behind, at = b"", 8 + sum(sizes)
    chain = [index for index in range(len(pictures)) if index not in below]
    tables = b""
    for index, (tags, strips) in enumerate(pictures):
        offsets = []
        for strip in strips:
            offsets.append(at + len(behind))
            behind += strip + bytes(len(strip) % 2)
        entries = dict(tags) | {273: offsets, 279: [len(strip) for strip in strips]}
        if index == 0 and below:
            entries[330] = [starts[number] for number in below]
        table = struct.pack(order + "H", len(entries))
        for tag in sorted(entries):
            values = entries[tag]
            kind = "H" if tag in _SHORT else "I"
            raw = struct.pack(f"{order}{len(values)}{kind}", *values)
            count = len(values)
            if tag in (282, 283):
                kind, count = "R", 1
            if len(raw) > 4:
                inline = struct.pack(order + "I", at + len(behind))
                behind += raw + bytes(len(raw) % 2)
            else:
                inline = raw.ljust(4, b"\0")
            table += struct.pack(order + "HHI", tag, {"H": 3, "I": 4, "R": 5}[kind], count) + inline
        following = [number for number in chain if number > index] if index in chain else []
        tables += table + struct.pack(order + "I", starts[following[0]] if following else end if index in chain else 0)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    path.write_bytes(head + tables + behind)
    return path
