"""One line before a run begins: files, pages, time and cost, as far as they are known without opening a file.

It must cost next to nothing, for the run waits for it: two thousand files or a tenth of a second of listing (processor
time), then some lookups in the database. What it does not know it leaves to `pagepack plan`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pipeline.database.looking import Looking
from pipeline.documents.discover import discover
from pipeline.documents.files import Kind
from pipeline.endpoints.prices import Prices
from pipeline.errors import PagepackError
from pipeline.ingest.selection import Selection
from pipeline.planning.asked import Asked
from pipeline.planning.known import Known, Speed, settled
from pipeline.settings import Settings
from pipeline.urls import is_url

_FILES, _FILES_AT_ONCE, _SECONDS = 2_000, 200, 0.1
_ONE_PAGE = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".pnm", ".jp2", ".avif", ".heic", ".jxl"})
_SUFFIXES = {".tif": "tiff", ".htm": "html"}  # of other kinds the suffix is the kind's name


@dataclass(slots=True)
class Brief:
    """`pages` and `seconds` are None where nothing here says them."""

    files: int = 0
    is_all: bool = True  # else there are more files
    pages: float | None = 0.0
    is_exact: bool = True
    done: int = 0
    seconds: float | None = None
    hours: float | None = None  # of one GPU or machine, all together; None of an endpoint's
    is_gpu: bool = False
    cost: float | None = None  # by the prices that are set for an endpoint


def brief(
    db: Looking | None,
    settings: Settings,
    paths: Sequence[str | Path],
    selection: Selection,
    asked: Asked,
    num_readers: int,
) -> Brief | None:
    """None where it would take long, as behind a URL, or where it cannot be said: the run itself says why."""
    if any(is_url(str(path)) for path in paths):
        return None
    try:
        return _brief(Known(db, asked), settings, paths, selection, num_readers)
    except PagepackError:
        return None


def _brief(
    known: Known, settings: Settings, paths: Sequence[str | Path], selection: Selection, num_readers: int
) -> Brief:
    found, until = Brief(), time.thread_time() + _SECONDS
    pages = open_pages = 0.0
    new: list[str] = []
    files = discover(paths, settings, selection.globs)
    while chunk := list(islice(files, _FILES_AT_ONCE)):
        by_path = known.by_path([file.display_path for file in chunk])
        ids: dict[int, int] = {}
        for file in chunk:
            if file.rejection is not None:
                continue
            documents, _ = settled(by_path.get(file.display_path), file, known)
            ids |= {one.id: known.asked.count(one.page_count or 0) for one in documents}
            suffix = os.path.splitext(file.path)[1].lower()
            if not documents and (suffix in _ONE_PAGE or suffix[1:] in _KINDS):
                new.append(suffix)
        counts = known.page_counts(list(ids))
        ended = sum(one.done + one.failed for one in counts.values())
        pages, open_pages = pages + sum(ids.values()), open_pages + sum(ids.values()) - ended
        found.done += sum(one.done for one in counts.values())
        found.files += len(chunk)
        if found.files >= _FILES or time.thread_time() > until:
            found.is_all = next(files, None) is None
            break
    guessed = _pages_of(new, known)
    found.is_exact = not new and found.is_all
    found.pages = None if guessed is None or not found.is_all else pages + guessed
    if guessed is not None and found.is_all and (speed := known.speed()) is not None:
        answers = (open_pages + guessed * known.share_read()) * len(known.asked.prompts)
        busy_seconds = answers / speed.pages_per_second
        found.seconds = busy_seconds / max(num_readers, 1)
        if known.asked.engine == "endpoint":
            found.cost = _cost(speed, Prices.of(settings), answers)
        else:
            found.hours, found.is_gpu = busy_seconds * max(speed.gpus, 1) / 3600, speed.gpus > 0
    return found


def _cost(speed: Speed, prices: Prices, answers: float) -> float | None:
    """Where each takes as many tokens as those before."""
    count = max(len(speed.tokens), 1)
    prompt, output = (sum(each[end] for each in speed.tokens) * answers / count for end in (0, 1))
    return prices.cost(round(prompt), round(output), round(answers))


def _pages_of(suffixes: Sequence[str], known: Known) -> float | None:
    """Of files with these endings of names, by what this home's documents have had; None where it has had none such."""
    if not suffixes:
        return 0.0
    by_kind = known.pages_per_file()
    pages = 0.0
    for suffix in suffixes:
        each = 1.0 if suffix in _ONE_PAGE else by_kind.get(_SUFFIXES.get(suffix, suffix[1:]))
        if each is None:
            return None
        pages += each
    return pages


_KINDS = frozenset({kind.value for kind in Kind} | {"tif", "htm", "gz", "bz2", "tgz"})
