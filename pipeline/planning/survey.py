"""What lies at the paths: all of it by name and `stat`, what is new by a sample that is opened and drawn.

    every file     rejected by its name or size · known to the database, unchanged · new
    a sample       of the new ones, each with the same chance: hashed, opened in the sandbox, some of its pages drawn

Where the sample has room for all, the counts are exact. Pages are drawn by the same code that a run draws them with, so
that their sizes, their own text and their bytes are those of the run; nothing is stored.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from pipeline.documents.discover import discover
from pipeline.documents.files import Found
from pipeline.errors import NothingToDo
from pipeline.ingest.selection import Selection
from pipeline.planning.asked import Asked
from pipeline.planning.known import Known, KnownDocument, StoredPage, settled
from pipeline.planning.look import Look, PageFacts, Sampled
from pipeline.settings import Settings
from schemas.states import DocumentState

_FILES_AT_ONCE = 200
_STORED = 200  # pages that were drawn before, to see what they are like


@dataclass(slots=True)
class Survey:
    files: int = 0
    bytes: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    num_new: int = 0  # files
    sampled: list[Sampled] = field(default_factory=list)
    new_pages: list[PageFacts] = field(default_factory=list)
    known_files: int = 0
    known_asked: int = 0
    known_done: int = 0
    known_failed: int = 0
    known_pages: list[PageFacts] = field(default_factory=list)  # of those that are drawn and wait

    @property
    def known_open(self) -> int:
        return max(0, self.known_asked - self.known_done - self.known_failed)

    @property
    def is_whole(self) -> bool:
        """All new files were opened, and all of their pages drawn."""
        return self.num_new == len(self.sampled) and all(page.weight == 1 for page in self.new_pages)


def survey(
    paths: Sequence[str | Path],
    settings: Settings,
    selection: Selection,
    asked: Asked,
    known: Known,
    sample: int,
    seed: int,
    say: Callable[[str], None] = lambda text: None,
) -> Survey:
    """Look at all files by name, and into so many of the new ones, at as many pages.

    Raises:
        NothingToDo: no file lies there. UsageError, StorageGone: as `discover`.
    """
    found, rng = Survey(), random.Random(seed)
    chosen = _walk(paths, settings, selection, known, sample, rng, found)
    if not found.files:
        places = ", ".join(map(str, paths))
        raise NothingToDo(f"no file found at {places}")
    if chosen:
        say(f"looking into {len(chosen):,} of {found.num_new:,} files")
        with Look(settings, selection, asked, known, sample, rng) as look:
            for left, file in zip(range(len(chosen), 0, -1), chosen, strict=True):
                found.sampled.append(look.into(file, left))
            found.new_pages = look.pages
    return found


def _walk(
    paths: Sequence[str | Path],
    settings: Settings,
    selection: Selection,
    known: Known,
    sample: int,
    rng: random.Random,
    into: Survey,
) -> list[Found]:
    """Count all files; a sample of the new ones, each with the same chance, in the order of the walk."""
    kept: list[tuple[int, Found]] = []
    seen_ids: set[int] = set()
    waiting: list[int] = []
    files = discover(paths, settings, selection.globs)
    while chunk := list(islice(files, _FILES_AT_ONCE)):
        by_path = {} if selection.checks_content else known.by_path([file.display_path for file in chunk])
        met: list[KnownDocument] = []
        for file in chunk:
            into.files += 1
            into.bytes += file.size_bytes
            documents, causes = settled(by_path.get(file.display_path), file, known)
            if file.rejection is not None:
                into.rejected[file.rejection.cause] += 1
            elif documents:
                into.known_files += 1
                into.rejected.update(causes)
                met += [one for one in documents if one.id not in seen_ids]
                seen_ids.update(one.id for one in documents)
            else:
                _take(kept, (into.num_new, file), sample, into.num_new, rng)
                into.num_new += 1
        waiting += _count_known(met, known, into)
    stored = known.open_pages(waiting[:_FILES_AT_ONCE], _STORED)
    into.known_pages = [_stored(page, into.known_open / len(stored)) for page in stored]
    return [file for _, file in sorted(kept, key=lambda one: one[0])]


def _take(kept: list[tuple[int, Found]], one: tuple[int, Found], most: int, number: int, rng: random.Random) -> None:
    """Keep a sample of all that came so far (Vitter 1985, algorithm R)."""
    if len(kept) < most:
        kept.append(one)
    elif (place := rng.randrange(number + 1)) < most:
        kept[place] = one


def _count_known(documents: Sequence[KnownDocument], known: Known, into: Survey) -> list[int]:
    """Those of which pages wait."""
    counts = known.page_counts([document.id for document in documents])
    waiting = []
    for document in documents:
        if document.state == DocumentState.REJECTED and document.cause is not None:
            into.rejected[document.cause] += 1
            continue
        of_pages, asked = counts[document.id], known.asked.count(document.page_count or 0)
        into.known_asked += asked
        into.known_done += of_pages.done
        into.known_failed += of_pages.failed
        if asked > of_pages.done + of_pages.failed:
            waiting.append(document.id)
    return waiting


def _stored(page: StoredPage, weight: float) -> PageFacts:
    return PageFacts(weight, page.width_px, page.height_px, page.text, page.verdict, bool(page.is_blank))
