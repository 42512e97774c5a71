"""The page image store: every distinct page image once, under the hash of its pixels.

The hash is over mode, size and pixels, not over the encoded bytes, for answers are keyed by it: the same page keeps its
answers when the encoder changes. Each page has one canonical form, `L` when it has no colour and `RGB` otherwise.

Files are written beside their place and renamed into it, without fsync: a power cut may leave a file empty, the
hash shows that at the next read, and the page is rendered again from its source. A put takes 0.2 ms, its fsync would
take 3.8 ms more, about as long as drawing the page (benchmarks/RESULTS.md, "Rasterizing").

`open_images` gives the store that the settings name: a local folder, or one behind a URL.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from pipeline.blobs.png import hash_pixels, load
from pipeline.blobs.storage import PART_SECONDS, PARTS, Storage
from pipeline.errors import DiskFull, PageFailed, PagepackError, StorageGone, Unavailable, UsageError
from pipeline.settings import Settings
from pipeline.urls import local_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DELETES_AT_ONCE = 16
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


def open_images(settings: Settings) -> ImageStore:
    """The store of these settings. Nothing is asked of it yet; see `check`.

    Raises:
        UsageError: the URL cannot be opened, or a package for it is missing.
    """
    if settings.images_url is None:
        return ImageStore(settings.home / "images")
    folder = local_path(settings.images_url)
    return RemoteImageStore(settings.images_url) if folder is None else ImageStore(Path(folder).absolute())


class ImageStore:
    """Images on a local disk at `root/ab/abcdef….png`; any number of processes may write and read at once."""

    num_puts = 1  # how many at once are worth it: a local put takes 0.2 ms, one over a network waits

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.place = str(root)  # for messages

    def check(self) -> None:
        """Whether it can be used, for a command that starts; also clears what writers that were killed have left.

        Raises:
            UsageError: it does not exist, or may not be written. StorageGone: it does not answer.
        """
        parts = self.root / PARTS
        with contextlib.suppress(OSError):
            for part in os.scandir(parts):
                if part.stat().st_mtime < time.time() - PART_SECONDS:
                    os.unlink(part)

    def put(self, data: bytes, image_hash: str | None = None) -> str:
        """Store what `encode` gave and return its hash; storing it again does nothing.

        `image_hash` spares the decoding where the caller has it (`RasterizedPage.image_hash`). A wrong one is
        noticed by `pixels`.

        Raises:
            Unavailable: the disk is full or fails.
            UsageError: the folder cannot be written.
        """
        image_hash = image_hash or hash_pixels(load(data))
        path = self._path(image_hash)
        if path.exists():
            return image_hash
        temporary: str | None = None
        try:
            parts = self.root / PARTS
            for folder in (path.parent, parts):
                folder.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=parts)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except OSError as error:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
            raise _unwritable(self.root, error) from error
        return image_hash

    def get(self, image_hash: str) -> bytes:
        """The stored bytes, not verified.

        Raises:
            PageFailed: `image-missing`.
            Unavailable: the disk fails.
        """
        try:
            return self._path(image_hash).read_bytes()
        except FileNotFoundError as error:
            raise self._missing(image_hash) from error
        except OSError as error:
            raise _unreadable(self.root, error) from error

    def has(self, image_hash: str) -> bool:
        """Whether an image lies there, whatever is in it. Raises as `get`, but for PageFailed."""
        try:
            return stat.S_ISREG(self._path(image_hash).stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise _unreadable(self.root, error) from error

    def pixels(self, image_hash: str) -> NDArray[np.uint8]:
        """The image as (H, W, 3) uint8, RGB, verified against its hash.

        Raises:
            PageFailed: `image-missing` or `image-damaged`: after `delete` and `put` of a new rendering it is well.
            Unavailable: the disk fails.
        """
        image = load(self.get(image_hash))
        if hash_pixels(image) != image_hash:
            message = f"page image {image_hash} in {self.place} holds other pixels; retry the page to render it again"
            raise PageFailed(message, cause="image-damaged")
        return _array(image)

    def delete(self, image_hash: str) -> None:
        """Remove an image; one that is not there is no error.

        Raises:
            UsageError: it may not be removed. Unavailable: the disk fails.
        """
        try:
            self._path(image_hash).unlink(missing_ok=True)
        except OSError as error:
            raise _undeletable(self.root, error) from error

    def delete_all(self, image_hashes: Sequence[str]) -> None:
        """As `delete`, several at once: over a network a delete is mostly waiting."""
        if len(image_hashes) <= 1:
            for image_hash in image_hashes:
                self.delete(image_hash)
            return
        with ThreadPoolExecutor(_DELETES_AT_ONCE) as pool:
            list(pool.map(self.delete, image_hashes))

    def is_untouched(self) -> bool:
        """Whether no image was ever put into this folder: the wrong one, perhaps, or a disk that is not mounted."""
        with contextlib.suppress(FileNotFoundError):
            return next(self.root.iterdir(), None) is None
        return True

    def _missing(self, image_hash: str) -> PageFailed:
        message = f"page image {image_hash} is not in {self.place}; retry the page to render it again"
        return PageFailed(message, cause="image-missing")

    def _path(self, image_hash: str) -> Path:
        return self.root / _key(image_hash)


class RemoteImageStore(ImageStore):
    """The same behind a URL. What goes wrong is StorageGone or DiskFull; what `check` finds, a UsageError too."""

    num_puts = 8

    def __init__(self, url: str) -> None:
        self._storage = Storage(url, "PAGEPACK_IMAGES_URL")
        self.place = self._storage.url

    def check(self) -> None:
        self._storage.check()

    def put(self, data: bytes, image_hash: str | None = None) -> str:
        image_hash = image_hash or hash_pixels(load(data))
        key = _key(image_hash)
        with _gone():
            if self._storage.stat(key) is None:
                self._storage.write(key, data)
        return image_hash

    def get(self, image_hash: str) -> bytes:
        try:
            with _gone():
                return self._storage.read(_key(image_hash))
        except FileNotFoundError as error:
            raise self._missing(image_hash) from error

    def has(self, image_hash: str) -> bool:
        with _gone():
            return self._storage.stat(_key(image_hash)) is not None

    def delete(self, image_hash: str) -> None:
        with _gone():
            self._storage.delete(_key(image_hash))

    def is_untouched(self) -> bool:
        return False  # a URL is not a host's own folder by mistake


@contextlib.contextmanager
def _gone() -> Iterator[None]:
    """A bucket or credential that was good when the work began is no fault of the page in hand."""
    try:
        yield
    except UsageError as error:
        raise StorageGone(str(error)) from error


def _key(image_hash: str) -> str:
    if len(image_hash) != 64 or not set(image_hash) <= set("0123456789abcdef"):
        raise ValueError(f"not an image hash: {image_hash!r}")
    return f"{image_hash[:2]}/{image_hash}.png"


def _array(image: Image.Image) -> NDArray[np.uint8]:
    import numpy as np

    return np.array(image.convert("RGB"), dtype=np.uint8)


def _unreadable(root: Path, error: OSError) -> Unavailable:
    return Unavailable(f"cannot read page images from {root}: {error.strerror}")


def _undeletable(root: Path, error: OSError) -> PagepackError:
    fact = f"cannot delete page images in {root}: {error.strerror}"
    if error.errno in _NOT_ALLOWED:
        return UsageError(f"{fact}; let this user write there, or run it as one who may")
    return Unavailable(fact)


def _unwritable(root: Path, error: OSError) -> PagepackError:
    if error.errno in _NOT_ALLOWED:
        return UsageError(f"cannot write page images to {root}: {error.strerror}; choose another --home")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no room left for page images in {root}: free some and run the same command again")
    return Unavailable(f"cannot write page images to {root}: {error.strerror}")
