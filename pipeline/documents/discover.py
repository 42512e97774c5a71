"""What lies at the paths: one `Found` for each file seen, taken or not.

`discover` looks at names and at `stat` only; it opens no file. `identify.py` opens one file and reads it once, for its
kind and its content hash; a file whose size and time are as recorded needs no second `identify`.

    seen = taken + rejected       every file under the paths gives exactly one `Found`
    skipped by rule, not counted  dot files and folders, `~$*`, `Thumbs.db`, pagepack's own home and stores, what
                                  --include and --exclude leave out (`globs.py`),
                                  links to a folder inside the submitted one (its files are seen at their own place)

The order is that of the names, folder by folder, so two runs agree. Memory holds the names of the folders on the way
down to the present one, not those of the whole tree.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from pipeline.documents.files import Found, display, is_skipped, judge, rejected
from pipeline.documents.globs import ALL, Globs
from pipeline.errors import UsageError
from pipeline.settings import Settings
from pipeline.urls import local_path


def discover(paths: Sequence[str | Path], settings: Settings, globs: Globs = ALL) -> Iterator[Found]:
    """Every file at files, folders (with all below) and patterns that the shell left alone, each once.

    A file named outright is taken even where a rule would skip it; a link named outright is followed. A pattern
    without a match gives nothing. URLs (`s3://bucket/prefix`) come after the local paths.

    Raises:
        UsageError: a path does not exist. Raised before anything is yielded, so that a typing error costs nothing.
        StorageGone: what is behind a URL does not answer.
    """
    from pipeline.documents.discover_urls import find_urls, uncovered

    places = {os.fspath(path): local_path(os.fspath(path)) for path in paths}
    starts = [start for local in places.values() if local is not None for start in _expand(local)]
    missing = [display(start) for start in starts if not os.path.lexists(start)]
    if missing:
        raise UsageError(f"no such file or folder: {', '.join(missing)}; nothing was done")
    remote = {url: find_urls(url, settings, globs) for url, local in places.items() if local is None}
    return chain(_walk_all(without_covered(starts), settings, globs), *(remote[url] for url in uncovered(list(remote))))


def absolute(path: str | Path) -> str:
    """A submitted path as it is known from now on: a URL as it is, else an absolute local path."""
    local = local_path(os.fspath(path))
    return os.fspath(path) if local is None else os.path.abspath(local)


def without_covered(starts: Sequence[str]) -> list[str]:
    """Drop what another start already covers (`a` covers `a/b.pdf`), so that no file is seen twice.

    What the walk of the folder would not reach stays: a file hidden by a rule, a link that leads out.
    """
    folders = {start: _real_path(start) for start in starts if os.path.isdir(start)}

    def is_covered(start: str) -> bool:
        for folder in _ancestors(start):
            if folder in folders:
                below = os.path.relpath(start, folder).split(os.sep)
                if not any(map(is_skipped, below)) and _is_inside(_real_path(start), folders[folder]):
                    return True
        return False

    return [start for start in dict.fromkeys(starts) if not is_covered(start)]


def _expand(path: str) -> list[str]:
    if os.path.lexists(path) or not glob.has_magic(path):
        return [os.path.abspath(path)]
    try:
        return [os.path.abspath(found) for found in sorted(glob.iglob(path, recursive=True))]
    except RecursionError as error:
        raise UsageError(f"{display(path)[:80]}… has too many parts to be a pattern; nothing was done") from error


def _real_path(path: str) -> str:
    """With the links on its way resolved; a link that we may not follow (`/proc` has some) stays one."""
    try:
        return os.path.realpath(path)
    except OSError:
        return path


def _ancestors(path: str) -> Iterator[str]:
    while (parent := os.path.dirname(path)) != path:
        yield parent
        path = parent


def _is_home(path: str) -> bool:
    """A home folder of pagepack's: its page images are no documents."""
    return os.path.isfile(os.path.join(path, "pagepack.db")) and os.path.isdir(os.path.join(path, "images"))


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _walk_all(starts: Sequence[str], settings: Settings, globs: Globs) -> Iterator[Found]:
    places = (str(settings.home), settings.images_url, settings.inputs_url)
    folders = [local_path(place) for place in places if place is not None]
    own = {os.path.realpath(folder) for folder in folders if folder is not None}
    for start in starts:
        target = _real_path(start)
        if os.path.isdir(target):
            yield from _walk(start, target, own, settings, globs)
        elif globs.is_meant(os.path.basename(start)):
            yield _found(start, target, settings, os.path.basename(start))


def _walk(start: str, root: str, own: set[str], settings: Settings, globs: Globs) -> Iterator[Found]:
    """All files below a folder, in the order of their names; `root` is where its links must stay."""
    stack = [iter([start])]
    len_above = len(start.rstrip(os.sep)) + 1
    while stack:
        path = next(stack[-1], None)
        if path is None:
            stack.pop()
            continue
        is_link = path != start and os.path.islink(path)
        is_folder = not is_link and os.path.isdir(path)
        if path != start and not globs.is_meant(path[len_above:], is_folder=is_folder):
            continue
        if is_link:
            target = _real_path(path)
            if not _is_inside(target, root):
                fact = f"is a link that leads out of {display(start)}; submit its target to take it"
                yield Found(path, display(path), 0, 0, rejected("symlink", display(path), fact))
            elif not os.path.isdir(target):
                yield _found(path, target, settings, path[len_above:])
        elif not is_folder:
            yield _found(path, path, settings, path[len_above:])
        elif os.path.realpath(path) not in own and not _is_home(path):
            try:
                names = sorted(name for name in os.listdir(path) if not is_skipped(name))
            except OSError as error:
                reason = rejected("unreadable", display(path), f"cannot be listed: {error.strerror}")
                yield Found(path, display(path), 0, 0, reason)
                continue
            stack.append(map(partial(os.path.join, path), names))


def _found(shown: str, path: str, settings: Settings, below: str) -> Found:
    name = display(shown)
    try:
        status = os.lstat(path)  # the path is resolved already: a link here is one that goes round in a circle
    except OSError as error:
        cause = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
        return Found(path, name, 0, 0, rejected(cause, name, f"cannot be found: {error.strerror}"))
    if stat.S_ISLNK(status.st_mode):
        fact = "is a link that leads back to itself, or that nobody may follow"
        return Found(path, name, 0, 0, rejected("symlink", name, fact))
    return Found(path, name, status.st_size, status.st_mtime_ns, judge(name, status, settings.max_file_bytes), below)
