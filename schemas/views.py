"""The public SQL views: the product's face, the same on SQLite and PostgreSQL.

One definition for both; only ordered string aggregation and the type of a null page number are spelled differently.
`COLUMNS` documents every column; the README's table and the `schema_doc` table are made from it. The views carry no
data, so every migration drops them first and makes them anew at the end.
"""

from __future__ import annotations

COLUMNS: dict[str, dict[str, str]] = {
    "page_text": {
        "source_path": "path of the file; a document found at two paths shows under both",
        "document_id": "one content, one id, wherever it lies",
        "page_number": "from 1",
        "prompt": "name of the prompt: ocr, describe, or a user's own",
        "text": "the current answer",
        "engine": "rapidocr, pixtral, text-layer",
        "model": "fingerprint of what read the page",
        "finish_reason": "stop, length or deadline",
        "prompt_tokens": "tokens of image and prompt; 0 where the engine has none",
        "output_tokens": "tokens of the answer; 0 where the engine has none",
        "seconds": "the engine's time for this answer",
        "created_at": "UTC",
    },
    "document_text": {
        "source_path": "path of the file",
        "document_id": "one content, one id",
        "prompt": "name of the prompt",
        "page_count": "pages of the document, read or not",
        "text": "current answers in page order, a blank line between pages",
    },
    "failures": {
        "batch_id": "the batch it was seen in",
        "source_path": "path of the file",
        "page_number": "from 1; null where the whole file failed",
        "kind": "rejected: not taken in; failed: taken in, not read",
        "cause": "one stable word, for `pagepack retry --cause`",
        "reason": "what is wrong and the way out",
        "attempts": "tries made",
        "failed_at": "UTC",
    },
    "batch_summary": {
        "batch_id": "for `pagepack status` and `retry`",
        "name": "as given with --batch, else the paths' names",
        "state": "running, paused, finished or cancelled",
        "files_seen": "= files_done + files_failed + files_rejected once finished",
        "files_done": "every page read",
        "files_failed": "at least one page not read",
        "files_rejected": "not taken in",
        "pages_total": "pages known so far, each document once",
        "pages_done": "pages with an answer to every prompt",
        "pages_failed": "pages not rendered or not read",
        "started_at": "UTC",
        "finished_at": "UTC; null while running",
    },
    "attempts": {
        "document_id": "one content, one id",
        "page_number": "from 1",
        "prompt": "name of the prompt",
        "attempt": "from 1, rises with every claim",
        "worker": "which incarnation of a worker",
        "engine": "what read, or null",
        "finish_reason": "of the answer, or null",
        "temperature": "sampling temperature, or null",
        "prompt_tokens": "or null",
        "output_tokens": "or null",
        "seconds": "the engine's time, or null",
        "error": "null where the attempt gave the answer",
    },
    "files": {
        "batch_id": "the batch it was seen in",
        "source_path": "path of the file",
        "document_id": "one content, one id; null where the file could not be read",
        "kind": "pdf, png, jpeg, tiff, webp, bmp, gif; by content, not by name",
        "state": "pending, done, failed or rejected",
        "page_count": "pages of the document, null until known",
        "pages_done": "pages with an answer to every prompt",
        "pages_failed": "pages not rendered or not read",
    },
    "page_images": {
        "source_path": "path of the file",
        "document_id": "one content, one id",
        "page_number": "from 1",
        "image_hash": "name of the page's image in the store",
        "width_px": "a multiple of 16",
        "height_px": "a multiple of 16",
        "text_layer": "the text that the PDF carries itself, or null",
        "warnings": "what the renderer mended or left out, or null",
    },
}

_PAGE_TEXT = """
SELECT s.path AS source_path, d.public_id AS document_id, p.page_index + 1 AS page_number, c.prompt AS prompt,
       a.text AS text, a.engine AS engine, a.model AS model, a.finish_reason AS finish_reason,
       a.prompt_tokens AS prompt_tokens, a.output_tokens AS output_tokens, a.seconds AS seconds,
       a.created_at AS created_at
FROM sources s
JOIN documents d ON d.id = s.document_id
JOIN pages p ON p.document_id = d.id
JOIN current_answers c ON c.page_id = p.id
JOIN answer_versions a ON a.id = c.answer_id
"""

_DOCUMENT_TEXT = """
SELECT s.path AS source_path, d.public_id AS document_id, r.prompt AS prompt, d.page_count AS page_count,
       {document_text} AS text
FROM sources s
JOIN documents d ON d.id = s.document_id
CROSS JOIN (SELECT DISTINCT name AS prompt FROM prompt_versions) r
WHERE EXISTS (SELECT 1 FROM pages p JOIN current_answers c ON c.page_id = p.id
              WHERE p.document_id = d.id AND c.prompt = r.prompt)
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

_IS_ASKED_ABOUT = """(b.all_pages OR EXISTS (SELECT 1 FROM batch_pages r WHERE r.batch_id = b.id
   AND p.page_index BETWEEN r.first_index AND r.last_index))"""

# Where a document is drawn again, only those who wait for an image of it see that.
_IS_DRAWN = """(coalesce(d.page_count, 0) > 0 AND d.page_count =
   (SELECT count(*) FROM pages p WHERE p.document_id = d.id AND p.page_index < d.page_count))"""

_FAILURES = f"""
SELECT b.public_id AS batch_id, s.path AS source_path, CAST(NULL AS INTEGER) AS page_number, 'rejected' AS kind,
       bs.cause AS cause, bs.reason AS reason, 1 AS attempts, bs.seen_at AS failed_at
FROM sources s JOIN batch_sources bs ON bs.source_id = s.id JOIN batches b ON b.id = bs.batch_id
WHERE bs.cause IS NOT NULL
UNION ALL
SELECT b.public_id, s.path, CAST(NULL AS INTEGER), d.state, d.cause, d.reason, d.attempts + d.crashes, d.finished_at
FROM documents d JOIN batch_sources bs ON bs.document_id = d.id JOIN sources s ON s.id = bs.source_id
JOIN batches b ON b.id = bs.batch_id
WHERE d.state IN ('rejected', 'failed')
UNION ALL
SELECT b.public_id, s.path, p.page_index + 1, 'failed', p.cause, p.reason, 1, p.created_at
FROM pages p JOIN batch_sources bs ON bs.document_id = p.document_id JOIN sources s ON s.id = bs.source_id
JOIN batches b ON b.id = bs.batch_id
WHERE p.cause IS NOT NULL AND {_IS_ASKED_ABOUT}
UNION ALL
SELECT b.public_id, s.path, p.page_index + 1, 'failed', t.cause, t.reason, t.attempts + t.crashes, t.finished_at
FROM {_TASKS_OF_BATCH}
JOIN pages p ON p.id = t.page_id JOIN batch_sources bs ON bs.document_id = p.document_id AND bs.batch_id = b.id
JOIN sources s ON s.id = bs.source_id
WHERE t.state = 'failed' AND {_IS_ASKED_ABOUT}
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
  AND {_IS_ASKED_ABOUT}
JOIN batch_prompts bp ON bp.batch_id = b.id
LEFT JOIN page_tasks t ON t.page_id = p.id AND t.prompt_version = bp.prompt_version AND t.model = b.model
GROUP BY o.batch_id, p.document_id, p.id, p.cause
"""


def _files(only: str = "") -> str:
    return f"""
SELECT b.public_id AS batch_id, s.path AS source_path, d.public_id AS document_id, d.kind AS kind,
       CASE WHEN bs.cause IS NOT NULL OR d.state = 'rejected' THEN 'rejected'
            WHEN d.state = 'failed' THEN 'failed'
            WHEN d.state <> 'ready' AND NOT {_IS_DRAWN} THEN 'pending'
            WHEN n.pages_done + n.pages_failed < n.pages_asked THEN 'pending'
            WHEN n.pages_failed > 0 THEN 'failed'
            ELSE 'done' END AS state,
       d.page_count AS page_count, coalesce(n.pages_done, 0) AS pages_done, coalesce(n.pages_failed, 0) AS pages_failed
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


_ATTEMPTS = """
SELECT d.public_id AS document_id, p.page_index + 1 AS page_number, v.name AS prompt, x.token AS attempt,
       x.worker AS worker, x.engine AS engine, x.finish_reason AS finish_reason, x.temperature AS temperature,
       x.prompt_tokens AS prompt_tokens, x.output_tokens AS output_tokens, x.seconds AS seconds, x.error AS error
FROM task_attempts x
JOIN page_tasks t ON t.id = x.task_id
JOIN prompt_versions v ON v.version = t.prompt_version
JOIN pages p ON p.id = t.page_id
JOIN documents d ON d.id = p.document_id
"""

_PAGE_IMAGES = """
SELECT s.path AS source_path, d.public_id AS document_id, p.page_index + 1 AS page_number, p.image_hash AS image_hash,
       p.width_px AS width_px, p.height_px AS height_px, l.text AS text_layer, p.warnings AS warnings
FROM sources s
JOIN documents d ON d.id = s.document_id
JOIN pages p ON p.document_id = d.id
LEFT JOIN text_layers l ON l.page_id = p.id
"""


def view_definitions(dialect: str) -> dict[str, str]:
    """Name → SELECT, in an order in which each view finds those it reads from."""
    return {
        "page_text": _PAGE_TEXT,
        "document_text": _DOCUMENT_TEXT.format(document_text=_DOCUMENT_TEXT_OF[dialect]),
        "failures": _FAILURES,
        "files": _files(),
        "batch_summary": _batch_summary(),
        "attempts": _ATTEMPTS,
        "page_images": _PAGE_IMAGES,
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


def drop_statements() -> list[str]:
    """In reverse, so that no view is dropped from under another."""
    return [f"DROP VIEW IF EXISTS {name}" for name in reversed(list(view_definitions("sqlite")))]
