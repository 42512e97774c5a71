"""Two sets of answers against each other: the pages that changed most, and how."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

from pipeline.database.looking import Look, Looking
from pipeline.query.word_diff import Piece, diff, words_changed, words_of
from pipeline.store.answer_sets import AnswerSet, ChosenPages

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
                if row.before_text == row.after_text:
                    continue
                words = words_of(row.before_text), words_of(row.after_text)
                number = words_changed(*words)
                if number:
                    changed += 1
                    entry = (number, -compared, (row, max(map(len, words))))
                    (heapq.heappush if len(worst) < limit else heapq.heappushpop)(worst, entry)
    pages = [
        ChangedPage(
            row.path,
            row.public_id,
            row.page_index + 1,
            row.prompt,
            number,
            words,
            diff(row.before_text, row.after_text),
        )
        for number, _, (row, words) in sorted(worst, reverse=True)
    ]
    return Compared(pages, compared, changed)


def _pairs(look: Look, before: AnswerSet, after: AnswerSet, chosen: ChosenPages, first: int) -> Any:
    is_near = "t.page_id >= :first AND t.page_id < :end"
    one, given = before.select("before", is_near)
    other, more = after.select("after", is_near)
    joined = "y.page_id = x.page_id"
    if not before.kind == after.kind == "prompt":
        joined += " AND y.prompt = x.prompt"
    where = "WHERE y.prompt = :prompt" if chosen.prompt is not None else ""
    statement = f"""SELECT p.document_id AS document, d.public_id AS public_id, p.page_index AS page_index,
   (SELECT min(s.path) FROM sources s WHERE s.document_id = p.document_id AND s.gone_at IS NULL) AS path,
   y.prompt AS prompt, a.text AS before_text, b.text AS after_text
FROM ({one}) x JOIN ({other}) y ON {joined}
JOIN answer_versions a ON a.id = x.answer_id JOIN answer_versions b ON b.id = y.answer_id
JOIN pages p ON p.id = x.page_id JOIN documents d ON d.id = p.document_id {where} ORDER BY p.id, y.prompt"""
    values: dict[str, Any] = given | more | {"first": first, "end": first + _PAGES_AT_ONCE}
    if chosen.prompt is not None:
        values["prompt"] = chosen.prompt
    return [row for row in look.rows(statement, **values) if row.path is not None]
