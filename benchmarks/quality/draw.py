"""The kinds of pages and what a scan makes of each; all from one seed.

A page of kind k and number n has a generator of its own, so that more pages, or fewer kinds, change none of the others.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.quality import forms, prose
from benchmarks.quality.paper import Grid, Sheet
from benchmarks.quality.scan import Look, born_digital, take


@dataclass(frozen=True)
class Page:
    """A file of one page and what a reader should find on it; an entry of truth.json."""

    file: str
    kind: str
    text: str
    tables: list[Grid] | None = None  # None: not judged
    turn: int = 0  # quarter turns clockwise by which it lies wrong, in degrees
    language: str = (
        "en"  # en or zh, which Tesseract is told; other: a script that pagepack cannot read, and should say so
    )


def _clean(sheet: Callable[[random.Random], Sheet], dpi: int = 200) -> Callable[[random.Random], tuple[Sheet, Look]]:
    return lambda rng: (sheet(rng), Look(dpi, jpeg=rng.choice((0, 0, 85)), in_pdf=rng.random() < 0.3))


def _receipt(rng: random.Random) -> tuple[Sheet, Look]:
    return forms.receipt(rng), Look(203, blur=rng.uniform(0, 0.8), noise=rng.uniform(0, 10))


def _small_print(rng: random.Random) -> tuple[Sheet, Look]:
    return prose.small_print(rng), Look(300, jpeg=rng.choice((0, 85)), in_pdf=rng.random() < 0.5)


def _turned(rng: random.Random) -> tuple[Sheet, Look]:
    sheet = rng.choice((prose.letter, prose.columns, forms.ruled_table, prose.few_words, prose.few_words, forms.form))
    return sheet(rng), Look(turn=rng.choice((90, 180, 270)), noise=rng.choice((0, 6)))


def _skewed(rng: random.Random) -> tuple[Sheet, Look]:
    sheet = rng.choice((prose.letter, prose.columns, forms.open_table, prose.contents, forms.receipt))
    return sheet(rng), Look(skew=rng.choice((-1, 1)) * rng.choice((1.0, 2.5, 4.0, 6.0, 8.0, 10.0)))


def _noisy(rng: random.Random) -> tuple[Sheet, Look]:
    sheet = rng.choice((prose.letter, prose.book, prose.columns, forms.open_table))
    return sheet(rng), Look(rng.choice((150, 200)), skew=rng.uniform(-1, 1), blur=rng.uniform(0.5, 1.2), shade=40,
                            noise=rng.uniform(6, 16), jpeg=rng.choice((50, 70)), in_pdf=rng.random() < 0.5)  # fmt: skip


def _fax(rng: random.Random) -> tuple[Sheet, Look]:
    return rng.choice((prose.letter, forms.form))(rng), Look(204, skew=rng.uniform(-0.8, 0.8), noise=25, fax=True)


KINDS: dict[str, Callable[[random.Random], tuple[Sheet, Look]]] = {
    "letter": _clean(prose.letter),
    "book": _clean(prose.book),
    "columns": _clean(prose.columns),
    "newspaper": _clean(prose.newspaper),
    "sidebar": _clean(prose.sidebar, 150),
    "contents": _clean(prose.contents, 150),
    "small print": _small_print,
    "ruled table": _clean(forms.ruled_table),
    "open table": _clean(forms.open_table),
    "sideways table": _clean(forms.sideways_table),
    "form": _clean(forms.form),
    "receipt": _receipt,
    "large sheet": _clean(forms.large_sheet, 150),
    "few words": _clean(prose.few_words),
    "chinese": _clean(prose.chinese),
    "noisy scan": _noisy,
    "fax": _fax,
    "skewed": _skewed,
    "turned": _turned,
    "other script": _clean(prose.other_script),
}
_LANGUAGES = {"chinese": "zh", "other script": "other"}
_NOT_JUDGED = ("form", "receipt", "contents", "large sheet")  # rows that may well be given as a table


def draw(kind: str, number: int, seed: int, order: str | None = None) -> tuple[Page, bytes]:
    """Page `number` of a kind, and its file's bytes; with an `order` not as a scan, but as a PDF that carries its text,
    as `born_digital` says."""
    rng = random.Random(f"{seed} {kind} {number}")
    sheet, look = KINDS[kind](rng)
    if order is None:
        data, suffix = take(sheet, look, rng.getrandbits(32))
    else:
        data, suffix, look = born_digital(sheet, order, rng.getrandbits(32)), "pdf", Look()
    name = f"{kind.replace(' ', '-')}-{number:03}.{suffix}"
    is_of_rows = kind in _NOT_JUDGED or sheet.width < 300 or sheet.truth.startswith(("Application", "Contents"))
    tables = None if is_of_rows else sheet.tables
    return Page(name, kind, sheet.truth, tables, look.turn, _LANGUAGES.get(kind, "en")), data


def draw_all(folder: Path, per_kind: int, seed: int, kinds: list[str], order: str | None = None) -> list[Page]:
    """Files and a truth.json in a folder, kind after kind within each number."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = []
    for number in range(per_kind):
        for kind in kinds:
            page, data = draw(kind, number, seed, order)
            (folder / page.file).write_bytes(data)
            pages.append(page)
    (folder / "truth.json").write_text(json.dumps([asdict(page) for page in pages], ensure_ascii=False, indent=1))
    return pages


def load(folder: Path) -> Iterator[Page]:
    """The pages of any folder with a truth.json: a list of objects with `file` and `text`; `kind`, `tables`, `turn` and
    `language` may be given too, and what else stands there is left alone. Without a kind, a file is of the kind that
    its name begins with, up to `_`."""
    for entry in json.loads((folder / "truth.json").read_text(encoding="utf-8")):
        yield Page(
            entry["file"],
            entry.get("kind") or entry["file"].partition("_")[0].partition(".")[0],
            entry["text"],
            entry.get("tables"),
            entry.get("turn", 0),
            entry.get("language", "en"),
        )
