"""Beginnings of very many words, as `b*`, which FTS5 cannot find a few pages of.

Before its first hit it merges the lists of all words that begin so: 15 s for one letter, among a million pages. Where
that takes too long, most pages have such a word; so pages are read, newest first, and looked at. How much there is to
be merged stands in `page_search_idx`, FTS5's own table: a row for each leaf of its index, with the first word there.
"""

from __future__ import annotations

from pipeline.database.looking import Look
from pipeline.errors import UsageError
from pipeline.query.search_match import fts5_phrase, index_terms, to_fts5
from pipeline.query.search_query import Combined, Query, all_phrases
from pipeline.store.search_terms import Phrase

_BROAD = 200  # leaves of 4 KB: 40 ms


def matched(look: Look, query: Query) -> tuple[str | None, list[str]]:
    """What MATCH takes, None where nothing is left for it; and what words of the page must begin with besides.

    Raises:
        UsageError: such a beginning within OR, NOT or NEAR, where reading pages is of no help.
    """
    parts = query.parts if isinstance(query, Combined) and query.operator == "AND" else (query,)
    kept: list[str] = []
    beginnings: list[str] = []
    for part in parts:
        if not isinstance(part, Phrase):
            _refuse_broad(look, part)
            kept.append(to_fts5(part))
            continue
        phrase = index_terms(part)
        if not phrase.is_prefix or not _is_broad(look, phrase.terms[-1]):
            kept.append(fts5_phrase(phrase))
            continue
        beginnings.append(" ".join(phrase.terms))
        if len(phrase.terms) > 1:
            kept.append(fts5_phrase(Phrase(phrase.terms[:-1])))
    return " AND ".join(kept) or None, beginnings


def _refuse_broad(look: Look, part: Query) -> None:
    for phrase in all_phrases(part):
        if phrase.is_prefix and _is_broad(look, phrase.terms[-1]):
            raise UsageError(
                f"cannot search for {phrase.terms[-1]}* within OR, NOT or NEAR: too many words begin so; "
                "give it more letters, or search for it alone"
            )


def _is_broad(look: Look, beginning: str) -> bool:
    first = b"0" + beginning.encode()  # FTS5's mark of words, beside those of its prefix indexes
    return int(look.value(_LEAVES, first=first, last=first + b"\xff", most=_BROAD + 1)) > _BROAD


_LEAVES = """
WITH RECURSIVE segments (id) AS (
    SELECT min(segid) FROM page_search_idx
    UNION ALL SELECT (SELECT min(segid) FROM page_search_idx WHERE segid > id) FROM segments WHERE id IS NOT NULL)
SELECT count(*) FROM (
    SELECT 1 FROM segments s JOIN page_search_idx i ON i.segid = s.id AND i.term >= :first AND i.term < :last
    LIMIT :most)"""
