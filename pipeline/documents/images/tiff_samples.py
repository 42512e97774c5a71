"""Pictures of a TIFF that Pillow does not decode right: samples of 10, 12, 14, 24 or 32 bits, signed or floating, and
pictures of which a part is gone.

A picture lies in strips or tiles, each compressed by itself. A piece is decoded by writing a TIFF of that one piece in
memory: as what it is, to save the pieces of a damaged picture; or as grey of 8 bits and as wide as its rows have bytes,
to get at samples whatever they mean. Those are unpacked here, and scaled to 8 bits:

    12 bits:  bytes AB CD EF  →  samples 0xABC, 0xDEF  →  0xABC / 4095 × 255 = 171

Integers up to 16 bits have their greatest value as white, unless no sample comes to a quarter of it: a 12-bit picture
in 16 bits would be black. Floats from 0 to 1 have 1. Everything else is stretched from its least to its greatest.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import TYPE_CHECKING, Any

from PIL import Image

from pipeline.documents.images import tiff_directories as tiff
from pipeline.documents.images.tiff_directories import Directory, TiffReader
from pipeline.errors import PageFailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PLAIN_BITS = (1, 2, 4, 8, 16)  # unsigned ones of these are Pillow's
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_NONE, _PREDICTOR_INTEGER, _PREDICTOR_FLOAT = 1, 2, 3
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK = 0, 1, 2, 5
_BYTE_COMPRESSIONS = (1, 5, 8, 32773, 32946, 34925, 50000)  # none, LZW, Deflate twice, PackBits, LZMA, Zstandard
_MAX_PIECES = 100_000


class Unknown(Exception):
    """Samples that are not decoded here."""


def is_pillows(page: Directory) -> bool:
    """Does Pillow know what these samples mean? Of grey in 16 bits it does not know where white is."""
    bits = set(page.values(tiff.BITS) or (1,))
    formats = set(page.values(tiff.SAMPLE_FORMAT) or (_UNSIGNED,))
    is_plain_colour = page.value(tiff.PHOTOMETRIC) in (_RGB, _CMYK) and page.value(tiff.PLANAR, 1) == 1
    return bits <= set(_PLAIN_BITS) and formats == {_UNSIGNED} and (16 not in bits or is_plain_colour)


def decode_samples(reader: TiffReader, page: Directory, notes: list[str]) -> Image.Image:
    """A picture by its samples, upright, as L or RGB.

    Raises:
        Unknown: its samples, compression or colours are none of those above.
    """
    import numpy as np

    width, height = page.size
    bits_of_each = set(page.values(tiff.BITS) or (1,))
    sample_format = page.value(tiff.SAMPLE_FORMAT, _UNSIGNED)
    bits, count = bits_of_each.pop(), page.value(tiff.SAMPLES, 1)
    photometric = page.value(tiff.PHOTOMETRIC, _BLACK_IS_ZERO)
    colours = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _CMYK: 4}.get(photometric)
    compression = page.value(tiff.COMPRESSION, _NONE)
    if bits_of_each or colours is None or not colours <= count <= 8 or compression not in _BYTE_COMPRESSIONS:
        raise Unknown
    if (sample_format == _FLOAT and bits not in (16, 32, 64)) or not 1 <= bits <= 64:
        raise Unknown
    is_planar = page.value(tiff.PLANAR, 1) == 2
    canvas = np.zeros((height, width, colours), _type(bits, sample_format))
    together = 1 if is_planar else count
    gaps, num_rows = [], 0
    for x, y, piece_width, piece_height, plane, offset, size in _pieces(page, count if is_planar else 1):
        if plane >= colours:
            continue
        row_bytes = (piece_width * together * bits + 7) // 8
        data = _piece_bytes(reader.read(offset, size), row_bytes, piece_height, compression)
        if len(data) // row_bytes < min(piece_height, height - y):
            gaps.append((slice(y + len(data) // row_bytes, y + piece_height), slice(x, x + piece_width)))
        rows = np.frombuffer(data, np.uint8)[: len(data) // row_bytes * row_bytes].reshape(-1, row_bytes)
        samples = _unpacked(rows, piece_width * together, bits, sample_format, page, together, reader.order)
        samples = samples.reshape(len(rows), piece_width, together)
        rows_left, columns_left = min(height - y, len(rows)), min(width - x, piece_width)
        num_rows += len(rows)
        target = canvas[y : y + rows_left, x : x + columns_left]
        if is_planar:
            target[:, :, plane] = samples[:rows_left, :columns_left, 0]
        else:
            target[:] = samples[:rows_left, :columns_left, :colours]
    if gaps and not num_rows:
        raise PageFailed("nothing of the picture can be decoded: all its strips or tiles are damaged", cause="damaged")
    scaled = _scaled(canvas, bits, sample_format, notes)
    if photometric in (_WHITE_IS_ZERO, _CMYK):
        scaled = 255 - scaled
    if photometric == _CMYK:
        ink, scaled = scaled[:, :, 3:].astype(np.uint16), scaled[:, :, :3].astype(np.uint16)
        scaled = (scaled * ink // 255).astype(np.uint8)
    for gap in gaps:
        scaled[gap] = 255
    if gaps:
        notes.append("the image file is damaged: a part of the picture is missing")
    return Image.fromarray(scaled[:, :, 0] if scaled.shape[2] == 1 else scaled)


def decode_pieces(reader: TiffReader, page: Directory) -> tuple[Image.Image, float] | None:
    """A damaged picture as far as its strips or tiles can be decoded, and the share that is missing.

    None where none can be.
    """
    if page.value(tiff.PLANAR, 1) != 1:
        return None
    width, height = page.size
    canvas: Image.Image | None = None
    there = 0
    for x, y, piece_width, piece_height, _, offset, size in _pieces(page, 1):
        rows = min(piece_height, height - y)
        piece = _most_rows(page, reader.order, reader.read(offset, size), piece_width, rows)
        if piece is None:
            continue
        plain = piece if piece.mode in ("L", "RGB", "CMYK") else piece.convert("L" if piece.mode == "1" else "RGB")
        if canvas is None:
            canvas = Image.new(plain.mode, (width, height), "white" if plain.mode != "CMYK" else 0)
        if plain.mode == canvas.mode:
            canvas.paste(plain, (x, y))
            there += min(piece_width, width - x) * plain.height
    return (canvas, 1 - there / (width * height)) if canvas is not None else None


def _pieces(page: Directory, planes: int) -> list[tuple[int, int, int, int, int, int, int]]:
    """(x, y, width, height, plane, offset, bytes) of each strip or tile."""
    width, height = page.size
    if page.values(tiff.TILE_OFFSETS):
        offsets, sizes = page.values(tiff.TILE_OFFSETS), page.values(tiff.TILE_COUNTS)
        piece_width, piece_height = page.value(tiff.TILE_WIDTH), page.value(tiff.TILE_HEIGHT)
    else:
        offsets, sizes = page.values(tiff.STRIP_OFFSETS), page.values(tiff.STRIP_COUNTS)
        piece_width, piece_height = width, min(page.value(tiff.ROWS_PER_STRIP, height) or height, height)
    if not sizes and len(offsets) == 1:
        sizes = (2**31,)  # to the end of the file
    if piece_width < 1 or piece_height < 1:
        return []
    across, down = -(-width // piece_width), -(-height // piece_height)
    found = []
    for index, (offset, size) in enumerate(zip(offsets, sizes, strict=False)):
        plane, place = divmod(index, across * down)
        if plane >= planes or index >= _MAX_PIECES:
            break
        row, column = divmod(place, across)
        y = row * piece_height
        is_tile = bool(page.values(tiff.TILE_OFFSETS))
        rows = piece_height if is_tile else min(piece_height, height - y)
        found.append((column * piece_width, y, piece_width, rows, plane, int(offset), int(size)))
    return found


def _piece_bytes(data: bytes, row_bytes: int, rows: int, compression: int) -> bytes:
    """A piece without its compression; shorter where its data end early."""
    if compression == _NONE:
        return data[: row_bytes * rows]
    tags = {tiff.BITS: (3, (8,)), tiff.PHOTOMETRIC: (3, (_BLACK_IS_ZERO,)), tiff.COMPRESSION: (3, (compression,))}
    piece = _most_rows(Directory(0, tags), "<", data, row_bytes, rows)
    return piece.tobytes() if piece is not None else b""


def _most_rows(page: Directory, order: str, data: bytes, width: int, rows: int) -> Image.Image | None:
    """As many of the first rows of a piece as can be decoded, found by halving."""
    piece = _piece(page, order, data, width, rows)
    if piece is not None or not data:
        return piece
    low, high, best = 0, rows, None
    while high - low > 1:
        middle = (low + high) // 2
        piece = _piece(page, order, data, width, middle)
        low, high, best = (middle, high, piece) if piece is not None else (low, middle, best)
    return best


def _piece(page: Directory, order: str, data: bytes, width: int, rows: int) -> Image.Image | None:
    """The first rows of a strip or tile as a picture, or None where they cannot be decoded."""
    left_out = (tiff.TILE_WIDTH, tiff.TILE_HEIGHT, tiff.TILE_OFFSETS, tiff.TILE_COUNTS, tiff.ORIENTATION, 254, 255, 330)
    tags = {tag: entry for tag, entry in page.tags.items() if tag not in left_out}
    for tag, value in ((tiff.WIDTH, width), (tiff.HEIGHT, rows), (tiff.ROWS_PER_STRIP, rows)):
        tags[tag] = (4, (value,))
    tags[tiff.STRIP_OFFSETS], tags[tiff.STRIP_COUNTS] = (4, (0,)), (4, (len(data),))
    try:
        image = Image.open(BytesIO(_written(tags, order, data)), formats=("TIFF",))
        image.load()
    except Exception:  # whatever Pillow trips over
        return None
    return image


def _written(tags: dict[int, tuple[int, tuple[Any, ...]]], order: str, data: bytes) -> bytes:
    """A TIFF of one strip: head, table, the values that have no room in it, the strip."""
    begin = 8 + 2 + 12 * len(tags) + 4
    packed = {
        tag: (kind, struct.pack(f"{order}{len(values)}{tiff.FORMS[kind][0]}", *values), values)
        for tag, (kind, values) in tags.items()
    }
    strip = begin + sum(len(raw) + len(raw) % 2 for _, raw, _ in packed.values() if len(raw) > 4)
    table, values_behind = b"", b""
    for tag in sorted(packed):
        kind, raw, values = packed[tag]
        if tag == tiff.STRIP_OFFSETS:
            raw = struct.pack(order + "I", strip)
        count = len(values) // len(tiff.FORMS[kind])
        if len(raw) > 4:
            inline = struct.pack(order + "I", begin + len(values_behind))
            values_behind += raw + bytes(len(raw) % 2)
        else:
            inline = raw.ljust(4, b"\0")
        table += struct.pack(order + "HHI", tag, kind, count) + inline
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(tags))
    return head + table + bytes(4) + values_behind + data


def _type(bits: int, sample_format: int) -> str:
    size = next(size for size in (1, 2, 4, 8) if 8 * size >= bits)
    return {_FLOAT: "f", _SIGNED: "i"}.get(sample_format, "u") + str(size)


def _unpacked(
    rows: NDArray[np.uint8], samples: int, bits: int, sample_format: int, page: Directory, together: int, order: str
) -> NDArray[Any]:
    """Rows of bytes as rows of samples, with the predictor undone."""
    import numpy as np

    predictor = page.value(tiff.PREDICTOR, _NONE)
    if predictor == _PREDICTOR_FLOAT:
        size = bits // 8
        summed = np.cumsum(rows.reshape(len(rows), -1, together), axis=1, dtype=np.uint8).reshape(len(rows), -1)
        turned = np.ascontiguousarray(summed.reshape(len(rows), size, samples).transpose(0, 2, 1))
        return turned.reshape(len(rows), -1).view(f">f{size}").reshape(len(rows), samples)
    if bits in (8, 16, 32, 64):
        kind = np.dtype(order + _type(bits, sample_format))
        unpacked = np.ascontiguousarray(rows).view(kind)
        if predictor == _PREDICTOR_INTEGER:
            whole = unpacked.astype(f"u{bits // 8}").reshape(len(rows), -1, together)
            unpacked = np.cumsum(whole, axis=1, dtype=whole.dtype).view(_type(bits, sample_format))
        return unpacked.reshape(len(rows), samples)
    if page.value(tiff.FILL_ORDER, 1) == 2:
        rows = np.packbits(np.unpackbits(rows, axis=1, bitorder="little"), axis=1)
    weights = (1 << np.arange(bits - 1, -1, -1)).astype(np.uint64)
    unpacked = np.empty((len(rows), samples), np.uint64)
    for index, row in enumerate(rows):  # one row at a time: the bits of a large picture take eight times its room
        if bits == 24 and order == "<":
            row = row[: samples * 3].reshape(-1, 3)[:, ::-1].ravel()
        unpacked[index] = np.unpackbits(row)[: samples * bits].reshape(samples, bits) @ weights
    if predictor == _PREDICTOR_INTEGER:
        unpacked = np.cumsum(unpacked.reshape(len(rows), -1, together), axis=1).reshape(len(rows), samples)
        unpacked &= np.uint64(2**bits - 1)
    if sample_format == _SIGNED:
        return (unpacked.astype(np.int64) ^ (1 << (bits - 1))) - (1 << (bits - 1))
    return unpacked


def _scaled(samples: NDArray[Any], bits: int, sample_format: int, notes: list[str]) -> NDArray[np.uint8]:
    """Samples as 8 bits, 255 for the greatest."""
    import numpy as np

    if sample_format == _FLOAT:
        finite = np.isfinite(samples)
        samples = np.where(finite, samples, 0).astype(np.float32)
    sparse = samples.reshape(-1)[:: max(samples.size // 500_000, 1)]
    low, high = (float(value) for value in np.percentile(sparse, (0.1, 99.9)))  # a few hot pixels are no paper
    bounds = (0.0, 1.0) if sample_format == _FLOAT else (0.0, float(2 ** (bits - (sample_format == _SIGNED)) - 1))
    if low < bounds[0] or high > bounds[1] or high < bounds[1] / 4:
        if 0 <= low == high:  # nothing to stretch: what is there is white, unless it is nothing
            bounds = (0.0, max(high, 1.0))
        else:
            bounds = (min(low, 0.0) if sample_format != _FLOAT else low, high)
        notes.append(f"the samples of the picture reach from {low:g} to {high:g}, and are stretched")
    step = 255 / (bounds[1] - bounds[0])
    scaled = np.empty(samples.shape, np.uint8)
    for index in range(len(samples)):  # by rows: floats of a whole page would take four times its room
        scaled[index] = np.clip((samples[index].astype(np.float64) - bounds[0]) * step + 0.5, 0, 255)
    return scaled
