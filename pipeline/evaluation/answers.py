"""The answers that are judged: those of one set to one prompt, page by page, with what a truth is looked for by."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.database.looking import Look, Looking, as_json
from pipeline.store.answer_sets import AnswerSet
from pipeline.store.layer_text import Boxes

_PAGES_AT_ONCE = 500  # by id; so many texts are in memory


@dataclass(frozen=True, slots=True)
class PageAnswer:
    """A page, what was read of it, and what it says itself. `locations` are URLs of the files that hold it."""

    page_id: int
    answer_id: int
    document: int
    document_id: str
    page_number: int
    page_count: int
    path: str
    locations: tuple[str, ...]
    text: str
    engine: str
    model: str
    finish_reason: str
    confidence: float | None
    review_reason: str | None
    review_score: float | None
    layer: str | None
    layer_verdict: str | None
    layer_boxes: Boxes
    other_paths: tuple[str, ...] = ()  # of equal files

    @property
    def name(self) -> str:
        return self.path if self.page_count == 1 else f"{self.path} page {self.page_number}"


def answers_of(db: Looking, answers: AnswerSet, prompt: str, documents: Collection[int] | None) -> Iterator[PageAnswer]:
    """In the order of pages; `documents` are keys inside, None for all. Files that are gone have none."""
    with db.looking() as look:
        last = look.value("SELECT max(id) FROM pages") or 0
    for first in range(0, last + 1, _PAGES_AT_ONCE):
        with db.looking() as look:  # pages are judged for minutes, in which no transaction shall be open
            some = list(_some(look, _rows(look, answers, prompt, first), documents))
        yield from some


def _some(look: Look, rows: Any, documents: Collection[int] | None) -> Iterator[PageAnswer]:
    for row in rows:
        if documents is None or row.document in documents:
            sources = look.rows(_SOURCES, document=row.document)
            if sources:
                yield _page_answer(row, sources)


_SOURCES = "SELECT path, location FROM sources WHERE document_id = :document AND gone_at IS NULL ORDER BY path"


def _page_answer(row: Any, sources: Any) -> PageAnswer:
    return PageAnswer(
        page_id=row.page_id,
        answer_id=row.answer_id,
        document=row.document,
        document_id=row.public_id,
        page_number=row.page_index + 1,
        page_count=row.page_count or 1,
        path=sources[0].path,
        locations=tuple(source.location for source in sources),
        text=row.text,
        engine=row.engine,
        model=row.model,
        finish_reason=row.finish_reason,
        confidence=row.confidence,
        review_reason=row.review_reason,
        review_score=row.review_score,
        layer=row.layer,
        layer_verdict=row.verdict,
        layer_boxes=as_json(row.boxes),
        other_paths=tuple(source.path for source in sources[1:]),
    )


def _rows(look: Look, answers: AnswerSet, prompt: str, first: int) -> Any:
    chosen, given = answers.select("answers", "t.page_id >= :first AND t.page_id < :end")
    statement = f"""SELECT x.page_id AS page_id, x.answer_id AS answer_id, p.document_id AS document,
   p.page_index AS page_index, d.public_id AS public_id, d.page_count AS page_count,
   a.text AS text, a.engine AS engine, a.model AS model, a.finish_reason AS finish_reason, a.confidence AS confidence,
   a.review_reason AS review_reason, a.review_score AS review_score,
   l.text AS layer, l.verdict AS verdict, l.boxes AS boxes
FROM ({chosen}) x JOIN answer_versions a ON a.id = x.answer_id JOIN pages p ON p.id = x.page_id
JOIN documents d ON d.id = p.document_id LEFT JOIN text_layers l ON l.page_id = p.id
WHERE x.prompt = :asked ORDER BY p.document_id, p.page_index"""
    return look.rows(statement, **given, first=first, end=first + _PAGES_AT_ONCE, asked=prompt)
