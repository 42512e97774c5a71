"""What lies behind URLs: the same `Found` as for local files, with the same rules.

    s3://bucket/prefix        a folder: every object below `prefix/`
    s3://bucket/a.pdf         one object
    s3://bucket/2024/*.pdf    a pattern (not for http): objects that match, and all below folders that match

An object is known again by its size and its version: its ETag, else its time, else not at all.
"""

from __future__ import annotations

import glob
import re
import time
from collections.abc import Iterator, Sequence

from pipeline.blobs.storage import Listed, Storage
from pipeline.documents.files import Found, display, is_skipped, rejected
from pipeline.documents.globs import Globs
from pipeline.errors import UsageError, redacted
from pipeline.settings import Settings
from pipeline.urls import has_credentials


def find_urls(url: str, settings: Settings, globs: Globs) -> Iterator[Found]:
    """Every file at a URL, folder or pattern.

    Raises:
        UsageError: nothing is there, or access is refused. Raised before anything is yielded.
        StorageGone: it does not answer.
    """
    if has_credentials(url):
        raise UsageError(
            f"{redacted(url)} holds a password, and the database stores where files lie; give it as a variable, such "
            "as AWS_SECRET_ACCESS_KEY or FSSPEC_<PROTOCOL>_PASSWORD"
        )
    storage = Storage(url)
    one = storage.stat()
    if one is not None and (one.size_bytes != 0 or not any(True for _ in storage.files())):
        name = url.rstrip("/").rpartition("/")[2]
        return iter([_found(url, one, settings, name)] if globs.is_meant(name) else [])
    if storage.is_folder() or one is not None:
        return _below(url.rstrip("/"), storage.files(), settings, globs)
    if _is_pattern(url):
        return _matching(url, settings, globs)
    raise UsageError(f"no such file or folder: {display(url)}; nothing was done")


def _below(url: str, files: Iterator[Listed], settings: Settings, globs: Globs) -> Iterator[Found]:
    own = [place.rstrip("/") + "/" for place in (settings.images_url, settings.inputs_url) if place]
    for file in files:
        path = f"{url}/{file.key}"
        is_skipped_by_rule = any(map(is_skipped, file.key.split("/"))) or path.startswith(tuple(own))
        if not is_skipped_by_rule and globs.is_meant(file.key):
            yield _found(path, file, settings, file.key)


def _matching(url: str, settings: Settings, globs: Globs) -> Iterator[Found]:
    from fsspec.utils import glob_translate

    fixed = url[: re.search(r"[*?[]", url).start()]  # type: ignore[union-attr]
    folder, _, start = fixed.rpartition("/")
    try:
        pattern = re.compile(glob_translate(url[len(folder) + 1 :].rstrip("/")))
    except (ValueError, re.error) as error:
        raise UsageError(f"{display(url)} is no pattern: {error}; nothing was done") from error

    def is_meant(file: Listed) -> bool:
        parts = file.key.split("/")
        return any(pattern.fullmatch("/".join(parts[:depth])) for depth in range(1, len(parts) + 1))

    return _below(folder, filter(is_meant, Storage(folder).files(start)), settings, globs)


def _is_pattern(url: str) -> bool:
    return not url.lower().startswith("http") and glob.has_magic(url)


def _found(url: str, file: Listed, settings: Settings, below: str) -> Found:
    name, size, limit = display(url), file.size_bytes, settings.max_file_bytes
    rejection = None
    if size == 0:
        rejection = rejected("empty", name, "has zero bytes")
    elif size is not None and size > limit:
        rejection = rejected(
            "too-large",
            name,
            f"has {size:,} bytes, over the limit of {limit:,}; raise PAGEPACK_MAX_FILE_BYTES or split it",
        )
    return Found(url, name, size or 0, file.version or time.time_ns(), rejection, below)


def uncovered(urls: Sequence[str]) -> list[str]:
    """Drop what another URL of the list already covers, so that no object is seen twice."""

    def covers(above: str, url: str) -> bool:
        return url.startswith(above) and url != above and not any(map(is_skipped, url[len(above) :].split("/")))

    folders = {url.rstrip("/") + "/" for url in urls}
    return [url for url in dict.fromkeys(urls) if not any(covers(folder, url.rstrip("/") + "/") for folder in folders)]
