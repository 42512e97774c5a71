"""A vector as it is sent to PostgreSQL, as the server would show it, but for the order of its words."""

from __future__ import annotations

import struct


def as_literal(vector: bytes) -> str:
    count, at, entries = int.from_bytes(vector[:4]), 4, list[str]()
    while at < len(vector):
        end = vector.index(b"\0", at)
        (num_places,) = struct.unpack_from(">H", vector, end + 1)
        places = struct.unpack_from(f">{num_places}H", vector, end + 3)
        entries.append(f"'{vector[at:end].decode()}':{','.join(map(str, places))}")
        at = end + 3 + 2 * num_places
    assert len(entries) == count
    return " ".join(entries)
