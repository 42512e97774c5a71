"""Where a page's truth comes from: a text beside its file, or the sound text that a born-digital PDF carries.

    scan.png  → scan.gt.txt, or scan.png.gt.txt
    book.pdf  → book.gt.txt with a form feed between pages, as pdftotext writes it
    or a truth.json in the folder, as `benchmarks.bench_quality` takes it: [{"file": "scan.png", "text": "…"}, …], where
    of a file of several pages the first is meant

A text beside the file goes before the text layer. What cannot be used is said once, and its pages are not judged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import UsageError
from pipeline.evaluation.answers import PageAnswer
from pipeline.store.layer_text import text_of
from pipeline.urls import local_path
from schemas.text_layers import Verdict

_ENDING = ".gt.txt"
_MOST_BYTES = 20 * 2**20


class Truth(NamedTuple):
    """What a page should read as, and where that is known from."""

    kind: str
    text: str


@dataclass
class PageTruths:
    """Truths of pages, one after the other; `complaints` grows by a line for each file that is no truth."""

    complaints: list[str] = field(default_factory=list)
    _known: dict[Path, list[str] | None] = field(default_factory=dict)
    _lists: dict[Path, dict[str, str]] = field(default_factory=dict)  # folder → file's name → text

    def of(self, page: PageAnswer) -> Truth | None:
        refused = False
        for file in _candidates(page):
            if file not in self._known:
                self._known[file] = self._read(file, page.page_count)
            pages = self._known[file]
            if pages is not None:
                text = pages[page.page_number - 1] if page.page_number <= len(pages) else ""
                return Truth("truth-file", text) if text.strip() else None
            refused = refused or file.exists()  # it was said why; equal content at another path may have a sound one
        if refused:
            return None
        for file in _files(page) if page.page_number == 1 else []:
            if file.parent not in self._lists:
                self._lists[file.parent] = self._read_list(file.parent / "truth.json")
            if (text := self._lists[file.parent].get(file.name, "")).strip():
                return Truth("truth-file", text)
        if page.layer is not None and page.layer_verdict == Verdict.SOUND and page.layer.strip():
            return Truth("text-layer", text_of(page.layer, page.layer_boxes))
        return None

    def _read(self, file: Path, page_count: int) -> list[str] | None:
        """Its pages; None where it is not there, or is no truth."""
        try:
            with file.open("rb") as opened:
                data = opened.read(_MOST_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            return self._refuse(f"{file} cannot be read: {error.strerror}; its pages are not judged")
        if len(data) > _MOST_BYTES:
            return self._refuse(f"{file} has more than {_MOST_BYTES:,} bytes, too many for a truth; it is not judged")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            return self._refuse(
                f"{file} is no UTF-8 text (byte {error.start + 1:,}); save it as UTF-8. It is not judged"
            )
        if not text.strip():
            return self._refuse(f"{file} is empty; its pages are not judged")
        pages = text.removesuffix("\f").split("\f")
        if len(pages) != page_count and page_count > 1:
            return self._refuse(
                f"{file} has {len(pages):,} pages, between form feeds, and its document {page_count:,}; none is judged"
            )
        return pages if page_count > 1 else [text.replace("\f", "\n")]

    def _read_list(self, file: Path) -> dict[str, str]:
        if not file.is_file():
            return {}
        try:
            entries = json.loads(file.read_text(encoding="utf-8-sig"))
            if not isinstance(entries, list):
                raise ValueError(f"it begins as {type(entries).__name__}")
        except (OSError, ValueError, RecursionError) as error:
            self.complaints.append(f'{file} is no list of {{"file": …, "text": …}} in UTF-8 ({error}); it is left out')
            return {}
        sound = [entry for entry in entries if isinstance(entry, dict) and _is_text(entry, "file", "text")]
        if len(sound) < len(entries):
            number = len(entries) - len(sound)
            what = "1 entry has" if number == 1 else f"{number:,} entries have"
            self.complaints.append(f'{file}: {what} no "file" and "text" that are texts; the others count')
        texts = {entry["file"]: entry["text"] for entry in sound}
        if missing := [name for name in texts if "\0" in name or not (file.parent / name).exists()]:
            what = "1 file that is" if len(missing) == 1 else f"{len(missing):,} files that are"
            more = ", …" if len(missing) > 3 else ""
            self.complaints.append(f"{file} names {what} not there: {', '.join(missing[:3])}{more}")
        return texts

    def _refuse(self, why: str) -> list[str] | None:
        self.complaints.append(why)
        return None


def _is_text(entry: dict[str, object], *names: str) -> bool:
    return all(isinstance(entry.get(name), str) for name in names)


def _files(page: PageAnswer) -> list[Path]:
    """Those of the page on this machine."""
    found = []
    for location in page.locations:
        with suppress(UsageError):
            if (path := local_path(location)) is not None:
                found.append(Path(path))
    return found


def _candidates(page: PageAnswer) -> list[Path]:
    """Beside each of them."""
    return [one for file in _files(page) for one in (file.with_suffix(_ENDING), file.with_name(file.name + _ENDING))]


def lonely_truths(paths: Iterable[str]) -> list[str]:
    """A line where below these folders lie truths without the file that they are of."""
    lonely = []
    for path in map(Path, paths):
        names: dict[Path, set[str]] = {}  # of a folder's files, with and without their endings
        for truth in sorted(path.rglob(f"*{_ENDING}")) if path.is_dir() else []:
            if truth.parent not in names:
                others = [other for other in truth.parent.iterdir() if not other.name.endswith(_ENDING)]
                names[truth.parent] = {name for other in others for name in (other.name, other.stem)}
            if truth.name.removesuffix(_ENDING) not in names[truth.parent]:
                lonely.append(str(truth))
    if not lonely:
        return []
    number = "1 truth has" if len(lonely) == 1 else f"{len(lonely):,} truths have"
    return [f"{number} no file of that name beside it: {', '.join(lonely[:3])}{', …' if len(lonely) > 3 else ''}"]
