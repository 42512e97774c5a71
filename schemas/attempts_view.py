"""Every try of a worker at a page and prompt: the view `attempts`."""

from __future__ import annotations


def _attempts(path: str, joined: str, where: str) -> str:
    return f"""
SELECT d.public_id AS document_id, p.page_index + 1 AS page_number, v.name AS prompt, x.token AS attempt,
       x.worker AS worker, x.engine AS engine, x.finish_reason AS finish_reason, x.temperature AS temperature,
       x.prompt_tokens AS prompt_tokens, x.output_tokens AS output_tokens, x.seconds AS seconds, x.error AS error,
       {path} AS source_path, t.prompt_version AS prompt_version, b.public_id AS batch_id,
       x.started_at AS started_at, x.ended_at AS ended_at, x.cost AS cost, x.text AS text,
       x.drafted_tokens AS drafted_tokens, x.accepted_tokens AS accepted_tokens
FROM task_attempts x
JOIN page_tasks t ON t.id = x.task_id
JOIN batches b ON b.id = coalesce(x.batch_id, t.batch_id)
JOIN prompt_versions v ON v.version = t.prompt_version
JOIN pages p ON p.id = t.page_id
JOIN documents d ON d.id = p.document_id{joined}
WHERE {where}
"""


# The plus keeps SQLite from going through all files of the batch by the other index.
_SEEN_AT = "+{0}.batch_id = coalesce(x.batch_id, t.batch_id) AND {0}.document_id = p.document_id"
_PATH = f"""
JOIN batch_sources bs ON {_SEEN_AT.format("bs")}
JOIN sources s ON s.id = bs.source_id"""
_IS_FIRST_PATH = (
    f"NOT EXISTS (SELECT 1 FROM batch_sources e WHERE {_SEEN_AT.format('e')} AND e.source_id < bs.source_id)"
)
_HAS_NO_PATH = f"NOT EXISTS (SELECT 1 FROM batch_sources bs WHERE {_SEEN_AT.format('bs')})"

# Not one outer join: from it SQLite would not come to an index of paths.
ATTEMPTS = (
    f"""{_attempts("s.path", _PATH, _IS_FIRST_PATH)}UNION ALL{_attempts("CAST(NULL AS TEXT)", "", _HAS_NO_PATH)}"""
)
