"""Mutated files: each ends in its pages or in a reason, and takes neither the caller nor the next file with it.

`make test` tries the same few each time; `make fuzz` tries others, twenty times as many.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.documents.files import kind_of
from pipeline.documents.rasterize import PageFailure, Rasterizer
from pipeline.errors import DocumentRejected
from pipeline.settings import Settings
from tests import hostile, odd_pdfs
from tests.conftest import examples
from tests.odd_images import encoded, lines_of_text, png_chunk, png_with
from tests.odd_tiffs import packed, picture, written

SECONDS = 5.0  # for a page; a mutated one may well ask for more
CAUSES = {"damaged", "encrypted", "empty", "too-large", "timeout", "memory", "crash", "unsupported"}


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Small files of each kind and oddity, to be mutated."""
    folder = tmp_path_factory.mktemp("seeds")
    root = b"<</Type/Pages%s/Count 1>>" % odd_pdfs.KIDS
    paths = [
        odd_pdfs.page_tree(folder / "tree.pdf", root),
        odd_pdfs.cyclic_structure(folder / "structure.pdf"),
        odd_pdfs.rc4_encrypted(folder / "rc4.pdf", version=4, revision=4, key_bytes=5, used_bytes=16),
        odd_pdfs.attachments_encrypted(folder / "attachments.pdf"),
        odd_pdfs.image_page(folder / "image.pdf", *odd_pdfs.flate_grey(8, 8, bytes(range(64)))),
        hostile.pages_of(folder / "pages.pdf", (200, 200), (100, 300)),
        png_with(folder / "chunks.png", lines_of_text(64, 48), png_chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0")),
    ]
    print_ = lines_of_text(64, 48)
    twelve = picture(64, 48, 12, [packed(odd_pdfs_samples(print_), 12)])
    paths.append(written(folder / "twelve.tif", twelve, ({**twelve[0], 254: [1]}, twelve[1]), twelve))
    files = [path.read_bytes() for path in paths]
    for kind, options in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("GIF", {"save_all": True, "append_images": [print_.rotate(180)]}),
        ("WEBP", {}),
        ("BMP", {}),
        ("PNG", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ):
        files.append(encoded(print_, kind, **options))
    files.append(encoded(print_.convert("1"), "TIFF", compression="group4"))
    return files


def odd_pdfs_samples(image: Image.Image) -> object:
    import numpy as np

    return (np.asarray(image).astype(np.uint64)) * 16


@pytest.fixture(scope="module")
def rasterizer() -> Iterator[Rasterizer]:
    settings = Settings(rasterize_seconds=SECONDS, max_pages=20, max_image_pixels=10**6, rasterize_memory_bytes=2**30)
    with Rasterizer(settings) as shared:
        yield shared


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A file with some of its bytes changed, cut out, doubled, or its numbers replaced by odd ones."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = chance.randrange(len(changed))
        length = min(chance.choice((1, 2, 4, 16, 64)), len(changed) - at)
        how = chance.randrange(7)
        if how == 0:
            changed[at] ^= 1 << chance.randrange(8)
        elif how == 1:
            changed[at : at + length] = chance.randbytes(length)
        elif how == 2:
            del changed[at : at + length]
        elif how == 3:
            changed[at:at] = changed[at : at + length]
        elif how == 4:
            changed[at : at + length] = chance.choice((b"\0", b"\xff", b"\x7f", b" ")) * length
        elif how == 5:
            digits = [place for place, byte in enumerate(changed) if 48 <= byte <= 57]
            if digits:
                changed[chance.choice(digits)] = chance.choice(b"0123456789-")
        elif len(changed) > 64:
            del changed[chance.randrange(32, len(changed)) :]
        if not changed:
            changed += b"\0"
    return bytes(changed)


@examples(40)
@given(which=st.integers(0, 10**6), seed=st.integers(0, 2**32))
def test_a_mutated_file_ends_in_its_pages_or_a_reason(
    rasterizer: Rasterizer, seeds: list[bytes], tmp_path: Path, which: int, seed: int
) -> None:
    original = seeds[which % len(seeds)]
    kind = kind_of(original[:1024])
    assert kind is not None
    path = tmp_path / "mutated"
    path.write_bytes(mutated(original, random.Random(seed)))
    reasons, count, started = [], 0, time.monotonic()
    try:
        with rasterizer.open(path, kind) as document:
            pages = list(document.pages())
            assert [page.page_index for page in pages] == list(range(document.page_count)), "each page once, in order"
            count = document.page_count
        reasons = [page.error for page in pages if isinstance(page, PageFailure)]
        said = [page.warnings for page in pages if not isinstance(page, PageFailure)]
    except DocumentRejected as error:
        reasons, said = [error], []  # type: ignore[list-item]
    assert {error.cause for error in reasons} <= CAUSES
    for text in [*map(str, reasons), *said]:
        assert "/dev/fd" not in text and "/proc/" not in text and "object at 0x" not in text
    assert time.monotonic() - started < (SECONDS + 2) * (2 * count + 2), "no page takes more than its time, twice"
