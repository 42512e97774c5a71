"""Paths are forgotten: their rows, page images that no other document shows, and copies of them.

Files on the disk stay. An image and a copy go before their rows do: a call that died in between finds them again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.blobs.page_images import open_images
from pipeline.database.engine import Database
from pipeline.database.home import HomeInUse, HomeLock
from pipeline.database.remains import has_remains, wipe
from pipeline.documents.discover import absolute
from pipeline.documents.files import display, on_disk
from pipeline.documents.inputs import InputCopies
from pipeline.errors import NothingToDo, UsageError
from pipeline.settings import Settings
from pipeline.store import forget as rows
from pipeline.store.forget_plan import Goes, Plan, find_sources, parts, parts_by_pages, planned_images
from pipeline.urls import is_url


def find_known(db: Database, paths: Sequence[str | Path]) -> dict[int, str]:
    """The sources at these files, folders and URLs, whether or not anything lies there now: id → path.

    Raises:
        NothingToDo: one of the paths was never seen. A typing error costs nothing.
    """
    names = {str(path): display(_without_slash(absolute(path))) for path in paths}
    found = find_sources(db, names.values())
    # As the views show it, perhaps: odd bytes spelled out, or the path of another machine's link.
    verbatim = find_sources(db, [name for name, shown in names.items() if not found[shown]])
    unknown = [shown for name, shown in names.items() if not found[shown] and not verbatim[name]]
    if unknown:
        raise NothingToDo(
            f"no file was ever seen at {', '.join(unknown)}; nothing was forgotten. "
            '`pagepack sql "SELECT DISTINCT source_path FROM files"` lists the paths'
        )
    return {key: path for some in (*found.values(), *verbatim.values()) for key, path in some.items()}


def _without_slash(path: str) -> str:
    return path.rstrip("/") if is_url(path) else path


def still_there(plan: Plan) -> int:
    """How many of the files lie on this machine's disk still: the next run over their folder takes them in again."""
    return sum(path.startswith("/") and os.path.lexists(on_disk(path)) for path in plan.sources.values())


def refusal(db: Database, settings: Settings, plan: Plan) -> str | None:
    """Why `forget` would refuse it now; None where it would not.

    Where not one of the images that are to go lies in the store, it is another than that of those who read the pages.
    """
    if plan.in_use is not None or plan.num_images == 0:
        return plan.in_use
    images = open_images(settings)
    if any(images.has(image_hash) for image_hash in planned_images(db, plan)):
        return None
    these = "1 page image" if plan.num_images == 1 else f"{plan.num_images:,} page images"
    return (
        f"{these} would go, of which none lies in {images.place}; set PAGEPACK_HOME or PAGEPACK_IMAGES_URL as it "
        "is where pages are read. If that place was emptied, a `pagepack run` with PAGEPACK_KEEP_IMAGES=until-read "
        "marks what is gone"
    )


def forget(db: Database, settings: Settings, plan: Plan) -> None:
    """Take all that is planned out of the database, the store of page images, and the copies of inputs.

    On SQLite nobody else may work in the home meanwhile, and the file is wiped.

    Raises:
        UsageError: a batch of theirs is running, somebody works in the home, or images are in another store.
        DiskFull, Unavailable: the rows are gone, but remains of them are still in the file; the next call wipes it.
    """
    rows.check_allowed(db)
    if why := refusal(db, settings, plan):
        raise UsageError(why)
    with _home_alone(db, settings):
        images = open_images(settings)
        copies = None if settings.inputs_url is None else InputCopies(settings.inputs_url)

        def remove(documents: Sequence[Goes], hashes: Sequence[str]) -> None:
            images.delete_all(hashes)
            if copies is not None:
                for one in documents:
                    copies.delete(one.kind, one.content_hash)

        for some in parts_by_pages(plan.documents):
            rows.forget_documents(db, plan, some, remove)
        for sources in parts(list(plan.sources)):
            rows.forget_sources(db, sources)
        if has_remains(db):
            wipe(db)


def wipe_remains(db: Database, settings: Settings) -> bool:
    """Make up for a wipe that an earlier call could not do; whether there was one to make up for."""
    if not has_remains(db):
        return False
    with _home_alone(db, settings):
        wipe(db)
    return True


@contextlib.contextmanager
def _home_alone(db: Database, settings: Settings) -> Iterator[None]:
    if db.dialect != "sqlite":
        yield
        return
    try:
        lock = HomeLock(settings.home, "pagepack forget").__enter__()
    except HomeInUse as error:
        fact = str(error).partition(";")[0]
        raise UsageError(
            f"{fact}, and the whole file is written anew where something is forgotten; stop that first, or wait until "
            "it ends. What it has not read waits"
        ) from error
    try:
        yield
    finally:
        lock.__exit__(None, None, None)
