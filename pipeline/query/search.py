"""Full-text search over current answers, ranked, with a snippet: FTS5 on SQLite, a GIN index on PostgreSQL.

A common word stands on half a million pages of a million, and none of them can be ranked without being looked at. So
`_MOST_RANKED` of them are, and the count ends there. Of the parts of an OR, each has so many: a rare word's pages are
looked at, whatever else the query asks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline.database.looking import Look, Looking, as_moment
from pipeline.errors import UsageError
from pipeline.query.batch_status import BatchRow, check_prompt
from pipeline.query.search_hits import Among, Row, hits
from pipeline.query.search_query import Query, alternatives, parse_query, wanted_phrases
from pipeline.query.search_rank import Counted, Indexed, scores, what_counts
from pipeline.query.snippets import Snippet, make_snippet
from schemas.text import storable

_MOST_RANKED = 1_000


@dataclass(frozen=True, slots=True)
class Hit:
    """A page that was found; `score` grows with relevance and compares within one search only."""

    source_path: str
    document_id: str
    page_number: int
    prompt: str
    score: float
    snippet: Snippet


@dataclass(frozen=True, slots=True)
class Found:
    """The best hits, and how many there are in all: `total`, or more than that."""

    hits: list[Hit]
    total: int
    is_more: bool = False
    not_indexed: int = 0  # answers at most that are yet to be put into the index; see `pagepack db reindex`


def find(
    db: Looking,
    words: str,
    *,
    prompt: str | None = None,
    limit: int = 20,
    batch: BatchRow | None = None,
    folder: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    min_confidence: float | None = None,
    max_confidence: float | None = None,
) -> Found:
    """Pages whose current answer fits the query, best first; of a batch, in the files as it saw them.

    What a query may say is in `search_query.py`; any text is a safe one. `folder` is a path or the end of one, at or
    below which a file lies; `since` and `until` (not included) are UTC moments at which an answer was read.

    Raises:
        UsageError: a query that says nothing, or only half of something; a prompt that no page was asked; no folder;
            filters that nothing can ever pass.
    """
    query = parse_query(storable(words))
    if prompt is not None:
        check_prompt(db, prompt)
    _check_span(since, until)
    _check_confidence(min_confidence, max_confidence)
    among = Among(
        prompt=prompt,
        batch=None if batch is None else batch.id,
        folder=folder,
        since=since,
        until=until,
        min_confidence=min_confidence,
        max_confidence=max_confidence,
    )
    most = max(_MOST_RANKED, limit)
    with db.looking() as look:
        counted = what_counts(query) if look.dialect == "postgresql" else Counted()
        rows: dict[tuple[Any, ...], Row] = {}
        is_more = False
        for part in alternatives(query):
            here, has_more = hits(look, part, among, most, enough=limit, counted=counted)
            is_more |= has_more
            rows |= {(row.answer_id, row.path, row.page_index, row.prompt): row for row in here}
        best = _ranked(look.dialect, query, counted, list(rows.values()))[:limit]
        texts = _texts(look, {row.answer_id for row, _ in best})
        not_indexed = _not_indexed(look)
    phrases = wanted_phrases(query)
    found = [
        Hit(
            source_path=row.path,
            document_id=row.public_id,
            page_number=row.page_index + 1,
            prompt=row.prompt,
            score=score,
            snippet=make_snippet(texts[row.answer_id], phrases),
        )
        for row, score in best
    ]
    return Found(found, len(rows), is_more, not_indexed)


def _check_span(since: datetime | None, until: datetime | None) -> None:
    if since is None or until is None or as_moment(since) < as_moment(until):
        return
    first, end = (f"{as_moment(moment):%Y-%m-%d %H:%M}" for moment in (since, until))
    raise UsageError(
        f"the span is empty: nothing is read since {first} and before {end} (UTC); swap since and until, or drop one"
    )


def _check_confidence(low: float | None, high: float | None) -> None:
    for bound in (low, high):
        if bound is not None and not 0 <= bound <= 1:
            raise UsageError(f"{bound:g} is no confidence; give a number from 0 to 1")
    if low is not None and high is not None and low > high:
        raise UsageError(
            f"no confidence is at least {low:g} and at most {high:g}; swap the least and the most, or drop one"
        )


def _ranked(dialect: str, query: Query, counted: Counted, rows: list[Row]) -> list[tuple[Row, float]]:
    characters = counted.characters
    of_answer = {
        row.answer_id: Indexed(
            row.terms,
            row.length,
            dict(zip(characters, map(float, row.alone.split()), strict=True)) if characters else {},
        )
        for row in rows
    }
    score_of = dict(zip(of_answer, scores(dialect, query, list(of_answer.values())), strict=True))
    scored = [(row, score_of[row.answer_id]) for row in rows]
    return sorted(scored, key=lambda one: (-one[1], one[0].path, one[0].page_index, one[0].prompt))


def _texts(look: Look, answers: set[int]) -> dict[int, str]:
    ids = ", ".join(map(str, answers)) or "NULL"
    return {row.id: row.text for row in look.rows(f"SELECT id, text FROM answer_versions WHERE id IN ({ids})")}


def _not_indexed(look: Look) -> int:
    return int(look.value("SELECT until - done FROM search_index") or 0)
