"""Full-text search over current answers, ranked, with a snippet: FTS5 on SQLite, a GIN index on PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.database.looking import Look, Looking
from pipeline.query.batch_status import BatchRow, check_prompt
from pipeline.query.search_query import parse_query, to_fts5, to_tsquery, wanted_phrases
from pipeline.query.snippets import Snippet, make_snippet
from schemas.text import storable


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
    """The best hits, and how many there are in all."""

    hits: list[Hit]
    total: int


def search(
    db: Looking, words: str, *, prompt: str | None = None, limit: int = 20, batch: BatchRow | None = None
) -> list[Hit]:
    """The hits of `find` alone."""
    return find(db, words, prompt=prompt, limit=limit, batch=batch).hits


def find(
    db: Looking, words: str, *, prompt: str | None = None, limit: int = 20, batch: BatchRow | None = None
) -> Found:
    """Pages whose current answer fits the query, best first; of a batch, in the files as it saw them.

    What a query may say is in `search_query.py`; any text is a safe one.

    Raises:
        UsageError: a query that says nothing, or only half of something; a prompt that no page was asked.
    """
    query = parse_query(storable(words))
    match = to_tsquery(query) if db.dialect == "postgresql" else to_fts5(query)
    if prompt is not None:
        check_prompt(db, prompt)
    values = {"match": match, "prompt": prompt, "batch": None if batch is None else batch.id}
    given = {name: value for name, value in values.items() if value is not None}
    among = _AMONG[db.dialect] + _HITS + (_AS_SEEN if batch is not None else _AS_IT_LIES)
    among += " WHERE c.prompt = :prompt" if prompt is not None else ""
    with db.looking() as look:
        rows = look.rows(f"{_BEST[db.dialect]}{among}{_ORDER}", **given, limit=limit)
        total = len(rows) if len(rows) < limit else look.value(f"{_COUNT}{among}", **given)
        texts = _texts(look, {row.answer_id for row in rows})
    phrases = wanted_phrases(query)
    hits = [
        Hit(
            source_path=row.path,
            document_id=row.public_id,
            page_number=row.page_index + 1,
            prompt=row.prompt,
            score=row.score,
            snippet=make_snippet(texts[row.answer_id], phrases),
        )
        for row in rows
    ]
    return Found(hits, total)


_BEST = {
    "sqlite": "SELECT s.path, d.public_id, p.page_index, c.prompt, c.answer_id, -bm25(page_search) AS score",
    "postgresql": "SELECT s.path, d.public_id, p.page_index, c.prompt, c.answer_id, "
    "ts_rank(f.terms, CAST(:match AS tsquery)) AS score",
}
_COUNT = "SELECT count(*)"
_AMONG = {
    "sqlite": " FROM page_search JOIN current_answers c ON c.answer_id = page_search.rowid "
    "AND page_search MATCH :match",
    "postgresql": " FROM page_search f JOIN current_answers c ON c.answer_id = f.rowid "
    "AND f.terms @@ CAST(:match AS tsquery)",
}
_HITS = " JOIN pages p ON p.id = c.page_id JOIN documents d ON d.id = p.document_id"
_AS_IT_LIES = " JOIN sources s ON s.document_id = d.id AND s.gone_at IS NULL"
_AS_SEEN = (  # what lies there now may be another document
    " JOIN batch_sources bs ON bs.document_id = d.id AND bs.batch_id = :batch JOIN sources s ON s.id = bs.source_id"
)
_ORDER = " ORDER BY score DESC, s.path, p.page_index, c.prompt LIMIT :limit"


def _texts(look: Look, answers: set[int]) -> dict[int, str]:
    """Read for what is shown alone: a sort of many hits would drag them along."""
    ids = ", ".join(map(str, answers)) or "NULL"
    return {row.id: row.text for row in look.rows(f"SELECT id, text FROM answer_versions WHERE id IN ({ids})")}
