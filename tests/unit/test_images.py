"""The page image store: one hash for equal pixels, whole files only, damage noticed."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from pipeline.blobs.page_images import ImageStore
from pipeline.blobs.png import canonical, encode, hash_pixels, load
from pipeline.errors import PageFailed, Unavailable, UsageError

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8))


@given(arrays(np.uint8, SHAPES))
def test_what_is_encoded_comes_back(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    image = canonical(Image.fromarray(pixels))
    data = encode(image)
    assert (np.asarray(load(data).convert("RGB")) == pixels).all()
    assert hash_pixels(load(data)) == hash_pixels(image)
    assert np.array_equal(np.asarray(Image.open(BytesIO(data)).convert("RGB")), pixels), "any PNG reader can see it"


def test_grey_pages_have_one_form() -> None:
    grey = Image.effect_noise((64, 48), 80)
    assert canonical(grey.convert("RGB")).mode == "L"
    assert hash_pixels(canonical(grey.convert("RGB"))) == hash_pixels(grey)
    assert canonical(picture(1)).mode == "RGB"
    almost = grey.convert("RGB")
    almost.putpixel((5, 5), (9, 9, 10))
    assert canonical(almost).mode == "RGB", "one coloured pixel is colour"


def test_the_hash_tells_sizes_apart() -> None:
    assert hash_pixels(Image.new("L", (32, 16))) != hash_pixels(Image.new("L", (16, 32)))


def test_an_image_is_stored_once_under_its_hash(tmp_path: Path) -> None:
    store, data = ImageStore(tmp_path / "images"), encode(picture(1))
    image_hash = store.put(data)
    assert store.put(data) == store.put(data, image_hash) == image_hash
    [stored] = [path for path in (tmp_path / "images").rglob("*") if path.is_file()]
    assert stored.parent.name == image_hash[:2] and stored.stem == image_hash
    assert store.get(image_hash) == data
    assert (store.pixels(image_hash) == np.asarray(picture(1))).all()


def test_the_hash_of_a_page_does_not_hang_on_its_encoding(tmp_path: Path) -> None:
    other = BytesIO()
    picture(1).save(other, "PNG", compress_level=9)
    assert ImageStore(tmp_path / "a").put(other.getvalue()) == ImageStore(tmp_path / "b").put(encode(picture(1)))


def test_many_writers_leave_whole_files(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    data = [encode(picture(seed)) for seed in range(4)]
    with ThreadPoolExecutor(16) as pool:
        hashes = set(pool.map(store.put, data * 25))
    assert len(hashes) == 4
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 4, "no temporary file is left"
    for image_hash in hashes:
        store.pixels(image_hash)


def test_missing_and_damaged_images_are_told_apart_and_mended(tmp_path: Path) -> None:
    store, data = ImageStore(tmp_path), encode(picture(1))
    image_hash = store.put(data)
    [path] = [path for path in tmp_path.rglob("*") if path.is_file()]
    for damage in (b"", data[:200], b"text", encode(picture(2))):
        path.write_bytes(damage)
        with pytest.raises(PageFailed) as caught:
            store.pixels(image_hash)
        assert caught.value.cause == "image-damaged"
    store.delete(image_hash)
    store.delete(image_hash)
    with pytest.raises(PageFailed) as caught:
        store.pixels(image_hash)
    assert caught.value.cause == "image-missing"
    store.put(data, image_hash)
    store.pixels(image_hash)


def test_a_full_disk_and_a_read_only_folder_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    with pytest.raises(UsageError, match="file"):
        ImageStore(blocked / "images").put(encode(picture(1)))

    store = ImageStore(tmp_path / "images")

    def full(source: str, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(Unavailable, match=r"no room left for page images in .*images: free some") as caught:
        store.put(encode(picture(1)))
    assert caught.value.retryable
    assert not [path for path in store.root.rglob("*") if path.is_file()], "the part that was written is gone"


def test_an_image_that_may_not_be_deleted_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ImageStore(tmp_path / "images")
    image_hash = store.put(encode(picture(1)))
    for number, kind in ((errno.EACCES, UsageError), (errno.EROFS, UsageError), (errno.EIO, Unavailable)):

        def fail(*_: object, number: int = number, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patched:
            patched.setattr(os, "unlink", fail)
            with pytest.raises(kind, match=f"cannot delete page images in {tmp_path}/images: {os.strerror(number)}"):
                store.delete(image_hash)
    store.delete(image_hash)


def test_a_name_that_is_no_hash_leads_nowhere(tmp_path: Path) -> None:
    for name in ("../../etc/passwd", "", "G" * 64, "ab"):
        with pytest.raises(ValueError, match="not an image hash"):
            ImageStore(tmp_path).get(name)
