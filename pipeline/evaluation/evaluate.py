"""A set of answers against the truths of their pages: figures for each page, worst first; what could not be judged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Protocol

from pipeline.database.looking import Looking
from pipeline.evaluation.answers import PageAnswer, answers_of
from pipeline.evaluation.doubt import doubt, worst_tenth_share
from pipeline.evaluation.measures import Measured, measure
from pipeline.evaluation.truths import Truth
from pipeline.query.word_diff import Piece, diff
from pipeline.store.answer_sets import AnswerSet


class Truths(Protocol):
    complaints: list[str]

    def of(self, page: PageAnswer) -> Truth | None: ...


@dataclass(frozen=True, slots=True)
class JudgedPage:
    """A page's answer, measured. Its text is let go; `changes` are those from truth to answer, where asked for."""

    page_id: int
    answer_id: int
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

    @property
    def worst_tenth_share(self) -> float | None:
        return worst_tenth_share([(page.doubt, page.measured.character_errors) for page in self.pages])

    def figures(self) -> dict[str, Any]:
        """Over all pages, as the view `evaluations` has them."""
        return figures_of(self.pages) | {"worst_tenth_share": self.worst_tenth_share}

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
    with_changes: bool = False,
) -> Evaluation:
    """Measure each answer of the set that has a truth; `documents` are keys inside, None for all."""
    found = Evaluation(kind, name, answers.name, prompt)
    models: set[str] = set()
    for page in answers_of(db, answers, prompt, documents):
        models.add(page.model)
        truth = truths.of(page)
        if truth is None:
            found.without_truth.append(page.name)
            continue
        found.pages.append(judged(page, truth, with_changes))
    if answers.kind == "batch" and len(models) == 1:
        found.answers = f"model:{models.pop()}"
    found.pages.sort(key=lambda page: (-page.measured.error_rate, page.path, page.page_number))
    found.complaints = truths.complaints
    return found


def judged(page: PageAnswer, truth: Truth, with_changes: bool, table_score: float | None = None) -> JudgedPage:
    return JudgedPage(
        page_id=page.page_id,
        answer_id=page.answer_id,
        document_id=page.document_id,
        path=page.path,
        page_number=page.page_number,
        truth=truth.kind,
        measured=measure(truth.text, page.text),
        doubt=doubt(page.review_reason, page.review_score, page.finish_reason, page.confidence),
        model=page.model,
        table_score=table_score,
        changes=diff(truth.text, page.text) if with_changes else [],
    )
