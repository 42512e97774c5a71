"""The public SQL views: the product's face, the same on SQLite and PostgreSQL.

One definition for both; only ordered string aggregation, the parts of JSON and the moment of a file's time are spelled
differently. `view_columns.py` says what each column means. The views carry no data, so every migration drops them first
and makes them anew at the end.
"""

from __future__ import annotations

from collections.abc import Collection

from schemas.answers_view import ANSWERS
from schemas.attempts_view import ATTEMPTS
from schemas.column_types import VIEWS
from schemas.current_failures import CURRENT_FAILURES
from schemas.evaluation_views import EVALUATED_DOCUMENTS, EVALUATED_ITEMS, EVALUATED_PAGES, EVALUATIONS
from schemas.page_batches import PAGE_BATCHES
from schemas.page_chunks import chunks
from schemas.page_data import page_data
from schemas.page_lines import page_lines
from schemas.page_words import page_words
from schemas.prompts_view import prompts
from schemas.review_view import review
from schemas.tries import TRIES
from schemas.view_columns import COLUMNS
from schemas.view_parts import (
    FOLDER_AND_FILE_NAME,
    IS_ASKED_ABOUT,
    IS_THERE,
    literal,
)

_READ_FOR = """(SELECT b.public_id FROM page_tasks t JOIN batches b ON b.id = t.batch_id
   WHERE t.page_id = p.id AND t.answer_id = a.id AND t.state = 'done' ORDER BY t.finished_at, t.id LIMIT 1)"""

_PAGE_TEXT = f"""
SELECT s.path AS source_path, d.public_id AS document_id, p.page_index + 1 AS page_number, c.prompt AS prompt,
       a.text AS text, a.engine AS engine, a.model AS model, a.finish_reason AS finish_reason,
       a.prompt_tokens AS prompt_tokens, a.output_tokens AS output_tokens, a.seconds AS seconds,
       a.created_at AS created_at, {FOLDER_AND_FILE_NAME}, a.prompt_version AS prompt_version,
       a.temperature AS temperature, a.confidence AS confidence, {_READ_FOR} AS batch_id, a.angle AS angle,
       c.promotion_id AS promotion_id, a.lowest_confidence AS lowest_confidence, a.cost AS cost,
       p.width_px AS width_px, p.height_px AS height_px, p.dpi AS dpi, a.id AS answer_id
FROM sources s
JOIN documents d ON d.id = s.document_id
JOIN pages p ON p.document_id = d.id
JOIN current_answers c ON c.page_id = p.id
JOIN answer_versions a ON a.id = c.answer_id
WHERE {IS_THERE}
"""

_DOCUMENT_TEXT = """
SELECT s.path AS source_path, d.public_id AS document_id, r.prompt AS prompt, d.page_count AS page_count,
       {document_text} AS text, {folder_and_file_name}
FROM sources s
JOIN documents d ON d.id = s.document_id
CROSS JOIN (SELECT DISTINCT name AS prompt FROM prompt_versions) r
WHERE EXISTS (SELECT 1 FROM pages p JOIN current_answers c ON c.page_id = p.id
              WHERE p.document_id = d.id AND c.prompt = r.prompt)
  AND {is_there}
"""

_DOCUMENT_TEXT_OF = {
    # Rows of an ordered subquery reach group_concat in that order while nothing groups them again.
    "sqlite": """(SELECT group_concat(o.text, char(10) || char(10)) FROM (
         SELECT a.text AS text
         FROM pages p JOIN current_answers c ON c.page_id = p.id JOIN answer_versions a ON a.id = c.answer_id
         WHERE p.document_id = d.id AND c.prompt = r.prompt ORDER BY p.page_index) o)""",
    "postgresql": """(SELECT string_agg(a.text, chr(10) || chr(10) ORDER BY p.page_index)
         FROM pages p JOIN current_answers c ON c.page_id = p.id JOIN answer_versions a ON a.id = c.answer_id
         WHERE p.document_id = d.id AND c.prompt = r.prompt)""",
}

_TASKS_OF_BATCH = """page_tasks t JOIN batches b ON b.model = t.model
JOIN batch_prompts bp ON bp.batch_id = b.id AND bp.prompt_version = t.prompt_version"""

# Where a document is drawn again, only those who wait for an image of it see that.
_IS_DRAWN = """(coalesce(d.page_count, 0) > 0 AND d.page_count =
   (SELECT count(*) FROM pages p WHERE p.document_id = d.id AND p.page_index < d.page_count))"""

_FAILURES = f"""
SELECT b.public_id AS batch_id, s.path AS source_path, CAST(NULL AS INTEGER) AS page_number, 'rejected' AS kind,
       bs.cause AS cause, bs.reason AS reason, 1 AS attempts, bs.seen_at AS failed_at, {FOLDER_AND_FILE_NAME},
       d.public_id AS document_id, CAST(NULL AS TEXT) AS prompt
FROM sources s JOIN batch_sources bs ON bs.source_id = s.id JOIN batches b ON b.id = bs.batch_id
LEFT JOIN documents d ON d.id = bs.document_id
WHERE bs.cause IS NOT NULL
UNION ALL
SELECT b.public_id, s.path, CAST(NULL AS INTEGER), d.state, d.cause, d.reason, d.attempts + d.crashes, d.finished_at,
       {FOLDER_AND_FILE_NAME}, d.public_id, CAST(NULL AS TEXT)
FROM documents d JOIN batch_sources bs ON bs.document_id = d.id JOIN sources s ON s.id = bs.source_id
JOIN batches b ON b.id = bs.batch_id
WHERE d.state IN ('rejected', 'failed')
UNION ALL
SELECT b.public_id, s.path, p.page_index + 1, 'failed', p.cause, p.reason, 1, p.created_at, {FOLDER_AND_FILE_NAME},
       d.public_id, CAST(NULL AS TEXT)
FROM pages p JOIN documents d ON d.id = p.document_id
JOIN batch_sources bs ON bs.document_id = p.document_id JOIN sources s ON s.id = bs.source_id
JOIN batches b ON b.id = bs.batch_id
WHERE p.cause IS NOT NULL AND {IS_ASKED_ABOUT}
UNION ALL
SELECT b.public_id, s.path, p.page_index + 1, 'failed', t.cause, t.reason, t.attempts + t.crashes, t.finished_at,
       {FOLDER_AND_FILE_NAME}, d.public_id, v.name
FROM {_TASKS_OF_BATCH} JOIN prompt_versions v ON v.version = t.prompt_version
JOIN pages p ON p.id = t.page_id JOIN documents d ON d.id = p.document_id
JOIN batch_sources bs ON bs.document_id = p.document_id AND bs.batch_id = b.id
JOIN sources s ON s.id = bs.source_id
WHERE t.state = 'failed' AND {IS_ASKED_ABOUT}
"""


def _batch_pages(only: str = "") -> str:
    """One row a batch and page of its documents: 1 done, 0 waiting, -1 failed."""
    return f"""
SELECT o.batch_id AS batch_id, p.document_id AS document_id, p.id AS page_id,
       CASE WHEN p.cause IS NOT NULL THEN -1
            WHEN sum(CASE WHEN t.state = 'failed' THEN 1 ELSE 0 END) > 0
             AND sum(CASE WHEN t.state IN ('pending', 'leased') THEN 1 ELSE 0 END) = 0 THEN -1
            WHEN sum(CASE WHEN t.state = 'done' THEN 1 ELSE 0 END) = count(*) AND count(t.id) > 0 THEN 1
            ELSE 0 END AS outcome
FROM (SELECT DISTINCT bs.batch_id AS batch_id, bs.document_id AS document_id FROM batch_sources bs{only}) o
JOIN batches b ON b.id = o.batch_id
JOIN pages p ON p.document_id = o.document_id
  AND {IS_ASKED_ABOUT}
JOIN batch_prompts bp ON bp.batch_id = b.id
LEFT JOIN page_tasks t ON t.page_id = p.id AND t.prompt_version = bp.prompt_version AND t.model = b.model
GROUP BY o.batch_id, p.document_id, p.id, p.cause
"""


_MICROSECONDS = "(bs.modified_ns / 1000)"
_WHOLE_SECONDS = f"(({_MICROSECONDS} - CASE WHEN bs.modified_ns < 0 THEN 999999 ELSE 0 END) / 1000000)"  # rounded down

_MODIFIED_AT = {  # as each database keeps a moment
    "sqlite": f"""strftime('%Y-%m-%d %H:%M:%S', {_WHOLE_SECONDS}, 'unixepoch')
                 || printf('.%06d', {_MICROSECONDS} - {_WHOLE_SECONDS} * 1000000)""",
    "postgresql": f"to_timestamp(0) + CAST({_MICROSECONDS} AS double precision) * interval '1 microsecond'",
}


def _about_files(dialect: str) -> str:
    """More columns of `files`, which the counts of a batch do without: not every role may look at all of them."""
    return f""", {FOLDER_AND_FILE_NAME}, d.content_hash AS content_hash,
       coalesce(d.size_bytes, bs.size_bytes) AS size_bytes, {_MODIFIED_AT[dialect]} AS modified_at,
       bs.seen_at AS seen_at, s.gone_at AS gone_at"""


def _files(only: str = "", more: str = "") -> str:
    return f"""
SELECT b.public_id AS batch_id, s.path AS source_path, d.public_id AS document_id, d.kind AS kind,
       CASE WHEN bs.cause IS NOT NULL OR d.state = 'rejected' THEN 'rejected'
            WHEN d.state = 'failed' THEN 'failed'
            WHEN d.state <> 'ready' AND NOT {_IS_DRAWN} THEN 'pending'
            WHEN n.pages_done + n.pages_failed < n.pages_asked THEN 'pending'
            WHEN n.pages_failed > 0 THEN 'failed'
            ELSE 'done' END AS state,
       d.page_count AS page_count, coalesce(n.pages_done, 0) AS pages_done,
       coalesce(n.pages_failed, 0) AS pages_failed{more}
FROM batches b
JOIN batch_sources bs ON bs.batch_id = b.id
JOIN sources s ON s.id = bs.source_id
LEFT JOIN documents d ON d.id = bs.document_id
LEFT JOIN (SELECT o.batch_id AS batch_id, o.document_id AS document_id,
                  count(*) AS pages_asked,
                  sum(CASE WHEN o.outcome = 1 THEN 1 ELSE 0 END) AS pages_done,
                  sum(CASE WHEN o.outcome = -1 THEN 1 ELSE 0 END) AS pages_failed
           FROM ({_batch_pages(only)}) o GROUP BY o.batch_id, o.document_id) n
       ON n.batch_id = b.id AND n.document_id = d.id
"""


def _batch_summary(files: str = "files", only: str = "") -> str:
    return f"""
SELECT b.public_id AS batch_id, b.name AS name, b.state AS state,
       coalesce(f.seen, 0) AS files_seen, coalesce(f.done, 0) AS files_done,
       coalesce(f.failed, 0) AS files_failed, coalesce(f.rejected, 0) AS files_rejected,
       coalesce(g.total, 0) AS pages_total, coalesce(g.done, 0) AS pages_done, coalesce(g.failed, 0) AS pages_failed,
       b.started_at AS started_at, b.finished_at AS finished_at
FROM batches b
LEFT JOIN (SELECT o.batch_id AS batch_id, count(*) AS seen,
                  sum(CASE WHEN o.state = 'done' THEN 1 ELSE 0 END) AS done,
                  sum(CASE WHEN o.state = 'failed' THEN 1 ELSE 0 END) AS failed,
                  sum(CASE WHEN o.state = 'rejected' THEN 1 ELSE 0 END) AS rejected
           FROM {files} o GROUP BY o.batch_id) f ON f.batch_id = b.public_id
LEFT JOIN (SELECT o.batch_id AS batch_id, count(*) AS total,
                  sum(CASE WHEN o.outcome = 1 THEN 1 ELSE 0 END) AS done,
                  sum(CASE WHEN o.outcome = -1 THEN 1 ELSE 0 END) AS failed
           FROM ({_batch_pages(only)}) o GROUP BY o.batch_id) g ON g.batch_id = b.id
"""


_PAGE_IMAGES = """
SELECT s.path AS source_path, d.public_id AS document_id, p.page_index + 1 AS page_number, p.image_hash AS image_hash,
       p.width_px AS width_px, p.height_px AS height_px, l.text AS text_layer, p.warnings AS warnings,
       p.width_pt AS width_pt, p.height_pt AS height_pt, l.verdict AS text_layer_verdict,
       p.dpi AS dpi, p.print_px AS print_px, p.is_blank AS is_blank
FROM sources s
JOIN documents d ON d.id = s.document_id
JOIN pages p ON p.document_id = d.id
LEFT JOIN text_layers l ON l.page_id = p.id
"""

_PROMOTIONS = """
SELECT r.id AS promotion_id, r.answers AS answers, r.prompt AS prompt, r.batch_id AS batch_id, r.path AS path,
       (SELECT count(*) FROM promoted_answers h WHERE h.promotion_id = r.id) AS answers_held,
       r.created_at AS created_at, r.rolled_back_at AS rolled_back_at
FROM answer_promotions r
"""


def view_definitions(dialect: str) -> dict[str, str]:
    """Name → SELECT, in an order in which each view finds those it reads from."""
    return {
        "page_text": _PAGE_TEXT,
        "page_words": page_words(dialect),
        "document_text": _DOCUMENT_TEXT.format(
            document_text=_DOCUMENT_TEXT_OF[dialect], folder_and_file_name=FOLDER_AND_FILE_NAME, is_there=IS_THERE
        ),
        "failures": _FAILURES,
        "current_failures": CURRENT_FAILURES,
        "files": _files(more=_about_files(dialect)),
        "batch_summary": _batch_summary(),
        "attempts": ATTEMPTS,
        "answers": ANSWERS,
        "tries": TRIES,
        "prompts": prompts(dialect),
        "promotions": _PROMOTIONS,
        "evaluations": EVALUATIONS,
        "evaluated_documents": EVALUATED_DOCUMENTS,
        "evaluated_pages": EVALUATED_PAGES,
        "evaluated_items": EVALUATED_ITEMS,
        "page_batches": PAGE_BATCHES,
        "page_images": _PAGE_IMAGES,
        "page_lines": page_lines(dialect),
        "chunks": chunks(dialect),
        "page_data": page_data(dialect),
        "review": review(dialect),
    }


def summary_of_batch() -> str:
    """The row of `batch_summary` of the batch whose `batches.id` is `:id`.

    Named inside the derived tables, for SQLite carries no condition on the view into them: the view itself counts the
    pages of all batches.
    """
    only = " WHERE bs.batch_id = :id"
    files = f"({_files(only)} WHERE b.id = :id)"
    return f"{_batch_summary(files, only)} WHERE b.id = :id"


def create_statements(dialect: str) -> list[str]:
    """The views themselves."""
    return [f"CREATE VIEW {name} AS {select.strip()}" for name, select in view_definitions(dialect).items()]


def comment_statements() -> list[str]:
    """For PostgreSQL, whose tools show them beside the names; `schema_doc` says the same on both."""
    views = [f"COMMENT ON VIEW {view} IS {literal(meaning)}" for view, meaning in VIEWS.items()]
    return views + [
        f"COMMENT ON COLUMN {view}.{column} IS {literal(meaning)}"
        for view, columns in COLUMNS.items()
        for column, meaning in columns.items()
    ]


def drop_statements(views: Collection[str]) -> list[str]:
    """For those of our views that are there, in reverse, so that none is dropped from under another.

    In an older database the name of a view may be that of a table.
    """
    return [f"DROP VIEW {name}" for name in reversed(list(view_definitions("sqlite"))) if name in views]
