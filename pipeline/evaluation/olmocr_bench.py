"""olmOCR-bench as it is published: JSON Lines of facts about pages, each true of a text or not.

    bench_data/arxiv_math.jsonl, headers_footers.jsonl, …     {"pdf": "arxiv_math/a.pdf", "page": 1, "id": "a_01",
    bench_data/pdfs/arxiv_math/a.pdf, …                         "type": "present", "text": "…", "max_diffs": 2, …}

    present, absent   a text stands in the answer or not, within `max_diffs` errors; in the first or last n characters
    order             one text stands before another
    table             a cell has these neighbours and headings
    baseline          there are letters, no endless repetition, no Chinese or emoji; each PDF without one gets one
    math              a formula of the answer is equal, or looks like it as `formulas.py` draws both; not judged where
                      one that matters cannot be drawn

A file of tests is a category, and the benchmark's overall figure is the mean over categories. What a test means follows
github.com/allenai/olmocr, olmocr/bench; a type that is not known here is not judged.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rapidfuzz import fuzz

from pipeline.errors import UsageError
from pipeline.evaluation.answers import PageAnswer
from pipeline.evaluation.evaluate import Item, JudgedPage
from pipeline.evaluation.formulas import drawn, is_within
from pipeline.evaluation.tables import Placed, tables_of

_NEEDS = {
    "present": ("text",),
    "absent": ("text",),
    "order": ("before", "after"),
    "table": ("cell",),
    "math": ("math",),
    "baseline": (),
}
_SIDES = ("up", "down", "left", "right", "top_heading", "left_heading")
_MOST_REPEATS = 30
_UNASKED = re.compile(
    "[\u3040-\u30ff\u4e00-\u9fff\U0001f1e0-\U0001f1ff\U0001f300-\U0001f5ff\U0001f600-\U0001f64f\U0001f680-\U0001f6ff]"
)
_SAME = str.maketrans({**dict.fromkeys("‘’‚", "'"), **dict.fromkeys("“”„", '"'), **dict.fromkeys("–—‑‒−", "-"),
                       "＿": "_", "\u00b5": "\u03bc"})  # fmt: skip

Verdict = tuple[float | None, str | None]


@dataclass(frozen=True, slots=True)
class Test:
    """One line of a file, or a baseline that none asks for."""

    id: str
    category: str
    pdf: Path
    page: int
    type: str
    fields: dict[str, Any]


@dataclass
class OlmocrBench:
    """The tests of a folder. `files` are the PDFs that they are about."""

    name: str
    files: list[Path]
    complaints: list[str]
    tests: dict[tuple[Path, int], list[Test]]
    kind: str = "olmocr-bench"
    _judged: set[str] = field(default_factory=set)

    def judge(self, page: PageAnswer, files: list[Path], with_changes: bool) -> tuple[JudgedPage | None, list[Item]]:
        tests = [test for file in files for test in self.tests.get((file, page.page_number), [])]
        items = []
        for test in tests:
            self._judged.add(test.id)
            score, why = judge(test, page.text)
            items.append(Item(test.id, test.category, score, why, page.page_id))
        return None, items

    def rest(self) -> list[Item]:
        """Tests of pages that have no answer: they are failed, as the benchmark has it."""
        left = [test for tests in self.tests.values() for test in tests if test.id not in self._judged]
        return [Item(test.id, test.category, 0.0, f"{test.pdf.name} page {test.page} was not read") for test in left]


def open_olmocr_bench(path: Path) -> OlmocrBench | None:
    """The benchmark in a folder, or one of its files; None where it is none.

    Raises:
        UsageError: it is one, without a single test that can be used.
    """
    folder = path / "bench_data" if (path / "bench_data").is_dir() else path
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else [path] if path.suffix == ".jsonl" else []
    pdfs = (folder if folder.is_dir() else path.parent) / "pdfs"
    if not files or not pdfs.is_dir():
        return None
    complaints: list[str] = []
    tests = [test for file in files for test in _read(file, pdfs, complaints)]
    if not tests:
        raise UsageError(f"{path} has no test of olmOCR-bench that can be used: {complaints[0] if complaints else ''}")
    known = {test.pdf for test in tests}
    with_baseline = {test.pdf for test in tests if test.type == "baseline"}
    tests += [
        Test(f"{pdf.relative_to(pdfs)}_baseline", "baseline", pdf, 1, "baseline", {})
        for pdf in sorted(known - with_baseline)
    ]
    of_page: dict[tuple[Path, int], list[Test]] = {}
    for test in tests:
        of_page.setdefault((test.pdf, test.page), []).append(test)
    return OlmocrBench(path.name, sorted(known), complaints, of_page)


def _read(file: Path, pdfs: Path, complaints: list[str]) -> list[Test]:
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")  # a text may hold other ends of lines
    except (OSError, UnicodeDecodeError) as error:
        complaints.append(f"{file} cannot be read as UTF-8 text: {error}; its tests are left out")
        return []
    tests, wrong = [], []
    missing: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            test = _test(json.loads(line), file.stem, pdfs)
        except (ValueError, TypeError, KeyError) as error:
            wrong.append(f"{file.name} line {number}: {_why(error)}")
            continue
        if test.pdf.is_file():
            tests.append(test)
        else:
            missing.add(str(test.pdf.relative_to(pdfs)))
    if wrong:
        more = f", and {len(wrong) - 1:,} more lines" if len(wrong) > 1 else ""
        complaints.append(f"{wrong[0]}{more}; such tests are left out")
    if missing:
        complaints.append(f"{file.name}: {len(missing):,} PDFs are not in {pdfs}, such as {min(missing)}; not judged")
    return tests


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON ({error.msg})"
    return f"it lacks {error.args[0]!r}" if isinstance(error, KeyError) else str(error)


def _test(entry: Any, category: str, pdfs: Path) -> Test:
    if not isinstance(entry, dict):
        raise ValueError("no JSON object")
    kind, pdf = str(entry["type"]), pdfs / str(entry["pdf"])
    for name in _NEEDS.get(kind, ()):
        if not str(entry[name]).strip():
            raise ValueError(f"its {name!r} is empty")
    if pdfs.resolve() not in pdf.resolve().parents:
        raise ValueError(f"{entry['pdf']!r} leads out of {pdfs}")
    entry["max_diffs"] = int(entry.get("max_diffs") or 0)
    return Test(str(entry["id"]), category, pdf, int(entry["page"]), kind, entry)


def judge(test: Test, text: str) -> Verdict:
    """(1 or 0, why not); (None, why) where it cannot be judged."""
    if test.type not in _JUDGES:
        return None, f"tests of type {test.type!r} are not known here"
    return _JUDGES[test.type](test.fields, text)


def _plain(text: str) -> str:
    """As the benchmark compares: no emphasis, one space between words, NFC, one kind of quotation mark and hyphen."""
    text = re.sub(r"<br\s*/?>", " ", text)
    text = re.sub(r"</?[bi]>", "", text)
    for sign in (r"\*\*", "__", r"\*", "_"):
        text = re.sub(rf"{sign}(.*?){sign}", r"\1", text)
    return unicodedata.normalize("NFC", re.sub(r"\s+", " ", text)).translate(_SAME)


def _stands(fields: dict[str, Any], text: str) -> tuple[bool, str]:
    wanted, text = _plain(fields["text"]), _plain(text)
    if fields.get("case_sensitive") is False:
        wanted, text = wanted.lower(), text.lower()
    first, last = fields.get("first_n") or 0, fields.get("last_n") or 0
    if first or last:
        text = (text[:first] if first else "") + (text[-last:] if last else "")
    if len(text) < len(wanted) - fields["max_diffs"]:  # else a short answer would be found in what is looked for
        return False, "the answer is too short to hold it"
    needed = 1.0 - fields["max_diffs"] / max(len(wanted), 1)
    ratio = fuzz.partial_ratio(wanted, text) / 100.0
    return ratio >= needed, f"the best place has {ratio:.3f} of it, needed {needed:.3f}"


def _present(fields: dict[str, Any], text: str) -> Verdict:
    stands, why = _stands(fields, text)
    return (1.0, None) if stands else (0.0, why)


def _absent(fields: dict[str, Any], text: str) -> Verdict:
    stands, _ = _stands(fields, text)
    return (0.0, "it stands in the answer") if stands else (1.0, None)


def _order(fields: dict[str, Any], text: str) -> Verdict:
    text, starts = _plain(text), {}
    for name in ("before", "after"):
        starts[name] = _places(_plain(fields[name]), text, fields["max_diffs"])
        if not starts[name]:
            return 0.0, f"{name!r} is not found"
    return (1.0, None) if min(starts["before"]) < max(starts["after"]) else (0.0, "they stand the other way round")


def _places(wanted: str, text: str, max_diffs: int) -> list[int]:
    if not max_diffs:
        return [found.start() for found in re.finditer(re.escape(wanted), text)]
    try:
        from fuzzysearch import find_near_matches
    except ImportError as error:
        raise UsageError(
            "olmOCR-bench's order is judged by fuzzysearch, which is not installed: pip install 'pagepack[eval]'"
        ) from error
    return [found.start for found in find_near_matches(wanted, text, max_l_dist=max_diffs)]


def _table(fields: dict[str, Any], text: str) -> Verdict:
    def is_alike(wanted: str, cell: str) -> bool:
        wanted = _plain(wanted)
        needed = max(0.5, 1.0 - fields["max_diffs"] / max(len(wanted), 1))
        return bool(fuzz.ratio(wanted, _plain(cell)) / 100.0 >= needed)

    tables = [Placed.of(table) for table in tables_of(text)]
    cells = [(table, cell) for table in tables for cell in table.cells if is_alike(fields["cell"], cell[4])]
    if not cells:
        return 0.0, "the cell is in no table" if tables else "there is no table"
    wanted = [(side, str(fields[side])) for side in _SIDES if fields.get(side)]
    for table, cell in cells:
        if all(any(is_alike(text, other) for other in table.beside(cell, side)) for side, text in wanted):
            return 1.0, None
    return 0.0, f"its neighbours are others than {', '.join(f'{side} {text!r}' for side, text in wanted)}"


def _math(fields: dict[str, Any], text: str) -> Verdict:
    formulas = []
    for pattern in (r"\\\((.+?)\\\)", r"\\\[(.+?)\\\]", r"\$\$(.+?)\$\$", r"\$(.+?)\$"):
        formulas += re.findall(pattern, text, re.DOTALL)
        text = re.sub(pattern, "", text, flags=re.DOTALL)
    if any(one.strip() == fields["math"].strip() for one in formulas):
        return 1.0, None
    if not formulas:
        return 0.0, "the answer has no formula"
    wanted, marks = drawn(fields["math"]), [drawn(one) for one in formulas]
    if wanted is None:
        return None, "the formula cannot be drawn"
    if any(is_within(wanted, one) for one in marks if one is not None):
        return 1.0, None
    if None in marks:
        return None, "one of the answer's formulas cannot be drawn"
    return 0.0, "no formula of the answer looks like it"


def _baseline(fields: dict[str, Any], text: str) -> Verdict:
    counted = text
    if fields.get("max_length_skips_image_alt_tags"):
        counted = re.sub(r"!\[.*?\]\(.*?\)", "", text)
    letters = sum(map(str.isalnum, counted))
    if (most := fields.get("max_length")) is not None:
        return (1.0, None) if letters <= most else (0.0, f"{letters:,} characters on a page that should have none")
    if not letters:
        return 0.0, "it has no letters or figures"
    for length in range(1, 6):
        if (count := _repeats(text, length)) > (fields.get("max_repeats") or _MOST_REPEATS):
            return 0.0, f"it ends in {text[-length:]!r}, {count} times"
    if fields.get("check_disallowed_characters", True) and (found := _UNASKED.search(text)):
        return 0.0, f"it has {found[0]!r}, which no page of the benchmark has"
    return 1.0, None


def _repeats(text: str, length: int) -> int:
    """How often the last so many characters stand at its end."""
    end, count = text[-length:], 0
    while end and text.endswith(end, 0, len(text) - count * length):
        count += 1
    return count


_JUDGES: dict[str, Callable[[dict[str, Any], str], Verdict]] = {
    "present": _present,
    "absent": _absent,
    "order": _order,
    "table": _table,
    "math": _math,
    "baseline": _baseline,
}
