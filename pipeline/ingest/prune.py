"""Which files that were seen are gone from the disk, told apart from a disk that is not there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.database.engine import Database
from pipeline.documents.containers.places import on_disk_path
from pipeline.documents.discover import absolute
from pipeline.documents.files import display, on_disk
from pipeline.errors import UsageError
from pipeline.ingest.gone import holds_something, is_gone, place_of
from pipeline.store.forget_plan import find_sources, local_sources
from pipeline.urls import is_url


def find_gone(db: Database, folders: Sequence[str | Path]) -> dict[int, str]:
    """The sources below these folders whose files are not on the disk any more; without folders, of all: id → path.

    A disk that is not mounted looks like one whose files are gone. So a folder must be there and hold something, and so
    must, for each file that is gone, the nearest folder above it that is there: a disk's own may be below the one that
    was given. Without folders given, each folder in which a file was seen is one of them.

    Raises:
        UsageError: a folder is missing or empty, a link leads to what is not there, or a folder is behind a URL. On a
            server also where no folders are given.
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
    gone = {key: path for key, (path, location) in known.items() if is_gone(path, location)}
    places = {place for key in gone if (place := place_of(*known[key]))}
    if roots:
        real = [os.path.realpath(root) for root in roots]
        _refuse_empty({_nearest(place, real) for place in places})
    else:
        _refuse_missing({os.path.dirname(on_disk_path(*known[key])) for key in gone})
        _refuse_missing(
            {display(os.path.dirname(os.path.realpath(place))) for place in places if os.path.islink(place)}
        )
    return gone


def _root(folder: str | Path) -> str:
    path = absolute(folder)
    if is_url(path):
        raise UsageError(f"{path} is no folder on a disk, and prune looks at nothing else; `pagepack forget {path}`")
    if not holds_something(path):
        raise UsageError(
            f"{display(path)} is missing or empty: is a disk not mounted? Nothing was pruned; `pagepack forget "
            f"{display(path)}` forgets what was seen there"
        )
    return path


def _refuse_missing(folders: set[str]) -> None:
    missing = sorted(folder for folder in folders if not holds_something(on_disk(folder)))
    if missing:
        more = f" and {len(missing) - 1:,} more folders are" if len(missing) > 1 else " is"
        raise UsageError(
            f"{missing[0]}{more} missing or empty: is a disk not mounted? Nothing was pruned; `pagepack prune FOLDER` "
            "with a folder above it prunes what is gone below, `pagepack forget FOLDER` forgets what was seen there"
        )


def _nearest(place: str, roots: Sequence[str]) -> str:
    """The nearest folder that is there, above a file that is gone, or above where its link leads.

    Raises:
        UsageError: a link on the way leads out of the given folders, to what is not there.
    """
    while not os.path.isdir(place):
        if not os.path.islink(place) or os.path.exists(place):
            place = os.path.dirname(place)
            continue
        link, place = place, os.path.realpath(place)
        if not any(_is_inside(place, root) for root in roots):
            raise UsageError(
                f"{display(link)} is a link to {display(place)}, which is not there: is a disk not mounted? Nothing "
                f"was pruned; remove the link to prune all the same, or `pagepack forget {display(link)}` forgets "
                "what was seen there"
            )
    return place


def _refuse_empty(folders: set[str]) -> None:
    empty = sorted(display(folder) for folder in folders if not holds_something(folder))
    if empty:
        more = f" and {len(empty) - 1:,} more folders are" if len(empty) > 1 else " is"
        raise UsageError(
            f"{empty[0]}{more} empty: is a disk not mounted? Nothing was pruned; remove the folder to prune all "
            f"the same, or `pagepack forget {empty[0]}` forgets what was seen there"
        )


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
