"""A set of answers against the truths of their pages: figures for each page, worst first; what could not be judged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from pipeline.database.looking import Looking
from pipeline.errors import UsageError
from pipeline.evaluation.answers import PageAnswer, answers_of
from pipeline.evaluation.doubt import doubt, worst_tenth_share
from pipeline.evaluation.measures import Measured, measure, normal, plain_text
from pipeline.evaluation.truths import Truth
from pipeline.query.word_diff import Change, Piece, diff
from pipeline.store.answer_sets import AnswerSet
from pipeline.urls import local_path
from schemas.blank_pages import MODEL as BLANK


class Truths(Protocol):
    complaints: list[str]

    def of(self, page: PageAnswer) -> Truth | None: ...


@dataclass(frozen=True, slots=True)
class JudgedPage:
    """A page's answer, measured. Its text is let go; `changes` are those from truth to answer, where asked for."""

    page_id: int
    answer_id: int
    document: int
    document_id: str
    path: str
    page_number: int
    truth: str
    measured: Measured
    doubt: float
    model: str
    table_score: float | None = None
    changes: list[Piece] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Item:
    """A question of a benchmark, and how it was answered; `score` is None where it was not judged."""

    item: str
    category: str
    score: float | None
    detail: str | None = None
    page_id: int | None = None


@dataclass
class Evaluation:
    """What became of one set of answers. `pages` are the worst first."""

    kind: str
    name: str
    answers: str
    prompt: str | None
    pages: list[JudgedPage] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    without_truth: list[str] = field(default_factory=list)  # pages
    complaints: list[str] = field(default_factory=list)
    equal_files: dict[str, tuple[str, ...]] = field(default_factory=dict)  # path → others of the same content

    @property
    def worst_tenth_share(self) -> float | None:
        return worst_tenth_share([(page.doubt, page.measured.character_errors) for page in self.pages])

    @property
    def worst_tenth_words_share(self) -> float | None:
        """The same of words that were not read, in whatever order: an engine cannot doubt an order."""
        return worst_tenth_share([(page.doubt, page.measured.words_missed) for page in self.pages])

    def figures(self) -> dict[str, Any]:
        """Over all pages, as the view `evaluations` has them, and one more."""
        shares = {"worst_tenth_share": self.worst_tenth_share, "worst_tenth_words_share": self.worst_tenth_words_share}
        return figures_of(self.pages) | shares

    def categories(self) -> list[tuple[str, int, int, float | None]]:
        """(category, questions, not judged, mean score), in the order of the questions."""
        rows = []
        for category in dict.fromkeys(item.category for item in self.items):
            scores = [item.score for item in self.items if item.category == category]
            known = [score for score in scores if score is not None]
            rows.append((category, len(scores), len(scores) - len(known), fmean(known) if known else None))
        return rows

    def documents(self) -> list[tuple[str, dict[str, Any]]]:
        """(path, figures), the worst first."""
        of: dict[str, list[JudgedPage]] = defaultdict(list)
        for page in self.pages:
            of[page.path].append(page)
        figures = [(path, figures_of(pages)) for path, pages in of.items()]
        return sorted(figures, key=lambda one: (-(one[1]["character_error_rate"] or 0.0), one[0]))


def figures_of(pages: Iterable[JudgedPage]) -> dict[str, Any]:
    """Rates are sums over sums, so that a long page weighs as much as it has characters; the rest are means."""
    pages = list(pages)
    sums = {
        name: sum(getattr(page.measured, name) for page in pages)
        for name in ("characters", "character_errors", "words", "word_errors")
    }
    tables = [page.table_score for page in pages if page.table_score is not None]
    return {
        "pages": len(pages),
        "characters": sums["characters"],
        "character_errors": sums["character_errors"],
        "character_error_rate": sums["character_errors"] / sums["characters"] if sums["characters"] else None,
        "words": sums["words"],
        "word_errors": sums["word_errors"],
        "word_error_rate": sums["word_errors"] / sums["words"] if sums["words"] else None,
        "recall": fmean(page.measured.recall for page in pages) if pages else None,
        "precision": fmean(page.measured.precision for page in pages) if pages else None,
        "table_score": fmean(tables) if tables else None,
    }


def evaluate(
    db: Looking,
    answers: AnswerSet,
    prompt: str,
    documents: Collection[int] | None,
    truths: Truths,
    name: str,
    kind: str = "pages",
    *,
    num_changes: int = 0,
) -> Evaluation:
    """Measure each answer of the set that has a truth; `documents` are keys inside, None for all.

    Of the worst pages, as many as `num_changes`, the changes from truth to answer are kept; their texts are looked at
    again for that, so that memory never holds the texts of all.
    """
    found = Evaluation(kind, name, answers.name, prompt)
    models: set[str] = set()
    keys: dict[int, int] = {}
    for page in answers_of(db, answers, prompt, documents):
        models |= {page.model} - {BLANK}
        if page.other_paths:
            found.equal_files[page.path] = page.other_paths
        truth = truths.of(page)
        if truth is None:
            found.without_truth.append(page.name)
            continue
        found.pages.append(judged(page, truth))
        keys[page.page_id] = page.document
    _name_and_sort(found, answers, models)
    worst = {page.page_id: number for number, page in enumerate(found.pages[:num_changes])}
    if worst:
        for page in answers_of(db, answers, prompt, {keys[page_id] for page_id in worst}):
            if page.page_id in worst and (truth := truths.of(page)) is not None:
                number = worst[page.page_id]
                found.pages[number] = replace(found.pages[number], changes=_changes(truth.text, page.text))
    found.complaints = truths.complaints
    return found


class Dataset(Protocol):
    """A benchmark in its published form: what its files are, and how answers to them are judged."""

    kind: str
    name: str
    files: list[Path]
    complaints: list[str]

    def judge(self, page: PageAnswer, files: list[Path], with_changes: bool) -> tuple[JudgedPage | None, list[Item]]:
        """`files` are where the page lies on this machine."""

    def rest(self) -> list[Item]:
        """Questions whose page has no answer."""


def evaluate_dataset(
    db: Looking, answers: AnswerSet, prompt: str, dataset: Dataset, *, with_changes: bool = False
) -> Evaluation:
    """Judge the answers of the set to the pages of a benchmark."""
    found = Evaluation(dataset.kind, dataset.name, answers.name, prompt, complaints=dataset.complaints)
    models: set[str] = set()
    wanted = set(dataset.files)
    for page in answers_of(db, answers, prompt, None):
        files = [path for path in map(_local, page.locations) if path in wanted]
        if not files:
            continue
        models |= {page.model} - {BLANK}
        one, items = dataset.judge(page, [file for file in files if file is not None], with_changes)
        found.pages += [one] if one else []
        found.items += items
    found.items += dataset.rest()
    _name_and_sort(found, answers, models)
    return found


def _local(location: str) -> Path | None:
    try:
        path = local_path(location)
    except UsageError:
        return None
    return None if path is None else Path(path)


def _name_and_sort(found: Evaluation, answers: AnswerSet, models: set[str]) -> None:
    if answers.kind == "batch" and len(models) == 1:
        found.answers = f"model:{models.pop()}"
    found.pages.sort(key=lambda page: (-page.measured.error_rate, page.path, page.page_number))


def judged(
    page: PageAnswer,
    truth: Truth,
    with_changes: bool = False,
    table_score: float | None = None,
    text: str | None = None,
) -> JudgedPage:
    """`text` is what is judged, where that is not the whole answer."""
    text = page.text if text is None else text
    return JudgedPage(
        page_id=page.page_id,
        answer_id=page.answer_id,
        document=page.document,
        document_id=page.document_id,
        path=page.path,
        page_number=page.page_number,
        truth=truth.kind,
        measured=measure(truth.text, text),
        doubt=doubt(page.review_reason, page.review_score, page.finish_reason, page.confidence),
        model=page.model,
        table_score=table_score,
        changes=_changes(truth.text, text) if with_changes else [],
    )


def _changes(truth: str, read: str) -> list[Piece]:
    """Of what is measured: without Markdown's signs, which are a matter of writing. None where it is equal."""
    pieces = diff(normal(plain_text(truth)), normal(plain_text(read)))
    return pieces if any(piece.change in (Change.DELETED, Change.INSERTED) for piece in pieces) else []
