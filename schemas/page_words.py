"""Full-text search in plain SQL, where there is no `pagepack search`: the view `page_words`, thin over its index.

`terms` is what the databases match: `WHERE terms MATCH 'tide*'` on SQLite, `WHERE terms @@ to_tsquery('simple',
'tide:*')` on PostgreSQL. The index holds words in small letters without accents, and characters of scripts without
spaces in pairs (`pipeline/store/search_terms.py`; docs/search.md says how to ask for them).
"""

from __future__ import annotations

from schemas.view_parts import FOLDER_AND_FILE_NAME, IS_THERE

_TERMS = {"sqlite": "f.page_search", "postgresql": "f.terms"}  # the first is FTS5's own name for the whole row


def page_words(dialect: str) -> str:
    return f"""
SELECT s.path AS source_path, d.public_id AS document_id, p.page_index + 1 AS page_number, c.prompt AS prompt,
       {_TERMS[dialect]} AS terms, a.text AS text, {FOLDER_AND_FILE_NAME}, a.confidence AS confidence,
       a.created_at AS created_at, a.id AS answer_id
FROM page_search f
JOIN current_answers c ON c.answer_id = f.rowid
JOIN answer_versions a ON a.id = c.answer_id
JOIN pages p ON p.id = c.page_id
JOIN documents d ON d.id = p.document_id
JOIN sources s ON s.document_id = d.id
WHERE {IS_THERE}
"""
