"""Two sets of answers against each other: the pages that changed most, and how."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

from pipeline.database.looking import Look, Looking, as_json
from pipeline.query.word_diff import Piece, diff, words_changed, words_of
from pipeline.store.answer_sets import OWN_TEXT_ANSWERS, UNTAKEN, AnswerSet, ChosenPages

_PAGES_AT_ONCE = 1_000  # by id; so many texts are in memory


@dataclass(frozen=True, slots=True)
class ChangedPage:
    """A page of which two sets of answers say different things. `words` are those of the longer answer."""

    source_path: str
    document_id: str
    page_number: int
    prompt: str  # of the second set
    words_changed: int
    words: int
    pieces: list[Piece]

    @property
    def share(self) -> float:
        return self.words_changed / max(self.words, 1)


@dataclass(frozen=True, slots=True)
class Compared:
    """The pages that changed most, those with most changed words first, and how many there are in all."""

    pages: list[ChangedPage]
    compared: int  # pages and prompts with an answer in both sets
    changed: int


def compare(db: Looking, before: AnswerSet, after: AnswerSet, chosen: ChosenPages, limit: int) -> Compared:
    """Compare them on all pages of a selection that have an answer in both.

    An answer is held against the one to the prompt of the same name; where both sets are prompts, one against the
    other. Each page is read once; memory holds the texts of some, and of those that changed most.
    """
    worst: list[tuple[int, int, Any]] = []
    compared = changed = 0
    with db.looking() as look:
        documents = chosen.documents(look)
        last = look.value("SELECT max(id) FROM pages") or 0
        for first in range(0, last + 1, _PAGES_AT_ONCE):
            for row in _pairs(look, before, after, chosen, first):
                if documents is not None and row.document not in documents:
                    continue
                compared += 1
                texts = _text(row.before_text, row), _text(row.after_text, row)
                if texts[0] == texts[1]:
                    continue
                words = words_of(texts[0]), words_of(texts[1])
                number = words_changed(*words)
                if number:
                    changed += 1
                    entry = (number, -compared, (row, texts, max(map(len, words))))
                    (heapq.heappush if len(worst) < limit else heapq.heappushpop)(worst, entry)
    pages = [
        ChangedPage(
            row.path,
            row.public_id,
            row.page_index + 1,
            row.prompt,
            number,
            words,
            diff(*texts),
        )
        for number, _, (row, texts, words) in sorted(worst, reverse=True)
    ]
    return Compared(pages, compared, changed)


def _pairs(look: Look, before: AnswerSet, after: AnswerSet, chosen: ChosenPages, first: int) -> Any:
    is_near = "t.page_id >= :first AND t.page_id < :end"
    one, given = _select(before, "before", is_near)
    other, more = _select(after, "after", is_near)
    joined = "y.page_id = x.page_id"
    if not before.kind == after.kind == "prompt":
        joined += " AND y.prompt = x.prompt"
    where = "WHERE y.prompt = :prompt" if chosen.prompt is not None else ""
    statement = f"""SELECT p.document_id AS document, d.public_id AS public_id, p.page_index AS page_index,
   (SELECT min(s.path) FROM sources s WHERE s.document_id = p.document_id AND s.gone_at IS NULL) AS path,
   y.prompt AS prompt, a.text AS before_text, b.text AS after_text, l.text AS layer, l.boxes AS boxes
FROM ({one}) x JOIN ({other}) y ON {joined}
LEFT JOIN answer_versions a ON a.id = x.answer_id LEFT JOIN answer_versions b ON b.id = y.answer_id
LEFT JOIN text_layers l ON l.page_id = x.page_id AND (a.id IS NULL OR b.id IS NULL)
JOIN pages p ON p.id = x.page_id JOIN documents d ON d.id = p.document_id {where} ORDER BY p.id, y.prompt"""
    values: dict[str, Any] = given | more | {"first": first, "end": first + _PAGES_AT_ONCE}
    if chosen.prompt is not None:
        values["prompt"] = chosen.prompt
    return [row for row in look.rows(statement, **values) if row.path is not None]


def _select(answers: AnswerSet, parameter: str, is_near: str) -> tuple[str, dict[str, Any]]:
    """As `AnswerSet.select`; a text that a page carries and that was never taken has a null in place of the answer."""
    query, given = answers.select(parameter, is_near)
    if answers.is_own_text:
        carried = f"SELECT p.id, '{OWN_TEXT_ANSWERS}', NULL {UNTAKEN} AND p.id >= :first AND p.id < :end"
        query = f"{query} UNION ALL {carried}"
    return query, given


def _text(text: str | None, row: Any) -> str:
    """An answer's; else what would be the answer, were the page's own text taken."""
    if text is not None:
        return text
    from pipeline.store.layer_text import text_of  # lays the lines out, which no other answer needs

    return text_of(row.layer, as_json(row.boxes))
