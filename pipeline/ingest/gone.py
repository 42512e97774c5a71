"""Files that a walk through their folder missed: gone from the disk, or is the disk not there?

A file is gone where nothing is at its path and the nearest folder above it that is there holds something: a disk that
is not mounted leaves an empty folder. What cannot be looked at is not gone. A member of a container is gone with it, or
where all members were met and it was not among them.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pipeline.database.engine import Database
from pipeline.documents.containers.places import is_member, on_disk_path, split
from pipeline.documents.discover import absolute
from pipeline.documents.files import display, on_disk
from pipeline.ingest.selection import Selection
from pipeline.store.batches import OpenBatch
from pipeline.store.sources import MissedFile, are_whole, mark_gone, missed_files
from pipeline.urls import IN_PATH, is_url, local_path

log = logging.getLogger("pagepack.submit")


def mark_missed(
    db: Database, batch: OpenBatch, paths: Sequence[str | Path], selection: Selection, since: datetime
) -> None:
    """After a walk through these paths that began at `since`: what it missed of their folders, and is gone, is marked.

    On a server paths of several machines may look the same, so there only files are looked for that the batch has seen.
    """
    only = None if db.dialect == "sqlite" else batch
    for folder in map(absolute, paths):
        if not is_url(folder) and os.path.isdir(folder):
            missed = missed_files(db, display(folder), since, only)
            mark_gone(db, _gone(db, missed, selection, since), since)


def _gone(db: Database, missed: dict[int, MissedFile], selection: Selection, since: datetime) -> list[int]:
    """Of these files, a container before its members, those that are gone."""
    places = {key: place_of(file.path, file.location) for key, file in missed.items()}
    absent = {key for key, file in missed.items() if is_gone(file.path, file.location)}
    folders = {place: _nearest(place) for key in absent if (place := places[key])}
    empty = {folder for folder in folders.values() if folder is None or not holds_something(folder)}
    if unsure := [key for key in absent if folders.get(places[key] or "") in empty]:
        log.warning(
            "%s and %s more files are missing, and so is all in the folder where they lay: is a disk not mounted? They "
            "stay; remove the folder if they are gone",
            missed[unsure[0]].path,
            f"{len(unsure) - 1:,}",
        )
    gone = absent - set(unsure)
    if selection.identity():  # members may have been left out
        return sorted(gone)
    around = {key: _container(file) for key, file in missed.items() if key not in absent and is_member(file.location)}
    whole = are_whole(db, sorted(set(around.values())), since)
    gone_paths = {missed[key].path for key in gone}
    for key, container in around.items():
        if container in gone_paths or (container in whole and missed[key].is_taken_in):
            gone.add(key)
            gone_paths.add(missed[key].path)
    return sorted(gone)


def _container(member: MissedFile) -> str:
    """The path of the innermost container around a member."""
    return member.path.removesuffix(IN_PATH + display(split(member.location)[1][-1]))


def _nearest(place: str) -> str | None:
    """The nearest folder above that is there; None where a link on the way leads to what is not."""
    folder = os.path.dirname(place)
    while not os.path.isdir(folder):
        if os.path.islink(folder):
            return None
        folder = os.path.dirname(folder)
    return folder


def holds_something(folder: str) -> bool:
    with contextlib.suppress(OSError), os.scandir(folder) as names:
        return next(names, None) is not None
    return False


def is_gone(path: str, location: str) -> bool:
    """What cannot be looked at is not gone."""
    place = place_of(path, location)
    if not place:
        return False
    try:
        os.stat(place)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def place_of(path: str, location: str) -> str | None:
    """A member is there as long as its container is."""
    # The middle of a very long path is left out.
    return local_path(split(location)[0]) if "[… " in path else on_disk(on_disk_path(path, location))
