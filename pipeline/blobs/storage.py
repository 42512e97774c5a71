"""Files behind a URL: the one place that knows fsspec, and turns its errors into ours.

    s3://bucket/prefix     S3 and what speaks it (MinIO, Ceph, …); needs the extra `s3`
    other://…              whatever fsspec opens, where its package is installed
    file:///folder, path   a local folder; see `local_path`

Credentials and endpoint come from where each library looks for them: for S3 from AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL (botocore reads them) or FSSPEC_S3_ENDPOINT_URL (fsspec does). No message
shows what a URL holds before its `@`.
"""

from __future__ import annotations

import errno
import hashlib
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from pipeline.errors import DiskFull, PagepackError, StorageGone, UsageError, redacted
from pipeline.urls import URL_PATTERN

CHUNK_BYTES = 8 * 2**20
PARTS = ".parts"  # below the root: one folder to sweep, on the same disk, so that a rename is one step
PART_SECONDS = 3600.0  # a file that is still being written after so long was left by a process that died
KEYS_A_PAGE = 1_000  # of an S3 listing: as many as S3 gives at once
_S3 = ("s3", "s3a")
# Object stores show an object only when it is whole; elsewhere it is written beside its place and moved there.
_WHOLE_AT_ONCE = (*_S3, "gs", "gcs", "az", "abfs", "abfss", "oss", "memory")
_S3_OPTIONS = {
    "use_listings_cache": False,  # others write too
    "max_concurrency": 1,  # many threads ask at once; else each read first asks for the size
    "config_kwargs": {
        "max_pool_connections": 64,
        "retries": {"mode": "standard", "max_attempts": 3},
        "connect_timeout": 10,
        "read_timeout": 20,  # between two pieces of an answer
    },
}
_CHANGES = ("ETag", "etag", "LastModified", "last_modified", "mtime", "modified", "updated", "created")


@dataclass(frozen=True, slots=True)
class Listed:
    """A file in a storage."""

    key: str  # below the storage's URL; "" is that URL itself
    size_bytes: int | None  # None where the storage does not say
    version: int | None  # another number after the file was written again; None where nothing tells


class Storage:
    """Files below a URL, by key; any number of threads may call it. A missing file is a FileNotFoundError.

    All else that goes wrong is a UsageError (URL, package, bucket, credentials), DiskFull or StorageGone. `variable`
    is the setting that the URL comes from, for messages.
    """

    def __init__(self, url: str, variable: str | None = None) -> None:
        self.url = redacted(url)
        self._name = f"{self.url} ({variable})" if variable else self.url
        with self._translated():
            self._fs, self._root = _open(url)
        self._protocol = url.partition("://")[0].lower()

    def check(self) -> None:
        """Write a marker and read it back, so that a wrong URL or credential stops a command before its work.

        Also removes parts that writers which were killed have left.
        """
        self.write(".pagepack", b"written by pagepack\n")
        self.read(".pagepack")
        with suppress(Exception):  # not every file system can say how old a file is
            for path in self._fs.ls(self._path(PARTS), detail=False):
                if self._fs.modified(path).timestamp() < time.time() - PART_SECONDS:
                    self._fs.rm_file(path)

    def read(self, key: str) -> bytes:
        with self._translated():
            return bytes(self._fs.cat_file(self._path(key)))

    def chunks(self, key: str = "") -> Iterator[bytes]:
        """A file's bytes in order, `CHUNK_BYTES` or fewer at a time."""
        with self._translated(), self._fs.open(self._path(key), "rb", block_size=CHUNK_BYTES, cache_type="none") as f:
            while data := f.read(CHUNK_BYTES):
                yield data

    def write(self, key: str, data: bytes) -> None:
        """Store a file; a reader sees all of it or what was there before."""
        with self._placing(key) as path:
            self._fs.pipe_file(path, data)

    def upload(self, key: str, source: str) -> None:
        """Store a local file as `write` does, without holding it in memory."""
        with self._placing(key) as path:
            self._fs.put_file(source, path)

    def delete(self, key: str) -> None:
        """Remove a file; one that is not there is no error."""
        with suppress(FileNotFoundError), self._translated():
            self._fs.rm_file(self._path(key))

    def stat(self, key: str = "") -> Listed | None:
        """A file's size and version; None where no file is there."""
        info = self._info(key)
        return None if info is None or info["type"] == "directory" else _listed(key, info)

    def is_folder(self) -> bool:
        info = self._info("")
        return info is not None and info["type"] == "directory"

    def files(self, start: str = "") -> Iterator[Listed]:
        """Every file below the URL whose key begins with `start`, in an order that stays.

        S3 lists 1,000 keys at a time and memory holds no more; elsewhere it holds one folder on each level. A folder
        that is not there, or was removed meanwhile, has none.
        """
        with self._translated():
            if self._protocol in _S3:
                yield from self._s3_files(start)
            else:
                yield from self._walk(start.rpartition("/")[0])

    def _s3_files(self, start: str) -> Iterator[Listed]:
        bucket, _, folder = self._root.partition("/")
        folder = folder and folder + "/"
        request = {"Bucket": bucket, "Prefix": folder + start, "MaxKeys": KEYS_A_PAGE, **self._fs.req_kw}
        while True:
            page = self._fs.call_s3("list_objects_v2", **request)
            for found in page.get("Contents", []):
                if not found["Key"].endswith("/"):  # what consoles make to show an empty folder
                    yield _listed(found["Key"].removeprefix(folder), {"size": found["Size"], **found})
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def _walk(self, folder: str) -> Iterator[Listed]:
        self._fs.invalidate_cache()
        try:
            listed = self._fs.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return
        for info in sorted(listed, key=lambda info: str(info["name"])):
            key = "/".join(filter(None, (folder, str(info["name"]).rstrip("/").rpartition("/")[2])))
            if info["type"] == "directory":
                yield from self._walk(key)
            elif info["type"] == "file":
                yield _listed(key, info)

    def _info(self, key: str) -> dict[str, Any] | None:
        try:
            with self._translated():
                self._fs.invalidate_cache()
                return dict(self._fs.info(self._path(key)))
        except FileNotFoundError:
            return None

    @contextmanager
    def _placing(self, key: str) -> Iterator[str]:
        path = self._path(key)
        with self._translated():
            if self._protocol in _WHOLE_AT_ONCE:
                yield path
                return
            part = self._path(f"{PARTS}/{uuid.uuid4().hex}")
            for folder in (self._path(PARTS), path.rpartition("/")[0]):
                self._fs.makedirs(folder, exist_ok=True)
            try:
                yield part
                self._fs.mv(part, path)
            except BaseException:
                with suppress(Exception):
                    self._fs.rm_file(part)
                raise

    def _path(self, key: str) -> str:
        return f"{self._root.rstrip('/')}/{key}" if key else self._root

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except PagepackError:
            raise
        except FileNotFoundError as error:
            if _is_bucket_missing(error):
                raise UsageError(f"the bucket of {self._name} does not exist; create it or correct the URL") from error
            raise
        except Exception as error:
            raise self._translate(error) from error

    def _translate(self, error: Exception) -> PagepackError:
        text = redacted(" ".join(str(error).split())[:300] or type(error).__name__)
        kind = type(error).__name__
        if isinstance(error, ImportError):
            is_s3 = self.url.lower().startswith(("s3:", "s3a:"))
            way = "pip install 'pagepack[s3]'" if is_s3 else "install what fsspec asks for"
            return UsageError(f"{self._name} cannot be opened: {text}; {way}")
        if isinstance(error, PermissionError) or "Credentials" in kind:
            way = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy"
            if not self.url.startswith("s3"):
                way = "check the credentials"
            return UsageError(f"{self._name} refuses access: {text}; {way}")
        if _is_full(error):
            return DiskFull(f"no room left at {self._name}: free some and run the same command again")
        if isinstance(error, ValueError) or kind == "ParamValidationError" or _code(error) == "InvalidBucketName":
            return UsageError(f"{self._name} cannot be opened: {text}; correct the URL or its endpoint")
        return StorageGone(
            f"{self._name} does not answer: {text}; check the network and the endpoint (AWS_ENDPOINT_URL)"
        )


def import_for(places: Iterable[object]) -> None:
    """Import what opens those that are URLs, 0.3 s for S3, which processes that are forked next then share.

    What cannot be imported is told where it is opened.
    """
    found = (URL_PATTERN.match(str(place)) for place in places)
    schemes = {match[1].lower() for match in found if match} - {"file", "local"}
    if schemes:
        from fsspec import get_filesystem_class

        for scheme in schemes:
            with suppress(Exception):
                get_filesystem_class(scheme)


def _open(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # keeps one file system a process and set of options

    match = URL_PATTERN.match(url)
    if match is None or "::" in url or not match[3].strip("/"):
        raise ValueError("a URL names a bucket or host, like s3://bucket/prefix, and no chain of them")
    scheme, credentials, rest = match[1].lower(), match[2], match[3]
    if scheme not in _S3:
        fs, root = url_to_fs(f"{scheme}://{url.partition('://')[2]}")
        return fs, str(root)
    options: dict[str, Any] = dict(_S3_OPTIONS)
    if credentials:
        options["key"], _, options["secret"] = (unquote_to_bytes(part).decode() for part in credentials.partition(":"))
    fs, root = url_to_fs(f"s3://{rest}", **options)
    return fs, str(root)


def _listed(key: str, info: dict[str, Any]) -> Listed:
    size = info.get("size")
    changes = next((str(info[name]) for name in _CHANGES if info.get(name)), None)
    if changes is None:
        return Listed(key, size, None)
    return Listed(key, size, int.from_bytes(hashlib.blake2b(changes.encode(), digest_size=8).digest(), "big") >> 1)


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _code(error: BaseException) -> str:
    """The code of an S3 error, which s3fs keeps as the cause of its own; "" where there is none."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return ""


def _is_bucket_missing(error: BaseException) -> bool:
    asked_for_bucket = any(getattr(cause, "operation_name", "") == "HeadBucket" for cause in _causes(error))
    return asked_for_bucket or _code(error) == "NoSuchBucket"


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(word in _code(error) for word in ("StorageFull", "QuotaExceeded", "InsufficientCapacity", "507"))
