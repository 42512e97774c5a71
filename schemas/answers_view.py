"""What engines said of each page, and what a page carries itself, where that was not taken: the view `answers`."""

from __future__ import annotations

from schemas.view_parts import FOLDER_AND_FILE_NAME, FROM_ANSWERS, IS_UNTAKEN

# Counted, and not NOT EXISTS as elsewhere: of that PostgreSQL makes a hash of all tasks before it gives the first row,
# also where ten are asked for. With 200,000 pages 650 ms become 15; a walk through all takes twice as long.
_IS_FIRST_TASK = """(SELECT count(*) FROM page_tasks e WHERE e.page_id = t.page_id AND e.answer_id = t.answer_id
   AND e.state = 'done' AND (e.finished_at < t.finished_at OR e.finished_at = t.finished_at AND e.id < t.id)) = 0"""

ANSWERS = f"""
SELECT s.path AS source_path, {FOLDER_AND_FILE_NAME}, d.public_id AS document_id, p.page_index + 1 AS page_number,
       v.name AS prompt, a.prompt_version AS prompt_version, a.engine AS engine, a.model AS model,
       c.answer_id IS NOT NULL AS is_current, a.text AS text, a.finish_reason AS finish_reason,
       a.prompt_tokens AS prompt_tokens, a.output_tokens AS output_tokens, a.seconds AS seconds,
       a.temperature AS temperature, a.confidence AS confidence, b.public_id AS batch_id, a.created_at AS created_at,
       a.angle AS angle, a.lowest_confidence AS lowest_confidence, a.cost AS cost, a.id AS answer_id,
       a.drafted_tokens AS drafted_tokens, a.accepted_tokens AS accepted_tokens
{FROM_ANSWERS}
LEFT JOIN current_answers c ON c.page_id = p.id AND c.prompt = v.name AND c.answer_id = a.id
WHERE {_IS_FIRST_TASK}
UNION ALL
SELECT s.path, {FOLDER_AND_FILE_NAME}, d.public_id, p.page_index + 1, 'ocr', CAST(NULL AS TEXT), 'text-layer',
       'text-layer', 1 = 0, l.text, 'stop', 0, 0, 0.0, 0.0, CAST(NULL AS DOUBLE PRECISION), CAST(NULL AS TEXT),
       p.created_at, CAST(NULL AS DOUBLE PRECISION), CAST(NULL AS DOUBLE PRECISION), CAST(NULL AS DOUBLE PRECISION),
       CAST(NULL AS BIGINT), CAST(NULL AS INTEGER), CAST(NULL AS INTEGER)
FROM sources s
JOIN documents d ON d.id = s.document_id
JOIN pages p ON p.document_id = d.id
JOIN text_layers l ON l.page_id = p.id
WHERE {IS_UNTAKEN}
"""
