"""Full-text search over current answers, ranked, with a snippet: FTS5 on SQLite, a GIN index on PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import select

from pipeline.database.engine import Database
from pipeline.errors import UsageError
from pipeline.query.batch_status import BatchRow, check_prompt
from pipeline.query.snippets import Snippet, make_snippet
from pipeline.store.search_terms import Phrase, query_phrases
from schemas.tables import (
    Answer,
    BatchSource,
    CurrentAnswer,
    Document,
    Page,
    Source,
)
from schemas.text import storable

_MAX_PHRASES = 64  # FTS5's parser has an end; nobody types more


@dataclass(frozen=True, slots=True)
class Hit:
    """A page that holds all the words; `score` grows with relevance and compares within one search only."""

    source_path: str
    document_id: str
    page_number: int
    prompt: str
    score: float
    snippet: Snippet


def search(
    db: Database, words: str, *, prompt: str | None = None, limit: int = 20, batch: BatchRow | None = None
) -> list[Hit]:
    """Pages whose current answer holds all the words, best first; of a batch, in the files as it saw them.

    Words in double quotes must stand together; a `*` after a word, or after the quotes, stands for any ending. All
    other signs are ignored, so any text is a safe query.

    Raises:
        UsageError: no word in the query, or more than 64; a prompt that no page was asked.
    """
    words = storable(words)
    phrases = query_phrases(words)
    if not phrases:
        raise UsageError(f"no word to search for in {words!r}; try `pagepack search invoice` or `pagepack search 年度`")
    if len(phrases) > _MAX_PHRASES:
        raise UsageError(f"{len(phrases)} words to search for, over the limit of {_MAX_PHRASES}; use fewer")
    if prompt is not None:
        check_prompt(db, prompt)
    with db.read() as connection:
        found = connection.execute(_ranked(db.dialect, phrases, prompt, batch).limit(limit)).all()
        texts = dict(
            connection.execute(
                select(Answer.id, Answer.text).where(Answer.id.in_({row.answer_id for row in found}))
            ).all()
        )
    return [
        Hit(
            source_path=row.path,
            document_id=row.public_id,
            page_number=row.page_index + 1,
            prompt=row.prompt,
            score=row.score,
            snippet=make_snippet(texts[row.answer_id], phrases),
        )
        for row in found
    ]


def _ranked(
    dialect: str, phrases: list[Phrase], prompt: str | None, batch: BatchRow | None
) -> sa.Select[tuple[str, str, int, str, int, float]]:
    """Ranked hits without their texts, which a sort of many hits would drag along."""
    matches = (_matches_postgresql if dialect == "postgresql" else _matches_sqlite)(phrases)
    answer_id, score = sa.column("answer_id", sa.BigInteger), sa.column("score", sa.Float)
    found = matches.columns(answer_id, score).subquery("found")
    query = (
        select(Source.path, Document.public_id, Page.page_index, CurrentAnswer.prompt, found.c.answer_id, found.c.score)
        .select_from(found)
        .join(CurrentAnswer, CurrentAnswer.answer_id == found.c.answer_id)
        .join(Page, Page.id == CurrentAnswer.page_id)
        .join(Document, Document.id == Page.document_id)
        .order_by(found.c.score.desc(), Source.path, Page.page_index, CurrentAnswer.prompt)
    )
    if prompt is not None:
        query = query.where(CurrentAnswer.prompt == prompt)
    if batch is None:
        return query.join(Source, Source.document_id == Document.id)
    seen = query.join(BatchSource, BatchSource.document_id == Document.id).where(BatchSource.batch_id == batch.id)
    return seen.join(Source, Source.id == BatchSource.source_id)  # what lies there now may be another document


def _matches_sqlite(phrases: list[Phrase]) -> sa.TextClause:
    """Terms hold letters and digits only, so none can close the quotes around its phrase."""
    match = " AND ".join(f'"{" ".join(terms)}"' + (" *" if is_prefix else "") for terms, is_prefix in phrases)
    statement = "SELECT rowid AS answer_id, -bm25(page_search) AS score FROM page_search WHERE page_search MATCH :match"
    return sa.text(statement).bindparams(match=match)


def _matches_postgresql(phrases: list[Phrase]) -> sa.TextClause:
    """Built here and not by the server's parser, which would break words in other places than ours."""
    wanted = [" <-> ".join(f"'{term}'" for term in terms) + (":*" if is_prefix else "") for terms, is_prefix in phrases]
    return sa.text(
        "SELECT page_search.rowid AS answer_id, ts_rank(terms, CAST(:wanted AS tsquery)) AS score "
        "FROM page_search WHERE terms @@ CAST(:wanted AS tsquery)"
    ).bindparams(wanted=" & ".join(f"({phrase})" for phrase in wanted))
