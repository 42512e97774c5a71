"""Which files that were seen are gone from the disk, told apart from a disk that is not there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.database.engine import Database
from pipeline.documents.discover import absolute
from pipeline.documents.files import display, on_disk
from pipeline.errors import UsageError
from pipeline.store.forget_plan import find_sources, local_sources
from pipeline.urls import is_url, local_path


def find_gone(db: Database, folders: Sequence[str | Path]) -> dict[int, str]:
    """The sources below these folders whose files are not on the disk any more; without folders, of all: id → path.

    A disk that is not mounted looks like one whose files are gone. So a folder must be there, and hold something.
    Without folders given, each folder in which a file was seen is one of them.

    Raises:
        UsageError: a folder is missing or empty, or is behind a URL; without folders given, also on a server.
    """
    if not folders and db.dialect != "sqlite":
        raise UsageError(
            f"{db.name} may hold paths of several machines, which look gone from this one; name the folders: "
            "`pagepack prune FOLDER`"
        )
    roots = [_root(folder) for folder in folders]
    known = local_sources(db)
    if roots:
        below = find_sources(db, [display(root) for root in roots])
        chosen = {key for some in below.values() for key in some}
        known = {key: place for key, place in known.items() if key in chosen}
    gone = {key: path for key, (path, location) in known.items() if _is_gone(path, location)}
    if not roots:
        _refuse_missing({os.path.dirname(path) for path in gone.values()})
    return gone


def _root(folder: str | Path) -> str:
    path = absolute(folder)
    if is_url(path):
        raise UsageError(f"{path} is no folder on a disk, and prune looks at nothing else; `pagepack forget {path}`")
    if not _holds_something(path):
        raise UsageError(
            f"{display(path)} is missing or empty: is a disk not mounted? Nothing was pruned; `pagepack forget "
            f"{display(path)}` forgets what was seen there"
        )
    return path


def _refuse_missing(folders: set[str]) -> None:
    missing = sorted(folder for folder in folders if not _holds_something(on_disk(folder)))
    if missing:
        more = f" and {len(missing) - 1:,} more folders are" if len(missing) > 1 else " is"
        raise UsageError(
            f"{missing[0]}{more} missing or empty: is a disk not mounted? Nothing was pruned; `pagepack prune FOLDER` "
            "with a folder above it prunes all that is gone below, `pagepack forget FOLDER` forgets what was seen there"
        )


def _holds_something(folder: str) -> bool:
    with contextlib.suppress(OSError), os.scandir(folder) as names:
        return next(names, None) is not None
    return False


def _is_gone(path: str, location: str) -> bool:
    """What cannot be looked at is not gone."""
    place: str | None = on_disk(path)
    if "[… " in path:  # the middle of a very long one is left out
        place = local_path(location)
    if not place:
        return False
    try:
        os.stat(place)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
