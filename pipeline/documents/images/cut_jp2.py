"""A JPEG 2000 file that is cut, made whole: zeros where its data end, and its end mark.

OpenJPEG refuses a tile whose data are fewer than its header says. What the header of a packet says with a zero is that
the packet is empty, so a picture whose data go on in zeros is the picture as far as it came: coarse, for the fine
detail comes last, or without its lower part, as the file's order has it.

    FF4F … FF90 000A 0000 00001388 …  a tile of 5,000 bytes, of which 2,100 are there  →  2,898 zeros and FFD9
"""

from __future__ import annotations

_START, _TILE, _END = b"\xff\x4f\xff\x51", b"\xff\x90\x00\x0a", b"\xff\xd9"
_HEADER_BYTES = 12  # of a tile-part
_MOST_MISSING = 1 << 28  # a length beyond it is a mistake


def made_whole(data: bytes) -> bytes | None:
    """None where nothing is missing, or nothing is there."""
    start = data.find(_START, 0, 1 << 16)
    tile = data.find(_TILE, start)
    if start < 0 or tile < 0:
        return None
    while True:  # to the last one that has begun
        length = int.from_bytes(data[tile + 6 : tile + 10], "big")
        following = tile + length
        if length < _HEADER_BYTES or data[following : following + len(_TILE)] != _TILE:
            break
        tile = following
    missing = following - len(data)
    if len(data) < tile + _HEADER_BYTES or not 0 < missing < _MOST_MISSING:
        return None
    return data + bytes(missing) + _END
